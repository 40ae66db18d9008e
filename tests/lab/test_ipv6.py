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
from lab.plan.build import build
from lab.plan.ipv6 import guard_rules
from lab.plan.plan import Plan, RuleSet
from lab.report.results import Mark
from lab.run import leaks
from lab.run.cell import run_cell
from lab.run.certify import certify
from lab.run.evidence import Evidence
from lab.run.guards import GuardReport, measure_guard
from lab.run.library import OURS
from lab.run.plugin import topology
from tests.lab.test_layers import meet

Inside = Callable[[Callable[[], None]], None]
GUARDS = [Guard(filtering) for filtering in (None, *Filtering)]
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


def test_guards_one_behind_the_other_are_measured_each_by_itself_beside_their_nats(inside: Inside) -> None:
    async def main() -> None:
        plan = build(parse(LAYERED, "layered.toml"), 1)
        with await asyncio.to_thread(Network.build, plan) as network:
            for guard in plan.guards:
                assert (await measure_guard(network, guard)).differences == ()
            for router in plan.routers:
                assert (await certify(network, router, router.vantages, full=True)).differences == ()

    inside(lambda: asyncio.run(main()))


@topology("v6-firewalls")
async def test_two_strict_firewalls_are_opened_from_both_sides(lab: Lab) -> None:
    assert await meet(lab) == "direct"
    facts = await lab.facts()
    flow = facts.direct_flow("alice", "bob")
    assert flow is not None
    assert flow.way is Way.INTERNET
    own = {launch.address6 for launch in lab.plan.launches}
    assert {end.address for end in flow.ends} <= own, "something translated"
    assert not [packet for packet in facts.packets if ":" not in packet.src], "there is IPv4 in a network without"


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
