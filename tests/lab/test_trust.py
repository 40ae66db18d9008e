"""Whom a node lets in, what it lets them do and how fast, judged by what they got to say on the wire."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from lab.errors import PeerError
from lab.lab import Lab
from lab.observe.facts import Facts
from lab.observe.packets import Packet
from lab.peers.handle import Peer
from lab.run.plugin import topology
from node.names.keys import PrivateKey

ALICE = "11.0.2.2"
FOLDER = tempfile.TemporaryDirectory()  # the nodes of a scenario start before its test does
KEY = Path(FOLDER.name) / "bob.key"
BOB = PrivateKey.generate()
KEY.write_bytes(BOB.to_bytes())
ECHOED = 32 * 1024


def sent(facts: Facts, sender: Peer, receiver: Peer) -> list[Packet]:
    """What one peer's interface saw of what it sent to another."""
    ends = (sender.launch.address, receiver.launch.address)
    return [p for p in facts.packets if p.interface == f"{sender.name}/eth0" and (p.src, p.dst) == ends]


def said(facts: Facts, sender: Peer, receiver: Peer) -> int:
    """Bytes of payload that one peer sent to another."""
    return sum(packet.payload for packet in sent(facts, sender, receiver))


@topology("flat", bob=("--deny", "11.0.0.0/8", "--allow", "11.0.1.0/24"))
async def test_who_is_denied_is_told_nothing_and_not_dialled_and_who_is_allowed_is_served(lab: Lab) -> None:
    relay, alice, bob = lab.peers("relay", "alice", "bob")
    with pytest.raises(PeerError):
        await alice.dial(bob.address)
    inbound = await lab.facts()
    assert [p for p in sent(inbound, alice, bob) if p.is_syn]
    assert said(inbound, bob, alice) == 0

    with pytest.raises(PeerError, match="gated"):
        await bob.dial(alice.address)
    assert not [p for p in sent(await lab.facts(), bob, alice) if p.is_syn]
    await relay.dial(bob.address)
    assert (await relay.echo(bob)).path == "direct"
    assert (await lab.facts()).direct_flow(relay, bob) is not None


@topology("flat", bob=("--key", str(KEY)), alice=("--authorise", f"/echo/1.0.0={BOB.peer_id()}"))
async def test_only_who_is_authorised_opens_a_protocol_and_others_are_open_to_everybody(lab: Lab) -> None:
    relay, alice, bob = lab.peers("relay", "alice", "bob")
    for peer in (relay, bob):
        await peer.dial(alice.address)
    assert (await bob.echo(alice, ECHOED)).path == "direct"
    with pytest.raises(PeerError, match="could not echo"):
        await relay.echo(alice, ECHOED)
    assert (await relay.ping(alice)).path == "direct"

    facts = await lab.facts()
    assert said(facts, bob, alice) > ECHOED
    assert said(facts, alice, bob) > ECHOED
    assert said(facts, relay, alice) < ECHOED, "it was refused when it had sent all"
    assert said(facts, alice, relay) < ECHOED


RATE = 128 * 1024
SIZE = 6 * RATE
WINDOW = 256 * 1024
"""Bytes that are on their way before a sender notices that the receiver reads slowly."""
SLOW = ("--limit-rate-in", str(RATE)), ("--limit-rate-out", str(RATE))


@pytest.mark.parametrize(
    "limited",
    [
        pytest.param("in", marks=topology("flat", bob=SLOW[0]), id="in"),
        pytest.param("out", marks=topology("flat", bob=SLOW[1]), id="out"),
    ],
)
async def test_a_rate_holds_in_its_direction_and_not_in_the_other(lab: Lab, limited: str) -> None:
    alice, bob = lab.peers("alice", "bob")
    await alice.dial(bob.address)
    upload, download = (SIZE, 0) if limited == "in" else (0, SIZE)
    await alice.ask("perf", peer=bob.peer_id, upload=upload, download=download, timeout=60)
    held = await lab.facts()
    await alice.ask("perf", peer=bob.peer_id, upload=download, download=upload, timeout=60)
    free = await lab.facts()

    ends = (alice, bob) if limited == "in" else (bob, alice)
    slow = [p for p in sent(held, *ends) if p.payload > 1000]
    seconds = slow[-1].at - slow[0].at
    total = sum(p.payload for p in slow)
    assert total > SIZE * 0.9
    assert total <= (RATE * (seconds + 1) + WINDOW) * 1.1, "faster than the limit, the burst and a window"
    fast = [p for p in sent(free, *reversed(ends)) if p.payload > 1000 and p.at > slow[-1].at]
    assert sum(p.payload for p in fast) > SIZE * 0.9
    assert fast[-1].at - fast[0].at < seconds, "the other direction is slow too"
