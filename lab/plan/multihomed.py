"""How a host with several uplinks routes: what it begins goes by metric, what it answers by where it was asked.

    main table   default by eth0 metric 100, default by eth1 metric 200       the preferred one that has a carrier
    table 101    default by eth0, its LAN by eth0                             from eth0's address
    table 102    default by eth1, its LAN by eth1                             from eth1's address

A packet with a source address leaves by the interface that holds it, so a connection stays on the uplink that it began
on. A route whose cable is pulled is passed over, as network managers see to (`ignore_routes_with_linkdown`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_interface
from typing import Final

from lab.plan.plan import Policy, Route

METRIC: Final = 100
"of the preferred uplink's default route; the others' are multiples"
FIRST_TABLE: Final = 101
SYSCTLS: Final = (("ipv4/conf/default/ignore_routes_with_linkdown", "1"),)
SYSCTLS6: Final = (("ipv6/conf/default/ignore_routes_with_linkdown", "1"),)


@dataclass(frozen=True, slots=True)
class Way:
    """One uplink of a host, by one version of IP."""

    interface: str
    address: str
    "with prefix length"
    gateway: str
    more: tuple[str, ...] = ()
    "further addresses, without prefix length"


def routes(space: str, ways: Sequence[Way]) -> tuple[Route, ...]:
    """All routes of a host, by preference."""
    if len(ways) == 1:
        return (Route(space, "default", ways[0].gateway, ways[0].interface),)
    found: list[Route] = []
    for number, way in enumerate(ways):
        lan, table = str(ip_interface(way.address).network), FIRST_TABLE + number
        found += [
            Route(space, "default", way.gateway, way.interface, metric=METRIC * (number + 1)),
            # The gateway has to be on a network that the table knows.
            Route(space, lan, None, way.interface, table=table),
            Route(space, "default", way.gateway, way.interface, table=table),
        ]
    return tuple(found)


def policies(space: str, ways: Sequence[Way]) -> tuple[Policy, ...]:
    """Which of its tables routes what it sends from which address."""
    if len(ways) == 1:
        return ()
    return tuple(
        Policy(space, address, FIRST_TABLE + number)
        for number, way in enumerate(ways)
        for address in (way.address.partition("/")[0], *way.more)
    )
