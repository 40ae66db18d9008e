"""Our node's mDNS: who finds whom on which LAN, by whatever means, judged by the packets."""

from __future__ import annotations

import asyncio
import math
import os
import socket
import time
from pathlib import Path

import dns.flags
import dns.message
import dns.rdatatype
import dns.rrset
import pytest

from lab.errors import PeerError
from lab.lab import Lab
from lab.observe.facts import Facts
from lab.observe.packets import Packet
from lab.peers.handle import Peer
from lab.run.plugin import topology
from node.names.peerid import PeerId
from tests.lab.test_discovery import MDNS, PORT, SERVICE, mdns_socket

ON = ("--mdns",)
SOON = 2.0
"Seconds in which peers on one LAN have to find each other; they need a few hundredths."
STRANGER = b"\x00\x24\x08\x01\x12\x20" + bytes(32)
BOUND, INTERVAL = 64, 10.0
"Strangers that a node takes up in so many seconds."


async def finds(one: Peer, other: Peer) -> float:
    """Seconds from the moment when both were ready until one had heard of the other."""
    ready = [event.at for peer in (one, other) for event in peer.events if event.name == "ready"]
    found = await one.saw("discovered", within=15, where=lambda peer="", **_: peer == other.peer_id)
    return found.at - max(ready)


@topology("mdns-two-lans", alice=ON, ann=ON, bob=ON, carol=ON, chris=ON)
async def test_nodes_find_each_other_on_one_lan_and_through_a_reflector_and_nowhere_else(lab: Lab) -> None:
    alice, ann, bob, carol, chris = lab.peers("alice", "ann", "bob", "carol", "chris")
    near = (alice, ann, bob)
    for one in near:
        for other in near:
            if one is not other:
                assert await finds(one, other) < SOON
    await bob.saw("connected", within=15, where=lambda peer="", **_: peer == alice.peer_id)
    assert (await bob.echo(alice)).path == "direct"

    facts = await lab.facts()
    assert facts.direct_flow(bob, alice) is not None
    for lonely in (carol, chris):
        assert not [event for event in lonely.events if event.name in ("discovered", "connected")]
    told = {
        peer.name for peer in lab.all_peers if any(event.fields.get("peer") == carol.peer_id for event in peer.events)
    }
    assert told == {"carol"}, "carol says only that she is ready"
    asked = [
        p
        for p in facts.packets
        if p.interface.startswith("carol/") and p.dport == PORT and p.src == carol.launch.address
    ]
    assert asked, "carol asked nobody: that nobody answered says nothing"


@topology("several-lans", alice=ON, bob=ON)
async def test_a_node_that_comes_to_another_lan_finds_who_is_there(lab: Lab) -> None:
    alice, bob = lab.peers("alice", "bob")
    with pytest.raises(PeerError, match="said no such discovered"):
        await alice.saw("discovered", within=0.5)

    moved = await lab.event(alice, "move house")
    found = await alice.saw("discovered", within=15, where=lambda peer="", **_: peer == bob.peer_id)
    assert found.at > moved.at
    heard = await bob.saw("discovered", within=15, where=lambda peer="", **_: peer == alice.peer_id)
    assert heard.fields["addrs"] == [alice.address]
    await bob.saw("connected", within=15, where=lambda peer="", **_: peer == alice.peer_id)
    assert (await bob.echo(alice)).path == "direct"
    assert (await lab.facts()).direct_flow(alice, bob, after=moved.done) is not None


@topology("same-lan", alice=("--mdns", "--no-mdns-dial"))
async def test_a_peer_that_tells_its_name_alone_is_asked_for_its_addresses(lab: Lab) -> None:
    """As implementations do whose library sends no additional records, nor SRV and address records ever."""
    alice, bob = lab.peers("alice", "bob")
    group = mdns_socket(lab.network.spaces["bob"], ipv6=False)
    name = f"0123456789abcdef0123456789abcdef.{SERVICE}"
    loop = asyncio.get_running_loop()

    async def answer() -> None:
        while True:
            message = (await loop.sock_recvfrom(group, 9000))[0]
            if message[2] & 0x80:  # an answer, whose compressed SRV record (RFC 6762 §18.14) dnspython would refuse
                continue
            for question in dns.message.from_wire(message).question:
                if question.rdtype == dns.rdatatype.PTR:
                    await say(group, dns.rrset.from_text(SERVICE, 120, "IN", "PTR", name))
                elif question.rdtype == dns.rdatatype.TXT:
                    await say(group, dns.rrset.from_text(name, 120, "IN", "TXT", f'"dnsaddr={bob.address}"'))

    answering = asyncio.create_task(answer())
    try:
        found = await alice.saw("discovered", within=15)
    finally:
        answering.cancel()
        await asyncio.gather(answering, return_exceptions=True)
        group.close()
    assert found.fields == {"peer": bob.peer_id, "addrs": [bob.address], "by": "mdns"}
    assert not (await alice.ask("connections"))["connections"], "told not to dial"


