"""Port prediction and the spray, on the wire: where they find a hole, and where they leave everything as it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from lab.lab import Lab
from lab.observe.facts import Facts, WirePath
from lab.peers.handle import Peer
from lab.run.plugin import topology

FIRST, SECOND = "/ip4/11.0.3.2/udp/3478", "/ip4/11.0.3.3/udp/3479"
SERVES = ("--stun-listen", FIRST, "--stun-listen", SECOND)
WITNESS = (*SERVES, "--predict-ports", "spray")
IMPATIENT = ("--punch-attempts", "1", "--punch-timeout", "1")
"""For pairs whose punch is in vain: it need not be in vain for long."""
SEQUENTIAL = (*IMPATIENT, "--stun", FIRST, "--predict-ports", "sequential")
MAY_SPRAY = ("--stun", FIRST, "--predict-ports", "spray")
SPRAY = (*IMPATIENT, *MAY_SPRAY)
FEW = 24
"""Ports of the other's NAT that a peer writes to at most without a spray: 16 foretold, and those of DCUtR."""


async def meet(lab: Lab, *, measured: bool = True) -> tuple[Peer, Peer, Peer]:
    """Alice reaches bob through the relay, and both try what they can, after they have measured their NATs."""
    relay, alice, bob = lab.peers("relay", "alice", "bob")
    if measured:
        async with lab.step("alice and bob know their NATs"):
            for peer in (alice, bob):
                await peer.saw("nat", within=30)
    async with lab.step("alice reaches bob through the relay"):
        await bob.reserve(relay)
        assert (await alice.dial(bob.through(relay))).path == "relayed"
    async with lab.step("both punch"):
        await bob.saw("punch", within=60, where=lambda stage="", **_: stage in ("succeeded", "gave-up"))
    return relay, alice, bob


def told(peer: Peer, stage: str) -> list[Mapping[str, Any]]:
    return [event.fields for event in peer.events if event.name == "predict" and event.fields["stage"] == stage]


def ports_written(facts: Facts, source: Peer, target: str) -> int:
    """How many ports of a NAT a peer has written to."""
    own = f"{source.name}/eth0"
    return len({packet.dport for packet in facts.packets if packet.interface == own and packet.dst == target})


async def goes_direct(lab: Lab, way: str) -> Facts:
    relay, alice, bob = await meet(lab)
    await lab.quiet(relay)
    before = (await alice.ping(bob)).path
    echoed = await alice.echo(bob)
    assert (before, echoed.path) == ("direct", "direct")
    for peer in (alice, bob):
        ended = await peer.saw("predict", within=15, where=lambda stage="", **_: stage == "succeeded")
        assert ended.get("way") == way
    facts = await lab.facts()
    flow = facts.direct_flow(alice, bob)
    assert flow is not None
    assert {end.address for end in flow.ends} == {router.wan for router in lab.plan.routers}
    return facts


async def stays_relayed(lab: Lab, *, measured: bool = True) -> Facts:
    relay, alice, bob = await meet(lab, measured=measured)
    assert (await alice.echo(bob)).path == "relayed"
    facts = await lab.facts()
    assert facts.path(alice, bob, relay) is WirePath.RELAYED
    for source, router in ((alice, "home-b"), (bob, "home-a")):
        target = next(each.wan for each in lab.plan.routers if each.name == router)
        assert ports_written(facts, source, target) < FEW
    return facts


PREDICTED = [
    pytest.param(marks=topology(name, relay=SERVES, alice=SEQUENTIAL, bob=SEQUENTIAL), id=name)
    for name in ("predicted-port", "predicted-pair", "predicted-hotel")
]


@pytest.mark.parametrize((), PREDICTED)
async def test_ports_that_are_foretold_need_no_more_than_a_few_datagrams(lab: Lab) -> None:
    facts = await goes_direct(lab, "predicted")
    walls = {router.wan for router in lab.plan.routers}
    for peer in lab.peers("alice", "bob"):
        (ended,) = told(peer, "succeeded")
        assert ended["sent"] <= 64
        assert all(ports_written(facts, peer, wall) < FEW for wall in walls)


@topology("sprayed-block", relay=WITNESS, alice=SPRAY, bob=SPRAY)
async def test_a_block_of_ports_takes_a_smaller_spray(lab: Lab) -> None:
    await goes_direct(lab, "spray")
    (ended,) = told(lab.peer("bob"), "succeeded")
    assert (ended["part"], ended["sockets"]) == ("fan", 64)


@topology("sprayed-port", relay=WITNESS, alice=SPRAY, bob=SPRAY)
async def test_a_spray_hits_one_of_the_ports_that_are_drawn(lab: Lab) -> None:
    facts = await goes_direct(lab, "spray")
    alice, bob = lab.peers("alice", "bob")
    (swept,), (fanned,) = told(alice, "succeeded"), told(bob, "succeeded")
    assert (swept["part"], swept["ports"], fanned["part"], fanned["sockets"]) == ("sweep", 1024, "fan", 256)
    assert swept["attempt"] == fanned["attempt"]
    target = next(each.wan for each in lab.plan.routers if each.name == "home-b")
    assert 0 < swept["sent"] <= 1024
    assert 0 < fanned["sent"] <= 256
    assert ports_written(facts, alice, target) <= 1024 * swept["attempt"] + FEW
    begun = min(event.at for event in bob.events if event.name == "predict")
    sent = [p for p in facts.packets if p.interface == "alice/eth0" and p.dst == target and p.at >= begun]
    assert len(sent) <= 300 * (sent[-1].at - sent[0].at) + 50, "faster than a sweep may be"


@topology("sprayed-address", relay=WITNESS, alice=MAY_SPRAY, bob=MAY_SPRAY)
async def test_nothing_is_sprayed_at_who_can_be_punched_to(lab: Lab) -> None:
    _, alice, bob = await meet(lab)
    assert (await alice.echo(bob)).path == "direct"
    assert not [each for peer in (alice, bob) for each in told(peer, "writing")]
    facts = await lab.facts()
    assert all(ports_written(facts, peer, router.wan) < FEW for peer in (alice, bob) for router in lab.plan.routers)


RELAYED = {
    "off": topology("predicted-port", relay=WITNESS, alice=IMPATIENT, bob=IMPATIENT),
    "alice-alone": topology("sprayed-port", relay=WITNESS, alice=SPRAY, bob=IMPATIENT),
}


@pytest.mark.parametrize((), [pytest.param(marks=mark, id=name) for name, mark in RELAYED.items()])
async def test_without_both_sides_consent_nothing_unusual_is_seen(lab: Lab) -> None:
    await stays_relayed(lab, measured=False)
    peers = lab.peers("relay", "alice", "bob")
    assert not [event for peer in peers for event in peer.events if event.name == "predict"]
    opened = {event.fields["protocol"] for peer in peers for event in peer.events if event.name == "stream"}
    assert "/libp2p/dcutr" in opened
    assert not [protocol for protocol in opened if str(protocol).startswith("/punchlab/")]


@topology("sprayed-port", relay=SERVES, alice=SPRAY, bob=SPRAY)
async def test_without_a_witness_nothing_is_sprayed(lab: Lab) -> None:
    await stays_relayed(lab)
    alice, bob = lab.peers("alice", "bob")
    assert not [each for peer in (alice, bob) for each in told(peer, "writing")]
    (skipped,) = told(alice, "skipped")
    assert str(skipped["why"]).startswith("no relay says that it sees the peer at")
