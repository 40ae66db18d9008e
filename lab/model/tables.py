"""TOML with places: what a file says, and in which line it says it, so that every complaint can name both.

tomllib gives values without lines. `Places` finds them again with a scanner that knows only headers and the starts of
keys; within an inline table it names the line of the key that holds it, which is the same line in TOML 1.0.

Every error is one line: `two-homes.toml:12: [peer.bob] at = 'home-c': no such router; routers: home-a, home-b`.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from lab.errors import TopologyError

Path: TypeAlias = tuple[str, ...]

SHOWN: Final = 60
"characters of a wrong value that are shown"

_KEY = r"""(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')"""
_DOTTED = rf"{_KEY}(?:\s*\.\s*{_KEY})*"
_HEADER = re.compile(rf"\s*\[\[?\s*({_DOTTED})\s*\]")
_ASSIGNMENT = re.compile(rf"\s*({_DOTTED})\s*=(.*)")
_WHERE = re.compile(r"(?s)(.*) \(at (?:line (\d+), column \d+|end of document)\)")
_VALUES: Final = 'a value is "text", a number, true, false, [a list] or { key = value }'


@dataclass(frozen=True, slots=True)
class _Entry:
    line: int
    path: Path
    header: bool


class Places:
    """The lines of one file's tables and keys."""

    def __init__(self, text: str, filename: str) -> None:
        self._filename = filename
        self._entries = list(_scan(text))
        self._lines: dict[Path, int] = {}
        for entry in self._entries:
            for depth in range(1, len(entry.path) + 1):
                self._lines.setdefault(entry.path[:depth], entry.line)

    def line(self, path: Path) -> int:
        """The line of a table or key, or of the innermost known one around it."""
        for depth in range(len(path), 0, -1):
            if path[:depth] in self._lines:
                return self._lines[path[:depth]]
        return 1

    def error(self, path: Path, label: str, problem: str, line: int | None = None) -> TopologyError:
        """An error about something in the table `path`."""
        return TopologyError(f"{self._filename}:{line or self.line(path)}: {label} {problem}")

    def syntax_error(self, error: ValueError, text: str) -> TopologyError:
        """tomllib's complaint, with the table and key in whose line it arose."""
        match = _WHERE.fullmatch(str(error))
        message = match[1] if match else str(error)
        lines = text.split("\n")
        line = int(match[2]) if match and match[2] else len(lines)
        before = [entry for entry in self._entries if entry.line <= line]
        entry = before[-1] if before else _Entry(1, (), header=True)
        table = table_label(entry.path if entry.header else entry.path[:-1])
        first = next((other for other in before[:-1] if other.path == entry.path), None)
        if first and ("twice" in message or "overwrite" in message):
            what = "is declared twice" if entry.header else f"key {entry.path[-1]!r} stands twice"
            return self.error((), table, f"{what}, first in line {first.line}; a name is given once", line)
        if entry.line < line and lines[line - 1].lstrip().startswith("["):
            table = "table header:"
        key = f"{bare(entry.path[-1])}: " if entry.line == line and not entry.header else ""
        allowed = f"; {_VALUES}" if message == "Invalid value" else ""
        return self.error((), table, f"{key}not TOML: {message[:1].lower()}{message[1:]}{allowed}", line)


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the file with its place. Every look-up names what is allowed when it fails."""

    places: Places
    path: Path
    values: Mapping[str, object]
    prefix: str = ""
    "what keys are called in errors, beyond their table: `nat.`"

    @property
    def line(self) -> int:
        return self.places.line(self.path)

    def error(self, key: str | None, problem: str) -> TopologyError:
        """An error about one key's value; about the whole table if `key` is None."""
        path = self.path[: -self.prefix.count(".") or None]
        if key is None:
            return self.places.error(self.path, table_label(path), problem)
        shown = f" = {_shown(self.values[key])}" if key in self.values else ""
        where = (*self.path, key)
        return self.places.error(where, table_label(path), f"{self.prefix}{bare(key)}{shown}: {problem}")

    def check_keys(self, allowed: Iterable[str], later: Mapping[str, str] | None = None) -> None:
        """Refuse any key that is not allowed, and those of a later version with the reason given for them."""
        known = list(allowed)
        for key in self.values:
            if later and key in later:
                raise self.error(key, later[key])
            if key not in known:
                raise self.error(key, f"unknown key{closest(key, known)}; allowed: {', '.join(known)}")

    def text(self, key: str, example: str, default: str | None = None) -> str:
        """A string; without a default the key must be there."""
        value = self.values.get(key, default)
        if value is None:
            raise self.error(None, f"no key {self.prefix + key!r}; such as {key} = {example}")
        if not isinstance(value, str):
            raise self.error(key, f"must be text, such as {key} = {example}, not {_kind(value)}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """A boolean."""
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, f"must be true or false, not {_kind(value)}")
        return value

    def whole(self, key: str, least: int, most: int, default: int) -> int:
        """A whole number between bounds."""
        value = self.values.get(key, default)
        if type(value) is not int:
            raise self.error(key, f"must be a whole number, not {_kind(value)}")
        if not least <= value <= most:
            raise self.error(key, f"allowed: {least} to {most}")
        return value

    def choice(
        self,
        key: str,
        allowed: Iterable[str],
        default: str | None = None,
        problem: str = "not known",
    ) -> str:
        """One of the allowed strings."""
        known = list(allowed)
        value = self.text(key, " or ".join(f'"{item}"' for item in known), default)
        if value not in known:
            raise self.error(key, f"{problem}{closest(value, known)}; allowed: {', '.join(known)}")
        return value

    def tables(self, key: str) -> list[tuple[str, Table]]:
        """The named tables below a key, in the order of the file."""
        value = self.values.get(key, {})
        if not isinstance(value, dict):
            raise self.error(key, f"must be tables, each with a name: [{key}.NAME]")
        found = []
        for name, inner in value.items():
            path = (*self.path, key, name)
            if not isinstance(inner, dict):
                problem = f"must be a table of its own: [{key}.NAME], not {_kind(inner)}"
                raise self.places.error(
                    path, table_label((*self.path, key)), f"{bare(name)} = {_shown(inner)}: {problem}"
                )
            found.append((name, Table(self.places, path, inner)))
        return found


def read(text: str, filename: str) -> Table:
    """The top level of a TOML file; TopologyError if it is not TOML."""
    places = Places(text, filename)
    try:
        values = tomllib.loads(text)
    except RecursionError:
        raise TopologyError(f"{filename}:1: top level: nested too deep; a topology is two tables deep") from None
    except ValueError as error:
        raise places.syntax_error(error, text) from None
    return Table(places, (), values)


def table_label(path: Path) -> str:
    """What a table is called in errors."""
    return f"[{'.'.join(bare(part) for part in path)}]" if path else "top level:"


def bare(key: str) -> str:
    """A key as TOML would have it: in quotes where it needs them."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _shown(key)


def closest(value: str, known: Iterable[str]) -> str:
    """` (did you mean …?)` where something known is near."""
    found = difflib.get_close_matches(value.lower(), list(known), 1)
    return f" (did you mean {found[0]!r}?)" if found else ""


def _scan(text: str) -> Iterable[_Entry]:
    table: Path = ()
    closing: str | None = None
    for number, line in enumerate(text.split("\n"), 1):
        if closing is not None:
            closing = None if closing in line else closing
            continue
        if match := _HEADER.match(line):
            table = _split(match[1])
            yield _Entry(number, table, header=True)
        elif match := _ASSIGNMENT.match(line):
            yield _Entry(number, (*table, *_split(match[1])), header=False)
            closing = next((quote for quote in ('"""', "'''") if match[2].count(quote) == 1), None)


def _split(dotted: str) -> Path:
    """The parts of a dotted key, as tomllib has them."""
    parts: list[str] = []
    for part in re.findall(_KEY, dotted):
        try:
            parts += tomllib.loads(f"{part} = 0")
        except tomllib.TOMLDecodeError:  # tomllib will say so of the whole file
            parts.append(part)
    return tuple(parts)


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = "{…}" if isinstance(value, dict) else "[…]" if isinstance(value, list) else repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _kind(value: object) -> str:
    kinds = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "a table"}
    return kinds.get(type(value), "a date or time")
