"""Quantities as people write them in a topology: `20ms`, `2h4m`, `128KiB`. The rest of the lab has numbers."""

from __future__ import annotations

import re

SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}

_NUMBER = r"(\d{1,12}(?:\.\d{1,9})?)"
_PART = re.compile(_NUMBER + r"(ms|s|m|h|d)")
_DURATION = re.compile(rf"(?:{_PART.pattern})+")
_SIZE = re.compile(_NUMBER + rf"({'|'.join(BYTES)})")


def parse_duration(text: str) -> float:
    """Seconds; ValueError says what is allowed."""
    if not _DURATION.fullmatch(text):
        raise ValueError(f"not a duration; a number and a unit of {', '.join(SECONDS)}, such as '30s' or '2h4m'")
    return sum(float(number) * SECONDS[unit] for number, unit in _PART.findall(text))


def parse_size(text: str) -> int:
    """Bytes; ValueError says what is allowed."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"not a size; a number and a unit of {', '.join(BYTES)}, such as '128KiB'")
    size = float(match[1]) * BYTES[match[2]]
    if not size.is_integer():
        raise ValueError("not a size; it must come to whole bytes")
    return int(size)


def format_duration(seconds: float) -> str:
    """The shortest text that `parse_duration` reads back as the same whole number of milliseconds."""
    left = round(seconds * 1000)
    parts: list[str] = []
    for unit in ("d", "h", "m", "s", "ms"):
        count, left = divmod(left, round(SECONDS[unit] * 1000))
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
