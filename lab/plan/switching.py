"""LANs whose switch is not a plain one (`lab.model.switch`), with everything that is plugged into them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from lab.model.ipv6 import Ip
from lab.model.switch import PLAIN, Switch
from lab.model.topology import Topology
from lab.plan.names import LAN

if TYPE_CHECKING:
    from lab.plan.plan import Cable, Plan, Port, Space

LINK_LOCAL: Final = (
    ("ipv6/conf/all/disable_ipv6", "0"),
    ("ipv6/conf/default/disable_ipv6", "0"),
    # The kernel makes none itself: its own come up to a second late, and on interfaces that are not on the LAN too.
    ("ipv6/conf/all/addr_gen_mode", "1"),
    ("ipv6/conf/default/addr_gen_mode", "1"),
    ("ipv6/conf/default/router_solicitations", "0"),
)


@dataclass(frozen=True, slots=True)
class Station:
    """Something on a LAN: its own interface, and the bridge's port that this is plugged into."""

    space: str
    interface: str
    port: str
    address: str
    "its IPv4 address, without prefix length"


@dataclass(frozen=True, slots=True)
class LanPlan:
    """One LAN."""

    router: str
    "the space that its bridge is in, and its name in messages"
    bridge: str
    switch: Switch
    stations: tuple[Station, ...]
    "hosts, and routers by their WAN side"


def lay_lans(topology: Topology, plan: Plan) -> Plan:
    """The plan with the LANs that are more than a plain switch, or that a reflector exchanges mDNS with."""
    reflected = {router.switch.reflector for router in topology.routers}
    # A network with IPv6 has link-local addresses everywhere (`lab.plan.ipv6`).
    given = topology.ip is not Ip.V4
    lans = tuple(
        LanPlan(
            router.name,
            LAN,
            replace(router.switch, link_local=given or router.switch.link_local),
            _stations(router.name, plan.cables),
        )
        for router in topology.routers
        if router.switch != PLAIN or router.name in reflected
    )
    plan = replace(plan, lans=lans)
    return plan if given else _with_link_local(plan)


def exchanges(lans: Iterable[LanPlan]) -> tuple[tuple[LanPlan, ...], ...]:
    """The LANs that exchange mDNS, each with all that it does so with, directly or by others."""
    groups: dict[str, tuple[LanPlan, ...]] = {lan.router: (lan,) for lan in lans}
    for lan in tuple(group[0] for group in groups.values()):
        if lan.switch.reflector is not None:
            union = (*groups[lan.router], *groups[lan.switch.reflector])
            groups |= {member.router: union for member in union}
    return tuple({id(group): group for group in groups.values() if len(group) > 1}.values())


def _stations(router: str, cables: tuple[Cable, ...]) -> tuple[Station, ...]:
    return tuple(
        Station(cable.b.space, cable.b.name, cable.a.name, cable.b.addresses[0].partition("/")[0])
        for cable in cables
        if cable.a.space == router and cable.a.bridge == LAN
    )


def _with_link_local(plan: Plan) -> Plan:
    """Give those their addresses who are on a LAN that asks for it; routers do not forward such packets."""
    asking = [lan for lan in plan.lans if lan.switch.link_local]
    holders = {(lan.router, lan.bridge) for lan in asking}
    holders |= {(station.space, station.interface) for lan in asking for station in lan.stations}
    spaces = {space for space, _ in holders}

    def held(port: Port) -> Port:
        if (port.space, port.name) not in holders or port.mac is None:
            return port
        return replace(port, addresses=(*port.addresses, f"{link_local(port.mac)}/64"))

    return replace(
        plan,
        spaces=tuple(_switched_on(space) if space.name in spaces else space for space in plan.spaces),
        loose=tuple(held(port) for port in plan.loose),
        cables=tuple(replace(cable, a=held(cable.a), b=held(cable.b)) for cable in plan.cables),
    )


def link_local(mac: str) -> str:
    """The address that belongs to a hardware address (RFC 4291, appendix A)."""
    first, *rest = (int(part, 16) for part in mac.split(":"))
    identifier = bytes((first ^ 0x02, *rest[:2], 0xFF, 0xFE, *rest[2:]))
    return str(ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + identifier))


def _switched_on(space: Space) -> Space:
    overridden = {path for path, _ in LINK_LOCAL}
    kept = (setting for setting in space.sysctls if setting[0] not in overridden)
    return replace(space, sysctls=(*kept, *LINK_LOCAL))
