"""How a topology says what a link is like: the name of a preset, or a table; and how far apart regions are.

link = "wifi"
link = { latency = "20ms", jitter = "2ms", loss = "0.5%", loss-burst = 4, rate = "10Mbit", mtu = 1400 }
link = { latency = "20ms", up = { rate = "1Mbit" }, down = { rate = "16Mbit", loss = "1%" } }

[region.eu]
latency = { us = "40ms", eu = "5ms" }

Keys outside `up` and `down` count for both directions. A latency is one way: from a router of one region to a router of
another a packet takes the uplink's, the region's and the downlink's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from lab.model.impairment import (
    MAX_BUFFER,
    MAX_BURST,
    MAX_JITTER,
    MAX_LATENCY,
    MAX_MTU,
    MAX_RATE,
    MIN_BUFFER,
    MIN_MTU,
    MIN_MTU6,
    MIN_RATE,
    Impairment,
    Link,
)
from lab.model.ipv6 import Ip
from lab.model.link_presets import LINKS
from lab.model.tables import Table, closest
from lab.model.units import (
    format_duration,
    format_percent,
    format_rate,
    parse_duration,
    parse_percent,
    parse_rate,
    parse_size,
)

DIRECTION_KEYS: Final = (
    "latency",
    "jitter",
    "loss",
    "loss-burst",
    "duplicate",
    "reorder",
    "corrupt",
    "rate",
    "buffer",
)
KEYS: Final = (*DIRECTION_KEYS, "mtu", "pmtu-black-hole", "up", "down")
ALLOWED: Final = f"allowed: {', '.join(LINKS)}, or a table of {', '.join(KEYS)}"

_Q = TypeVar("_Q", int, float)


def read_link(owner: Table, ip: Ip) -> tuple[Link | None, str | None]:
    """The link of a router's or peer's table, and the preset's name if it was given by one; None: ideal.

    `ip` is what versions of IP the network has: the other end of the link has them all.
    """
    value = owner.values.get("link")
    if value is None:
        return None, None
    if isinstance(value, dict):
        return _spelled_out(Table(owner.places, (*owner.path, "link"), value, prefix="link."), ip), None
    if not isinstance(value, str):
        raise owner.error("link", f"must be text or a table; {ALLOWED}")
    if value not in LINKS:
        raise owner.error("link", f"no such preset{closest(value, LINKS)}; {ALLOWED}")
    return LINKS[value].link, value


def read_distances(regions: list[tuple[str, Table]]) -> tuple[tuple[str, str, float], ...]:
    """From, to and seconds one way, for every ordered pair of regions that is told; one way round stands for both."""
    names = [name for name, _ in regions]
    told: dict[tuple[str, str], float] = {}
    for name, table in regions:
        table.check_keys(("latency",))
        value = table.values.get("latency", {})
        if not isinstance(value, dict):
            raise table.error("latency", 'must be a table of other regions, such as { us = "40ms" }')
        inner = Table(table.places, (*table.path, "latency"), value, prefix="latency.")
        for other in value:
            if other not in names:
                raise inner.error(other, f"no such region{closest(other, names)}; regions: {', '.join(names)}")
            told[name, other] = _seconds(inner, other, MAX_LATENCY)
    both = {(there, here): seconds for (here, there), seconds in told.items()} | told
    return tuple((here, there, both[here, there]) for here, there in sorted(both))


def read_region(owner: Table, regions: list[str]) -> str | None:
    """The region that a router or public peer is in."""
    if "region" not in owner.values:
        return None
    name = owner.text("region", '"eu"')
    if name not in regions:
        known = f"regions: {', '.join(regions)}" if regions else "there are none; add [region.NAME]"
        raise owner.error("region", f"no such region{closest(name, regions)}; {known}")
    return name


def _spelled_out(table: Table, ip: Ip) -> Link:
    table.check_keys(KEYS)
    up, down = (_direction(table, side) for side in ("up", "down"))
    least, why = (MIN_MTU, "") if ip is Ip.V4 else (MIN_MTU6, ", for the link carries IPv6 (RFC 8200)")
    mtu = _whole(table, "mtu", least, MAX_MTU, why)
    black_hole = table.flag("pmtu-black-hole", default=False)
    try:
        return Link(up, down, mtu, black_hole)
    except ValueError as error:
        raise table.error("pmtu-black-hole", str(error)) from None


def _direction(table: Table, side: str) -> Impairment:
    """One direction: what counts for both, with this direction's own keys in place of it."""
    own = table.values.get(side, {})
    if not isinstance(own, dict):
        raise table.error(side, f"must be a table of {', '.join(DIRECTION_KEYS)}")
    mine = Table(table.places, (*table.path, side), own, prefix=f"{table.prefix}{side}.")
    mine.check_keys(DIRECTION_KEYS)

    def where(key: str) -> Table:
        return mine if key in own else table

    latency = _seconds(where("latency"), "latency", MAX_LATENCY)
    rate = _quantity(where("rate"), "rate", '"10Mbit"', parse_rate, MIN_RATE, MAX_RATE, format_rate)
    values = {
        "latency": latency,
        "jitter": _seconds(where("jitter"), "jitter", min(latency, MAX_JITTER), "no more than the latency, "),
        "loss": _share(where("loss"), "loss"),
        "loss_burst": _burst(where("loss-burst")),
        "duplicate": _share(where("duplicate"), "duplicate"),
        "reorder": _share(where("reorder"), "reorder"),
        "corrupt": _share(where("corrupt"), "corrupt"),
        "rate": rate,
        "buffer": _buffer(where("buffer"), rate),
    }
    try:
        return Impairment(**values)  # type: ignore[arg-type]
    except ValueError as error:
        key = str(error).split(" ", 1)[0].replace("_", "-")
        problem = str(error).split(" ", 1)[1]
        raise where(key).error(key, problem) from None