@topology("same-lan", alice=("--mdns", "--no-mdns-dial"))
async def test_a_peer_whose_name_is_not_within_the_service_is_found_by_who_says_that_it_is_one(lab: Lab) -> None:
    """As rust-libp2p's names are; a TXT record that nothing points to is of some other service."""
    alice, bob = lab.peers("alice", "bob")
    group = mdns_socket(lab.network.spaces["bob"], ipv6=False)
    text = f'"dnsaddr={bob.address}"'
    strangers = dns.rrset.from_text("stranger.", 120, "IN", "TXT", text.replace(bob.peer_id, str(PeerId(STRANGER))))
    await say(group, strangers)
    name = "GZ54abcdefabcdefabcdefabcdef."
    await say(
        group, dns.rrset.from_text(SERVICE, 120, "IN", "PTR", name), dns.rrset.from_text(name, 120, "IN", "TXT", text)
    )
    found = await alice.saw("discovered", within=15)
    group.close()
    assert found.fields == {"peer": bob.peer_id, "addrs": [bob.address], "by": "mdns"}


@topology("same-lan", alice=ON)
async def test_a_flood_of_announcements_is_taken_up_in_part_and_honest_peers_are_served_meanwhile(lab: Lab) -> None:
    alice, bob = lab.peers("alice", "bob")
    before = resident(alice)
    group = mdns_socket(lab.network.spaces["bob"], ipv6=False)
    nobody = alice.address.rpartition("/p2p/")[0]
    began = time.time()
    for n in range(3000):
        name = f"{os.urandom(16).hex()}.{SERVICE}"
        stranger = PeerId(b"\x00\x24\x08\x01\x12\x20" + os.urandom(32))
        text = f'"dnsaddr={nobody}/p2p/{stranger}" "dnsaddr=/nonsense" "junk"'
        await say(group, dns.rrset.from_text(name, 4500, "IN", "TXT", text))
        await asyncio.get_running_loop().sock_sendto(group, os.urandom(n % 1400), (MDNS, PORT))
        if n % 500 == 0:
            await bob.dial(alice.address)
            assert (await bob.echo(alice)).path == "direct"
    group.close()
    assert (await bob.echo(alice)).path == "direct"
    intervals = math.ceil((time.time() - began) / INTERVAL) + 1
    assert len([event for event in alice.events if event.name == "discovered"]) <= intervals * BOUND < 3000
    assert resident(alice) - before < 64 * 1024 * 1024


async def say(group: socket.socket, *records: dns.rrset.RRset) -> None:
    """Multicast an answer."""
    message = dns.message.Message(id=0)
    message.flags = dns.flags.QR | dns.flags.AA
    message.answer.extend(records)
    await asyncio.get_running_loop().sock_sendto(group, message.to_wire(), (MDNS, PORT))


def resident(peer: Peer) -> int:
    """Bytes of memory that a peer's process has."""
    return int(Path(f"/proc/{peer.pid}/statm").read_text().split()[1]) * 4096


@topology("same-nat-hairpin", alice=ON, bob=ON)
async def test_neighbours_behind_a_hairpinning_nat_keep_to_their_lan_whichever_path_came_first(lab: Lab) -> None:
    relay, alice, bob = lab.peers("relay", "alice", "bob")
    await alice.saw("connected", within=15, where=lambda peer="", **_: peer == bob.peer_id)
    async with lab.step("dialled through the relay they are there already"):
        await bob.reserve(relay)
        assert (await alice.dial(bob.through(relay))).path == "direct"
        assert is_on_lan((await alice.echo(bob)).remote)
    assert not hairpinned(lab, await lab.facts())

    async with lab.step("parted, they meet through the relay, punch, and come back to their LAN"):
        await alice.ask("disconnect", peer=bob.peer_id)
        await alice.dial(bob.through(relay))
        async with asyncio.timeout(15):
            while not is_on_lan((await alice.echo(bob, 1)).remote):
                await alice.ping(relay)
    began = time.time()
    assert is_on_lan((await alice.echo(bob)).remote)
    assert is_on_lan((await bob.echo(alice)).remote)
    large = [p for p in hairpinned(lab, await lab.facts()) if p.at > began and p.payload > 1000]
    assert not large, "their bytes went to the router and back"


def is_on_lan(addr: str) -> bool:
    return addr.startswith("/ip4/192.168.") and "p2p-circuit" not in addr


def hairpinned(lab: Lab, facts: Facts) -> list[Packet]:
    """What hosts of the LAN sent to their router's outside."""
    return [p for p in facts.packets if p.interface == "home/lan" and p.dst == lab.plan.routers[0].wan]
