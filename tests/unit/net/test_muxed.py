"""What is particular to our muxed connection: batching, bounds, hostile peers, timers."""

from __future__ import annotations

import asyncio

import pytest

from node.errors import ConnectionClosed, DeadlineExceeded, NodeError, RemoteProtocolError, SecurityError, StreamReset
from node.net.stream import read_exactly
from node.net.upgrade import Role, UpgradeConfig, upgrade
from node.wire.yamux import YamuxConfig
from node.wire.yamux_frames import HEADER, Flag, GoAwayCode, Kind
from tests.support.connections import ALICE, BOB, End, connected, stream_pair, tcp_pair


def test_small_frames_of_one_turn_share_one_message() -> None:
    async def main() -> None:
        async with connected() as (alice, bob):
            await alice.muxed.ping()
            before = alice.muxed.raw.bytes_out
            for _ in range(5):
                await alice.muxed.open_stream()
            await asyncio.sleep(0)
            assert alice.muxed.raw.bytes_out - before == 2 + 5 * HEADER.size + 16
            for _ in range(5):
                await bob.incoming.get()

    asyncio.run(main())


def test_opening_and_writing_is_one_message() -> None:
    async def main() -> None:
        async with connected() as (alice, bob):
            await alice.muxed.ping()
            before = alice.muxed.raw.bytes_out
            await (await alice.muxed.open_stream()).write(b"hello")
            assert alice.muxed.raw.bytes_out - before == 2 + 2 * HEADER.size + 5 + 16
            await bob.incoming.get()

    asyncio.run(main())


def test_a_write_returns_when_the_buffer_may_be_reused() -> None:
    async def main() -> None:
        async with connected() as (alice, bob):
            ours, theirs = await stream_pair(alice, bob)
            buffer = bytearray(b"A" * 1_000_000)

            async def write() -> None:
                await ours.write(buffer)
                buffer[:] = b"B" * len(buffer)

            _, data = await asyncio.gather(write(), read_exactly(theirs, len(buffer)))
            assert data == b"A" * len(buffer)

    asyncio.run(main())


def test_buffers_of_any_format_can_be_written() -> None:
    async def main() -> None:
        async with connected() as (alice, bob):
            ours, theirs = await stream_pair(alice, bob)
            await ours.write(memoryview(b"\x01\x02\x03\x04").cast("H"))
            await ours.write(bytearray(b"\x05"))
            await ours.write(b"")
            assert await read_exactly(theirs, 5) == b"\x01\x02\x03\x04\x05"

    asyncio.run(main())


def test_the_window_grows_for_a_fast_reader() -> None:
    async def main() -> None:
        async with connected() as (alice, bob):
            ours, theirs = await stream_pair(alice, bob)
            await alice.muxed.ping()
            size = 8 * 1024 * 1024
            await asyncio.gather(ours.write(bytes(size)), read_exactly(theirs, size))
            writing = asyncio.create_task(ours.write(bytes(300 * 1024)))  # more than an initial window
            await asyncio.wait({writing}, timeout=20.0)
            assert writing.done()

    asyncio.run(main())


def frame(kind: Kind, flags: int, stream_id: int, length: int, body: bytes = b"") -> bytes:
    return HEADER.pack(0, kind, flags, stream_id, length) + body


class Mallory:
    """A peer with a right handshake that sends frames of its own making."""

    def __init__(self, end: End) -> None:
        self._end = end

    def send(self, wire: bytes) -> None:
        muxed = self._end.muxed
        muxed._channel.send_data([wire])
        muxed.raw.send(b"".join(muxed._channel.data_to_send()))


@pytest.mark.parametrize(
    "wire",
    [
        b"\x01" + bytes(11),
        frame(Kind.WINDOW_UPDATE, Flag.SYN, 2, 0),
        frame(Kind.DATA, Flag.SYN, 1, 256 * 1024 + 1),
        frame(Kind.PING, Flag.SYN, 0, 0) * 5000,
    ],
    ids=["version", "parity", "overrun", "ping flood"],
)
def test_a_protocol_error_is_answered_by_a_goaway_and_ends_the_connection(wire: bytes) -> None:
    async def main() -> None:
        async with connected() as (alice, bob):
            Mallory(alice).send(wire)
            assert isinstance(await bob.closed, RemoteProtocolError)
            error = await alice.closed
            assert isinstance(error, ConnectionClosed)
            assert f"code {int(GoAwayCode.PROTOCOL_ERROR)}" in str(error)

    asyncio.run(main())


