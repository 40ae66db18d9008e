"""Where a peer is plugged in: at one place, or at several, as a phone is by Wi-Fi and by its carrier at once.

    at = "home-a"
    at = ["home-a", "cell"]             a multihomed peer; the first place is the preferred one
    at = ["internet", "office"]

A host with several uplinks answers by the one that it was asked by, and begins by the preferred one that works. Two
LANs with the same addresses would be one to it, so a peer cannot be on both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network
from itertools import combinations
from typing import Final

from lab.model.lans import PRIVATE
from lab.model.tables import Table, closest

INTERNET: Final = "internet"
"`at` of what is behind no router"
MAX_UPLINKS: Final = 4
"places that a peer is plugged in at"

Tables = list[tuple[str, Table]]


def read_at(table: Table, routers: Sequence[str]) -> tuple[str, ...]:
    """The places of a peer, the preferred one first; TopologyError for none, an unknown one, and for twice."""
    places = f"routers: {', '.join(routers)}, or {INTERNET!r}" if routers else f"there are none, only {INTERNET!r}"
    if "at" not in table.values:
        raise table.error("at", f"there is none; {places}")
    value = table.values["at"]
    if not isinstance(value, list):
        value = [table.text("at", f'"{INTERNET}"')]
    if not value or len(value) > MAX_UPLINKS or not all(isinstance(place, str) for place in value):
        raise table.error("at", f"must be a place, or a list of 1 to {MAX_UPLINKS}; {places}")
    for place in value:
        if place not in (*routers, INTERNET):
            raise table.error("at", f"no such router{closest(place, [*routers, INTERNET])}; {places}")
        if value.count(place) > 1:
            raise table.error("at", f"names {place} twice; a peer has one cable to a place")
    return tuple(value)


def check_uplinks(peers: Tables, places: Mapping[str, tuple[str, ...]], lans: Mapping[str, str]) -> None:
    """Refuse a peer on two LANs whose addresses overlap; `lans` are the routers' prefixes."""
    for name, table in peers:
        for one, other in combinations([place for place in places[name] if place != INTERNET], 2):
            if IPv4Network(lans[one]).overlaps(IPv4Network(lans[other])):
                both = lans[one] if lans[one] == lans[other] else f"{lans[one]} and {lans[other]}"
                problem = f"{one} and {other} have overlapping LANs, {both}, which a host on both cannot tell apart"
                raise table.error("at", f"{problem}; give one of the two another: lan = {PRIVATE[0]!r}")
