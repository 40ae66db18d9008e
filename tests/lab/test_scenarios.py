"""End to end, by the plugin that users have: what the topologies of the library promise, seen on the wire."""

from __future__ import annotations

import time

from lab.lab import Lab
from lab.observe.facts import WirePath
from lab.run.plugin import topology

PUNCHED = ("succeeded", "gave-up")


async def meet(lab: Lab) -> None:
    """Bob reserves a slot at the relay, alice reaches him through it, and the punch comes to its end."""
    relay, alice, bob = lab.peers("relay", "alice", "bob")
    async with lab.step("bob reserves a slot"):
        await bob.reserve(relay)
    async with lab.step("alice reaches bob through the relay"):
        assert (await alice.dial(bob.through(relay))).path == "relayed"
    async with lab.step("both punch"):
        await bob.saw("punch", within=40, where=lambda stage="", **_: stage in PUNCHED)


@topology("two-homes")
async def test_dcutr_replaces_the_relayed_path(lab: Lab) -> None:
    relay, alice, bob = lab.peers("relay", "alice", "bob")
    await meet(lab)
    direct = await alice.saw(
        "connected", within=15, where=lambda path="", peer="", **_: path == "direct" and peer == bob.peer_id
    )
    for peer in (alice, bob):
        await peer.saw("disconnected", within=15, where=lambda path="", **_: path == "relayed")
    await lab.quiet(relay)
    parted = time.time()
    echoed = await alice.echo(bob)

    assert echoed.path == "direct"
    facts = await lab.facts()
    assert facts.bytes(via=relay, after=parted) == 0
    flow = facts.direct_flow(alice, bob, after=direct.at)
    assert flow is not None
    assert {end.address for end in flow.ends} == {router.wan for router in lab.plan.routers}


@topology("full-cone-pair")
async def test_a_full_cone_lets_the_first_syn_in(lab: Lab) -> None:
    _, alice, bob = lab.peers("relay", "alice", "bob")
    await meet(lab)

    assert (await alice.echo(bob)).path == "direct"
    facts = await lab.facts()
    flow = facts.direct_flow(alice, bob)
    assert flow is not None
    assert {end.address for end in flow.ends} == {router.wan for router in lab.plan.routers}
    assert not [drop for drop in facts.punch(alice, bob).drops if "lets in only" in drop.why]


@topology("symmetric-pair")
async def test_two_symmetric_nats_leave_the_path_relayed(lab: Lab) -> None:
    relay, alice, bob = lab.peers("relay", "alice", "bob")
    await meet(lab)
    before = (await alice.ping(bob)).path
    echoed = await alice.echo(bob)

    assert (before, echoed.path) == ("relayed", "relayed")
    facts = await lab.facts()
    assert facts.path(alice, bob, relay) is WirePath.RELAYED
    assert facts.punch(alice, bob).drops, "no NAT dropped anything, though neither side got in"


@topology("one-public")
async def test_a_public_dialer_is_dialled_back_directly(lab: Lab) -> None:
    _, alice, bob = lab.peers("relay", "alice", "bob")
    await meet(lab)

    assert (await alice.echo(bob)).path == "direct"
    facts = await lab.facts()
    assert facts.direct_flow(alice, bob) is not None


@topology("same-nat-hairpin")
async def test_peers_behind_one_hairpinning_nat_meet_at_its_outside(lab: Lab) -> None:
    _, alice, bob = lab.peers("relay", "alice", "bob")
    await meet(lab)

    assert (await alice.echo(bob)).path == "direct"
    facts = await lab.facts()
    assert facts.direct_flow(alice, bob) is not None


@topology("same-nat-no-hairpin")
async def test_peers_behind_one_nat_that_does_not_hairpin_stay_relayed(lab: Lab) -> None:
    relay, alice, bob = lab.peers("relay", "alice", "bob")
    await meet(lab)

    assert (await alice.echo(bob)).path == "relayed"
    facts = await lab.facts()
    assert facts.path(alice, bob, relay) is WirePath.RELAYED
