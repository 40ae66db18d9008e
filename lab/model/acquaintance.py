"""Who is connected to whom at first: the peers that a peer dials when all have started.

    [peer.leaf]
    at    = "home"
    dials = ["super-a"]

A NAT lets in nobody who has not been written to, so whoever is dialled is on the internet, or on a LAN that the dialler
is on or behind.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Set
from typing import Final

from lab.model.tables import Table, closest
from lab.model.uplinks import INTERNET

EXAMPLE: Final = 'such as ["server"]'

Tables = list[tuple[str, Table]]


def read_dials(
    peers: Tables, places: Mapping[str, tuple[str, ...]], lans: Mapping[str, Collection[str]]
) -> dict[str, tuple[str, ...]]:
    """Whom each peer dials. TopologyError for nobody, for itself, for one that cannot be reached, and for twice.

    `places` is where each peer is plugged in; `lans` are the routers that it is behind by any of its uplinks.
    """
    order = list(places)
    dials = {name: _names(name, table, places, {INTERNET, *lans[name]}) for name, table in peers}
    for name, table in peers:
        for other in dials[name]:
            if name in dials[other] and order.index(other) < order.index(name):
                raise table.error("dials", f"{other} dials {name} already; one connection does for both")
    return dials


def _names(name: str, table: Table, places: Mapping[str, tuple[str, ...]], reached: Set[str]) -> tuple[str, ...]:
    value = table.values.get("dials", [])
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise table.error("dials", f"must be a list of peers, {EXAMPLE}")
    others = [other for other in places if other != name]
    for each in value:
        if each not in others:
            what = "it is the peer itself" if each == name else f"no such peer {each!r}{closest(each, others)}"
            raise table.error("dials", f"{what}; peers: {', '.join(others) or 'no other'}")
        if reached.isdisjoint(places[each]):
            behind = " and ".join(places[each])
            raise table.error("dials", f"{each} is behind {behind}, where nobody is let in unasked; let {each} dial")
    if len(set(value)) < len(value):
        raise table.error("dials", "names a peer twice")
    return tuple(value)
