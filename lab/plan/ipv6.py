"""IPv6 laid over a plan: addresses for everybody, routes to global ones, guards, and translation if asked for.

    core ── 2a11:0:1::/64 ── home-a ── 2a11:1:1::/64 ── alice ::10
      │  ── 2a11:0:2::/64 ── isp ── 2a11:1:2::/64 ── home-b ── 2a11:1:3::/64 ── bob ::10
      lo    2a11:ff::1, 2a11:ff:1::1        the vantages that home-a and isp are probed from; isp has its own for home-b

Global addresses are out of 2000::/3. Every LAN has a prefix that all in front of it have a route to. Behind a router
that translates it is a unique local one, fd11:1:N::/64, which nobody outside has a route to: a NAT has its outer
address for all, a router that exchanges prefixes (RFC 6296) has 2a11:1:N::/64 outside.

Link-local addresses are given and not made by the
kernel, whose own come late; neighbours are found by them. Duplicate address detection is off: it takes a second.

In a network of IPv6 alone, all that is IPv4 goes: addresses, routes, NATs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from lab.model.ipv6 import Guard, Ip
from lab.model.nat import Nat
from lab.model.topology import INTERNET, Router, Topology
from lab.plan import multihomed, names
from lab.plan.clocks import nat_sysctls
from lab.plan.guard import guard_rules
from lab.plan.plan import Cable, GuardPlan, Launch, Plan, Policy, Port, Route, RouterPlan, RuleSet, Space, SpaceKind
from lab.plan.ruleset import public_addresses, ruleset

VANTAGES: Final = ("2a11:ff::1", "2a11:ff:1::1")
FIRST_HOST: Final = 0x10
SWITCHED: Final = ("ipv6/conf/all/", "ipv6/conf/default/")
SYSCTLS: Final = (
    ("disable_ipv6", "0"),
    ("accept_dad", "0"),
    ("accept_ra", "0"),
    ("addr_gen_mode", "1"),
    ("accept_redirects", "0"),
)


def lay_ipv6(topology: Topology, plan: Plan) -> Plan:
    """The plan with IPv6 in it if the topology has any; without IPv4 if that is all it has."""
    if topology.ip is Ip.V4:
        return plan
    if topology.ip is Ip.V6:
        plan = _without_ipv4(plan)
    links = _links(topology, plan)
    guards = tuple(
        _guard_plan(topology, plan, router, router.guard, links) for router in topology.routers if router.guard
    )
    nats = tuple(_nat_plan(topology, plan, router, router.nat66, links) for router in topology.routers if router.nat66)
    return replace(
        plan,
        spaces=tuple(
            replace(space, sysctls=_sysctls(space, len(_ways(plan, links, space)), nats)) for space in plan.spaces
        ),
        loose=tuple(_extended(port, _loose_addresses(topology, port)) for port in plan.loose),
        cables=tuple(_cable(cable, links) for cable in plan.cables),
        routes=(*plan.routes, *_defaults(plan, links), *_delegations(topology, links)),
        policies=(*plan.policies, *_policies(plan, links)),
        rules=(*plan.rules, *map(_guard_rules, guards), *(_nat_rules(plan, nat, links) for nat in nats)),
        launches=tuple(_launch(launch, links) for launch in plan.launches),
        guards=guards,
        routers6=nats,
        vantages=VANTAGES if topology.ip is Ip.V6 else plan.vantages,
    )


@dataclass(frozen=True, slots=True)
class _Link:
    """What is plugged in at the far end of a cable, and how it leads outwards."""

    holder: str
    "the space that the cable hangs on: the core, or a router"
    port: str
    "the interface there that the far end is reached by"
    address: str
    gateway: str
    more: tuple[str, ...] = ()
    "further addresses of a NAT that has several outside"


_Links = dict[tuple[str, str], _Link]


def core_prefix(neighbour: int) -> str:
    """The first 48 bits of the network between the core and its neighbour number `neighbour`, counted from 1."""
    return f"2a11:0:{neighbour:x}"


def host_sysctls(sysctls: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Those of a host with one uplink that has IPv6, given what it has without."""
    return _sysctls(Space("", SpaceKind.HOST, sysctls=sysctls), 1, ())


