"""AutoNAT behind every classical NAT, and what a server sends to somebody whom a request names. Judged by the wire."""

from __future__ import annotations

import asyncio

import pytest

from lab.kernel import portmap
from lab.lab import Lab
from lab.observe.facts import Facts
from lab.observe.packets import Packet
from lab.peers.answers import Finding
from lab.peers.handle import Peer
from lab.run.plugin import topology
from tests.support.portmap import CLIENTS

ASKS = ("--reachability", "public")
"""Asked for, AutoNAT is there; nothing is asked but what the scenario asks."""
SERVES = ("--autonat-dial-timeout", "3")
BEHIND = {"full": True, "address": False, "port": False, "sequential": False, "random": False}
"""Whether a stranger reaches the external port that a peer has behind its NAT."""


async def observed(peer: Peer) -> str:
    """The external address of a peer's listener, as the relay saw it."""
    return str((await peer.saw("observed", within=10)).fields["addr"])


async def ask_about_observed(relay: Peer, peer: Peer) -> Finding:
    await peer.dial(relay.address)
    return await peer.autonat(relay, await observed(peer))


def endpoint(addr: str) -> tuple[str, int]:
    """The address and port of `/ip4/…/tcp/…`."""
    _, _, ip, _, port = addr.split("/")[:5]
    return ip, int(port)


def dials_of(facts: Facts, interface: str, target: tuple[str, int], server: Peer) -> list[Packet]:
    """What a server sent to an endpoint, as an interface saw it, beside what it says to its clients."""
    network = server.launch.address.rpartition(".")[0]
    return [
        packet
        for packet in facts.packets
        if packet.interface == interface
        and (packet.dst, packet.dport) == target
        and packet.src.rpartition(".")[0] == network
        and (packet.src, packet.sport) != (server.launch.address, server.launch.port)
    ]


async def hold_each_nat_against_its_verdict(lab: Lab) -> None:
    relay, carol = lab.peers("relay", "carol")
    await carol.dial(relay.address)
    public = carol.address.partition("/p2p/")[0]

    async with asyncio.TaskGroup() as group:
        asked = {name: group.create_task(ask_about_observed(relay, lab.peer(name))) for name in BEHIND}
        of_carol = group.create_task(carol.autonat(relay, public))

    assert of_carol.result() == Finding(public, reachable=True, paid=0)
    assert {name: task.result().reachable for name, task in asked.items()} == BEHIND
    facts = await lab.facts()
    for name, reachable in BEHIND.items():
        dials = dials_of(facts, f"home-{name}/wan", endpoint(asked[name].result().addr), relay)
        inside = [seen for each in dials for seen in facts.wire.sightings(each) if seen.interface == f"{name}/eth0"]
        assert dials, f"the relay did not dial {name}"
        assert bool(inside) is reachable
        assert relay.launch.address not in {each.src for each in dials}, "the peer had written to that address"
        assert relay.launch.port not in {each.sport for each in dials}


@topology("five-nats", relay=SERVES, full=ASKS, address=ASKS, port=ASKS, sequential=ASKS, random=ASKS, carol=ASKS)
async def test_a_server_tells_behind_each_nat_what_strangers_can_reach(lab: Lab) -> None:
    await hold_each_nat_against_its_verdict(lab)


@topology("five-nats-quic", relay=SERVES, full=ASKS, address=ASKS, port=ASKS, sequential=ASKS, random=ASKS, carol=ASKS)
async def test_it_tells_the_same_of_quic(lab: Lab) -> None:
    await hold_each_nat_against_its_verdict(lab)