def _quantity(
    table: Table,
    key: str,
    example: str,
    parse: Callable[[str], _Q],
    lowest: _Q,
    highest: _Q,
    shown: Callable[[_Q], str],
    rule: str = "",
) -> _Q | None:
    """A quantity with its unit, within bounds; None where the key is not there."""
    if key not in table.values:
        return None
    allowed = f"allowed: {rule}{shown(lowest)} to {shown(highest)}"
    try:
        value = parse(table.text(key, example))
    except ValueError as error:
        raise table.error(key, f"{error}; {allowed}") from None
    if not lowest <= value <= highest:
        raise table.error(key, f"out of range; {allowed}")
    return value


def _seconds(table: Table, key: str, highest: float, rule: str = "") -> float:
    return _quantity(table, key, '"20ms"', parse_duration, 0.0, highest, format_duration, rule) or 0.0


def _share(table: Table, key: str) -> float:
    return _quantity(table, key, '"0.5%"', parse_percent, 0.0, 1.0, format_percent) or 0.0


def _burst(table: Table) -> float | None:
    value = table.values.get("loss-burst")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= MAX_BURST:
        raise table.error("loss-burst", f"packets lost in a row, on average; allowed: 1 to {MAX_BURST:g}")
    return float(value)


def _buffer(table: Table, rate: int | None) -> int | None:
    """Bytes, or the time that they take at the link's rate."""
    if "buffer" in table.values and rate is None:
        raise table.error("buffer", "needs a rate: without one nothing waits")

    def parse(text: str) -> int:
        if text.endswith("B"):
            return parse_size(text)
        return round(parse_duration(text) * (rate or 0) / 8)

    return _quantity(table, "buffer", '"128KiB" or "100ms"', parse, MIN_BUFFER, MAX_BUFFER, lambda size: f"{size}B")


def _whole(table: Table, key: str, lowest: int, highest: int, why: str) -> int | None:
    value = table.values.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
        raise table.error(key, f"allowed: whole bytes, {lowest} to {highest}{why}")
    return value
