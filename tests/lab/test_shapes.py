"""The shapes that peer-to-peer networks have: who is connected to whom at first, and what that shape is good for.

Judged by the wire: the connections are those between whose ends the capture saw a handshake.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from lab.errors import PeerError
from lab.lab import Lab
from lab.observe.facts import Facts, WirePath
from lab.peers.handle import Peer
from lab.run.plugin import topology

Connections = frozenset[frozenset[str]]


def asked_for(lab: Lab) -> Connections:
    return frozenset(frozenset((launch.peer, other)) for launch in lab.plan.launches for other in launch.dials)


async def connections(lab: Lab) -> Connections:
    """The connections that the wire shows, which are those that the topology asks for."""
    found = (await lab.facts()).connections()
    assert found == asked_for(lab)
    return found


def hops(edges: Iterable[frozenset[str]], start: str, without: str = "") -> dict[str, int]:
    """How many connections away each peer is from one of them, if another one is not there."""
    distance, border = {start: 0}, [start]
    while border:
        here = border.pop(0)
        beside = [other for edge in edges if here in edge for other in edge - {here} if without not in edge]
        for other in beside:
            if other not in distance:
                distance[other] = distance[here] + 1
                border.append(other)
    return distance


def degrees(edges: Iterable[frozenset[str]], peers: Iterable[Peer]) -> dict[str, int]:
    return {peer.name: sum(peer.name in edge for edge in edges) for peer in peers}


def spoke(facts: Facts, after: float) -> set[frozenset[str]]:
    """The pairs that exchanged payload by a connection of their own since then."""
    names = [launch.peer for launch in facts.plan.launches]
    pairs = [(one, other) for one in names for other in names if one < other]
    return {frozenset(pair) for pair in pairs if facts.direct_flow(*pair, after=after) is not None}


@topology("pure")
async def test_a_pure_network_survives_any_one_of_its_peers(lab: Lab) -> None:
    edges = await connections(lab)
    everybody = {peer.name for peer in lab.all_peers}
    for lost in everybody:
        (start, *_) = everybody - {lost}
        assert set(hops(edges, start, without=lost)) == everybody - {lost}

    killed = await lab.event("ben", "kill")
    ann, cat, dan, eve = lab.peers("ann", "cat", "dan", "eve")
    for here, there in ((dan, ann), (ann, cat), (cat, eve)):
        assert (await here.ping(there)).path == "direct"
    facts = await lab.facts()
    assert {frozenset(pair) for pair in (("ann", "dan"), ("ann", "cat"), ("cat", "eve"))} <= spoke(facts, killed.done)


@topology("hybrid")
async def test_data_of_a_server_is_handed_on_between_peers_of_one_lan(lab: Lab) -> None:
    await connections(lab)
    server, ann, ben, cat = lab.peers("server", "ann", "ben", "cat")
    size = 64 * 1024
    for peer in (ann, cat):
        await peer.echo(server, size)
    await lab.quiet(server)
    facts = await lab.facts()
    fetched = facts.bytes(via=server)
    assert fetched >= 2 * 2 * size
    handed_on = facts.packets[-1].at
    assert (await ann.echo(ben, size)).path == "direct"
    facts = await lab.facts()
    assert facts.bytes(via=server) == fetched
    flow = facts.direct_flow(ann, ben, after=handed_on)
    assert flow is not None
    assert min(flow.payload) >= size


@topology("centralised")
async def test_a_server_brings_peers_together_and_is_not_needed_any_more(lab: Lab) -> None:
    edges = await connections(lab)
    assert degrees(edges, lab.all_peers) == {"server": 3, "alice": 1, "bob": 1, "carol": 1}
    server, alice, bob, carol = lab.peers("server", "alice", "bob", "carol")
    await bob.reserve(server)
    await alice.dial(bob.through(server))
    await bob.saw("punch", within=40, where=lambda stage="", **_: stage == "succeeded")
    await alice.saw("disconnected", within=15, where=lambda path="", **_: path == "relayed")
    killed = await lab.event(server, "kill")
    assert (await alice.echo(bob)).path == "direct"
    with pytest.raises(PeerError):
        await carol.dial(bob.through(server), timeout=2)
    facts = await lab.facts()
    assert facts.path(alice, bob, server, after=killed.done) is WirePath.DIRECT


@topology("supernode")
async def test_supernodes_carry_for_the_peers_that_know_them(lab: Lab) -> None:
    edges = await connections(lab)
    assert degrees(edges, lab.all_peers) == dict.fromkeys(("super-a", "super-b", "super-c"), 3) | dict.fromkeys(
        ("ann", "ben", "cat"), 1
    )
    assert set(hops(edges, "ann").values()) == {0, 1, 2, 3}
    theirs, ann, ben, unused = lab.peers("super-b", "ann", "ben", "super-c")
    await ben.reserve(theirs)
    assert (await ann.dial(ben.through(theirs))).path == "relayed"
    before = (await lab.facts()).bytes(via=unused)
    assert (await ann.echo(ben)).path == "relayed"
    facts = await lab.facts()
    assert facts.path(ann, ben, theirs) is WirePath.RELAYED
    assert facts.bytes(via=unused) == before


@topology("structured")
async def test_in_a_ring_with_fingers_everybody_is_a_few_hops_away(lab: Lab) -> None:
    edges = await connections(lab)
    ring = [f"n{number}" for number in range(8)]
    assert {degrees(edges, lab.all_peers)[node] for node in ring[1:]} == {5}
    start = (await lab.facts()).packets[-1].at
    for target in range(1, 8):
        # Always by the longest finger that does not pass the target: log2 of the ring at most.
        here, way = 0, []
        while here != target:
            here += next(step for step in (4, 2, 1) if here + step <= target)
            way.append(ring[here])
        assert len(way) <= 3
        for near, far in zip([ring[0], *way], way, strict=False):
            assert (await lab.peer(near).ping(lab.peer(far))).path == "direct"
    await lab.peer("n0").ping(lab.peer("guest"))
    spoken = spoke(await lab.facts(), start)
    assert {frozenset(pair) for pair in (("n0", "n4"), ("n4", "n6"), ("n6", "n7"), ("n0", "guest"))} <= spoken
    assert spoken <= edges


@topology("unstructured")
async def test_a_question_that_is_passed_on_reaches_everybody(lab: Lab) -> None:
    edges = await connections(lab)
    distance = hops(edges, "ann")
    assert set(distance) == {peer.name for peer in lab.all_peers}
    assert max(distance.values()) > 2
    start = (await lab.facts()).packets[-1].at
    for name in sorted(distance, key=distance.__getitem__):
        for neighbour in {other for edge in edges if name in edge for other in edge - {name}}:
            if distance[neighbour] >= distance[name]:
                await lab.peer(name).ping(lab.peer(neighbour))
    assert spoke(await lab.facts(), start) == edges
