"""Who is at which hardware address, known beforehand: entries that no ARP or neighbour discovery has to find.

The plan chose all hardware addresses, so that it can say them. What the kernel has found by itself it counts in one
table for all namespaces of a machine, of 1024 entries (`gc_thresh3`), and when that is full, sends fail; entries that
were put there for good do not count. So labs of any size live side by side, and no first packet waits for an answer.

Where nobody has asked anything, a switch would not have learnt yet who is at which of its ports, and would send to all
of them: it is told that too.

On a large LAN only the router and its hosts know each other beforehand; hosts find each other as hosts do.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import permutations
from typing import Final

from lab.plan.plan import Plan, Port

MAX_PAIRED: Final = 16
"stations on a LAN that all know each other: entries grow by their square"


@dataclass(frozen=True, slots=True)
class Neighbour:
    """One entry of a space's table."""

    space: str
    port: str
    address: str
    "without prefix length"
    mac: str


@dataclass(frozen=True, slots=True)
class Station:
    """Who is plugged into a port of a bridge."""

    space: str
    port: str
    mac: str


def stations(plan: Plan) -> frozenset[Station]:
    """What all switches of a plan have learnt."""
    return frozenset(
        Station(cable.a.space, cable.a.name, cable.b.mac)
        for cable in plan.cables
        if cable.a.bridge is not None and cable.b.mac is not None
    )


def neighbours(plan: Plan) -> frozenset[Neighbour]:
    """All entries of a plan."""
    return frozenset(entry for segment in _segments(plan) for entry in _on(segment))


def _segments(plan: Plan) -> Iterable[list[Port]]:
    """What shares a cable or a LAN; a LAN's router comes first."""
    bridges = {(port.space, port.name): port for port in plan.loose}
    lans: defaultdict[tuple[str, str], list[Port]] = defaultdict(list)
    for cable in plan.cables:
        if cable.a.bridge is None:
            yield [cable.a, cable.b]
        else:
            lans[cable.a.space, cable.a.bridge].append(cable.b)
    yield from ([*filter(None, [bridges.get(lan)]), *stations] for lan, stations in lans.items())


def _on(segment: list[Port]) -> Iterable[Neighbour]:
    pairs: Iterable[tuple[Port, Port]] = permutations(segment, 2)
    if len(segment) > MAX_PAIRED:
        router, *stations = segment
        pairs = ((here, there) for station in stations for here, there in ((router, station), (station, router)))
    for here, there in pairs:
        families = {":" in address for address in here.addresses}
        for address in there.addresses:
            if there.mac is not None and (":" in address) in families:
                yield Neighbour(here.space, here.name, address.partition("/")[0], there.mac)
