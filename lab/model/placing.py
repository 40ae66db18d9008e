"""Where routers stand: on the internet, or on another router's LAN; and which LAN each has of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lab.model.lans import HOME_LAN, MAX_LAYERS, check_apart, check_room, default_lan, read_lan
from lab.model.tables import Table, closest
from lab.model.uplinks import INTERNET

Tables = list[tuple[str, Table]]


@dataclass(frozen=True, slots=True)
class Place:
    """Where one router stands."""

    at: str = INTERNET
    lan: str = HOME_LAN


def read_places(routers: Tables, peers: Iterable[tuple[str, ...]]) -> dict[str, Place]:
    """The place of every router; TopologyError for a circle, a LAN that is too small, or one that is in the way.

    `peers` are the places of each peer.
    """
    tables = dict(routers)
    above = {name: _above(table, tables) for name, table in routers}
    chains = {name: _chain(name, above, tables) for name in tables}
    carriers = set(above.values())
    lans = {name: read_lan(tables[name], default_lan(len(chains[name]), name in carriers)) for name in tables}
    hosts = Counter(place for places in peers for place in places)
    for name, table in routers:
        inner = [other for other in tables if above[other] == name]
        if not (hosts[name] or inner):
            raise table.error(None, f"no peer is behind it; give one at = {name!r}, or leave the router out")
        check_room(table, lans[name], hosts[name], inner)
        if above[name] != INTERNET:
            check_apart(table, lans[name], lans[above[name]], above[name])
    return {name: Place(above[name], lans[name]) for name in tables}


def _above(table: Table, routers: Mapping[str, Table]) -> str:
    at = table.text("at", f'"{INTERNET}"', INTERNET)
    if at not in (*routers, INTERNET):
        others = [name for name in routers if name != table.path[-1]]
        places = f"routers: {', '.join(others)}, or {INTERNET!r}" if others else f"there are none, only {INTERNET!r}"
        raise table.error("at", f"no such router{closest(at, [*others, INTERNET])}; {places}")
    return at


def _chain(name: str, above: Mapping[str, str], tables: Mapping[str, Table]) -> list[str]:
    """The routers in front of a router, the nearest first."""
    chain = [name]
    while (outer := above[chain[-1]]) != INTERNET:
        if outer in chain:
            circle = " → ".join([*chain[chain.index(outer) :], outer])
            raise tables[name].error("at", f"routers in a circle: {circle}; a chain of routers ends at {INTERNET!r}")
        chain.append(outer)
    if len(chain) > MAX_LAYERS:
        way = " → ".join(chain)
        raise tables[name].error("at", f"{len(chain)} routers one behind the other: {way}; allowed: {MAX_LAYERS}")
    return chain[1:]