def _links(topology: Topology, plan: Plan) -> _Links:
    """The links of everybody but the core, by space and interface."""
    links: _Links = {}
    counts: dict[str, int] = {}
    for cable in plan.cables:
        holder, index = cable.a.space, counts.get(cable.a.space, 0)
        counts[holder] = index + 1
        if holder == names.CORE:
            prefix = core_prefix(index + 1)
            more = tuple(f"{prefix}::{number:x}" for number in range(3, 2 + _outer(topology, plan, cable.b.space)))
            links[_end(cable)] = _Link(holder, cable.a.name, f"{prefix}::2", f"{prefix}::1", more)
        else:
            prefix = _lan(topology, holder)
            _outer(topology, plan, cable.b.space)
            links[_end(cable)] = _Link(holder, names.LAN, f"{prefix}::{FIRST_HOST + index:x}", f"{prefix}::1")
    return links


def _end(cable: Cable) -> tuple[str, str]:
    return cable.b.space, cable.b.name


def _ways(plan: Plan, links: _Links, space: Space) -> list[multihomed.Way]:
    """The uplinks of a space, by preference."""
    ends = [_end(cable) for cable in plan.cables if cable.b.space == space.name]
    return [multihomed.Way(end[1], f"{links[end].address}/64", links[end].gateway) for end in ends]


def _outer(topology: Topology, plan: Plan, space: str) -> int:
    """How many addresses somebody has outside; only the internet has several for one."""
    router = next((router for router in topology.routers if router.name == space), None)
    if router is None or router.nat66 is None:
        return 1
    count = public_addresses(router.nat66, len(_plugged(plan, space)))
    if count > 1 and router.at != INTERNET:
        problem = f"it is behind {router.at}, which gives it one IPv6 address, and its NAT66 asks for {count}"
        raise topology.error(router, f"{problem}; allowed: 1, or at = {INTERNET!r}")
    return count


def _plugged(plan: Plan, router: str) -> list[tuple[str, str]]:
    """The far ends of the cables in a router's LAN."""
    return [_end(cable) for cable in plan.cables if cable.a.space == router]


def _probed_from(topology: Topology, plan: Plan, links: _Links, router: str) -> tuple[str, ...]:
    """The hosts on a router's LAN that have no other way out, and every version of IP."""
    single = {peer.name for peer in topology.peers if peer.ip is not None}
    alone = {
        space.name for space in plan.spaces if space.kind is SpaceKind.HOST and len(_ways(plan, links, space)) == 1
    }
    return tuple(space for space, _ in _plugged(plan, router) if space in alone - single)


def _lan(topology: Topology, router: str) -> str:
    """The first 48 bits of a router's LAN, which is its own: of a unique local prefix if it is not seen outside."""
    own = topology.router(router)
    hidden = own.guard is not None and own.guard.translates
    hidden = hidden or any(each.nat66 is not None for each in (own, *topology.above(own)))
    return f"{'fd11' if hidden else '2a11'}:1:{_number(topology, own):x}"


def _seen(topology: Topology, router: Router) -> str | None:
    """The prefix that a router's LAN has next to its outside; None if a NAT stands for it."""
    if router.nat66 is not None:
        return None
    exchanged = router.guard is not None and router.guard.translates
    return f"2a11:1:{_number(topology, router):x}::/64" if exchanged else f"{_lan(topology, router.name)}::/64"


def _number(topology: Topology, router: Router) -> int:
    return topology.routers.index(router) + 1


def _vantages(topology: Topology, space: str) -> tuple[str, str]:
    if space == names.CORE:
        return VANTAGES
    number = _number(topology, topology.router(space))
    return f"2a11:fe:{number:x}::1", f"2a11:fd:{number:x}::1"


def _guard_plan(topology: Topology, plan: Plan, router: Router, guard: Guard, links: _Links) -> GuardPlan:
    link = links[router.name, names.WAN]
    return GuardPlan(
        name=router.name,
        guard=guard,
        wan=link.address,
        lan=f"{_lan(topology, router.name)}::/64",
        outer=_seen(topology, router) or "",
        hosts=_probed_from(topology, plan, links, router.name),
        above=tuple(router.name for router in topology.above(router)),
        outside=link.holder,
        vantages=_vantages(topology, link.holder),
    )


def _guard_rules(guard: GuardPlan) -> RuleSet:
    return RuleSet(guard.name, guard_rules(guard.guard, guard.lan, guard.outer))


def _nat_plan(topology: Topology, plan: Plan, router: Router, nat: Nat, links: _Links) -> RouterPlan:
    routers = {space.name for space in plan.spaces if space.kind is SpaceKind.ROUTER}
    plugged = [space for space, _ in _plugged(plan, router.name)]
    hosts = _probed_from(topology, plan, links, router.name)
    link = links[router.name, names.WAN]
    return RouterPlan(
        name=router.name,
        nat=nat,
        wan=link.address,
        publics=(link.address, *link.more),
        lan=f"{_lan(topology, router.name)}::/64",
        gateway=f"{_lan(topology, router.name)}::1",
        hosts=hosts,
        inner=tuple(space for space in plugged if space in routers),
        guests=tuple(space for space in plugged if space not in (*hosts, *routers)),
        above=tuple(router.name for router in topology.above(router)),
        outside=link.holder,
        vantages=_vantages(topology, link.holder),
        firewall=None,
    )


