"""Identify between real hosts, and with peers that lie about who they are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from node.events import Identified, Path
from node.host import AGENT, Host
from node.names.envelope import open_peer_record, seal_peer_record
from node.names.keys import PrivateKey
from node.names.multiaddr import Multiaddr
from node.net.connection import Connection, Stream
from node.net.stream import read_frame
from node.net.tcp import TcpTransport
from node.protocols.identify import TIMEOUT, Identify
from node.wire.framing import encode_frame
from node.wire.identify import MAX_SENT, PROTOCOL, PUSH_PROTOCOL
from node.wire.identify import Identify as Message

Hosts = Callable[..., AbstractAsyncContextManager[tuple[Host, Host]]]
ELSEWHERE = Multiaddr("/ip4/127.0.0.1/tcp/9")
MALLORY = PrivateKey.generate()


async def meet(alice: Host, bob: Host) -> Connection:
    connection = await alice.connect(bob.addrs()[0].with_peer(bob.peer_id))
    await alice.identified(connection)
    return connection


async def nothing(stream: Stream) -> None:
    """A handler."""


async def answer_with(bob: Host, *messages: bytes) -> None:
    """Let bob answer identify with these frames instead of his own."""

    async def serve(stream: Stream) -> None:
        for message in messages:
            await stream.write(message)

    bob.unhandle(PROTOCOL)
    bob.handle(PROTOCOL, serve, limited=True)


def test_both_sides_learn_who_the_other_is(hosts: Hosts, watch: Any) -> None:
    async def main() -> None:
        async with hosts() as (alice, bob):
            of_alice, of_bob = watch(alice), watch(bob)
            connection = await meet(alice, bob)
            there = await of_alice.saw(Identified)
            here = await of_bob.saw(Identified)
            assert (there.peer, there.agent, there.path) == (bob.peer_id, AGENT, Path.DIRECT)
            assert list(there.protocols) == sorted(bob.protocols())
            assert there.addrs == tuple(bob.addrs())
            assert there.observed == connection.local
            assert here.peer == alice.peer_id
            assert alice.protocols_of(bob.peer_id) == set(bob.protocols())

    asyncio.run(main())


def test_signed_addresses_are_believed_for_an_hour_and_claimed_ones_for_two_minutes(hosts: Hosts) -> None:
    async def main() -> None:
        async with hosts() as (alice, bob):
            signed = seal_peer_record(bob.key, 1, [ELSEWHERE])
            await answer_with(bob, encode_frame(Message(signed_peer_record=signed).to_bytes()))
            await meet(alice, bob)
            now = alice.now()
            assert ELSEWHERE in alice.addressbook.addrs(bob.peer_id, now + 3000)
        async with hosts() as (alice, bob):
            await answer_with(bob, encode_frame(Message(listen_addrs=(ELSEWHERE,)).to_bytes()))
            await meet(alice, bob)
            now = alice.now()
            assert ELSEWHERE in alice.addressbook.addrs(bob.peer_id, now)
            assert ELSEWHERE not in alice.addressbook.addrs(bob.peer_id, now + 121)

    asyncio.run(main())


def test_a_record_that_somebody_else_signed_is_not_believed(hosts: Hosts) -> None:
    async def main() -> None:
        async with hosts() as (alice, bob):
            stolen = seal_peer_record(MALLORY, 1, [ELSEWHERE])
            await answer_with(bob, encode_frame(Message(signed_peer_record=stolen).to_bytes()))
            await meet(alice, bob)
            assert ELSEWHERE not in alice.addressbook.addrs(bob.peer_id, alice.now())
            assert alice.addressbook.addrs(MALLORY.peer_id(), alice.now()) == []

    asyncio.run(main())


def test_a_message_with_somebody_elses_key_is_ignored(hosts: Hosts) -> None:
    async def main() -> None:
        async with hosts() as (alice, bob):
            lie = Message(public_key=MALLORY.public, protocols=("/lie",), listen_addrs=(ELSEWHERE,))
            await answer_with(bob, encode_frame(lie.to_bytes()))
            await meet(alice, bob)
            assert alice.protocols_of(bob.peer_id) == set()
            assert ELSEWHERE not in alice.addressbook.addrs(bob.peer_id, alice.now())

    asyncio.run(main())


def test_a_message_in_several_parts_is_merged(hosts: Hosts) -> None:
    async def main() -> None:
        async with hosts() as (alice, bob):
            parts = [Message(protocols=("/a",), agent_version="one"), Message(protocols=("/b",), agent_version="two")]
            await answer_with(bob, *(encode_frame(part.to_bytes()) for part in parts))
            await meet(alice, bob)
            assert alice.protocols_of(bob.peer_id) == {"/a", "/b"}
            assert alice.addressbook.agent(bob.peer_id) == "two"

    asyncio.run(main())


@pytest.mark.parametrize(
    "nonsense", [b"", b"\x05", b"\xff" * 20, encode_frame(b"\xff\xff"), encode_frame(Message().to_bytes()) * 11]
)
def test_nonsense_leaves_the_connection_unidentified_and_usable(hosts: Hosts, nonsense: bytes) -> None:
    async def main() -> None:
        async with hosts() as (alice, bob):
            await answer_with(bob, nonsense)
            connection = await meet(alice, bob)
            assert alice.protocols_of(bob.peer_id) == set()
            assert await alice.ping.ping(connection) > 0

    asyncio.run(main())


def test_a_peer_without_identify_is_waited_for_no_longer_than_it_takes_to_know(hosts: Hosts) -> None:
    async def main() -> None:
        async with hosts() as (alice, bob):
            bob.unhandle(PROTOCOL)
            await asyncio.wait_for(meet(alice, bob), TIMEOUT * 0.9)

    asyncio.run(main())


def test_waiting_for_identify_ends_with_its_time(hosts: Hosts) -> None:
    async def silent(stream: Stream) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        async with hosts() as (alice, bob):
            bob.unhandle(PROTOCOL)
            bob.handle(PROTOCOL, silent)
            connection = await alice.connect(bob.addrs()[0].with_peer(bob.peer_id))
            await asyncio.wait_for(alice.identified(connection, timeout=0.05), TIMEOUT * 0.9)

    asyncio.run(main())


def test_a_new_protocol_and_a_new_address_are_pushed(hosts: Hosts, watch: Any) -> None:
    async def main() -> None:
        async with hosts() as (alice, bob):
            of_alice = watch(alice)
            await meet(alice, bob)
            bob.handle("/new/1.0.0", nothing)
            await of_alice.saw(Identified, lambda event: "/new/1.0.0" in event.protocols)
            bob.add_advertised(ELSEWHERE)
            await of_alice.saw(Identified, lambda event: ELSEWHERE in event.addrs)
            of_alice.events.clear()
            bob.remove_advertised(ELSEWHERE)
            await of_alice.saw(Identified, lambda event: ELSEWHERE not in event.addrs)
            bob.unhandle("/new/1.0.0")

    asyncio.run(main())


def test_what_changes_before_the_peer_asked_is_not_pushed_on_top(hosts: Hosts, watch: Any) -> None:
    async def main() -> None:
        async with hosts() as (alice, bob):
            bob.handle("/new/1.0.0", nothing)
            of_alice = watch(alice)
            connection = await meet(alice, bob)
            await alice.ping.ping(connection)
            assert len([event for event in of_alice.events if isinstance(event, Identified)]) == 1

    asyncio.run(main())


def test_a_push_with_only_protocols_leaves_the_agent_as_it_was(hosts: Hosts, watch: Any) -> None:
    async def main() -> None:
        async with hosts() as (alice, bob):
            of_alice = watch(alice)
            await meet(alice, bob)
            stream = await bob.new_stream(alice.peer_id, [PUSH_PROTOCOL])
            await stream.write(encode_frame(Message(protocols=("/only",)).to_bytes()))
            await stream.close()
            event = await of_alice.saw(Identified, lambda event: event.protocols == ("/only",))
            assert event.agent == AGENT

    asyncio.run(main())


def test_the_sequence_number_of_our_record_grows_with_every_change_and_only_then(hosts: Hosts) -> None:
    async def main() -> None:
        async with hosts() as (alice, bob):
            clock = iter([100, 100, 50, 1000])
            identify = Identify(alice, "test", lambda: next(clock))
            addrs: list[tuple[Multiaddr, ...]] = [(), (ELSEWHERE,), (ELSEWHERE,), (), (ELSEWHERE,)]
            records = [open_peer_record(identify._record.sealed(each)) for each in addrs]
            assert [record.seq for record in records] == [100, 101, 101, 102, 1000]
            assert {record.peer_id for record in records} == {alice.peer_id}
            assert bob.peer_id != alice.peer_id

    asyncio.run(main())


def test_our_message_fits_what_every_implementation_reads(hosts: Hosts) -> None:
    async def main() -> None:
        async with hosts() as (alice, bob):
            for n in range(60):
                relay = PrivateKey.generate().peer_id()
                alice.add_advertised(Multiaddr(f"/ip6/2001:4860::{n + 1}/tcp/4001/p2p/{relay}/p2p-circuit"))
            for n in range(40):
                alice.handle(f"/a-protocol-with-a-long-name/{n}.0.0", nothing)
            message = await ask(alice, bob, Path.DIRECT)
            assert message.listen_addrs
            assert list(message.protocols) == alice.protocols()
            for n in range(40):
                alice.unhandle(f"/a-protocol-with-a-long-name/{n}.0.0")

    asyncio.run(main())


@pytest.mark.parametrize("path", list(Path))
def test_only_on_a_direct_connection_we_tell_the_peer_where_we_see_it(hosts: Hosts, path: Path) -> None:
    async def main() -> None:
        async with hosts() as (alice, bob):
            message = await ask(alice, bob, path)
            assert (message.observed_addr is not None) is (path is Path.DIRECT)

    asyncio.run(main())


async def ask(alice: Host, bob: Host, path: Path) -> Message:
    """What alice, who takes her connection for one of this path, tells bob."""
    raw = await TcpTransport().dial(bob.addrs()[0])
    connection = await alice.swarm.add_outbound(raw, expected=bob.peer_id, path=path)
    await alice.identified(connection)
    stream = await bob.new_stream(alice.peer_id, [PROTOCOL])
    return Message.from_bytes(await read_frame(stream, MAX_SENT))
