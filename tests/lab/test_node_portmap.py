"""Our node asks its router for ports: real daemons, and a stranger on the internet who dials what was opened."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from lab.errors import PeerError
from lab.kernel import portmap
from lab.lab import Lab
from lab.peers.contract import Event
from lab.peers.handle import Peer
from lab.run.plugin import topology

pytestmark = pytest.mark.skipif(portmap.problem() is not None, reason=str(portmap.problem()))

WITHIN = 30.0
"Seconds for a router to be found and asked; on a quiet machine UPnP takes one, the others a few hundredths."
OF_AGE = 4
"Seconds that a router has been up before nobody can mistake its next beginning for the first (RFC 6886 §3.6)."
ASKS = ("--port-mapping", "--port-mapping-check", "1")
FINDS_OUT = (*ASKS, "--reachability", "auto")
TRIES_BRIEFLY = ("--autonat-dial-timeout", "1")


def by(*names: str) -> pytest.MarkDecorator:
    """A router that opens ports to who asks by the protocol of that name, and where it says so over QUIC."""
    every = [pytest.param(name.removesuffix("-quic"), marks=topology(f"portmap-{name}", alice=ASKS)) for name in names]
    return pytest.mark.parametrize("protocol", every, ids=names)


async def happened(peer: Peer, name: str, after: float = 0.0) -> Event:
    """The first event of that name after a moment."""
    before = sum(event.name == name and event.at <= after for event in peer.events)
    skipped = itertools.count()
    return await peer.saw(name, within=WITHIN, where=lambda **_: next(skipped) >= before)


async def dialled(lab: Lab, addr: str, after: float) -> None:
    """Have the stranger dial what was opened, and the wire say that it reached alice."""
    stranger, alice = lab.peers("stranger", "alice")
    await stranger.ask("disconnect", peer=alice.peer_id)
    assert (await stranger.dial(addr)).path == "direct"
    assert (await stranger.echo(alice)).path == "direct"
    facts = await lab.facts()
    assert facts.direct_flow(stranger, alice, after=after) is not None
    _, _, ip, _, port, *_ = addr.split("/")
    # Not the earliest flow, perhaps: what is left of a former connection may cross by whatever port the NAT gives now.
    flows = [flow for flow in facts.wire.flows_at("stranger/eth0") if flow.both_ways(after=after)]
    assert (ip, int(port)) in {(end.address, end.port) for flow in flows for end in (flow.a, flow.b)}


@by("pcp", "nat-pmp", "upnp", "pcp-quic", "nat-pmp-quic", "upnp-quic")
async def test_a_private_listener_becomes_public_until_its_node_goes(lab: Lab, protocol: str) -> None:
    late, alice = lab.peers("late", "alice")
    opened = await happened(alice, "port-mapped")
    assert (opened.fields["by"], opened.fields["public"], opened.fields["internal"]) == (protocol, True, 4001)
    (addr,) = opened.fields["addrs"]
    assert addr in (await alice.ask("info"))["addrs"]
    async with asyncio.timeout(
        WITHIN
    ):  # answers that a busy machine delays look like those of a router that begins anew
        while not (told := await alice.ask("portmap"))["mappings"]:
            await alice.ask("info")
    assert (told["router"], told["by"], told["why"]) == (lab.plan.routers[0].gateway, protocol, None)
    await dialled(lab, addr, opened.at)

    await alice.stop()
    with pytest.raises(PeerError, match="could not dial"):
        await late.dial(addr, timeout=1.0)
    came = {p.interface for p in (await lab.facts()).packets if p.src == late.launch.address}
    assert "home/wan" in came
    assert "home/lan" not in came, "the port was not given back"


@by("pcp", "nat-pmp", "upnp", "pcp-quic", "nat-pmp-quic", "upnp-quic")
async def test_leases_that_the_router_lost_are_made_anew(lab: Lab, protocol: str) -> None:
    alice = lab.peer("alice")
    opened = await happened(alice, "port-mapped")
    (addr,) = opened.fields["addrs"]

    async with lab.step("the router loses its leases while it goes on answering"):
        lost = await lab.event("home", "lose-leases")
        if protocol == "upnp":  # the one protocol that can be asked what is open
            assert (await happened(alice, "port-mapping-lost", lost.at)).fields["why"] == "the router has it no more"
            await happened(alice, "port-mapped", lost.at)
        else:
            await renewed(alice)
        await dialled(lab, addr, lost.done)
    async with lab.step("the router is restarted"):
        if protocol != "upnp":  # they tell by the router's age, to two seconds: it has to have one
            for _ in range(OF_AGE):
                await renewed(alice)
        restarted = await lab.event("home", "reboot")
        await happened(alice, "port-mapping-lost", restarted.at)
        again = await happened(alice, "port-mapped", restarted.at)
        await dialled(lab, again.fields["addrs"][0], restarted.done)
    async with lab.step("the router gets another address"):
        moved = await lab.event("home", "address 11.0.1.77")
        (other,) = (await happened(alice, "port-mapped", moved.at)).fields["addrs"]
        assert other.startswith("/ip4/11.0.1.77/")
        async with asyncio.timeout(WITHIN):  # the router may tell once more that it has begun anew
            while [each for each in (await alice.ask("info"))["addrs"] if "/11.0." in each] != [other]:
                await alice.ask("portmap")
        await dialled(lab, other, moved.done)


async def renewed(alice: Peer) -> None:
    """Ask until the lease has been asked for once more, which the node does each second: what is left of it grows."""
    before = await left(alice)
    async with asyncio.timeout(WITHIN):
        while (now := await left(alice)) <= before:
            before = now


async def left(alice: Peer) -> float:
    """Seconds for which the lease still holds; waits for one."""
    async with asyncio.timeout(WITHIN):
        while not (told := await alice.ask("portmap"))["mappings"]:
            await alice.ask("info")
    return float(told["mappings"][0]["expires"])


@topology("portmap-refuse", alice=ASKS)
async def test_a_router_that_refuses_in_all_protocols_is_told_of_with_each_refusal(lab: Lab) -> None:
    alice = lab.peer("alice")
    complaint = await alice.saw("complaint", within=WITHIN, where=lambda why="", **_: "no port mapping" in why)
    for refusal in ("PCP: NO_RESOURCES", "NAT-PMP: NETWORK_FAILURE", "UPnP: ActionFailed (501)"):
        assert refusal in complaint.fields["why"]
    told = await alice.ask("portmap")
    assert (told["mappings"], told["by"]) == ([], None)
    assert "NO_RESOURCES" in told["why"]


@topology("portmap-lie", alice=ASKS)
async def test_what_a_lying_router_grants_is_advertised_and_nobody_gets_in(lab: Lab) -> None:
    """Nothing in the protocols shows it; only somebody outside can tell, as AutoNAT does."""
    stranger, alice = lab.peers("stranger", "alice")
    (addr,) = (await happened(alice, "port-mapped")).fields["addrs"]
    with pytest.raises(PeerError, match="could not dial"):
        await stranger.dial(addr, timeout=1.0)


@topology("portmap-lie-found-out", one=TRIES_BRIEFLY, two=TRIES_BRIEFLY, alice=FINDS_OUT)
async def test_what_strangers_cannot_dial_is_withdrawn_and_tried_again_when_its_lease_is_renewed(lab: Lab) -> None:
    one, alice = lab.peers("one", "alice")
    opened = await happened(alice, "port-mapped")
    (addr,) = opened.fields["addrs"]
    public = addr.partition("/p2p/")[0]
    await one.saw("identified", within=WITHIN, where=lambda addrs=(), **_: public in addrs)

    async with lab.step("AutoNAT finds out, and peers are told"):
        lost = await happened(alice, "port-mapping-lost", opened.at)
        assert (lost.fields["addrs"], lost.fields["why"].partition(",")[0]) == ([addr], "strangers cannot dial it")
        assert addr not in (await alice.ask("info"))["addrs"]
        (mapping,) = (await alice.ask("portmap"))["mappings"]
        assert mapping["addrs"] == [], "the router says that it is open, so it is renewed"
        told = await happened(one, "identified", lost.at)
        assert public not in told.fields["addrs"]
    async with lab.step("the lease is renewed, and found to be no better"):
        again = await happened(alice, "port-mapped", lost.at)
        assert again.at - lost.at > 1
        await happened(alice, "port-mapping-lost", again.at)

    facts = await lab.facts()
    _, _, ip, _, port = public.split("/")
    servers = {lab.peer(name).launch.address for name in ("one", "two")}
    dials = [p for p in facts.packets if p.is_syn and p.src in servers and (p.dst, p.dport) == (ip, int(port))]
    at_wan = {p.at < lost.at for p in dials if p.interface == "home/wan"}
    assert at_wan == {True, False}, "it was not tested before, or not after"
    assert not [p for p in facts.packets if p.interface == "home/lan" and p.is_syn and p.src in servers]


@topology("double-nat", alice=ASKS)
async def test_without_a_router_that_maps_ports_there_is_one_line(lab: Lab) -> None:
    alice = lab.peer("alice")
    complaint = await alice.saw("complaint", within=WITHIN, where=lambda why="", **_: "no port mapping" in why)
    assert complaint.fields["why"].count("\n") == 0
    assert (await alice.ask("portmap"))["mappings"] == []
