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
from lab.model.nat import ICMP_TIMEOUT, Nat, Unsolicited
from lab.model.topology import INTERNET, Peer, Router, Topology
from lab.plan import addressing, names
from lab.plan.firewall import firewall_rules
from lab.plan.ipv6 import lay_ipv6
from lab.plan.links import lay_links
from lab.plan.naming import add_dns
from lab.plan.plan import Cable, Capture, Launch, Plan, Port, Route, RouterPlan, RuleSet, Space, SpaceKind
from lab.plan.portmap import offer_ports
from lab.plan.ruleset import public_addresses, ruleset
from lab.plan.switching import lay_lans

_T = TypeVar("_T")
Sysctls = tuple[tuple[str, str], ...]
QUIET: Final[Sysctls] = (
    # The lab is IPv4; without this every link would have a second, unfiltered way across it.
    ("ipv6/conf/all/disable_ipv6", "1"),
    ("ipv6/conf/default/disable_ipv6", "1"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
)
FORWARDING: Final[Sysctls] = (
    *QUIET,
    ("ipv4/ip_forward", "1"),
    # A redirect would tell two hosts of a LAN to leave the router out of their hairpinned flow.
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
)
TCP_TRANSITORY: Final = ("syn_sent", "syn_recv", "fin_wait", "close_wait", "last_ack")
"the states of connections that open or close (RFC 5382 §5)"
TCP_LIFETIMES: Final = {"time_wait": 120.0, "close": 10.0, "max_retrans": 300.0, "unacknowledged": 300.0}
"the kernel's seconds for the other states (nf_conntrack_proto_tcp.c); no flow may outlive its mapping"


def build(topology: Topology, seed: int) -> Plan:
    """The plan of a topology that `lab.model` has checked."""
    sockets = _sockets(topology)
    homes = [_home(topology, router, sockets, seed) for router in topology.routers]
    outside = [_host(peer.name, sockets[peer.name], seed) for peer in topology.peers if peer.public]
    parts = [*homes, *outside]
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
        launches=tuple(_launch(topology, peer, sockets[peer.name].address) for peer in topology.peers),
        captures=_flat(part.captures for part in parts),
        vantages=addressing.VANTAGES,
    )
    plan = offer_ports(topology, lay_links(topology, lay_lans(topology, plan)))
    return add_dns(topology, lay_ipv6(topology, plan), QUIET)


@dataclass(frozen=True, slots=True)
class _Socket:
    """Where somebody's one cable outwards goes: to a port of the core, or into a router's LAN."""

    space: str
    port: str
    bridge: str | None
    gateway: str
    address: str
    "of who is plugged in"
    length: int
    more: tuple[str, ...] = ()
    "further addresses of a router that has several public ones"

    def cable(self, name: str, port: str, seed: int) -> Cable:
        """The cable between the socket and that port of `name`."""
        held = () if self.bridge else (f"{self.gateway}/{self.length}",)
        here = Port(self.space, self.port, held, self.bridge, names.mac(seed, self.space, self.port))
        addresses = tuple(f"{address}/{self.length}" for address in (self.address, *self.more))
        there = Port(name, port, addresses, mac=names.mac(seed, name, port))
        return Cable(here, there)


