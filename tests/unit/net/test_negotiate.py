"""multistream-select over streams: results, leftovers, deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from node.errors import ConnectionClosed, DeadlineExceeded, NegotiationError, NodeError, RemoteProtocolError
from node.net.negotiate import LazyStream, propose, respond
from node.net.stream import ByteStream
from tests.support.connections import memory_pair, read_all

HEADER = b"\x13/multistream/1.0.0\n"


def test_the_first_proposal_that_the_responder_supports_is_chosen() -> None:
    async def main() -> None:
        ours, theirs = memory_pair()
        (mine, _), (yours, _) = await asyncio.gather(
            propose(ours, ["/a", "/b", "/c"]), respond(theirs, {"/b", "/c"}.__contains__)
        )
        assert mine == yours == "/b"

    asyncio.run(main())


def test_no_protocol_in_common_is_an_error() -> None:
    async def main() -> None:
        ours, theirs = memory_pair()
        responding = asyncio.create_task(respond(theirs, {"/z"}.__contains__))
        with pytest.raises(NegotiationError, match="/a, /b"):
            await propose(ours, ["/a", "/b"])
        await ours.close_write()
        with pytest.raises(ConnectionClosed):
            await responding

    asyncio.run(main())


def test_bytes_behind_the_negotiation_belong_to_the_protocol() -> None:
    async def main() -> None:
        ours, theirs = memory_pair()
        await ours.write(HEADER + b"\x03/a\nfirst words")
        await ours.close_write()
        protocol, stream = await respond(theirs, {"/a"}.__contains__)
        assert protocol == "/a"
        assert await stream.read() == b"first words"
        assert await stream.read() == b""

    asyncio.run(main())


def test_a_lazy_proposal_travels_with_the_first_data() -> None:
    async def main() -> None:
        ours, theirs = memory_pair()
        protocol, stream = await propose(ours, ["/a"], lazy=True)
        await stream.write(b"ping")
        assert bytes(theirs._received) == HEADER + b"\x03/a\nping"
        _, other = await respond(theirs, {"/a"}.__contains__)
        assert await other.read() == b"ping"
        await other.write(b"pong")
        assert await stream.read() == b"pong"
        assert protocol == "/a"

    asyncio.run(main())


def test_a_lazy_stream_believes_nothing_before_the_echo() -> None:
    async def main() -> None:
        ours, theirs = memory_pair()
        _, stream = await propose(ours, ["/a"], lazy=True)
        await stream.write(b"ping")
        await theirs.write(HEADER + b"\x03na\npong")
        with pytest.raises(NegotiationError):
            await stream.read()

    asyncio.run(main())


def test_a_lazy_stream_closes_only_after_the_echo() -> None:
    async def main() -> None:
        ours, theirs = memory_pair()
        _, stream = await propose(ours, ["/a"], lazy=True)
        assert isinstance(stream, LazyStream)
        closing = asyncio.create_task(stream.close())
        await asyncio.sleep(0)
        assert not closing.done()
        _, other = await respond(theirs, {"/a"}.__contains__)
        await closing
        assert await other.read() == b""

    asyncio.run(main())


async def _read_lazily(stream: ByteStream) -> None:
    _, lazy = await propose(stream, ["/a"], lazy=True, timeout=0.02)
    await lazy.read()


NEGOTIATIONS: dict[str, Callable[[ByteStream], Awaitable[object]]] = {
    "initiator": lambda stream: propose(stream, ["/a"], timeout=0.02),
    "responder": lambda stream: respond(stream, {"/a"}.__contains__, timeout=0.02),
    "lazy initiator": _read_lazily,
}


@pytest.mark.parametrize("wire", [b"", b"\x13/multi"])
@pytest.mark.parametrize("negotiation", NEGOTIATIONS.values(), ids=NEGOTIATIONS.keys())
def test_a_silent_peer_is_cut_by_the_deadline(
    wire: bytes, negotiation: Callable[[ByteStream], Awaitable[object]]
) -> None:
    async def main() -> None:
        ours, theirs = memory_pair()
        await theirs.write(wire)
        with pytest.raises(DeadlineExceeded):
            await negotiation(ours)

    asyncio.run(main())


def test_a_peer_that_drips_is_cut_by_the_deadline_although_it_never_stops() -> None:
    async def main() -> None:
        ours, theirs = memory_pair()

        async def drip() -> None:
            for n in range(1000):
                await theirs.write((HEADER + b"\x03/x\n" * 100)[n : n + 1])
                await asyncio.sleep(0.005)

        dripping = asyncio.create_task(drip())
        with pytest.raises(DeadlineExceeded):
            await respond(ours, {"/a"}.__contains__, timeout=0.05)
        dripping.cancel()

    asyncio.run(main())


@pytest.mark.parametrize(
    "wire", [b"\x13/multistream/2.0.0\n", b"\xff" * 12, HEADER + b"\xff\x0f", HEADER + b"\x02\xff\n"]
)
def test_nonsense_is_a_protocol_error(wire: bytes) -> None:
    async def main() -> None:
        ours, theirs = memory_pair()
        await theirs.write(wire)
        with pytest.raises(RemoteProtocolError):
            await respond(ours, {"/a"}.__contains__)

    asyncio.run(main())


def test_a_stream_reset_during_the_negotiation_is_a_typed_error() -> None:
    async def main() -> None:
        ours, theirs = memory_pair()
        proposing = asyncio.create_task(propose(ours, ["/a"]))
        await asyncio.sleep(0)
        theirs.reset()
        with pytest.raises(NodeError):
            await proposing

    asyncio.run(main())


def test_an_end_before_the_answer_is_a_typed_error() -> None:
    async def main() -> None:
        ours, theirs = memory_pair()
        await theirs.write(HEADER)
        await theirs.close_write()
        with pytest.raises(ConnectionClosed):
            await propose(ours, ["/a"])
        assert await read_all(ours) == b""

    asyncio.run(main())
