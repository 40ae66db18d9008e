"""IPv6 laid over a plan: global addresses out of 2000::/3 for everybody, routes to all of them, guards, no translation.

    core ── 2a11:0:1::/64 ── home-a ── 2a11:1:1::/64 ── alice ::10
      │  ── 2a11:0:2::/64 ── isp ── 2a11:1:2::/64 ── home-b ── 2a11:1:3::/64 ── bob ::10
      lo    2a11:ff::1, 2a11:ff:1::1        the vantages that home-a and isp are probed from; isp has its own for home-b

Every LAN has a prefix that all in front of it have a route to. Link-local addresses are given and not made by the
kernel, whose own come late; neighbours are found by them. Duplicate address detection is off: it takes a second.

In a network of IPv6 alone, all that is IPv4 goes: addresses, routes, NATs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from lab.model.ipv6 import TCP_TIMEOUT, UDP_TIMEOUT, Guard, Ip
from lab.model.nat import Filtering
from lab.model.topology import Topology
from lab.plan import names
from lab.plan.plan import Cable, GuardPlan, Launch, Plan, Port, Route, RuleSet, Space, SpaceKind

VANTAGES: Final = ("2a11:ff::1", "2a11:ff:1::1")
FIRST_HOST: Final = 0x10
MAX_ENTRIES: Final = 4096
"endpoints that a guard remembers for each protocol"
SWITCHED: Final = ("ipv6/conf/all/", "ipv6/conf/default/")
SYSCTLS: Final = (
    ("disable_ipv6", "0"),
    ("accept_dad", "0"),
    ("accept_ra", "0"),
    ("addr_gen_mode", "1"),
)


def lay_ipv6(topology: Topology, plan: Plan) -> Plan:
    """The plan with IPv6 in it if the topology has any; without IPv4 if that is all it has."""
    if topology.ip is Ip.V4:
        return plan
    if topology.ip is Ip.V6:
        plan = _without_ipv4(plan)
    links = _links(topology, plan)
    guards = tuple(_guard_plan(topology, plan, name, guard, links) for name, guard in _guards(topology))
    return replace(
        plan,
        spaces=tuple(replace(space, sysctls=_sysctls(space)) for space in plan.spaces),
        loose=tuple(_extended(port, _loose_addresses(topology, port)) for port in plan.loose),
        cables=tuple(_cable(cable, links) for cable in plan.cables),
        routes=(*plan.routes, *_defaults(plan, links), *_delegations(topology, links)),
        rules=(*plan.rules, *(RuleSet(name, guard_rules(guard)) for name, guard in _guards(topology))),
        launches=tuple(_launch(launch, links) for launch in plan.launches),
        guards=guards,
        vantages=VANTAGES if topology.ip is Ip.V6 else plan.vantages,
    )


def guard_rules(guard: Guard) -> str:
    """The table of a guard; an open one has no rules.

    What has been sent is remembered, in a set with the lifetime that RFC 6092 asks for, because conntrack's own memory
    is per pair of endpoints, which is the strictest filtering. Anything else from outside is dropped, in silence.

    What conntrack takes for invalid passes like the rest. A host that gave up a dial leaves a half-open flow there;
    when the peer's SYN comes next, the answer of the host's listener does not continue that flow, and dropping it
    would undo a hole punch that both ends have done right (RFC 6092 asks for simultaneous opens to work).
    """
    lines: list[str] = []
    if guard.filtering is not None:
        lines += [_set(guard.filtering, proto, life) for proto, life in (("udp", UDP_TIMEOUT), ("tcp", TCP_TIMEOUT))]
        lines += ["chain forward {", "  type filter hook forward priority 0; policy drop;"]
        lines += [f"  {rule}" for proto in ("udp", "tcp") for rule in _out_and_in(guard.filtering, proto)]
        errors = "destination-unreachable, packet-too-big, time-exceeded, parameter-problem"
        lines += [f"  iifname {names.LAN} accept", "  ct state established,related accept"]
        lines += [f"  icmpv6 type {{ {errors} }} accept", "}"]
        closed = f"  iifname {names.WAN} meta l4proto {{ udp, tcp }} drop"
        lines += ["chain input {", "  type filter hook input priority 0; policy accept;", closed, "}"]
    return "\n".join([f"table ip6 {names.TABLE} {{", *(f"  {line}" for line in lines), "}", ""])


def _set(filtering: Filtering, proto: str, lifetime: float) -> str:
    remote = {
        Filtering.ENDPOINT_INDEPENDENT: "",
        Filtering.ADDRESS_DEPENDENT: " . ipv6_addr",
        Filtering.ADDRESS_AND_PORT_DEPENDENT: " . ipv6_addr . inet_service",
    }[filtering]
    life = f"flags dynamic,timeout; timeout {lifetime:.0f}s"
    return f"set open_{proto} {{ type ipv6_addr . inet_service{remote}; {life}; size {MAX_ENTRIES}; }}"


def _out_and_in(filtering: Filtering, proto: str) -> tuple[str, str]:
    """What remembers an endpoint that sends, and what lets others in to it."""
    there = {
        Filtering.ENDPOINT_INDEPENDENT: ("", ""),
        Filtering.ADDRESS_DEPENDENT: (" . ip6 daddr", " . ip6 saddr"),
        Filtering.ADDRESS_AND_PORT_DEPENDENT: (f" . ip6 daddr . {proto} dport", f" . ip6 saddr . {proto} sport"),
    }
    to, by = there[filtering]
    return (
        f"iifname {names.LAN} oifname {names.WAN} update @open_{proto} {{ ip6 saddr . {proto} sport{to} }}",
        f"iifname {names.WAN} ip6 daddr . {proto} dport{by} @open_{proto} accept",
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


def _links(topology: Topology, plan: Plan) -> dict[str, _Link]:
    """The link of everybody but the core, by space."""
    links: dict[str, _Link] = {}
    counts: dict[str, int] = {}
    for cable in plan.cables:
        holder, index = cable.a.space, counts.get(cable.a.space, 0)
        counts[holder] = index + 1
        if holder == names.CORE:
            prefix = f"2a11:0:{index + 1:x}"
            links[cable.b.space] = _Link(holder, cable.a.name, f"{prefix}::2", f"{prefix}::1")
        else:
            prefix = _lan(topology, holder)
            links[cable.b.space] = _Link(holder, names.LAN, f"{prefix}::{FIRST_HOST + index:x}", f"{prefix}::1")
    return links


def _lan(topology: Topology, router: str) -> str:
    """The first 48 bits of a router's LAN, which is its own."""
    return f"2a11:1:{topology.routers.index(topology.router(router)) + 1:x}"


