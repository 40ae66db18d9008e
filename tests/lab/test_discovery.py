"""What the library's topologies promise to mDNS and to bootstrapping, judged by plain sockets and a tiny resolver."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import time
from dataclasses import dataclass

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from lab.kernel.namespace import Namespace
from lab.lab import Lab
from lab.plan.zone import NAME_SERVER
from lab.run.plugin import topology

SERVICE = "_p2p._udp.local."
MDNS, MDNS6, PORT = "224.0.0.251", "ff02::fb", 5353
HEARD_WITHIN, UNHEARD, FAST, PATIENCE = 20.0, 0.3, 1.0, 3.0
"""Seconds: for answers on a LAN to come, on a busy machine; after which no more do; within which what is plainly dead
must say so; and after which silence is silence."""


def mdns_socket(space: Namespace, *, ipv6: bool) -> socket.socket:
    """A member of mDNS's group by `eth0`, as a responder has it."""
    made = space.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    with space.entered():
        index = socket.if_nametoindex("eth0")
    if ipv6:
        member = socket.inet_pton(socket.AF_INET6, MDNS6) + struct.pack("@i", index)
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, member)
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
    else:
        member = struct.pack("@4s4si", socket.inet_aton(MDNS), bytes(4), index)
        made.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, member)
    made.bind(("", PORT))
    return made


async def discover(lab: Lab, asker: str, expected: set[str], *, ipv6: bool) -> set[str]:
    """The peers whose mDNS answers reach one that asks, each peer answering with its own address.

    Those that are expected are waited for; all others have UNHEARD seconds after them.
    """
    group = MDNS6 if ipv6 else MDNS
    sockets = {peer.name: mdns_socket(lab.network.spaces[peer.name], ipv6=ipv6) for peer in lab.all_peers}
    others = [asyncio.create_task(respond(lab, name, made, group)) for name, made in sockets.items() if name != asker]
    question = dns.message.make_query(SERVICE, dns.rdatatype.PTR, id=0, flags=0).to_wire()
    names = {peer.address: peer.name for peer in lab.all_peers}
    found: set[str] = set()
    try:
        loop = asyncio.get_running_loop()
        await loop.sock_sendto(sockets[asker], question, (group, PORT))
        async with asyncio.timeout(HEARD_WITHIN) as waiting:
            while True:
                if expected <= found:
                    waiting.reschedule(loop.time() + UNHEARD)
                message = dns.message.from_wire((await loop.sock_recvfrom(sockets[asker], 9000))[0])
                found |= {
                    names.get(text.decode().removeprefix("dnsaddr="), "nobody")
                    for rrset in message.additional
                    for record in rrset
                    for text in record.strings
                }
    except TimeoutError:
        return found - {asker}
    finally:
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for made in sockets.values():
            made.close()


async def respond(lab: Lab, name: str, made: socket.socket, group: str) -> None:
    """Answer every question with the peer's address, as libp2p's mDNS specification has it."""
    instance = f"{name}.{SERVICE}"
    answer = dns.message.Message(id=0)
    answer.flags = dns.flags.QR | dns.flags.AA
    answer.answer.append(dns.rrset.from_text(SERVICE, 120, "IN", "PTR", instance))
    answer.additional.append(dns.rrset.from_text(instance, 120, "IN", "TXT", f'"dnsaddr={lab.peer(name).address}"'))
    loop = asyncio.get_running_loop()
    while True:
        asked = dns.message.from_wire((await loop.sock_recvfrom(made, 9000))[0])
        if not asked.flags & dns.flags.QR and asked.question:
            await loop.sock_sendto(made, answer.to_wire(), (group, PORT))


@topology("mdns-two-lans")
async def test_mdns_finds_peers_on_the_reflected_lan_and_not_on_the_third(lab: Lab) -> None:
    near: dict[str, set[str]] = {
        "alice": {"ann", "bob"},
        "ann": {"alice", "bob"},
        "bob": {"alice", "ann"},
        "carol": set(),
        "chris": set(),
    }
    for ipv6 in (False, True):
        async with lab.step(f"everybody asks in turn over {'IPv6' if ipv6 else 'IPv4'}"):
            found = {name: await discover(lab, name, expected, ipv6=ipv6) for name, expected in near.items()}
        assert found == near


@topology("mdns-two-lans")
async def test_what_mdns_finds_on_the_outer_lan_can_be_dialled_from_the_inner_one(lab: Lab) -> None:
    alice, bob = lab.peers("alice", "bob")

    assert (await bob.dial(alice.address)).path == "direct"
    facts = await lab.facts()
    assert facts.direct_flow(bob, alice) is not None


