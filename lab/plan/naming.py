"""Puts the name server of a topology into its plan, and into the server what the topology's names stand for."""

from __future__ import annotations

from dataclasses import replace

from lab.model.dns import Dns
from lab.model.topology import Topology
from lab.plan import addressing, names
from lab.plan.plan import Cable, Capture, Plan, Port, Route, Space, SpaceKind
from lab.plan.zone import NAME_SERVER, ZONE, DnsPlan, Entry, Listener


def add_dns(topology: Topology, plan: Plan, sysctls: tuple[tuple[str, str], ...]) -> Plan:
    """The plan with a name server, if the topology has one; `sysctls` are those of a host."""
    if topology.dns is None:
        return plan
    number = sum(cable.a.space == names.CORE for cable in plan.cables) + 1
    gateway, address = addressing.core_side(number), addressing.neighbour_side(number)
    core, here = names.mac(plan.seed, names.CORE, names.DNS), names.mac(plan.seed, names.DNS, names.ETH)
    cable = Cable(
        Port(names.CORE, names.DNS, (f"{gateway}/24",), mac=core),
        Port(names.DNS, names.ETH, (f"{address}/24",), mac=here),
    )
    return replace(
        plan,
        spaces=(*plan.spaces, Space(names.DNS, SpaceKind.HOST, sysctls=sysctls)),
        loose=(*plan.loose, Port(names.DNS, names.LOOPBACK, (f"{NAME_SERVER}/32",))),
        cables=(*plan.cables, cable),
        routes=(
            *plan.routes,
            Route(names.DNS, "default", gateway, names.ETH),
            Route(names.CORE, f"{NAME_SERVER}/32", address, names.DNS),
        ),
        captures=(*plan.captures, Capture(names.DNS, names.ETH, names.capture(names.DNS, names.ETH))),
        dns=_server(topology, plan, topology.dns),
    )


def _server(topology: Topology, plan: Plan, dns: Dns) -> DnsPlan:
    public = _public_addresses(plan)
    told = {name.name: name for name in dns.names}
    entries = [
        Entry(
            f"{name}.{ZONE}",
            address,
            (name,) if name in {peer.name for peer in topology.peers} else (),
            dns.mode,
            dns.delay,
        )
        for name, address in public.items()
        if name not in told
    ]
    for name in dns.names:
        known = public.get(name.name) if name.address is None else public[name.address]
        own = (name.name,) if not name.dnsaddr and any(peer.name == name.name for peer in topology.peers) else ()
        entries.append(Entry(f"{name.name}.{ZONE}", known, name.dnsaddr or own, name.mode, name.delay))
    listeners = tuple(
        Listener(launch.peer, f"/ip4/{public[launch.peer]}/tcp/{launch.port}") for launch in plan.launches
    )
    return DnsPlan(names.DNS, NAME_SERVER, dns.mode, dns.delay, tuple(entries), listeners)


def _public_addresses(plan: Plan) -> dict[str, str]:
    """The address by which the internet sees each peer and each router."""
    wans = {router.name: router.wan for router in plan.routers}
    seen = {launch.peer: wans[launch.routers[-1]] if launch.routers else launch.address for launch in plan.launches}
    return seen | {router.name: wans[router.above[-1]] if router.above else router.wan for router in plan.routers}