def _nat_rules(plan: Plan, nat: RouterPlan, links: _Links) -> RuleSet:
    subscribers = tuple(links[end].address for end in _plugged(plan, nat.name))
    return RuleSet(nat.name, ruleset(nat.nat, nat.publics, subscribers, f"{plan.seed}/{nat.name}/ipv6"))


def _loose_addresses(topology: Topology, port: Port) -> tuple[str, ...]:
    """Of a bridge, or of what routers are probed from."""
    if port.name == names.LOOPBACK:
        return tuple(f"{address}/128" for address in _vantages(topology, port.space))
    return _with_link_local(port, f"{_lan(topology, port.space)}::1")


def _cable(cable: Cable, links: _Links) -> Cable:
    link = links[_end(cable)]
    near = cable.a if cable.a.bridge else _extended(cable.a, _with_link_local(cable.a, link.gateway))
    far = (*_with_link_local(cable.b, link.address), *(f"{address}/64" for address in link.more))
    return Cable(near, _extended(cable.b, far))


def _with_link_local(port: Port, address: str) -> tuple[str, ...]:
    """The address, and a link-local one with the same last 64 bits if the port has none."""
    own = (f"fe80::{address.rpartition('::')[2]}/64",)
    return (f"{address}/64", *(() if any(held.startswith("fe80:") for held in port.addresses) else own))


def _extended(port: Port, addresses: tuple[str, ...]) -> Port:
    return replace(port, addresses=(*port.addresses, *addresses))


def _defaults(plan: Plan, links: _Links) -> Iterable[Route]:
    for space in plan.spaces:
        if ways := _ways(plan, links, space):
            yield from multihomed.routes(space.name, ways)


def _policies(plan: Plan, links: _Links) -> Iterable[Policy]:
    for space in plan.spaces:
        yield from multihomed.policies(space.name, _ways(plan, links, space))


def _delegations(topology: Topology, links: _Links) -> Iterable[Route]:
    """Routes to every LAN, at all that are in front of its router up to a NAT that hides it."""
    for router in topology.routers:
        prefix = _seen(topology, router)
        for inner in (router, *topology.above(router)):
            if prefix is None or inner.nat66 is not None:
                break
            link = links[inner.name, names.WAN]
            yield Route(link.holder, prefix, link.address, link.port)


def _launch(launch: Launch, links: _Links) -> Launch:
    address = links[launch.space, launch.interface].address
    further = (
        replace(uplink, address=uplink.address or other, address6=other)
        for uplink in launch.further
        for other in [links[launch.space, uplink.interface].address]
    )
    return replace(launch, address=launch.address or address, address6=address, further=tuple(further))


def _sysctls(space: Space, uplinks: int, nats: tuple[RouterPlan, ...]) -> tuple[tuple[str, str], ...]:
    own = [(f"{where}{name}", value) for where in SWITCHED for name, value in SYSCTLS]
    own += multihomed.SYSCTLS6 if uplinks > 1 else ()
    own += [("ipv6/conf/default/router_solicitations", "0")]
    if space.kind is not SpaceKind.HOST:
        own += [(f"{where}forwarding", "1") for where in SWITCHED]
        own += [("bridge/bridge-nf-call-ip6tables", "0")]
    own += [setting for nat in nats if nat.name == space.name for setting in nat_sysctls(nat.nat)]
    named = {path for path, _ in own}
    return (*((path, value) for path, value in space.sysctls if path not in named), *own)


def _without_ipv4(plan: Plan) -> Plan:
    def bare(port: Port) -> Port:
        return replace(port, addresses=tuple(address for address in port.addresses if ":" in address))

    return replace(
        plan,
        loose=tuple(bare(port) for port in plan.loose),
        cables=tuple(Cable(bare(cable.a), bare(cable.b)) for cable in plan.cables),
        routes=(),
        rules=tuple(rules for rules in plan.rules if not rules.text.startswith("table ip ")),
        routers=(),
        policies=(),
        launches=tuple(
            replace(launch, address="", further=tuple(replace(uplink, address="") for uplink in launch.further))
            for launch in plan.launches
        ),
    )