@dataclass(frozen=True)
class Told:
    """What a resolver is told."""

    rcode: str
    texts: tuple[str, ...]
    seconds: float


async def resolve(lab: Lab, at: str, name: str, kind: str = "TXT") -> Told:
    """Ask the lab's name server by UDP, once; TimeoutError if it says nothing."""
    began = time.monotonic()
    loop = asyncio.get_running_loop()
    with lab.network.spaces[at].socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.setblocking(False)
        query = dns.message.make_query(name, kind, use_edns=0, payload=1232)
        await loop.sock_sendto(asking, query.to_wire(), (NAME_SERVER, 53))
        async with asyncio.timeout(PATIENCE):
            data, source = await loop.sock_recvfrom(asking, 4096)
    assert source == (NAME_SERVER, 53)
    answer = dns.message.from_wire(data)
    assert answer.id == query.id
    texts = tuple(
        record.address if kind == "A" else b"".join(record.strings).decode()
        for rrset in answer.answer
        for record in rrset
    )
    return Told(dns.rcode.to_text(answer.rcode()), texts, time.monotonic() - began)


async def try_bootstrap(lab: Lab, at: str, multiaddr: str) -> tuple[str, float]:
    """How a connection to a multiaddr fares, and after how many seconds."""
    began = time.monotonic()
    _, kind, host, _, port, *_ = multiaddr.split("/")
    if kind == "dns4":
        told = await resolve(lab, at, host, "A")
        if not told.texts:
            return told.rcode, time.monotonic() - began
        host = told.texts[0]
    with lab.network.spaces[at].socket(socket.AF_INET, socket.SOCK_STREAM) as stream:
        stream.setblocking(False)
        try:
            async with asyncio.timeout(PATIENCE):
                await asyncio.get_running_loop().sock_connect(stream, (host, int(port)))
            outcome = "connected"
        except TimeoutError:
            outcome = "silence"
        except OSError as error:
            outcome = errno.errorcode[error.errno or 0]
    return outcome, time.monotonic() - began


@topology("dead-bootstraps")
async def test_a_dnsaddr_resolves_to_what_was_declared_and_dead_bootstraps_fail_fast(lab: Lab) -> None:
    relay, sleeper = lab.peers("relay", "sleeper")
    wan = next(router.wan for router in lab.plan.routers if router.name == "away")

    told = await resolve(lab, "alice", "_dnsaddr.bootstrap.lab")
    multiaddrs = [text.removeprefix("dnsaddr=") for text in told.texts]
    assert multiaddrs[0] == f"/ip4/{wan}/tcp/4001/p2p/{sleeper.peer_id}"
    assert multiaddrs[4] == relay.address
    assert [multiaddr.split("/")[2] for multiaddr in multiaddrs[1:4]] == ["relay.lab", "11.99.0.1", "gone.lab"]

    tried = await asyncio.gather(*(try_bootstrap(lab, "alice", multiaddr) for multiaddr in multiaddrs))
    outcomes = [outcome for outcome, _ in tried]
    assert outcomes == ["silence", "ECONNREFUSED", "ENETUNREACH", "NXDOMAIN", "connected"]
    assert all(seconds < FAST for outcome, seconds in tried if outcome != "silence")


@topology("dead-bootstraps")
async def test_bootstrapping_by_a_bad_name_is_late_or_fails_as_that_name_does(lab: Lab) -> None:
    relay = lab.peer("relay")
    late, broken, poisoned, missing = await asyncio.gather(
        *(resolve(lab, "alice", f"_dnsaddr.{name}.lab") for name in ("late", "broken", "poisoned", "missing"))
    )
    assert late.texts == (f"dnsaddr={relay.address}",)
    assert late.seconds >= 1.0
    assert (broken.rcode, broken.texts) == ("SERVFAIL", ())
    assert (missing.rcode, missing.texts) == ("NXDOMAIN", ())
    lie = relay.address.replace(relay.launch.address, NAME_SERVER)
    assert poisoned.texts == (f"dnsaddr={lie}",)
    assert (await try_bootstrap(lab, "alice", lie))[0] == "ECONNREFUSED"
    try:
        silence = await resolve(lab, "alice", "_dnsaddr.mute.lab")
    except TimeoutError:
        silence = None
    assert silence is None