@topology("five-nats", carol=ASKS)
async def test_a_victim_is_left_in_peace_until_its_dial_is_paid_for(lab: Lab) -> None:
    relay, carol, victim = lab.peers("relay", "carol", "victim")
    await carol.dial(relay.address)
    named = victim.address.partition("/p2p/")[0]

    async with lab.step("carol names the victim, by version 1"):
        await carol.ask("autonat", peer=relay.peer_id, addrs=[named], version=1)
    unpaid = (await lab.facts()).packets
    assert not [packet for packet in unpaid if packet.space == "victim"]

    async with lab.step("carol names the victim, and pays"):
        tested = await carol.autonat(relay, named)

    assert not tested.reachable  # the victim is not carol
    assert tested.paid >= 30_000
    facts = await lab.facts()
    first = next(packet for packet in facts.packets if packet.space == "victim")
    sent = [
        packet for packet in facts.packets if packet.interface == "carol/eth0" and packet.src == carol.launch.address
    ]
    assert sum(packet.payload for packet in sent if packet.ns < first.ns) >= tested.paid
    cost = sum(packet.payload for packet in facts.packets if packet.space == "victim")
    assert cost < tested.paid / 4


@pytest.mark.skipif(portmap.problem() is not None, reason=str(portmap.problem()))
@topology("port-mapped", relay=SERVES, alice=ASKS)
async def test_a_mapped_port_is_reachable_where_the_observed_one_is_not(lab: Lab) -> None:
    relay, alice, _ = lab.peers("relay", "alice", "bob")
    asking = CLIENTS["nat-pmp"](lab.network.spaces["alice"], alice.launch.address, lab.plan.routers[0].gateway)
    granted = await asyncio.to_thread(asking.map, "tcp", alice.launch.port, 4444, 600)
    await alice.dial(relay.address)
    mapped = f"/ip4/{granted.external}/tcp/{granted.port}"

    async with asyncio.TaskGroup() as group:
        of_mapped = group.create_task(alice.autonat(relay, mapped))
        of_observed = group.create_task(alice.autonat(relay, await observed(alice)))

    assert of_mapped.result() == Finding(mapped, reachable=True, paid=0)
    assert not of_observed.result().reachable
    facts = await lab.facts()
    (first, *_) = dials_of(facts, "home-a/wan", endpoint(mapped), relay)
    assert [seen for seen in facts.wire.sightings(first) if seen.interface == "alice/eth0"]


FINDS_OUT = ("--reachability", "auto", "--no-dcutr")


@topology("five-nats", relay=SERVES, full=FINDS_OUT, port=FINDS_OUT, carol=FINDS_OUT)
async def test_peers_find_out_by_themselves_and_keep_slots_at_relays_where_they_must(lab: Lab) -> None:
    relay, full, port, carol = lab.peers("relay", "full", "port", "carol")
    for peer in (full, port, carol):
        await peer.dial(relay.address)

    for peer, verdict in ((full, "public"), (carol, "public"), (port, "private")):
        told = await peer.saw("reachability", within=40, where=lambda reachability, v=verdict, **_: reachability == v)
        assert set(told.fields["addrs"].values()) == {verdict}
    reserved = await port.saw("reserved", within=15)
    assert reserved.get("relay") == relay.peer_id
    assert (await full.ask("reachability"))["relays"] == []
    # An address that works is advertised, though four observers would be needed for one that is only seen.
    assert f"{await observed(full)}/p2p/{full.peer_id}" in (await full.ask("info"))["addrs"]
    assert (await carol.dial(f"{await observed(full)}/p2p/{full.peer_id}")).path == "direct"


@pytest.mark.skipif(portmap.problem() is not None, reason=str(portmap.problem()))
@topology("port-mapped", relay=SERVES, alice=("--reachability", "auto", "--port-mapping"))
async def test_a_peer_whose_router_opens_a_port_finds_itself_public(lab: Lab) -> None:
    relay, alice, _ = lab.peers("relay", "alice", "bob")
    await alice.dial(relay.address)

    told = await alice.saw("reachability", within=40, where=lambda reachability, **_: reachability == "public")
    outside = next(router.wan for router in lab.plan.routers if router.name == "home-a")
    public = [addr for addr, verdict in told.fields["addrs"].items() if verdict == "public"]
    assert [endpoint(addr)[0] for addr in public] == [outside]
    assert public[0] != await observed(alice)
