"""What every muxed connection must do, whichever muxer and whatever carries it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from node.errors import ConnectionClosed, LocalProtocolError, StreamClosed, StreamReset
from node.net.stream import read_exactly
from node.net.upgrade import UpgradeConfig
from node.wire import mplex
from node.wire.mplex import MplexConfig
from tests.support.connections import End, connected, read_all, stream_pair

OVER_MPLEX = "mplex over "
WITH_WINDOWS = ["tcp", "circuit", "quic"]
every = pytest.mark.parametrize("carrier", [*WITH_WINDOWS, f"{OVER_MPLEX}tcp", f"{OVER_MPLEX}circuit"])
with_windows = pytest.mark.parametrize("carrier", WITH_WINDOWS)

Scenario = Callable[[End, End], Awaitable[None]]


def run(carrier: str, scenario: Scenario, mplex_config: MplexConfig | None = None) -> None:
    config = UpgradeConfig()
    if carrier.startswith(OVER_MPLEX):
        config = UpgradeConfig(muxers=(mplex.PROTOCOL,), mplex=mplex_config or MplexConfig())

    async def main() -> None:
        async with connected(carrier.removeprefix(OVER_MPLEX), config) as (alice, bob):
            await scenario(alice, bob)

    asyncio.run(main())


async def settle(alice: End, bob: End) -> None:
    """Until all that was sent before has arrived on both sides."""
    if alice.muxed.muxer != mplex.PROTOCOL:
        await alice.muxed.ping()
        return
    for one, other in ((alice, bob), (bob, alice)):
        ours = await one.muxed.open_stream()
        await ours.write(b"?")
        theirs = await other.incoming.get()
        assert await theirs.read() == b"?"
        theirs.reset()
        with pytest.raises(StreamReset):
            await ours.read()


@every
def test_bytes_arrive_in_order_in_both_directions_at_once(carrier: str) -> None:
    payload = random.Random(1).randbytes(3_000_001)

    async def scenario(alice: End, bob: End) -> None:
        ours, theirs = await stream_pair(alice, bob)

        async def send(stream: object) -> None:
            assert stream in (ours, theirs)
            end = ours if stream is ours else theirs
            for offset in range(0, len(payload), 100_003):
                await end.write(payload[offset : offset + 100_003])
            await end.close_write()

        *_, at_alice, at_bob = await asyncio.gather(send(ours), send(theirs), read_all(ours), read_all(theirs))
        assert at_alice == payload
        assert at_bob == payload

    run(carrier, scenario)


@every
def test_a_stream_half_closed_still_carries_the_other_direction(carrier: str) -> None:
    async def scenario(alice: End, bob: End) -> None:
        ours, theirs = await stream_pair(alice, bob)
        await ours.write(b"question")
        await ours.close_write()
        assert await read_all(theirs) == b"question"
        await theirs.write(b"answer")
        await theirs.close_write()
        assert await read_all(ours) == b"answer"
        with pytest.raises(StreamClosed):
            await ours.write(b"more")

    run(carrier, scenario)


@every
def test_a_reset_reaches_readers_and_writers_of_the_other_side(carrier: str) -> None:
    async def scenario(alice: End, bob: End) -> None:
        ours, theirs = await stream_pair(alice, bob)
        reading = asyncio.create_task(theirs.read())
        ours.reset()
        with pytest.raises(StreamReset, match="by the peer"):
            await reading
        with pytest.raises(StreamReset):
            await theirs.write(b"x")
        with pytest.raises(StreamReset, match="by us"):
            await ours.read()

    run(carrier, scenario)


@with_windows
def test_a_writer_waits_for_a_reader_that_does_not_read(carrier: str) -> None:
    async def scenario(alice: End, bob: End) -> None:
        ours, theirs = await stream_pair(alice, bob)
        size = 4 * 1024 * 1024
        writing = asyncio.create_task(ours.write(bytes(size)))
        await asyncio.wait({writing}, timeout=0.1)
        assert not writing.done()
        assert len(await read_exactly(theirs, size)) == size
        await writing

    run(carrier, scenario)


@with_windows
def test_a_stream_nobody_reads_does_not_hold_up_the_others(carrier: str) -> None:
    async def scenario(alice: End, bob: End) -> None:
        stuck, _ = await stream_pair(alice, bob)
        writing = asyncio.create_task(stuck.write(bytes(4 * 1024 * 1024)))
        ours, theirs = await stream_pair(alice, bob)
        for _ in range(20):
            await ours.write(bytes(50_000))
            await read_exactly(theirs, 50_000)
        assert not writing.done()
        stuck.reset()
        with pytest.raises(StreamReset):
            await writing

    run(carrier, scenario)


@every
def test_many_streams_share_the_connection(carrier: str) -> None:
    count, size = 60, 40_000

    async def scenario(alice: End, bob: End) -> None:
        async def echo() -> None:
            stream = await bob.incoming.get()
            await stream.write(await read_all(stream))
            await stream.close()

        async def ask(number: int) -> bytes:
            stream = await alice.muxed.open_stream()
            await stream.write(bytes([number]) * size)
            await stream.close_write()
            return await read_all(stream)

        answers, _ = await asyncio.gather(
            asyncio.gather(*(ask(n) for n in range(count))), asyncio.gather(*(echo() for _ in range(count)))
        )
        assert answers == [bytes([n]) * size for n in range(count)]
        await settle(alice, bob)
        assert alice.muxed.streams == bob.muxed.streams == 0

    run(carrier, scenario)


@every
def test_both_sides_may_open_streams(carrier: str) -> None:
    async def scenario(alice: End, bob: End) -> None:
        for opener, acceptor in ((alice, bob), (bob, alice)):
            ours, theirs = await stream_pair(opener, acceptor)
            assert ours.id == theirs.id
            await ours.write(b"hello")
            assert await theirs.read() == b"hello"

    run(carrier, scenario)


@every
def test_a_closed_stream_refuses_what_the_peer_still_sends(carrier: str) -> None:
    async def scenario(alice: End, bob: End) -> None:
        ours, theirs = await stream_pair(alice, bob)
        await ours.write(b"all I wanted")
        await ours.close()
        assert await read_all(theirs) == b"all I wanted"

        async def go_on() -> None:
            await theirs.write(b"unwanted")  # which QUIC refuses at once, and yamux once it came
            await settle(alice, bob)
            await theirs.write(b"more")

        with pytest.raises(StreamReset):
            await go_on()

    run(carrier, scenario)


@with_windows
def test_a_writer_blocked_by_the_window_learns_that_the_reader_has_closed(carrier: str) -> None:
    async def scenario(alice: End, bob: End) -> None:
        ours, theirs = await stream_pair(alice, bob)
        writing = asyncio.create_task(ours.write(bytes(1 << 20)))
        await read_exactly(theirs, 1)
        await theirs.close()
        with pytest.raises(StreamReset):
            await writing

    run(carrier, scenario)


@every
def test_a_cancelled_read_loses_nothing(carrier: str) -> None:
    async def scenario(alice: End, bob: End) -> None:
        ours, theirs = await stream_pair(alice, bob)
        reading = asyncio.create_task(theirs.read())
        await settle(alice, bob)
        reading.cancel()
        await asyncio.wait({reading})
        await ours.write(b"kept")
        assert await theirs.read() == b"kept"

    run(carrier, scenario)


@with_windows
def test_a_cancelled_write_resets_its_stream(carrier: str) -> None:
    async def scenario(alice: End, bob: End) -> None:
        ours, theirs = await stream_pair(alice, bob)
        writing = asyncio.create_task(ours.write(bytes(1 << 20)))
        await alice.muxed.ping()
        writing.cancel()
        await asyncio.wait({writing})
        with pytest.raises(StreamReset):
            await read_all(theirs)
        assert (await stream_pair(alice, bob))[1].id != theirs.id

    run(carrier, scenario)


@every
def test_a_second_reader_is_our_own_mistake(carrier: str) -> None:
    async def scenario(alice: End, bob: End) -> None:
        ours, theirs = await stream_pair(alice, bob)
        reading = asyncio.create_task(theirs.read())
        await settle(alice, bob)
        with pytest.raises(LocalProtocolError, match="two readers"):
            await theirs.read()
        await ours.write(b"for the first")
        assert await reading == b"for the first"

    run(carrier, scenario)


@every
def test_what_was_read_too_far_is_read_again(carrier: str) -> None:
    async def scenario(alice: End, bob: End) -> None:
        ours, theirs = await stream_pair(alice, bob)
        await ours.write(b"header|body")
        assert await read_exactly(theirs, 11) == b"header|body"
        theirs.unread(b"body")
        assert await theirs.read(2) == b"bo"
        await ours.close_write()
        assert await read_all(theirs) == b"dy"

    run(carrier, scenario)


@with_windows
def test_closing_ends_both_sides_cleanly_and_their_streams_with_an_error(carrier: str) -> None:
    async def scenario(alice: End, bob: End) -> None:
        ours, theirs = await stream_pair(alice, bob)
        await ours.write(b"last words")
        reading = asyncio.create_task(ours.read())
        await alice.muxed.close()
        assert await alice.closed is None
        assert await bob.closed is None
        with pytest.raises(ConnectionClosed):
            await reading
        assert await theirs.read() == b"last words"
        with pytest.raises(ConnectionClosed):
            await theirs.read()
        for end in (alice, bob):
            assert end.muxed.is_closed
            with pytest.raises(ConnectionClosed):
                await end.muxed.open_stream()
            with pytest.raises(ConnectionClosed):
                await end.muxed.ping()

    run(carrier, scenario)


@every
def test_a_connection_that_breaks_is_reported_with_an_error(carrier: str) -> None:
    async def scenario(alice: End, bob: End) -> None:
        _, theirs = await stream_pair(alice, bob)
        alice.muxed.abort()
        assert isinstance(await bob.closed, ConnectionClosed)
        with pytest.raises(ConnectionClosed):
            await theirs.read()

    run(carrier, scenario)


@with_windows
def test_a_ping_returns_a_round_trip(carrier: str) -> None:
    async def scenario(alice: End, bob: End) -> None:
        assert 0 < await alice.muxed.ping() < 5
        assert 0 < await bob.muxed.ping() < 5

    run(carrier, scenario)


@pytest.mark.parametrize("carrier", [f"{OVER_MPLEX}tcp", f"{OVER_MPLEX}circuit"])
def test_mplex_resets_the_stream_whose_reader_is_too_far_behind_and_no_other(carrier: str) -> None:
    async def scenario(alice: End, bob: End) -> None:
        stuck, unread = await stream_pair(alice, bob)
        ours, theirs = await stream_pair(alice, bob)
        await stuck.write(bytes(200_000))
        await ours.write(bytes(100_000))
        assert len(await read_exactly(theirs, 100_000)) == 100_000
        with pytest.raises(StreamReset, match="too far behind"):
            await read_exactly(unread, 200_000)
        await settle(alice, bob)
        with pytest.raises(StreamReset, match="by the peer"):
            await stuck.write(b"more")
        await ours.write(b"as before")
        assert await theirs.read() == b"as before"

    run(carrier, scenario, MplexConfig(max_unread=100_000))
