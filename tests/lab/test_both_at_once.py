"""Two peers that speak TCP and QUIC make holes by both at once, and one connection comes of it, seen on the wire."""

from __future__ import annotations

import time

from lab.lab import Lab
from lab.observe.facts import Facts, WirePath
from lab.peers.handle import Peer
from lab.plan.amend import router_of
from lab.run.plugin import topology


@topology("two-transports.toml")
async def test_holes_are_made_by_tcp_and_quic_at_once_and_one_connection_stays(lab: Lab) -> None:
    relay, alice, bob = lab.peers("relay", "alice", "bob")
    await bob.reserve(relay)
    assert (await alice.dial(bob.through(relay))).path == "relayed"
    await bob.saw("punch", within=40, where=lambda stage="", **_: stage == "succeeded")
    for peer in (alice, bob):
        await peer.saw("disconnected", within=15, where=lambda path="", **_: path == "relayed")
    await lab.quiet(relay)
    began = time.time()
    echoed = await alice.echo(bob)
    assert echoed.path == "direct"

    facts = await lab.facts()
    assert facts.direct_flow(alice, bob) is not None
    direct = await alice.saw(
        "connected", within=1, where=lambda path="", peer="", **_: (path, peer) == ("direct", bob.peer_id)
    )
    for peer, other in ((alice, bob), (bob, alice)):
        # Both were under way before either had come to anything: they did not take turns.
        assert first_sent(lab, facts, peer, other, "tcp") < direct.at
        assert first_sent(lab, facts, peer, other, "udp") < direct.at
        (kept,) = [each for each in await connections(peer) if each["peer"] == other.peer_id]
        assert kept["path"] == "direct"
    assert facts.path(alice, bob, relay, after=began) is WirePath.DIRECT


async def connections(peer: Peer) -> list[dict[str, str]]:
    found: list[dict[str, str]] = (await peer.ask("connections"))["connections"]
    return found


def first_sent(lab: Lab, facts: Facts, peer: Peer, other: Peer, proto: str) -> float:
    """When the first packet left a peer for the other's NAT, by one transport."""
    (way,) = other.launch.ways
    assert way.router is not None
    outside = router_of(lab.plan, way.router).wan
    sent = [p.at for p in facts.packets if (p.interface, p.dst, p.proto) == (f"{peer.name}/eth0", outside, proto)]
    assert sent, f"{peer.name} sent nothing by {proto}"
    return min(sent)
