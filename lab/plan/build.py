"""A topology made exact: spaces, cables, addresses, routes, rules. Same topology and seed, same plan; no IO.

One core forwards between networks of its own making; every router and every public peer is its neighbour. Everything
else is on the bridge of the router that it is behind (`lab.plan.addressing` draws it).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeVar

from lab.errors import TopologyError
from lab.model import lans
from lab.model.topology import INTERNET, Peer, Router, Topology
from lab.plan import addressing, multihomed, names
from lab.plan.clocks import nat_sysctls
from lab.plan.firewall import firewall_rules
from lab.plan.ipv6 import lay_ipv6
from lab.plan.links import lay_links
from lab.plan.naming import add_dns
from lab.plan.nat64 import lay_nat64
from lab.plan.plan import (
    Attachment,
    Cable,
    Capture,
    Launch,
    Plan,
    Policy,
    Port,
    Route,
    RouterPlan,
    RuleSet,
    Space,
    SpaceKind,
)
from lab.plan.portmap import offer_ports
from lab.plan.ruleset import public_addresses, ruleset
from lab.plan.switching import lay_lans

_T = TypeVar("_T")
Sysctls = tuple[tuple[str, str], ...]
_BARE: Final[Sysctls] = (
    # The lab is IPv4; without this every link would have a second, unfiltered way across it.
    ("ipv6/conf/all/disable_ipv6", "1"),
    ("ipv6/conf/default/disable_ipv6", "1"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
)
QUIET: Final[Sysctls] = (
    *_BARE,
    # A new namespace has the machine's own settings for IPv4, and a machine with Docker forwards.
    ("ipv4/ip_forward", "0"),
)
FORWARDING: Final[Sysctls] = (
    *_BARE,
    ("ipv4/ip_forward", "1"),
    # A redirect would tell two hosts of a LAN to leave the router out of their hairpinned flow.
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
)


def build(topology: Topology, seed: int) -> Plan:
    """The plan of a topology that `lab.model` has checked."""
    sockets = _sockets(topology)
    homes = [_home(topology, router, sockets, seed) for router in topology.routers]
    elsewhere = [
        _host(topology, peer.name, [sockets[peer.name, place] for place in peer.places], seed)
        for peer in topology.peers
        if peer.also or peer.public or peer.ip is not None
    ]
    parts = [*homes, *elsewhere]
    vantages = tuple(f"{address}/32" for address in addressing.VANTAGES)
    plan = Plan(
        topology=topology.name,
        seed=seed,
        spaces=(Space(names.CORE, SpaceKind.CORE, sysctls=FORWARDING), *_flat(part.spaces for part in parts)),
        loose=(Port(names.CORE, names.LOOPBACK, vantages), *_flat(part.loose for part in parts)),
        cables=_flat(part.cables for part in parts),
        routes=_flat(part.routes for part in parts),
        rules=_flat(part.rules for part in parts),
        routers=_flat(part.routers for part in parts),
        launches=tuple(_launch(topology, peer, sockets) for peer in topology.peers),
        captures=_flat(part.captures for part in parts),
        vantages=addressing.VANTAGES,
        policies=_flat(part.policies for part in parts),
    )
    plan = offer_ports(topology, lay_lans(topology, plan))
    plan = lay_nat64(topology, lay_ipv6(topology, plan))
    # Links know by which addresses, of both versions, a neighbour of the core is reached.
    return add_dns(topology, lay_links(topology, plan), QUIET)


@dataclass(frozen=True, slots=True)
class _Socket:
    """Where a cable outwards of somebody goes: to a port of the core, or into a router's LAN."""

    space: str
    port: str
    bridge: str | None
    gateway: str
    address: str
    "of who is plugged in"
    length: int
    more: tuple[str, ...] = ()
    "further addresses of who has several public ones"

    def cable(self, name: str, port: str, seed: int) -> Cable:
        """The cable between the socket and that port of `name`."""
        held = () if self.bridge else (f"{self.gateway}/{self.length}",)
        here = Port(self.space, self.port, held, self.bridge, names.mac(seed, self.space, self.port))
        addresses = tuple(f"{address}/{self.length}" for address in (self.address, *self.more))
        there = Port(name, port, addresses, mac=names.mac(seed, name, port))
        return Cable(here, there)

    def way(self, port: str) -> multihomed.Way:
        """The same as an uplink of a host."""
        return multihomed.Way(port, f"{self.address}/{self.length}", self.gateway, self.more)


