"""A plan as it is after an event: the same network with one thing changed. Pure, so that files can be judged by it too.

    with_address    a router's outer address is another; its rules, the core's side of the cable and the routes follow
    with_move       a peer is plugged into another router's LAN; the router's end of its cable goes along

A cable's `a` is the socket (a port of the core, or one in a router's bridge), its `b` is whoever is plugged in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface
from itertools import count
from typing import Final, TypeVar

from lab.errors import EventError
from lab.model import lans
from lab.model.event import ChangeAddress, LifeEvent, Move
from lab.plan import names
from lab.plan.ipv6 import FIRST_HOST
from lab.plan.plan import Cable, GuardPlan, Launch, Plan, Port, Route, RouterPlan, RuleSet
from lab.plan.shaping import Shaping
from lab.plan.switching import LanPlan, Station

LINK_LOCAL: Final = "fe80:"
_R = TypeVar("_R", RouterPlan, GuardPlan)


def with_address(plan: Plan, name: str, address: str) -> Plan:
    """The plan with another outer address for a router; EventError where it cannot have that one."""
    router = router_of(plan, name)
    if address == router.wan:
        raise EventError(f"{name} has the address {address} already")
    cable = cable_of(plan, name)
    held = next(held for held in cable.b.addresses if _bare(held) == router.wan)
    length = IPv4Interface(held).network.prefixlen
    wanted = IPv4Interface(f"{address}/{length}")
    socket = cable.a
    if wanted.ip in IPv4Interface(held).network:
        _check_free(plan, wanted, None if socket.space == names.CORE else socket.space)
    elif len(router.publics) > 1:
        raise EventError(
            f"{name} has several addresses in {IPv4Interface(held).network}; {address} is in another network"
        )
    else:
        ipv6 = (one for one in socket.addresses if ":" in one)
        socket = replace(socket, addresses=(_other_network(plan, cable, wanted), *ipv6))
    addresses = tuple(str(wanted) if one == held else one for one in cable.b.addresses)
    moved = Cable(socket, replace(cable.b, addresses=addresses))
    gateway = next((_bare(one) for one in socket.addresses if ":" not in one), None)
    return replace(
        plan,
        cables=tuple(moved if one == cable else one for one in plan.cables),
        routes=tuple(
            _by(gateway, route) if _is_default(route, name) and _family(route) == 4 else route for route in plan.routes
        ),
        rules=tuple(_renamed(rules, name, IPv4Interface(held), wanted) for rules in plan.rules),
        shaping=_placed(plan.shaping, socket.name, IPv4Interface(held), wanted) if socket != cable.a else plan.shaping,
        routers=tuple(_called(one, address) if one == router else one for one in plan.routers),
    )


def with_move(plan: Plan, peer: str, target: str, address: str | None = None) -> Plan:
    """The plan with a peer on another router's LAN; EventError where it cannot go there."""
    launch, router = launch_of(plan, peer), router_of(plan, target)
    if launch.further:
        raise EventError(f"{peer} has several uplinks, {' and '.join(launch.captures)}; pull one (`down`) instead")
    if launch.router is None:
        raise EventError(f"{peer} is on the internet and has no LAN to leave")
    if launch.router == target:
        raise EventError(f"{peer} is behind {target} already")
    if ":" in launch.address:
        raise EventError(f"{peer} has IPv6 alone; only peers with IPv4 move")
    if any(one.name == target and one.nat.one_to_one for one in (*plan.routers, *plan.routers6)):
        raise EventError(f"{target} has a public address for each of its own hosts, and none for a guest")
    lan = IPv4Network(router.lan)
    there = IPv4Interface(f"{address or _free_host(plan, router)}/{lan.prefixlen}")
    if there.ip not in lan:
        raise EventError(f"{there.ip} is not on {target}'s LAN {lan}")
    _check_free(plan, there, target)
    cable = cable_of(plan, peer)
    socket = Port(target, _free_port(plan, target), bridge=names.LAN, mac=cable.a.mac)
    there6, gateway6 = _ipv6_on(plan, target) if launch.address6 is not None else (None, None)
    addresses = (str(there), *([there6] if there6 else []), *_link_local(plan, cable.b, target, there6))
    moved = Cable(socket, replace(cable.b, addresses=addresses))
    gateways = {4: router.gateway, 6: gateway6}
    return replace(
        plan,
        cables=tuple(moved if one == cable else one for one in plan.cables),
        routes=tuple(
            _by(gateways[_family(route)], route) if _is_default(route, peer) else route for route in plan.routes
        ),
        guards=tuple(_with_hosts(one, launch, target) for one in plan.guards),
        routers=tuple(_with_hosts(one, launch, target) for one in plan.routers),
        routers6=tuple(_with_hosts(one, launch, target) for one in plan.routers6),
        lans=tuple(_with_station(lan, moved, str(there.ip)) for lan in plan.lans),
        launches=tuple(
            _launched(one, router, str(there.ip), there6) if one == launch else one for one in plan.launches
        ),
    )


