"""Peers with several uplinks: which one a packet takes, what is left when one goes, and that nothing passes between."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.errors import EventError, PeerError
from lab.kernel.network import Network
from lab.lab import Lab
from lab.model.topology import load, parse
from lab.observe.facts import WirePath
from lab.peers.handle import Peer
from lab.plan.amend import launch_of, router_of
from lab.plan.build import build
from lab.plan.plan import Launch
from lab.run import leaks
from lab.run.oracle import forecast
from lab.run.plugin import topology
from lab.run.probes import UdpProbe

Inside = Callable[[Callable[[], None]], None]
LIBRARY = Path(__file__).resolve().parents[2] / "topologies"
DEADLINE = 10.0
DUAL = """
name = "dual"
ip   = "dual-stack"
[router.wifi]
nat  = "home"
[router.cell]
nat  = "home"
lan  = "10.0.0.0/24"
[peer.server]
at = "internet"
[peer.alice]
at = ["wifi", "cell"]
[peer.bob]
at = "wifi"
"""


async def punched(listener: Peer, dialer: Peer, relay: Peer) -> str:
    """The dialer reaches the listener through the relay, both punch; the path they say they have in the end."""
    await listener.reserve(relay)
    await dialer.dial(listener.through(relay))
    await listener.saw("punch", within=40, where=lambda stage="", **_: stage in ("succeeded", "gave-up"))
    return (await dialer.echo(listener)).path


@topology("multihomed")
async def test_a_connection_takes_the_preferred_uplink_and_the_other_one_when_that_is_gone(lab: Lab) -> None:
    relay, alice, bob = lab.peers("relay", "alice", "bob")
    assert await punched(bob, alice, relay) == "direct"
    facts = await lab.facts()
    direct = facts.direct_flow(alice, bob)
    assert direct is not None
    assert direct.ends[0].address == router_of(lab.plan, "wifi").wan
    assert not facts.wire.flows_at("alice/eth1"), "nothing begins by the uplink that is not preferred"

    with pytest.raises(EventError, match="alice has several uplinks; name one: alice/eth0, alice/eth1"):
        await lab.event(alice, "down")
    down = await lab.event("alice/eth0", "down")
    for other in (relay, bob):
        await alice.ask("disconnect", peer=other.peer_id)
    await bob.ask("disconnect", peer=alice.peer_id)
    await alice.dial(bob.through(relay))
    # The carrier's NAT gives every destination a port of its own.
    assert (await alice.echo(bob)).path == "relayed"
    facts = await lab.facts()
    assert [flow for flow in facts.wire.flows_at("alice/eth1") if flow.both_ways(after=down.done)]
    assert [flow for flow in facts.wire.flows_at("cell/wan") if flow.both_ways(after=down.done)]
    assert facts.path(alice, bob, relay, after=down.done) is WirePath.RELAYED

    await lab.event("alice/eth0", "up")
    await alice.ask("disconnect", peer=relay.peer_id)
    back = await alice.dial(relay.address)
    assert back.path == "direct"
    assert (await lab.facts()).wire.flows_at("alice/eth0")[-1].packets[-1].at > down.done


@topology("multihomed")
async def test_a_public_address_beside_a_symmetric_nat_is_dialled_and_answers_by_its_own_uplink(lab: Lab) -> None:
    relay, carol, dave = lab.peers("relay", "carol", "dave")
    assert forecast(load(LIBRARY / "multihomed.toml"), "dave", "carol", "relay", "tcp").path == "direct"
    assert await punched(carol, dave, relay) == "direct"
    facts = await lab.facts()
    direct = facts.direct_flow(dave, carol)
    assert direct is not None
    public = carol.launch.ways[1].address
    assert direct.ends[1].address == public
    answers = [p for p in facts.packets if p.interface == "carol/eth1" and p.src == public]
    assert answers, "what was asked by the second uplink is answered by it"
    assert not [p for p in facts.packets if p.interface == "carol/eth0" and p.src == public]


@topology("multihomed")
async def test_a_source_address_decides_the_uplink(lab: Lab) -> None:
    alice = launch_of(lab.plan, "alice")
    async with UdpProbe() as probe:
        vantage = probe.end(lab.network.spaces["core"], lab.plan.vantages[0])
        for way in alice.ways:
            inner = probe.end(lab.network.spaces["alice"], way.address)
            (arrival,) = await probe.delivered([inner.send(vantage.address)])
            assert arrival.source[0] in router_of(lab.plan, str(way.router)).publics
        anywhere = probe.end(lab.network.spaces["alice"])
        (arrival,) = await probe.delivered([anywhere.send(vantage.address)])
        assert arrival.source[0] == router_of(lab.plan, "wifi").wan


@topology("multihomed")
async def test_one_uplink_can_be_parted_from_a_place(lab: Lab) -> None:
    relay, carol = lab.peers("relay", "carol")
    with pytest.raises(EventError, match="carol has several uplinks"):
        await lab.event(carol, "partition relay")
    await lab.event("carol/eth0", "partition relay")
    with pytest.raises(PeerError):
        await carol.dial(relay.address, timeout=1.5)
    await lab.event("carol/eth0", "heal")
    await carol.dial(relay.address)
    with pytest.raises(EventError, match="carol has several uplinks, carol/eth0 and carol/eth1"):
        await lab.event(carol, "move cell")


def test_a_host_that_forwards_between_its_uplinks_is_a_leak(inside: Inside) -> None:
    def check() -> None:
        plan = build(load(LIBRARY / "multihomed.toml"), 1)
        with Network.build(plan) as network:
            assert asyncio.run(leaks.check(network, plan)) == []
            with network.spaces["alice"].entered():
                Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
            found = asyncio.run(leaks.check(network, plan))
            assert any("alice forwards from wifi to cell" in leak for leak in found)

    inside(check)


def test_both_versions_of_ip_go_by_the_uplink_that_has_the_source_address(inside: Inside) -> None:
    def check() -> None:
        plan = build(parse(DUAL, "dual.toml"), 1)
        server, alice = launch_of(plan, "server"), launch_of(plan, "alice")
        with Network.build(plan) as network:
            assert asyncio.run(leaks.check(network, plan)) == []
            for way in alice.ways:
                for family, there, here in (
                    (socket.AF_INET, server.address, way.address),
                    (socket.AF_INET6, server.address6, way.address6),
                ):
                    before = crossed(network, way)
                    send(network, family, (str(here), str(there)))
                    assert crossed(network, way) > before

    inside(check)


def crossed(network: Network, way: Launch) -> int:
    """Packets that a peer has sent by one of its uplinks."""
    with network.spaces[way.space].entered():
        lines = Path("/proc/thread-self/net/dev").read_text("ascii").splitlines()
    counts = next(line.split(":")[1].split() for line in lines if line.strip().startswith(f"{way.interface}:"))
    return int(counts[9])


def send(network: Network, family: int, addresses: tuple[str, str]) -> None:
    here, there = addresses
    with network.spaces["server"].socket(family, socket.SOCK_DGRAM) as listening:
        listening.settimeout(DEADLINE)
        listening.bind((there, 7000))
        with network.spaces["alice"].socket(family, socket.SOCK_DGRAM) as sender:
            sender.bind((here, 0))
            sender.sendto(b"hello", (there, 7000))
            assert listening.recv(10) == b"hello"
