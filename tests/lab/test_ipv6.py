"""IPv6 on the kernel: guards measured, punches through them and around IPv4's NATs, seen on the wire."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lab.kernel.network import Network
from lab.lab import Lab
from lab.model.ipv6 import Guard
from lab.model.nat import Filtering
from lab.model.topology import Topology, load, parse
from lab.observe.holepunch import Way
from lab.observe.nat import Address
from lab.plan.build import build
from lab.plan.guard import guard_rules
from lab.plan.plan import Plan, Route, RuleSet
from lab.report.results import Mark
from lab.run import leaks
from lab.run.cell import run_cell
from lab.run.certify import certify
from lab.run.evidence import Evidence
from lab.run.guards import GuardReport, measure_guard
from lab.run.library import OURS
from lab.run.plugin import topology
from lab.run.probes import DEADLINE, End, ProbeError, UdpProbe
from lab.run.versions import V6
from tests.lab.test_layers import meet

Inside = Callable[[Callable[[], None]], None]
GUARDS = [Guard(filtering, translates) for filtering in (None, *Filtering) for translates in (False, True)]
NOT_WITHIN = 0.3
"Seconds in which something that must not arrive would have."
LAYERED = """\
name = "layered"
ip = "dual-stack"
[router.isp]
nat = "full-cone"
ipv6 = "endpoint"
[router.home]
at = "isp"
nat = "home"
ipv6 = "address"
[router.office]
nat = "home"
nat66 = "symmetric"
[router.annex]
at = "office"
nat = "home"
nptv6 = true
[router.desk]
at = "office"
nat = "home"
nat66 = "full-cone"
[peer.carol]
at = "annex"
[peer.dave]
at = "desk"
[peer.relay]
at = "internet"
role = "relay"
[peer.alice]
at = "home"
"""


def guarded(guard: Guard) -> Topology:
    asked = load(OURS / "v6-firewalls.toml")
    return replace(asked, routers=tuple(replace(router, guard=guard) for router in asked.routers))


async def reports(plan: Plan) -> list[GuardReport]:
    with await asyncio.to_thread(Network.build, plan) as network:
        assert await leaks.check(network, plan) == []
        return [await measure_guard(network, guard) for guard in plan.guards]


@pytest.mark.parametrize("guard", GUARDS, ids=str)
def test_every_guard_measures_as_declared(inside: Inside, guard: Guard) -> None:
    def check() -> None:
        for report in asyncio.run(reports(build(guarded(guard), 1))):
            assert report.differences == ()
            assert report.measured == (("UDP", str(guard)), ("TCP", str(guard)))

    inside(check)


def test_a_guard_that_is_not_as_declared_is_told(inside: Inside) -> None:
    def check() -> None:
        plan = build(guarded(Guard(Filtering.ADDRESS_DEPENDENT)), 1)
        loose = RuleSet("home-a", guard_rules(Guard(Filtering.ENDPOINT_INDEPENDENT)))
        rules = tuple(loose if ruleset.space == "home-a" else ruleset for ruleset in plan.rules)
        first, second = asyncio.run(reports(replace(plan, rules=rules)))
        assert first.differences == tuple(
            f"{protocol} filtering by IPv6: declared address-dependent, measured endpoint-independent"
            for protocol in ("UDP", "TCP")
        )
        assert second.ok

    inside(check)


def test_a_router_that_keeps_its_prefix_to_itself_is_told(inside: Inside) -> None:
    def check() -> None:
        plan = build(guarded(Guard(Filtering.ADDRESS_DEPENDENT, translates=True)), 1)
        plain = RuleSet("home-a", guard_rules(Guard(Filtering.ADDRESS_DEPENDENT)))
        route = Route("core", "fd11:1:1::/64", "2a11:0:1::2", "home-a")
        rules = tuple(plain if ruleset.space == "home-a" else ruleset for ruleset in plan.rules)
        first, second = asyncio.run(reports(replace(plan, rules=rules, routes=(*plan.routes, route))))
        assert first.differences == tuple(
            f"the {protocol} probe by IPv6 failed: the host was seen as fd11:1:1::10, which is not in 2a11:1:1::/64"
            for protocol in ("UDP", "TCP", "ICMP")
        )
        assert second.ok

    inside(check)


def test_guards_one_behind_the_other_are_measured_each_by_itself_beside_their_nats(inside: Inside) -> None:
    async def main() -> None:
        plan = build(parse(LAYERED, "layered.toml"), 1)
        with await asyncio.to_thread(Network.build, plan) as network:
            for guard in plan.guards:
                assert (await measure_guard(network, guard)).differences == ()
            for router in (*plan.routers, *plan.routers6):
                assert (await certify(network, router, router.vantages, full=True)).differences == ()

    inside(lambda: asyncio.run(main()))


@pytest.mark.parametrize(
    "carrier",
    [
        pytest.param("tcp", marks=topology("v6-firewalls"), id="tcp"),
        pytest.param("udp", marks=topology("v6-firewalls-quic"), id="quic"),
    ],
)
async def test_two_strict_firewalls_are_opened_from_both_sides(lab: Lab, carrier: str) -> None:
    assert await meet(lab) == "direct"
    facts = await lab.facts()
    flow = facts.direct_flow("alice", "bob")
    assert flow is not None
    assert {packet.proto for packet in facts.packets} == {carrier}
    assert flow.way is Way.INTERNET
    own = {launch.address6 for launch in lab.plan.launches}
    assert {end.address for end in flow.ends} <= own, "something translated"
    assert not [packet for packet in facts.packets if ":" not in packet.src], "there is IPv4 in a network without"


@topology("nat66-pair")
async def test_two_nats_of_ipv6_are_punched_through_by_their_outer_addresses(lab: Lab) -> None:
    assert await meet(lab) == "direct"
    flow = (await lab.facts()).direct_flow("alice", "bob")
    assert flow is not None
    assert flow.way is Way.INTERNET
    assert [end.address for end in flow.ends] == [router.wan for router in lab.plan.routers6]
    moved, kept = flow.ends[1].port, flow.ends[0].port
    assert (kept, moved == 4001) == (4001, False), "home-a keeps ports, home-b draws them"


@topology("nat66-symmetric")
async def test_a_nat_of_ipv6_that_moves_the_port_leaves_the_relay(lab: Lab) -> None:
    assert await meet(lab) == "relayed"
    facts = await lab.facts()
    assert facts.direct_flow("alice", "bob") is None
    [home] = {router.wan for router in lab.plan.routers6 if router.name == "home-b"}
    assert any("home-b lets in only endpoints that" in drop.why for drop in facts.drops if drop.packet.dst == home)


@topology("npt-pair")
async def test_exchanged_prefixes_leave_hosts_and_ports_as_they_are(lab: Lab) -> None:
    assert await meet(lab) == "direct"
    facts = await lab.facts()
    flow = facts.direct_flow("alice", "bob")
    assert flow is not None
    assert [str(end) for end in flow.ends] == ["[2a11:1:1::10]:4001", "[2a11:1:2::10]:4001"]
    inner = {launch.address6 for launch in lab.plan.launches if launch.router}
    assert inner == {"fd11:1:1::10", "fd11:1:2::10"}
    outside = [packet for packet in facts.packets if packet.interface in ("home-a/wan", "home-b/wan")]
    assert outside
    assert not inner & {address for packet in outside for address in (packet.src, packet.dst)}


@topology("dual-stack")
async def test_ipv6_is_the_way_that_two_symmetric_nats_leave(lab: Lab) -> None:
    assert await meet(lab) == "direct"
    flow = (await lab.facts()).direct_flow("alice", "bob")
    assert flow is not None
    assert all(":" in end.address for end in flow.ends)


@pytest.mark.parametrize("name", ["v6-firewalls", "dual-stack"])
def test_a_cell_over_ipv6_ends_as_predicted(inside: Inside, tmp_path: Path, name: str) -> None:
    def check() -> None:
        cell = asyncio.run(run_cell(load(OURS / f"{name}.toml"), Evidence(tmp_path / name), 1, "capture.pcapng"))
        assert (cell.predicted, cell.seen, cell.verdict) == ("direct", "direct", Mark.PASSED), cell.why

    inside(check)


@topology("nat66-pair")
async def test_events_happen_to_mappings_of_ipv6_as_to_those_of_ipv4(lab: Lab) -> None:
    async with UdpProbe(V6) as probe:
        vantage = probe.end(lab.network.spaces["core"], lab.plan.vantages[0])

        async def mapped(inner: End) -> Address:
            [arrival] = await probe.delivered([inner.send(vantage.address)])
            return arrival.source

        async def reaches(external: Address, within: float = DEADLINE) -> bool:
            try:
                await probe.delivered([vantage.send(external)], within)
            except ProbeError:
                return False
            return True

        inner = probe.end(lab.network.spaces["alice"])
        before = await mapped(inner)
        for event, kept in (("reboot", True), ("expire", True), ("rebind", False), ("reboot other-ports", False)):
            assert await reaches(before)
            await lab.event("home-a", event)
            assert not await reaches(before, NOT_WITHIN), f"{event}: the mapping is still there"
            after = await mapped(inner)
            assert (after == before) is kept, event
            before = after
        await lab.event("home-a", "exhaust 1")
        await mapped(probe.end(lab.network.spaces["alice"]))
        late = probe.end(lab.network.spaces["alice"])
        with pytest.raises(ProbeError):
            await probe.delivered([late.send(vantage.address)], NOT_WITHIN)
        assert await mapped(inner) == before
        await lab.event("home-a", "replenish")
        await mapped(late)