def after(plan: Plan, target: str, event: LifeEvent) -> Plan:
    """The plan as it is when that has happened; EventError where it cannot."""
    match event:
        case ChangeAddress(address):
            return with_address(plan, target, address)
        case Move(router, address):
            return with_move(plan, target, router, address)
        case _:
            return plan


def router_of(plan: Plan, name: str) -> RouterPlan:
    """A router by name; EventError says which there are."""
    for router in plan.routers:
        if router.name == name:
            return router
    known = ", ".join(router.name for router in plan.routers) or "none"
    raise EventError(f"no router {name!r} in {plan.topology}; its routers: {known}")


def launch_of(plan: Plan, name: str) -> Launch:
    """A peer by name; EventError says which there are."""
    for launch in plan.launches:
        if launch.peer == name:
            return launch
    known = ", ".join(launch.peer for launch in plan.launches) or "none"
    raise EventError(f"no peer {name!r} in {plan.topology}; its peers: {known}")


def cable_of(plan: Plan, place: str) -> Cable:
    """The cable by which a router or a peer is connected outwards, or in which that port (`home-a/lan0`) ends."""
    space, _, port = place.partition("/")
    ends = (space, port) if port else None
    uplinks = [f"{cable.b.space}/{cable.b.name}" for cable in plan.cables if cable.b.space == place]
    if len(uplinks) > 1:
        raise EventError(f"{place} has several uplinks; name one: {', '.join(uplinks)}")
    for cable in plan.cables:
        if ends in ((cable.a.space, cable.a.name), (cable.b.space, cable.b.name)) or place == cable.b.space:
            return cable
    known = ", ".join(f"{end.space}/{end.name}" for cable in plan.cables for end in (cable.a, cable.b))
    raise EventError(f"no cable at {place!r} in {plan.topology}; cables end at: {known}")


def core_port(plan: Plan, place: str) -> str:
    """The port of the core through which all goes that is for a router, a peer, or a peer by one uplink."""
    socket = cable_of(plan, place).a
    while socket.space != names.CORE:
        socket = cable_of(plan, socket.space).a
    return socket.name


def _ipv4(port: Port) -> tuple[IPv4Interface, ...]:
    return tuple(IPv4Interface(one) for one in port.addresses if ":" not in one)


def _bare(address: str) -> str:
    return address.partition("/")[0]


def _is_default(route: Route, space: str) -> bool:
    return route.space == space and route.destination == "default"


def _family(route: Route) -> int:
    return 6 if route.gateway is not None and ":" in route.gateway else 4


def _by(gateway: str | None, route: Route) -> Route:
    return route if gateway is None else replace(route, gateway=gateway)


def _renamed(rules: RuleSet, space: str, old: IPv4Interface, new: IPv4Interface) -> RuleSet:
    """A router's rules know the outside by its address, the core's by its network, and by nothing else."""
    if rules.space == space:
        return replace(rules, text=_replaced(rules.text, str(old.ip), str(new.ip)))
    if rules.space == names.CORE:
        return replace(rules, text=_replaced(rules.text, str(old.network), str(new.network)))
    return rules


def _called(router: RouterPlan, address: str) -> RouterPlan:
    publics = tuple(address if one == router.wan else one for one in router.publics)
    return replace(router, wan=address, publics=publics)


def _placed(shaping: Shaping, name: str, old: IPv4Interface, new: IPv4Interface) -> Shaping:
    networks = next((link.networks for link in shaping.uplinks if link.name == name), ())
    there = tuple(str(new.network) if network == str(old.network) else network for network in networks)
    return shaping.placed({name: there})


def _replaced(text: str, old: str, new: str) -> str:
    return re.sub(rf"(?<![\d.]){re.escape(old)}(?![\d.])", new, text)


