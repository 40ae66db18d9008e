"""What a link is like in the words of a shell: `wifi`, `latency=80ms loss=2%`, `up.rate=1Mbit down.rate=16Mbit`.

The keys are those of a topology's `link` (`lab.model.link_keys`); one without `up.` or `down.` counts for both.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from lab.errors import EventError
from lab.model.impairment import IDEAL, MAX_BURST, Impairment
from lab.model.link_presets import LINKS
from lab.model.units import parse_duration, parse_percent, parse_rate, parse_size


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"not a number; packets lost in a row, on average, 1 to {MAX_BURST:g}") from None


READERS: Final[Mapping[str, Callable[[str], float]]] = {
    "latency": parse_duration,
    "jitter": parse_duration,
    "loss": parse_percent,
    "loss-burst": _number,
    "duplicate": parse_percent,
    "reorder": parse_percent,
    "corrupt": parse_percent,
    "rate": parse_rate,
    "buffer": parse_size,
}
SIDES: Final = ("up", "down")
NO_LINK: Final = "ideal"
"the word for a link that does nothing"


def read_link(text: str) -> tuple[Impairment, Impairment]:
    """Up and down; EventError says what is allowed."""
    words = text.split()
    match words:
        case []:
            raise EventError(f"a link is {_allowed()}")
        case [word] if word == NO_LINK:
            return IDEAL, IDEAL
        case [word] if word in LINKS:
            return LINKS[word].link.up, LINKS[word].link.down
    both: dict[str, Any] = {}
    own: dict[str, dict[str, Any]] = {side: {} for side in SIDES}
    for word in words:
        key, equals, value = word.partition("=")
        side, dot, name = key.rpartition(".")
        if not equals or name not in READERS or (dot and side not in SIDES):
            raise EventError(f"{word!r} says nothing of a link, which is {_allowed()}")
        (own[side] if dot else both)[name.replace("-", "_")] = _read(name, value)
    return _impairment(both | own["up"]), _impairment(both | own["down"])


def link_to_toml(text: str) -> str:
    """The same words as the value of a topology's `link`; EventError says what is allowed."""
    read_link(text)
    if "=" not in text:
        return "{ }" if text.strip() == NO_LINK else f'"{text.strip()}"'
    keys: dict[str, list[str]] = {"": []}
    for word in text.split():
        key, _, value = word.partition("=")
        side, _, name = key.rpartition(".")
        keys.setdefault(side, []).append(f"{name} = {value if name == 'loss-burst' else json.dumps(value)}")
    both, *sides = (", ".join(pairs) for pairs in keys.values())
    tables = [f"{side} = {{ {pairs} }}" for side, pairs in zip(list(keys)[1:], sides, strict=True)]
    return f"{{ {', '.join([*filter(None, [both]), *tables])} }}"


def _read(name: str, value: str) -> float:
    try:
        return READERS[name](value)
    except ValueError as error:
        raise EventError(f"{name}={value}: {error}") from None


def _impairment(values: dict[str, Any]) -> Impairment:
    try:
        return Impairment(**values)
    except ValueError as error:
        raise EventError(f"a link's {str(error).replace('_', '-')}") from None


def _allowed() -> str:
    return (
        f"{NO_LINK}, {', '.join(LINKS)}, or KEY=VALUE of {', '.join(READERS)}, with up. or down. before it for one side"
    )