_Sockets = dict[tuple[str, str], _Socket]


def _sockets(topology: Topology) -> _Sockets:
    """The sockets of every router, every peer and every probe's host, by its name and the place."""
    outer = [router.name for router in topology.routers if router.at == INTERNET]
    publics = [peer.name for peer in topology.peers if peer.public]
    wanted = {router.name: _public_addresses(topology, router) for router in topology.routers}
    wanted |= {peer.name: peer.addresses for peer in topology.peers}
    sockets = {
        (name, INTERNET): _Socket(
            names.CORE,
            name,
            None,
            addressing.core_side(number),
            addressing.neighbour_side(number),
            length=24,
            more=tuple(addressing.neighbour_side(number, index) for index in range(1, wanted.get(name, 1))),
        )
        for number, name in enumerate([*outer, *publics], 1)
    }
    for router in topology.routers:
        gateway, length = lans.gateway(router.lan), lans.length(router.lan)
        for index, name in enumerate(_on_lan(topology, router)):
            address, port = lans.host(router.lan, index), names.lan_port(index)
            sockets[name, router.name] = _Socket(router.name, port, names.LAN, gateway, address, length)
    return sockets


def _hosts(topology: Topology, router: Router) -> tuple[str, ...]:
    """The hosts next to a router and nowhere else, with every version of IP: its peers, or hosts to probe it from."""
    peers = tuple(peer.name for peer in topology.peers if peer.places == (router.name,) and peer.ip is None)
    return peers or names.probe_hosts(router.name)


def _guests(topology: Topology, router: Router) -> tuple[str, ...]:
    """The peers next to a router that it is not probed from: they have other uplinks, or one version of IP alone."""
    guests = (peer for peer in topology.peers if router.name in peer.places)
    return tuple(peer.name for peer in guests if peer.also or peer.ip is not None)


def _on_lan(topology: Topology, router: Router) -> tuple[str, ...]:
    return (*_hosts(topology, router), *_inner(topology, router), *_guests(topology, router))


def _public_addresses(topology: Topology, router: Router) -> int:
    """How many addresses a router has outside; only the internet has several for one."""
    count = public_addresses(router.nat, len(_on_lan(topology, router)))
    if count > 1 and router.at != INTERNET:
        problem = f"it is behind {router.at}, which gives it one address, and its NAT asks for {count}"
        raise topology.error(router, f"{problem}; allowed: 1, or at = {INTERNET!r}")
    return count


def _inner(topology: Topology, router: Router) -> tuple[str, ...]:
    return tuple(other.name for other in topology.routers if other.at == router.name)


@dataclass(frozen=True, slots=True)
class _Part:
    """What one router with its hosts, or one public peer, adds to a plan."""

    spaces: tuple[Space, ...]
    cables: tuple[Cable, ...]
    routes: tuple[Route, ...]
    captures: tuple[Capture, ...]
    loose: tuple[Port, ...] = ()
    rules: tuple[RuleSet, ...] = ()
    routers: tuple[RouterPlan, ...] = ()
    policies: tuple[Policy, ...] = ()


def _home(topology: Topology, router: Router, sockets: _Sockets, seed: int) -> _Part:
    """A router, its LAN and the hosts that are on no other."""
    socket = sockets[router.name, router.at]
    hosts = [_host(topology, name, [sockets[name, router.name]], seed) for name in _hosts(topology, router)]
    plan = _router_plan(topology, router, socket)
    subscribers = tuple(sockets[name, router.name].address for name in _on_lan(topology, router))
    bridge = Port(
        router.name,
        names.LAN,
        (f"{plan.gateway}/{lans.length(plan.lan)}",),
        mac=names.mac(seed, router.name, names.LAN),
    )
    rules = [RuleSet(router.name, _translation(topology, router, plan.publics, subscribers, seed))]
    if router.firewall is not None:
        rules.append(RuleSet(router.name, firewall_rules(router.firewall)))
    return _Part(
        spaces=(
            Space(router.name, SpaceKind.ROUTER, (names.LAN,), (*FORWARDING, *nat_sysctls(router.nat))),
            *_flat(host.spaces for host in hosts),
        ),
        loose=(bridge, *_vantages(topology, router)),
        cables=(socket.cable(router.name, names.WAN, seed), *_flat(host.cables for host in hosts)),
        routes=(
            Route(router.name, "default", socket.gateway, names.WAN),
            *_flat(host.routes for host in hosts),
        ),
        rules=tuple(rules),
        routers=(plan,),
        captures=(
            _capture(router.name, names.WAN),
            _capture(router.name, names.LAN),
            *_flat(host.captures for host in hosts),
        ),
    )


