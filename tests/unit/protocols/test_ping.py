"""Ping between two hosts, and with peers that do not play by the rules."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest

from node.errors import DeadlineExceeded, NegotiationError, RemoteProtocolError, StreamReset
from node.host import Host
from node.names.keys import PrivateKey
from node.net.connection import Stream
from node.net.stream import read_exactly
from node.protocols.ping import PROTOCOL
from tests.support.hostile import speak, stranger

Hosts = Callable[..., AbstractAsyncContextManager[tuple[Host, Host]]]


def test_a_ping_returns_a_round_trip_in_seconds(hosts: Hosts) -> None:
    async def main() -> None:
        async with hosts() as (alice, bob):
            connection = await alice.connect(bob.addrs()[0].with_peer(bob.peer_id))
            assert 0 < await alice.ping.ping(connection) < 5

    asyncio.run(main())


def test_one_stream_carries_many_pings_and_ends_with_the_initiator(hosts: Hosts) -> None:
    async def main() -> None:
        async with hosts() as (alice, bob):
            connection = await alice.connect(bob.addrs()[0].with_peer(bob.peer_id))
            stream = await connection.new_stream([PROTOCOL])
            for n in range(5):
                await stream.write(bytes([n]) * 32)
                assert await read_exactly(stream, 32) == bytes([n]) * 32
            await stream.close_write()
            assert await stream.read() == b""

    asyncio.run(main())


def test_a_ping_in_pieces_is_answered_whole(hosts: Hosts) -> None:
    async def main() -> None:
        async with hosts() as (alice, bob):
            connection = await alice.connect(bob.addrs()[0].with_peer(bob.peer_id))
            stream = await connection.new_stream([PROTOCOL])
            await stream.write(b"a" * 10)
            await stream.write(b"b" * 22)
            assert await read_exactly(stream, 32) == b"a" * 10 + b"b" * 22

    asyncio.run(main())


def test_a_peer_has_at_most_two_ping_streams(hosts: Hosts) -> None:
    async def main() -> None:
        async with hosts() as (_, bob), stranger(bob, PrivateKey.generate()) as mallory:
            for _ in range(2):
                stream = await speak(mallory, PROTOCOL)
                await stream.write(bytes(32))
                await read_exactly(stream, 32)
            third = await speak(mallory, PROTOCOL)
            with pytest.raises(StreamReset):
                await third.read()

    asyncio.run(main())


async def _liar(stream: Stream) -> None:
    await stream.write(bytes(await read_exactly(stream, 32))[::-1])


async def _sleeper(stream: Stream) -> None:
    await stream.read()
    await asyncio.Event().wait()


@pytest.mark.parametrize(("handler", "error"), [(_liar, RemoteProtocolError), (_sleeper, DeadlineExceeded)])
def test_a_wrong_or_missing_answer_is_an_error(
    hosts: Hosts, handler: Callable[[Stream], None], error: type[Exception]
) -> None:
    async def main() -> None:
        async with hosts() as (alice, bob):
            await bob.ping.close()
            bob.handle(PROTOCOL, handler)  # type: ignore[arg-type]
            connection = await alice.connect(bob.addrs()[0].with_peer(bob.peer_id))
            with pytest.raises(error):
                await alice.ping.ping(connection, timeout=0.3 if error is DeadlineExceeded else 30)

    asyncio.run(main())


def test_a_peer_without_ping_says_so(hosts: Hosts) -> None:
    async def main() -> None:
        async with hosts() as (alice, bob):
            await bob.ping.close()
            connection = await alice.connect(bob.addrs()[0].with_peer(bob.peer_id))
            with pytest.raises(NegotiationError):
                await alice.ping.ping(connection)
            assert 0 < await connection.ping() < 5

    asyncio.run(main())
