"""Firewalls on the kernel, measured, and what they leave of a punch, seen on the wire."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lab.errors import PeerError
from lab.kernel.network import Network
from lab.lab import Lab
from lab.model.firewall import FIREWALLS, Firewall
from lab.model.topology import load
from lab.observe.facts import WirePath
from lab.plan.build import build
from lab.plan.plan import Plan
from lab.report.results import Mark
from lab.run.cell import run_cell
from lab.run.certify import certify
from lab.run.evidence import Evidence
from lab.run.library import OURS
from lab.run.plugin import topology
from lab.run.walls import Wall, measure_wall, take_away
from tests.lab.test_layers import meet

Inside = Callable[[Callable[[], None]], None]
WEB_ONLY = FIREWALLS["web-only"].firewall


def office(firewall: Firewall) -> Plan:
    asked = load(OURS / "web-only.toml")
    routers = tuple(replace(r, firewall=firewall) if r.name == "office" else r for r in asked.routers)
    return build(replace(asked, routers=routers), 1)


async def measured(plan: Plan, declared: Firewall) -> Wall:
    network = await asyncio.to_thread(Network.build, plan)
    try:
        return await measure_wall(network, plan.routers[0], declared)
    finally:
        await asyncio.to_thread(network.close)


@pytest.mark.parametrize("name", FIREWALLS)
def test_every_preset_measures_as_declared(inside: Inside, name: str) -> None:
    def check() -> None:
        firewall = FIREWALLS[name].firewall
        wall = asyncio.run(measured(office(firewall), firewall))
        assert wall.differences == ()
        assert {proto for proto, _, _ in wall.measured} == {"tcp", "udp"}
        assert {passed for _, _, passed in wall.measured} == {True, False}

    inside(check)


def test_a_firewall_that_is_not_as_declared_is_told_port_by_port(inside: Inside) -> None:
    def check() -> None:
        wall = asyncio.run(measured(office(FIREWALLS["udp-blocked"].firewall), WEB_ONLY))
        assert "TCP port 4001: declared closed, measured open" in wall.differences
        wall = asyncio.run(measured(office(WEB_ONLY), Firewall()))
        assert "TCP port 4001: declared open, measured closed" in wall.differences
        assert "UDP port 53: declared open, measured closed" in wall.differences

    inside(check)


def test_a_nat_is_measured_without_its_firewall_and_has_it_afterwards(inside: Inside) -> None:
    async def main() -> None:
        plan = office(WEB_ONLY)
        router = plan.routers[0]
        with await asyncio.to_thread(Network.build, plan) as network:
            await take_away(network, router)
            assert (await certify(network, router, router.vantages, full=True)).differences == ()
            assert (await measure_wall(network, router, WEB_ONLY)).differences == ()

    inside(lambda: asyncio.run(main()))


@topology("udp-blocked")
async def test_tcp_punches_where_udp_is_blocked(lab: Lab) -> None:
    assert await meet(lab) == "direct"
    assert (await lab.facts()).direct_flow("alice", "bob") is not None


@topology("udp-blocked-quic")
async def test_where_udp_is_blocked_quic_is_tried_first_and_tcp_carries(lab: Lab) -> None:
    relay, alice = lab.peers("relay", "alice")
    await alice.dial(relay.address)
    await alice.saw("identified", within=15, where=lambda addrs=(), **_: any("quic-v1" in addr for addr in addrs))
    await alice.ask("disconnect", peer=relay.peer_id)
    async with lab.step("alice dials all that she knows of the relay"):
        parted = time.time()
        assert (await alice.echo(relay)).path == "direct"
    assert {each["transport"] for each in (await alice.ask("connections"))["connections"]} == {"tcp"}

    facts = await lab.facts()
    assert facts.direct_flow(alice, relay, after=parted) is not None
    tried = {p.interface for p in facts.packets if p.proto == "udp" and p.dst == relay.launch.address}
    assert "alice/eth0" in tried, "QUIC was not tried"
    assert "office/wan" not in tried


@topology("web-only")
async def test_web_only_reaches_a_relay_at_443_and_nothing_else(lab: Lab) -> None:
    assert await meet(lab) == "relayed"
    facts = await lab.facts()
    assert facts.path("alice", "bob", "relay") is WirePath.RELAYED
    left = [packet for packet in facts.packets if packet.interface == "office/wan" and packet.src.startswith("11.")]
    ours = next(router.wan for router in lab.plan.routers if router.name == "office")
    assert {packet.dport for packet in left if packet.src == ours} == {443}
    tried = [packet for packet in facts.packets if packet.interface == "alice/eth0" and packet.dport == 4001]
    assert tried, "alice did not even try to punch"
    own = [drop for drop in facts.punch("alice", "bob").drops if drop.outbound]
    assert {(drop.router, drop.why) for drop in own} == {("office", f"office {WEB_ONLY}")}


@topology("web-only-ws")
async def test_web_only_lets_a_websocket_carry_the_way_to_the_relay(lab: Lab) -> None:
    relay, alice, bob = lab.peers("relay", "alice", "bob")
    await bob.reserve(relay)
    dialled = await alice.dial(bob.through(relay))
    assert dialled.path == "relayed"
    assert (await alice.echo(bob)).path == "relayed"
    assert await alice.saw(
        "connected", within=1, where=lambda path, transport, **_: (path, transport) == ("direct", "ws")
    )
    facts = await lab.facts()
    assert facts.path("alice", "bob", "relay") is WirePath.RELAYED
    ours = next(router.wan for router in lab.plan.routers if router.name == "office")
    left = [packet for packet in facts.packets if packet.interface == "office/wan" and packet.src == ours]
    assert {(packet.proto, packet.dport) for packet in left} == {("tcp", 80)}


@topology("web-only-no-way")
async def test_web_only_has_no_path_by_a_relay_at_4001(lab: Lab) -> None:
    relay, alice, bob = lab.peers("relay", "alice", "bob")
    await bob.reserve(relay)
    with pytest.raises(PeerError):
        await alice.dial(bob.through(relay), timeout=5)
    assert (await lab.facts()).bytes(via=alice) == 0


@pytest.mark.parametrize(
    ("name", "seen"), [("web-only-no-way", "none"), ("web-only", "relayed"), ("udp-blocked", "direct")]
)
def test_a_cell_ends_as_the_firewall_makes_it(inside: Inside, tmp_path: Path, name: str, seen: str) -> None:
    def check() -> None:
        cell = asyncio.run(run_cell(load(OURS / f"{name}.toml"), Evidence(tmp_path / name), 1, "capture.pcapng"))
        assert (cell.predicted, cell.seen, cell.verdict) == (seen, seen, Mark.PASSED), cell.why

    inside(check)