def _sockets(topology: Topology) -> dict[str, _Socket]:
    """The socket of every router, every peer and every probe's host, by name."""
    outer = [router.name for router in topology.routers if router.at == INTERNET]
    publics = [peer.name for peer in topology.peers if peer.public]
    wanted = {router.name: _public_addresses(topology, router) for router in topology.routers}
    sockets = {
        name: _Socket(
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
        for index, name in enumerate([*_hosts(topology, router), *_inner(topology, router)]):
            address = lans.host(router.lan, index)
            sockets[name] = _Socket(router.name, names.lan_port(index), names.LAN, gateway, address, length)
    return sockets


def _hosts(topology: Topology, router: Router) -> tuple[str, ...]:
    """The hosts next to a router: its peers, or hosts to probe it from where there are only routers."""
    peers = tuple(peer.name for peer in topology.peers if peer.at == router.name)
    return peers or names.probe_hosts(router.name)


def _public_addresses(topology: Topology, router: Router) -> int:
    """How many addresses a router has outside; only the internet has several for one."""
    count = public_addresses(router.nat, len(_hosts(topology, router)) + len(_inner(topology, router)))
    if count > 1 and router.at != INTERNET:
        raise TopologyError(f"{router.name} is behind {router.at}, which gives it one address: it cannot have {count}")
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


def _home(topology: Topology, router: Router, sockets: dict[str, _Socket], seed: int) -> _Part:
    """A router, its LAN and the hosts on it."""
    socket = sockets[router.name]
    hosts = [_host(name, sockets[name], seed) for name in _hosts(topology, router)]
    plan = _router_plan(topology, router, socket)
    subscribers = tuple(sockets[name].address for name in (*plan.hosts, *plan.inner))
    bridge = Port(
        router.name,
        names.LAN,
        (f"{plan.gateway}/{lans.length(plan.lan)}",),
        mac=names.mac(seed, router.name, names.LAN),
    )
    rules = [RuleSet(router.name, ruleset(router.nat, plan.publics, subscribers, f"{seed}/{router.name}"))]
    if router.firewall is not None:
        rules.append(RuleSet(router.name, firewall_rules(router.firewall)))
    return _Part(
        spaces=(
            Space(router.name, SpaceKind.ROUTER, (names.LAN,), (*FORWARDING, *_nat_sysctls(router.nat))),
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


def _host(name: str, socket: _Socket, seed: int) -> _Part:
    """A host with one cable."""
    return _Part(
        spaces=(Space(name, SpaceKind.HOST, sysctls=QUIET),),
        cables=(socket.cable(name, names.ETH, seed),),
        routes=(Route(name, "default", socket.gateway, names.ETH),),
        captures=() if names.is_probe_host(name) else (_capture(name, names.ETH),),
    )


def _nat_sysctls(nat: Nat) -> Sysctls:
    """Conntrack's lifetimes are the mapping's, or there would be two; and bridged frames stay out of the NAT chains."""
    tcp = {"established": nat.tcp_timeout, **dict.fromkeys(TCP_TRANSITORY, nat.tcp_transitory_timeout)}
    tcp |= {state: min(nat.tcp_timeout, seconds) for state, seconds in TCP_LIFETIMES.items()}
    udp = {"udp_timeout": nat.udp_new_timeout, "udp_timeout_stream": nat.udp_timeout, "icmp_timeout": ICMP_TIMEOUT}
    lifetimes = udp | {f"tcp_timeout_{state}": seconds for state, seconds in tcp.items()}
    return (
        ("bridge/bridge-nf-call-iptables", "0"),
        ("netfilter/nf_conntrack_events", "1"),
        ("netfilter/nf_conntrack_timestamp", "1"),
        # Sequence numbers are no NAT's business: who was refused tries again with others, and a listener has its own.
        ("netfilter/nf_conntrack_tcp_be_liberal", "1"),
        *((f"netfilter/nf_conntrack_{name}", f"{seconds:.0f}") for name, seconds in lifetimes.items()),
        # One error a second and sender is what the kernel allows; a NAT that refuses answers everybody.
        *([("ipv4/icmp_ratelimit", "0")] if nat.unsolicited is Unsolicited.ICMP else []),
    )


def _capture(space: str, port: str) -> Capture:
    return Capture(space, port, names.capture(space, port))


def _launch(topology: Topology, peer: Peer, address: str) -> Launch:
    routers = tuple(router.name for router in topology.routers_of(peer.name))
    return Launch(
        peer=peer.name,
        space=peer.name,
        address=address,
        impl=peer.impl,
        role=peer.role,
        router=routers[0] if routers else None,
        routers=routers,
        port=peer.port,
    )


def _flat(parts: Iterable[tuple[_T, ...]]) -> tuple[_T, ...]:
    return tuple(item for part in parts for item in part)