def _other_network(plan: Plan, cable: Cable, wanted: IPv4Interface) -> str:
    """The core's side of a cable whose other end gets an address in a network of its own."""
    if cable.a.space != names.CORE:
        raise EventError(f"{cable.b.space} is on {cable.a.space}'s LAN; {wanted.ip} is not")
    if not wanted.ip.is_global:
        raise EventError(f"{wanted.ip} does not look public, and libp2p would not dial it; try 11.0.99.2")
    if wanted.ip in (wanted.network.network_address, wanted.network.broadcast_address):
        raise EventError(f"{wanted.ip} is not a host's address in {wanted.network}")
    for port in _public_ports(plan):
        if any(wanted.network.overlaps(one.network) for one in _ipv4(port)):
            raise EventError(
                f"{wanted.ip} is in a network of {port.space}'s; choose a /{wanted.network.prefixlen} of its own"
            )
    side = next(host for host in wanted.network.hosts() if host != wanted.ip)
    return f"{side}/{wanted.network.prefixlen}"


def _public_ports(plan: Plan) -> Iterator[Port]:
    yield from (port for port in plan.loose if port.name == names.LOOPBACK)
    yield from (cable.b for cable in plan.cables if cable.a.space == names.CORE)


def _check_free(plan: Plan, wanted: IPv4Interface, router: str | None = None) -> None:
    """Nobody else on the same segment may have it. `router`: the segment is that router's LAN."""
    if wanted.ip in (wanted.network.network_address, wanted.network.broadcast_address):
        raise EventError(f"{wanted.ip} is not a host's address in {wanted.network}")
    for port in _on_lan(plan, router) if router else _all_ports(plan):
        if any(one.ip == wanted.ip for one in _ipv4(port)):
            raise EventError(f"{wanted.ip} is {port.space}'s")


def _all_ports(plan: Plan) -> Iterator[Port]:
    yield from plan.loose
    for cable in plan.cables:
        yield from (cable.a, cable.b)


def _on_lan(plan: Plan, router: str) -> Iterator[Port]:
    yield from (port for port in plan.loose if port.space == router)
    yield from (cable.b for cable in plan.cables if cable.a.space == router)


def _free_host(plan: Plan, router: RouterPlan) -> str:
    taken = {_bare(one) for port in _on_lan(plan, router.name) for one in port.addresses}
    for index in range(lans.capacity(router.lan)):
        if (host := lans.host(router.lan, index)) not in taken:
            return host
    raise EventError(f"{router.name}'s LAN {router.lan} has no room for another peer")


def _free_port(plan: Plan, router: str) -> str:
    taken = {cable.a.name for cable in plan.cables if cable.a.space == router}
    return next(name for name in map(names.lan_port, count()) if name not in taken)


def _with_hosts(router: _R, guest: Launch, target: str) -> _R:
    if router.name == target:
        return replace(router, hosts=(*router.hosts, guest.space))
    return replace(router, hosts=tuple(host for host in router.hosts if host != guest.space))


def _launched(launch: Launch, router: RouterPlan, address: str, address6: str | None) -> Launch:
    return replace(
        launch,
        address=address,
        router=router.name,
        routers=(router.name, *router.above),
        address6=address6 and _bare(address6),
    )


def _ipv6_on(plan: Plan, router: str) -> tuple[str | None, str | None]:
    """A free IPv6 address on a router's LAN with its prefix length, and the gateway there; None if it has no IPv6."""
    ports = list(_on_lan(plan, router))
    held = [
        IPv6Interface(one) for port in ports for one in port.addresses if ":" in one and not one.startswith(LINK_LOCAL)
    ]
    gateway = next((one for one in held if one.network.prefixlen == 64), None)
    if gateway is None:
        return None, None
    taken = {one.ip for one in held}
    hosts = (gateway.network.network_address + FIRST_HOST + index for index in range(len(taken) + 1))
    free = next(host for host in hosts if host not in taken)
    return f"{free}/{gateway.network.prefixlen}", str(gateway.ip)


def _link_local(plan: Plan, port: Port, router: str, there6: str | None) -> list[str]:
    """The link-local address that a port has, or another one where somebody on the LAN has the same."""
    taken = {one for each in _on_lan(plan, router) for one in each.addresses}
    own = [one for one in port.addresses if one.startswith(LINK_LOCAL)]
    if not own or own[0] not in taken:
        return own
    suffix = _bare(there6).rpartition("::")[2] if there6 else f"{len(taken) + FIRST_HOST:x}:0"
    return [f"fe80::{suffix}/64"]


def _with_station(lan: LanPlan, moved: Cable, address: str) -> LanPlan:
    """A LAN without the one that has left, or with the one that has come."""
    stations = tuple(station for station in lan.stations if station.space != moved.b.space)
    if lan.router == moved.a.space:
        stations = (*stations, Station(moved.b.space, moved.b.name, moved.a.name, address))
    return replace(lan, stations=stations)
