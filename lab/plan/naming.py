"""Puts the name server of a topology into its plan, and into the server what the topology's names stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from lab.model.dns import Dns
from lab.model.ipv6 import Ip
from lab.model.topology import Topology
from lab.plan import addressing, names
from lab.plan.ipv6 import core_prefix, host_sysctls
from lab.plan.plan import Cable, Capture, Plan, Port, Route, Space, SpaceKind
from lab.plan.seen import seen_at, seen_through
from lab.plan.zone import NAME_SERVER, NAME_SERVER6, ZONE, DnsPlan, Entry, Listener


class _Net(NamedTuple):
    """The server's place by one version of IP."""

    server: str
    alone: int
    "bits of a prefix that is one address"
    gateway: str
    address: str
    length: int
    link_local: tuple[str, str] | None
    "of the core's side and of the server's"


class _Public(NamedTuple):
    """What the internet sees somebody by."""

    address: str | None
    address6: str | None


def add_dns(topology: Topology, plan: Plan, sysctls: tuple[tuple[str, str], ...]) -> Plan:
    """The plan with a name server, if the topology has one; `sysctls` are those of a host without IPv6."""
    if topology.dns is None:
        return plan
    nets = _nets(topology, plan)
    core, here = names.mac(plan.seed, names.CORE, names.DNS), names.mac(plan.seed, names.DNS, names.ETH)
    near = [f"{net.gateway}/{net.length}" for net in nets] + [net.link_local[0] for net in nets if net.link_local]
    far = [f"{net.address}/{net.length}" for net in nets] + [net.link_local[1] for net in nets if net.link_local]
    own = sysctls if topology.ip is Ip.V4 else host_sysctls(sysctls)
    return replace(
        plan,
        spaces=(*plan.spaces, Space(names.DNS, SpaceKind.HOST, sysctls=own)),
        loose=(*plan.loose, Port(names.DNS, names.LOOPBACK, tuple(f"{net.server}/{net.alone}" for net in nets))),
        cables=(
            *plan.cables,
            Cable(Port(names.CORE, names.DNS, tuple(near), mac=core), Port(names.DNS, names.ETH, tuple(far), mac=here)),
        ),
        routes=(
            *plan.routes,
            *(Route(names.DNS, "default", net.gateway, names.ETH) for net in nets),
            *(Route(names.CORE, f"{net.server}/{net.alone}", net.address, names.DNS) for net in nets),
        ),
        captures=(*plan.captures, Capture(names.DNS, names.ETH, names.capture(names.DNS, names.ETH))),
        dns=_server(topology, plan, topology.dns, [net.server for net in nets]),
    )


def _nets(topology: Topology, plan: Plan) -> list[_Net]:
    number = sum(cable.a.space == names.CORE for cable in plan.cables) + 1
    nets = []
    if topology.ip is not Ip.V6:
        sides = addressing.core_side(number), addressing.neighbour_side(number)
        nets.append(_Net(NAME_SERVER, 32, *sides, 24, None))
    if topology.ip is not Ip.V4:
        prefix = core_prefix(number)
        nets.append(_Net(NAME_SERVER6, 128, f"{prefix}::1", f"{prefix}::2", 64, ("fe80::1/64", "fe80::2/64")))
    return nets


def _server(topology: Topology, plan: Plan, dns: Dns, addresses: Sequence[str]) -> DnsPlan:
    public = _public_addresses(plan)
    told = {name.name: name for name in dns.names}
    entries = [
        Entry(
            f"{name}.{ZONE}",
            *seen,
            (name,) if name in {peer.name for peer in topology.peers} else (),
            dns.mode,
            dns.delay,
        )
        for name, seen in public.items()
        if name not in told
    ]
    for name in dns.names:
        known = public.get(name.name, _Public(None, None)) if name.address is None else public[name.address]
        own = (name.name,) if not name.dnsaddr and any(peer.name == name.name for peer in topology.peers) else ()
        entries.append(Entry(f"{name.name}.{ZONE}", *known, name.dnsaddr or own, name.mode, name.delay))
    listeners = tuple(Listener(launch.peer, _multiaddr(public[launch.peer], launch.port)) for launch in plan.launches)
    prefix = next((translator.prefix for translator in plan.translators), None)
    return DnsPlan(names.DNS, tuple(addresses), dns.mode, dns.delay, tuple(entries), listeners, prefix)


def _multiaddr(seen: _Public, port: int) -> str:
    address = f"/ip4/{seen.address}" if seen.address is not None else f"/ip6/{seen.address6}"
    return f"{address}/tcp/{port}"


def _public_addresses(plan: Plan) -> dict[str, _Public]:
    """The addresses by which the internet sees each peer and each router."""
    wans = {router.name: router.wan for router in plan.routers}
    seen = {
        launch.peer: wans[launch.routers[-1]] if launch.routers else launch.address
        for launch in plan.launches
        if ":" not in launch.address
    }
    seen |= {router.name: wans[router.above[-1]] if router.above else router.wan for router in plan.routers}
    seen6 = {launch.peer: seen_at(plan, launch)[-1][0] for launch in plan.launches if launch.address6 is not None}
    outer6 = [(each.name, each.wan, each.above) for each in plan.guards]
    outer6 += [(each.name, each.wan, each.above) for each in plan.routers6]
    seen6 |= {name: seen_through(plan, wan, above)[-1][0] for name, wan, above in outer6}
    return {name: _Public(seen.get(name), seen6.get(name)) for name in (*seen, *seen6)}