def test_a_forged_message_ends_the_connection() -> None:
    async def main() -> None:
        async with connected() as (alice, bob):
            alice.muxed.raw.send(b"\x00\x20" + bytes(32))
            assert isinstance(await bob.closed, SecurityError)

    asyncio.run(main())


def test_tiny_frames_cost_about_as_much_memory_as_their_bytes() -> None:
    async def main() -> None:
        async with connected() as (alice, bob):
            ours, theirs = await stream_pair(alice, bob)
            Mallory(alice).send(frame(Kind.DATA, 0, ours.id, 1, b"x") * 5000)
            Mallory(alice).send(frame(Kind.WINDOW_UPDATE, Flag.FIN, ours.id, 0))
            await bob.muxed.ping()
            assert len(theirs._chunks) == 1
            assert await theirs.read() == b"x" * 5000

    asyncio.run(main())


def test_streams_beyond_the_bound_are_reset_and_the_connection_goes_on() -> None:
    async def main() -> None:
        async with connected(config=UpgradeConfig(yamux=YamuxConfig(max_streams=3))) as (alice, bob):
            ours, theirs = await stream_pair(alice, bob)
            Mallory(alice).send(b"".join(frame(Kind.DATA, Flag.SYN, n, 1, b"x") for n in range(101, 301, 2)))
            await ours.write(b"still here")
            assert await theirs.read() == b"still here"
            assert bob.muxed.streams == 3

    asyncio.run(main())


def test_opening_waits_for_the_peer_to_acknowledge_what_was_opened_before() -> None:
    async def main() -> None:
        async with tcp_pair() as (dialled, accepted):
            config = UpgradeConfig(yamux=YamuxConfig(ack_backlog=2))
            muxed, other = await asyncio.gather(
                upgrade(dialled, key=ALICE, role=Role.INITIATOR, config=config),
                upgrade(accepted, key=BOB, role=Role.RESPONDER),
            )
            alice, bob = End(muxed), End(other)
            alice.start()
            await muxed.open_stream()
            await muxed.open_stream()
            third = asyncio.create_task(muxed.open_stream())
            await asyncio.sleep(0)
            assert not third.done()
            bob.start()
            assert (await third).id == 5
            await muxed.close()
            await other.close()

    asyncio.run(main())


def test_a_silent_peer_is_given_up() -> None:
    async def main() -> None:
        async with tcp_pair() as (dialled, accepted):
            config = UpgradeConfig(yamux=YamuxConfig(keep_alive=0.02, answer_within=0.02))
            muxed, _ = await asyncio.gather(
                upgrade(dialled, key=ALICE, role=Role.INITIATOR, config=config),
                upgrade(accepted, key=BOB, role=Role.RESPONDER),  # never started, so it never answers
            )
            alice = End(muxed)
            alice.start()
            assert isinstance(await alice.closed, DeadlineExceeded)
            with pytest.raises(ConnectionClosed):
                await muxed.open_stream()

    asyncio.run(main())


def test_an_idle_connection_stays_open() -> None:
    async def main() -> None:
        async with connected(config=UpgradeConfig(yamux=YamuxConfig(keep_alive=0.01, answer_within=5.0))) as (
            alice,
            bob,
        ):
            await asyncio.wait({alice.closed, bob.closed}, timeout=0.1)
            assert not alice.closed.done()
            ours, theirs = await stream_pair(alice, bob)
            await ours.write(b"awake")
            assert await theirs.read() == b"awake"

    asyncio.run(main())


def test_a_ping_without_answer_is_a_typed_error() -> None:
    async def main() -> None:
        async with tcp_pair() as (dialled, accepted):
            muxed, _ = await asyncio.gather(
                upgrade(dialled, key=ALICE, role=Role.INITIATOR), upgrade(accepted, key=BOB, role=Role.RESPONDER)
            )
            End(muxed).start()
            with pytest.raises(DeadlineExceeded):
                await muxed.ping(timeout=0.02)
            await muxed.close()

    asyncio.run(main())


def test_what_arrived_before_a_reset_can_still_be_read() -> None:
    async def main() -> None:
        async with connected() as (alice, bob):
            ours, theirs = await stream_pair(alice, bob)
            await ours.write(b"arrived")
            ours.reset(7)
            await alice.muxed.ping()
            assert await theirs.read() == b"arrived"
            with pytest.raises(StreamReset):
                await theirs.read()

    asyncio.run(main())


def test_an_owner_is_told_of_the_end_once() -> None:
    async def main() -> None:
        async with connected() as (alice, bob):
            told: list[NodeError | None] = []
            alice.muxed._on_closed = told.append
            await asyncio.gather(alice.muxed.close(), bob.muxed.close())
            await alice.muxed.close()
            assert told == [None]

    asyncio.run(main())