def _translation(
    topology: Topology, router: Router, publics: tuple[str, ...], subscribers: tuple[str, ...], seed: int
) -> str:
    try:
        return ruleset(router.nat, publics, subscribers, f"{seed}/{router.name}")
    except TopologyError as error:
        raise topology.error(router, str(error)) from None


def _router_plan(topology: Topology, router: Router, socket: _Socket) -> RouterPlan:
    above = topology.above(router)
    return RouterPlan(
        name=router.name,
        nat=router.nat,
        wan=socket.address,
        lan=router.lan,
        gateway=lans.gateway(router.lan),
        hosts=_hosts(topology, router),
        inner=_inner(topology, router),
        guests=_guests(topology, router),
        above=tuple(outer.name for outer in above),
        outside=socket.space,
        vantages=_vantages_of(topology, above[0]) if above else addressing.VANTAGES,
        firewall=router.firewall,
        publics=(socket.address, *socket.more),
    )


def _vantages(topology: Topology, router: Router) -> tuple[Port, ...]:
    """The addresses from which the routers behind this one are probed, if there are any."""
    if not _inner(topology, router):
        return ()
    addresses = tuple(f"{address}/32" for address in _vantages_of(topology, router))
    return (Port(router.name, names.LOOPBACK, addresses),)


def _vantages_of(topology: Topology, router: Router) -> tuple[str, str]:
    return addressing.carrier_vantages(topology.routers.index(router) + 1)


def _host(topology: Topology, name: str, sockets: list[_Socket], seed: int) -> _Part:
    """A host with a cable to each of these sockets."""
    uplinks = dict(zip(_interfaces(topology, name, len(sockets)), sockets, strict=True))
    ways = [socket.way(port) for port, socket in uplinks.items()]
    sysctls = QUIET if len(sockets) == 1 else (*QUIET, *multihomed.SYSCTLS)
    return _Part(
        spaces=(Space(name, SpaceKind.HOST, sysctls=sysctls),),
        cables=tuple(socket.cable(name, port, seed) for port, socket in uplinks.items()),
        routes=multihomed.routes(name, ways),
        captures=() if names.is_probe_host(name) else tuple(_capture(name, port) for port in uplinks),
        policies=multihomed.policies(name, ways),
    )


def _interfaces(topology: Topology, name: str, count: int) -> list[str]:
    """What the interfaces of a host are called, by preference."""
    own = next((peer.interface for peer in topology.peers if peer.name == name), names.ETH)
    return [own, *map(names.eth, range(1, count))]


def _capture(space: str, port: str) -> Capture:
    return Capture(space, port, names.capture(space, port))


def _launch(topology: Topology, peer: Peer, sockets: _Sockets) -> Launch:
    first, *further = (
        Attachment(interface, sockets[peer.name, place].address, routers[0] if routers else None, routers)
        for interface, place in zip(_interfaces(topology, peer.name, len(peer.places)), peer.places, strict=True)
        for routers in [tuple(router.name for router in topology.routers_of(peer.name, place))]
    )
    return Launch(
        peer=peer.name,
        space=peer.name,
        address=first.address,
        impl=peer.impl,
        role=peer.role,
        router=first.router,
        routers=first.routers,
        further=tuple(further),
        port=peer.port,
        transports=peer.transports,
        dials=peer.dials,
        interface=first.interface,
        program=peer.program,
        run=peer.run,
        image=peer.image,
    )


def _flat(parts: Iterable[tuple[_T, ...]]) -> tuple[_T, ...]:
    return tuple(item for part in parts for item in part)
