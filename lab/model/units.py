"""Quantities as people write them in a topology: `20ms`, `128KiB`, `10Mbit`, `0.5%`. The rest has numbers."""

from __future__ import annotations

import re

SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
BITS = {"bit": 1, "kbit": 10**3, "Mbit": 10**6, "Gbit": 10**9}

_NUMBER = r"(\d{1,12}(?:\.\d{1,9})?)"
_PART = re.compile(_NUMBER + r"(ms|s|m|h|d)")
_DURATION = re.compile(rf"(?:{_PART.pattern})+")
_SIZE = re.compile(_NUMBER + rf"({'|'.join(BYTES)})")
_RATE = re.compile(_NUMBER + rf"({'|'.join(BITS)})")
_PERCENT = re.compile(_NUMBER + "%")


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


def parse_rate(text: str) -> int:
    """Bit/s; ValueError says what is allowed."""
    match = _RATE.fullmatch(text)
    if match is None:
        raise ValueError(f"not a rate; a number and a unit of {', '.join(BITS)}, such as '10Mbit', per second")
    rate = float(match[1]) * BITS[match[2]]
    return round(rate)


def parse_percent(text: str) -> float:
    """A share, 1 for 100 %; ValueError says what is allowed."""
    match = _PERCENT.fullmatch(text)
    if match is None:
        raise ValueError("not a share; a number and a percent sign, such as '0.5%'")
    return float(match[1]) / 100


def format_duration(seconds: float) -> str:
    """The shortest text that `parse_duration` reads back as the same whole number of milliseconds."""
    left = round(seconds * 1000)
    parts: list[str] = []
    for unit in ("d", "h", "m", "s", "ms"):
        count, left = divmod(left, round(SECONDS[unit] * 1000))
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def format_latency(seconds: float) -> str:
    """Milliseconds as `parse_duration` reads them, to the microsecond: `20ms`, `0.2ms`."""
    return f"{_plain(seconds * 1000, 3)}ms"


def format_rate(rate: int) -> str:
    """The shortest text that `parse_rate` reads back as the same."""
    unit = next(unit for unit in ("Gbit", "Mbit", "kbit", "bit") if rate >= BITS[unit] or unit == "bit")
    return f"{_plain(rate / BITS[unit], 9)}{unit}"


def format_percent(share: float) -> str:
    """A share as `parse_percent` reads it: `0.5%`."""
    return f"{_plain(share * 100, 6)}%"


def _plain(number: float, digits: int) -> str:
    return f"{number:.{digits}f}".rstrip("0").rstrip(".")
