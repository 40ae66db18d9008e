"""Connections between real hosts: streams, their protocols, and how many of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest

from node.errors import (
    ConnectionClosed,
    DeadlineExceeded,
    LimitExceeded,
    NegotiationError,
    RemoteProtocolError,
    StreamReset,
)
from node.events import Direction, Path
from node.host import Host
from node.net import machine
from node.net.connection import Connection, Stream
from node.net.tcp import TcpTransport

Hosts = Callable[..., AbstractAsyncContextManager[tuple[Host, Host]]]


async def meet(alice: Host, bob: Host) -> Connection:
    return await alice.connect(bob.addrs()[0].with_peer(bob.peer_id))


async def meet_limited(alice: Host, bob: Host) -> Connection:
    raw = await TcpTransport().dial(bob.addrs()[0])
    return await alice.swarm.add_outbound(raw, expected=bob.peer_id, path=Path.RELAYED, limited=True)


async def greet(stream: Stream) -> None:
    await stream.write(stream.protocol.encode())


def test_the_first_protocol_that_the_peer_supports_is_agreed_on(hosts: Hosts) -> None:
    async def main() -> None:
        async with hosts() as (alice, bob):
            bob.handle("/b", greet)
            bob.handle("/c", greet)
            connection = await meet(alice, bob)
            stream = await connection.new_stream(["/a", "/b", "/c"])
            assert (stream.protocol, await stream.read()) == ("/b", b"/b")
            assert (stream.peer, stream.direction) == (bob.peer_id, Direction.OUTBOUND)

    asyncio.run(main())


def test_no_protocol_in_common_is_an_error_and_the_connection_lives_on(hosts: Hosts) -> None:
    async def main() -> None:
        async with hosts() as (alice, bob):
            connection = await meet(alice, bob)
            with pytest.raises(NegotiationError):
                await connection.new_stream(["/a", "/b"])
            assert await alice.ping.ping(connection) > 0

    asyncio.run(main())


def test_a_lazy_stream_sends_its_proposal_with_the_data_and_hears_of_a_refusal_when_it_reads(hosts: Hosts) -> None:
    async def main() -> None:
        async with hosts() as (alice, bob):
            connection = await meet(alice, bob)
            stream = await connection.new_stream(["/echo/1.0.0"], lazy=True)
            await stream.write(b"hello")
            assert await stream.read() == b"hello"
            refused = await connection.new_stream(["/nobody"], lazy=True)
            await refused.write(b"hello")
            with pytest.raises(NegotiationError):
                await refused.read()

    asyncio.run(main())


def test_ls_tells_what_the_peer_serves(hosts: Hosts) -> None:
    async def main() -> None:
        async with hosts() as (alice, bob):
            connection = await meet(alice, bob)
            assert list(await connection.list_protocols()) == bob.protocols()

    asyncio.run(main())


def test_a_limited_connection_carries_only_protocols_that_opted_in_on_both_sides(hosts: Hosts) -> None:
    async def main() -> None:
        async with hosts() as (alice, bob):
            bob.handle("/free", greet)
            bob.handle("/allowed", greet, limited=True)
            raw_limited = asyncio.Event()
            bob.swarm.on_connected(lambda _: raw_limited.set())
            connection = await meet_limited(alice, bob)
            with pytest.raises(LimitExceeded, match="/free needs another"):
                await connection.new_stream(["/free"])
            assert await (await connection.new_stream(["/allowed"], limited=True)).read() == b"/allowed"
            await raw_limited.wait()
            (theirs,) = bob.swarm.connections(alice.peer_id)
            theirs.limited = True
            with pytest.raises(NegotiationError):
                await connection.new_stream(["/free"], limited=True)
            assert "/free" not in await connection.list_protocols()

    asyncio.run(main())


def test_a_handler_that_returns_ends_its_stream_and_one_that_fails_resets_it(
    hosts: Hosts, caplog: pytest.LogCaptureFixture
) -> None:
    async def breaks(stream: Stream) -> None:
        raise RemoteProtocolError("nonsense")

    async def has_a_bug(stream: Stream) -> None:
        raise KeyError("bug")

    async def main() -> None:
        async with hosts() as (alice, bob):
            bob.handle("/greets", greet)
            bob.handle("/breaks", breaks)
            bob.handle("/has-a-bug", has_a_bug)
            connection = await meet(alice, bob)
            stream = await connection.new_stream(["/greets"])
            assert [await stream.read(), await stream.read()] == [b"/greets", b""]
            for protocol in ("/breaks", "/has-a-bug"):
                with pytest.raises(StreamReset):
                    await (await connection.new_stream([protocol])).read()
            assert await alice.ping.ping(connection) > 0

    with caplog.at_level(logging.ERROR):
        asyncio.run(main())
    assert ["KeyError('bug')" in record.getMessage() for record in caplog.records] == [True]


def test_a_peer_has_a_bounded_number_of_streams_of_a_protocol(hosts: Hosts) -> None:
    async def waits(stream: Stream) -> None:
        await stream.write(b"here")
        await stream.read()

    async def main() -> None:
        async with hosts() as (alice, bob):
            bob.handle("/waits", waits)
            connection = await meet(alice, bob)
            streams = [
                await connection.new_stream(["/waits"]) for _ in range(machine.limits().protocol_peer.streams_in)
            ]
            for stream in streams:
                assert await stream.read() == b"here"
            with pytest.raises(StreamReset):
                await (await connection.new_stream(["/waits"])).read()
            await streams[0].close_write()
            assert await streams[0].read() == b""
            assert await (await connection.new_stream(["/waits"])).read() == b"here"

    asyncio.run(main())


def test_a_stream_that_never_agrees_on_a_protocol_is_reset_at_its_deadline(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.net.connection.NEGOTIATION_TIMEOUT", 0.1)

    async def main() -> None:
        async with hosts() as (alice, bob):
            connection = await meet(alice, bob)
            raw = await connection._muxed.open_stream()
            await raw.write(b"\x13/multi")
            with pytest.raises(StreamReset):
                await raw.read()

    asyncio.run(main())


def test_a_peer_that_does_not_answer_a_proposal_costs_no_more_than_the_deadline(hosts: Hosts) -> None:
    async def main() -> None:
        async with hosts() as (alice, bob):
            connection = await meet(alice, bob)
            await alice.identified(connection)
            (theirs,) = bob.swarm.connections(alice.peer_id)
            theirs._accept = lambda raw: None  # type: ignore[method-assign]
            theirs._muxed._on_stream = lambda raw: None  # type: ignore[attr-defined]
            with pytest.raises(DeadlineExceeded, match="/echo"):
                await connection.new_stream(["/echo/1.0.0"], timeout=0.1)

    asyncio.run(main())


def test_streams_end_with_their_connection(hosts: Hosts) -> None:
    async def main() -> None:
        async with hosts() as (alice, bob):
            connection = await meet(alice, bob)
            stream = await connection.new_stream(["/echo/1.0.0"])
            await connection.close("enough")
            assert connection.is_closed
            with pytest.raises(ConnectionClosed):
                await stream.read()
            with pytest.raises(ConnectionClosed, match="enough"):
                await connection.new_stream(["/echo/1.0.0"])

    asyncio.run(main())


def test_a_connection_says_what_it_is(hosts: Hosts) -> None:
    async def main() -> None:
        async with hosts() as (alice, bob):
            connection = await meet(alice, bob)
            assert repr(connection) == f"<Connection outbound {bob.peer_id} {bob.addrs()[0]} direct>"
            await connection.close("enough")
            assert repr(connection).endswith("closed: enough>")

    asyncio.run(main())
