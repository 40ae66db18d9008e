"""A phone goes from Wi-Fi to the mobile carrier in the middle of a connection, seen on the wire."""

from __future__ import annotations

import json
from pathlib import Path

from lab.lab import Lab
from lab.observe.facts import WirePath
from lab.plan.amend import router_of
from lab.run.plugin import topology


@topology("mobile-handover")
async def test_a_phone_that_changes_networks_is_reached_again_when_it_has_dialled_again(lab: Lab) -> None:
    relay, alice, bob = lab.peers("relay", "alice", "bob")
    await bob.reserve(relay)
    await alice.dial(bob.through(relay))
    await bob.saw("punch", within=40, where=lambda stage="", **_: stage == "succeeded")
    await alice.saw("disconnected", within=15, where=lambda path="", **_: path == "relayed")
    assert (await alice.echo(bob)).path == "direct"

    left = await lab.event(alice, "move cell")
    async with lab.step("alice and bob are together again"):
        # Nobody tells a program that its address has gone; whoever moves gives up what it had.
        for other in (relay, bob):
            await alice.ask("disconnect", peer=other.peer_id)
        await bob.ask("disconnect", peer=alice.peer_id)
        await alice.dial(bob.through(relay))
        assert (await alice.echo(bob)).path == "relayed"

    facts = await lab.facts()
    before = [flow for flow in facts.wire.flows_at("wifi/wan") if flow.both_ways(before=left.at)]
    bobs = router_of(lab.plan, "home-b").wan
    assert any(bobs in (flow.a.address, flow.b.address) for flow in before), "they were direct by the Wi-Fi"
    cell = router_of(lab.plan, "cell")
    after = [flow for flow in facts.wire.flows_at("cell/wan") if flow.both_ways(after=left.done)]
    assert {flow.a.address for flow in after} <= set(cell.publics)
    # The carrier's NAT moves its ports and bob's lets in only whom it has written to: they stay relayed.
    assert facts.path(alice, bob, relay, after=left.done) is WirePath.RELAYED
    gone = router_of(lab.plan, "wifi").wan
    assert not [p for p in facts.packets if p.interface == "wifi/wan" and p.src == gone and p.at > left.done], "a ghost"
    assert without_traffic(lab, left.at) > 0


@topology("home-quic")
async def test_a_quic_connection_outlives_the_address_of_its_router(lab: Lab) -> None:
    relay, alice = lab.peers("relay", "alice")
    await alice.dial(relay.address)
    assert (await alice.echo(relay)).path == "direct"

    old = router_of(lab.plan, "home").wan
    moved = await lab.event("home", "address 11.0.1.77")
    async with lab.step("traffic resumes"):
        assert (await alice.echo(relay)).path == "direct"

    assert not [event for peer in (alice, relay) for event in peer.events if event.name == "disconnected"]
    out = [p for p in (await lab.facts()).packets if p.interface == "home/wan" and p.dst == relay.launch.address]
    assert {p.src for p in out if p.at < moved.at} == {old}
    assert {p.src for p in out if p.at > moved.done} == {"11.0.1.77"}
    assert sum(p.payload for p in out if p.at > moved.done) > 32 * 1024


def without_traffic(lab: Lab, left: float) -> float:
    """Seconds from the move to the end of the step in which the two met again, as the timeline has them."""
    events = Path(str(lab._record.capture)).with_name("events.jsonl").read_text().splitlines()
    lines = [json.loads(line) for line in events]
    (moved,) = [line for line in lines if line["event"] == "event"]
    assert (moved["target"], moved["what"], moved["at"]) == ("alice", "move cell", left)
    (met,) = [line for line in lines if line.get("name", "").endswith("together again") and line["stage"] == "end"]
    return float(met["at"]) - left