def _vantages(topology: Topology, space: str) -> tuple[str, str]:
    if space == names.CORE:
        return VANTAGES
    number = topology.routers.index(topology.router(space)) + 1
    return f"2a11:fe:{number:x}::1", f"2a11:fd:{number:x}::1"


def _guards(topology: Topology) -> list[tuple[str, Guard]]:
    return [(router.name, router.guard) for router in topology.routers if router.guard is not None]


def _guard_plan(topology: Topology, plan: Plan, name: str, guard: Guard, links: dict[str, _Link]) -> GuardPlan:
    plugged = [cable.b.space for cable in plan.cables if cable.a.space == name]
    kinds = {space.name: space.kind for space in plan.spaces}
    link = links[name]
    return GuardPlan(
        name=name,
        guard=guard,
        wan=link.address,
        lan=f"{_lan(topology, name)}::/64",
        hosts=tuple(space for space in plugged if kinds[space] is SpaceKind.HOST),
        above=tuple(router.name for router in topology.above(topology.router(name))),
        outside=link.holder,
        vantages=_vantages(topology, link.holder),
    )


def _loose_addresses(topology: Topology, port: Port) -> tuple[str, ...]:
    """Of a bridge, or of what routers are probed from."""
    if port.name == names.LOOPBACK:
        return tuple(f"{address}/128" for address in _vantages(topology, port.space))
    return _with_link_local(port, f"{_lan(topology, port.space)}::1")


def _cable(cable: Cable, links: dict[str, _Link]) -> Cable:
    link = links[cable.b.space]
    near = cable.a if cable.a.bridge else _extended(cable.a, _with_link_local(cable.a, link.gateway))
    return Cable(near, _extended(cable.b, _with_link_local(cable.b, link.address)))


def _with_link_local(port: Port, address: str) -> tuple[str, ...]:
    """The address, and a link-local one with the same last 64 bits if the port has none."""
    own = (f"fe80::{address.rpartition('::')[2]}/64",)
    return (f"{address}/64", *(() if any(held.startswith("fe80:") for held in port.addresses) else own))


def _extended(port: Port, addresses: tuple[str, ...]) -> Port:
    return replace(port, addresses=(*port.addresses, *addresses))


def _defaults(plan: Plan, links: dict[str, _Link]) -> Iterable[Route]:
    ends = {cable.b.space: cable.b.name for cable in plan.cables}
    return (Route(space, "default", link.gateway, ends[space]) for space, link in links.items())


def _delegations(topology: Topology, links: dict[str, _Link]) -> Iterable[Route]:
    """Routes to every LAN, at all that are in front of its router."""
    for router in topology.routers:
        inner = router.name
        while inner != names.CORE:
            link = links[inner]
            yield Route(link.holder, f"{_lan(topology, router.name)}::/64", link.address, link.port)
            inner = link.holder


def _launch(launch: Launch, links: dict[str, _Link]) -> Launch:
    address = links[launch.space].address
    return replace(launch, address=launch.address or address, address6=address)


def _sysctls(space: Space) -> tuple[tuple[str, str], ...]:
    own = [(f"{where}{name}", value) for where in SWITCHED for name, value in SYSCTLS]
    own += [("ipv6/conf/default/router_solicitations", "0")]
    if space.kind is not SpaceKind.HOST:
        own += [(f"{where}forwarding", "1") for where in SWITCHED]
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
        launches=tuple(replace(launch, address="") for launch in plan.launches),
    )
