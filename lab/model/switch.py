"""What a LAN does between its own hosts: multicast, as mDNS sees it, and whether they may speak to each other at all.

lan = { snooping = "on", isolation = true, reflector = "home", link-local = true, prefix = "192.168.2.0/24" }

mDNS (RFC 6762) asks and answers at 224.0.0.251 and ff02::fb. What a switch that looks into IGMP and MLD does with these
is told by RFC 4541: 224.0.0.X goes to every port, whoever has joined (§2.1.2), an IPv6 group only to those that have
joined it (§3), and without a querier nothing is pruned for long.

                        224.0.0.251   ff02::fb   another group
    off, no-querier     everybody     everybody  everybody
    on                  everybody     members    members
    broken              nobody        members    members
    isolation           nobody but the router, whatever the snooping, and unicast as well
    reflector           mDNS, and nothing else, also from and to the LAN of another router
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from lab.model.tables import Table, closest

LAN_KEYS: Final = ("prefix", "snooping", "isolation", "reflector", "link-local")
"of the key `lan` where it is a table"

Tables = list[tuple[str, Table]]


class Snooping(Enum):
    """What a switch makes of IGMP and MLD."""

    OFF = "off"
    NO_QUERIER = "no-querier"
    "it looks, but nobody asks who has joined, so it has to send everything to everybody"
    ON = "on"
    "and it is the querier"
    BROKEN = "broken"
    "and prunes 224.0.0.X too, against RFC 4541: the switch that people tell of when mDNS does not work"


@dataclass(frozen=True, slots=True)
class Switch:
    """One LAN's."""

    snooping: Snooping = Snooping.OFF
    isolation: bool = False
    "its hosts reach the router and nobody else, as in a guest network"
    reflector: str | None = None
    "the router with whose LAN mDNS is exchanged"
    link_local: bool = False
    "hosts and router have IPv6 link-local addresses"


PLAIN: Final = Switch()


def lan_table(router: Table) -> Table | None:
    """The key `lan` of a router's table where it is a table itself."""
    value = router.values.get("lan")
    return Table(router.places, (*router.path, "lan"), value, prefix="lan.") if isinstance(value, dict) else None


def read_switches(routers: Tables) -> dict[str, Switch]:
    """Each router's; TopologyError for a wrong key or value, and for reflectors in a circle."""
    switches = {name: _read(name, table, [other for other, _ in routers]) for name, table in routers}
    _refuse_circles(switches, dict(routers))
    return switches


def _read(name: str, router: Table, routers: list[str]) -> Switch:
    table = lan_table(router)
    if table is None:
        return PLAIN
    table.check_keys(LAN_KEYS)
    reflector = table.text("reflector", '"home-b"') if "reflector" in table.values else None
    others = [other for other in routers if other != name]
    if reflector is not None and reflector not in others:
        which = f"other routers: {', '.join(others)}" if others else "there is no other router"
        raise table.error("reflector", f"no other router{closest(reflector, others)}; {which}")
    return Switch(
        snooping=Snooping(table.choice("snooping", (kind.value for kind in Snooping), Snooping.OFF.value)),
        isolation=table.flag("isolation", default=False),
        reflector=reflector,
        link_local=table.flag("link-local", default=False),
    )


def _refuse_circles(switches: Mapping[str, Switch], routers: Mapping[str, Table]) -> None:
    """Two reflectors between the same LANs, or three in a triangle, pass one question round for ever."""
    joined = {name: {name} for name in switches}
    for name, switch in switches.items():
        other = switch.reflector
        if other is None:
            continue
        if other in joined[name]:
            table = lan_table(routers[name]) or routers[name]
            raise table.error("reflector", "mDNS gets there by other reflectors already, and would go round for ever")
        union = joined[name] | joined[other]
        joined |= dict.fromkeys(union, union)
