"""A topology made exact: spaces, cables, addresses, routes, rules. Same topology and seed, same plan; no IO.

One core forwards between networks of its own making; every router and every public peer is its neighbour, every other
peer is a host on its router's bridge (`lab.plan.addressing` draws it).
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeVar

from lab.model.nat import Nat
from lab.model.topology import Peer, Router, Topology
from lab.plan import addressing, names
from lab.plan.plan import Cable, Capture, Launch, Plan, Port, Route, RouterPlan, RuleSet, Space, SpaceKind
from lab.plan.ruleset import POOL_BASES, ruleset

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
TCP_LIFETIMES: Final = {
    "established": 432000,
    "syn_sent": 120,
    "syn_recv": 60,
    "fin_wait": 120,
    "close_wait": 60,
    "last_ack": 30,
    "time_wait": 120,
    "close": 10,
    "max_retrans": 300,
    "unacknowledged": 300,
}
"the kernel's seconds for the states of a TCP flow (nf_conntrack_proto_tcp.c); no flow may outlive its mapping"


def build(topology: Topology, seed: int) -> Plan:
    """The plan of a topology that `lab.model` has checked."""
    routers = [_Neighbour(index, router.name) for index, router in enumerate(topology.routers, 1)]
    publics = [peer for peer in topology.peers if peer.public]
    public = [_Neighbour(index, peer.name) for index, peer in enumerate(publics, len(routers) + 1)]
    homes = [
        _home(router, neighbour, [peer for peer in topology.peers if peer.at == router.name], seed)
        for router, neighbour in zip(topology.routers, routers, strict=True)
    ]
    outside = [_outside(neighbour, seed) for neighbour in public]
    parts = [*homes, *outside]
    vantages = tuple(f"{address}/32" for address in addressing.VANTAGES)
    addresses = {name: address for part in parts for name, address in part.addresses}
    return Plan(
        topology=topology.name,
        seed=seed,
        spaces=(Space(names.CORE, SpaceKind.CORE, sysctls=FORWARDING), *_flat(part.spaces for part in parts)),
        loose=(Port(names.CORE, names.LOOPBACK, vantages), *_flat(part.loose for part in parts)),
        cables=_flat(part.cables for part in parts),
        routes=_flat(part.routes for part in parts),
        rules=_flat(part.rules for part in parts),
        routers=_flat(part.routers for part in parts),
        launches=tuple(_launch(peer, addresses[peer.name]) for peer in topology.peers),
        captures=_flat(part.captures for part in parts),
        vantages=addressing.VANTAGES,
    )


@dataclass(frozen=True, slots=True)
class _Neighbour:
    """Somebody with a cable to the core."""

    number: int
    name: str

    @property
    def address(self) -> str:
        return addressing.neighbour_side(self.number)

    @property
    def gateway(self) -> str:
        return addressing.core_side(self.number)

    def cable(self, port: str, seed: int) -> Cable:
        core = Port(names.CORE, self.name, (f"{self.gateway}/24",), mac=names.mac(seed, names.CORE, self.name))
        return Cable(core, Port(self.name, port, (f"{self.address}/24",), mac=names.mac(seed, self.name, port)))


@dataclass(frozen=True, slots=True)
class _Part:
    """What one neighbour of the core adds to a plan."""

    spaces: tuple[Space, ...]
    cables: tuple[Cable, ...]
    routes: tuple[Route, ...]
    captures: tuple[Capture, ...]
    addresses: tuple[tuple[str, str], ...]
    "host and its own address"
    loose: tuple[Port, ...] = ()
    rules: tuple[RuleSet, ...] = ()
    routers: tuple[RouterPlan, ...] = ()


def _home(router: Router, neighbour: _Neighbour, peers: list[Peer], seed: int) -> _Part:
    """A router, its LAN and the hosts on it."""
    hosts = [(peer.name, addressing.lan_host(index)) for index, peer in enumerate(peers)]
    base = random.Random(f"{seed}/{router.name}").choice(POOL_BASES)
    bridge = Port(
        router.name, names.LAN, (f"{addressing.LAN_GATEWAY}/24",), mac=names.mac(seed, router.name, names.LAN)
    )
    return _Part(
        spaces=(
            Space(router.name, SpaceKind.ROUTER, (names.LAN,), (*FORWARDING, *_nat_sysctls(router.nat))),
            *(Space(host, SpaceKind.HOST, sysctls=QUIET) for host, _ in hosts),
        ),
        loose=(bridge,),
        cables=(
            neighbour.cable(names.WAN, seed),
            *(_plug(router.name, index, host, address, seed) for index, (host, address) in enumerate(hosts)),
        ),
        routes=(
            Route(router.name, "default", neighbour.gateway, names.WAN),
            *(Route(host, "default", addressing.LAN_GATEWAY, names.ETH) for host, _ in hosts),
        ),
        rules=(RuleSet(router.name, ruleset(router.nat, neighbour.address, base)),),
        routers=(
            RouterPlan(
                name=router.name,
                nat=router.nat,
                wan=neighbour.address,
                lan=addressing.LAN_PREFIX,
                gateway=addressing.LAN_GATEWAY,
                hosts=tuple(host for host, _ in hosts),
            ),
        ),
        captures=(
            _capture(router.name, names.WAN),
            _capture(router.name, names.LAN),
            *(_capture(host, names.ETH) for host, _ in hosts),
        ),
        addresses=tuple(hosts),
    )


def _outside(neighbour: _Neighbour, seed: int) -> _Part:
    """A host that is on the internet itself."""
    return _Part(
        spaces=(Space(neighbour.name, SpaceKind.HOST, sysctls=QUIET),),
        cables=(neighbour.cable(names.ETH, seed),),
        routes=(Route(neighbour.name, "default", neighbour.gateway, names.ETH),),
        captures=(_capture(neighbour.name, names.ETH),),
        addresses=((neighbour.name, neighbour.address),),
    )


def _plug(router: str, index: int, host: str, address: str, seed: int) -> Cable:
    port = names.lan_port(index)
    return Cable(
        Port(router, port, bridge=names.LAN, mac=names.mac(seed, router, port)),
        Port(host, names.ETH, (f"{address}/24",), mac=names.mac(seed, host, names.ETH)),
    )


def _nat_sysctls(nat: Nat) -> Sysctls:
    """Conntrack's lifetimes are the mapping's, or there would be two; and bridged frames stay out of the NAT chains."""
    udp, tcp = round(nat.udp_timeout), round(nat.tcp_timeout)
    lifetimes = {"udp_timeout": udp, "udp_timeout_stream": udp}
    lifetimes |= {f"tcp_timeout_{state}": min(tcp, seconds) for state, seconds in TCP_LIFETIMES.items()}
    return (
        ("bridge/bridge-nf-call-iptables", "0"),
        ("netfilter/nf_conntrack_events", "1"),
        ("netfilter/nf_conntrack_timestamp", "1"),
        *((f"netfilter/nf_conntrack_{name}", str(seconds)) for name, seconds in lifetimes.items()),
    )


def _capture(space: str, port: str) -> Capture:
    return Capture(space, port, names.capture(space, port))


def _launch(peer: Peer, address: str) -> Launch:
    return Launch(
        peer=peer.name,
        space=peer.name,
        address=address,
        impl=peer.impl,
        role=peer.role,
        router=None if peer.public else peer.at,
    )


def _flat(parts: Iterable[tuple[_T, ...]]) -> tuple[_T, ...]:
    return tuple(item for part in parts for item in part)
