"""Helpers over any byte stream."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.errors import DecodeError, RemoteProtocolError, StreamClosed
from node.net.stream import BufferedStream, ByteStream, push_back, read_exactly, read_frame, write_frame
from tests.support.connections import memory_pair, read_all


def test_reading_exactly_gathers_what_comes_in_pieces() -> None:
    async def main() -> None:
        ours, theirs = memory_pair()
        reading = asyncio.create_task(read_exactly(theirs, 6))
        for piece in (b"a", b"bcd", b"efgh"):
            await ours.write(piece)
            await asyncio.sleep(0)
        assert await reading == b"abcdef"
        assert await theirs.read() == b"gh"

    asyncio.run(main())


def test_an_end_before_the_last_byte_is_an_error() -> None:
    async def main() -> None:
        ours, theirs = memory_pair()
        await ours.write(b"abc")
        await ours.close_write()
        with pytest.raises(StreamClosed, match="2 bytes early"):
            await read_exactly(theirs, 5)

    asyncio.run(main())


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=5), st.binary(max_size=20))
def test_frames_come_back_whole_and_nothing_behind_them_is_consumed(payloads: list[bytes], behind: bytes) -> None:
    async def main() -> None:
        ours, theirs = memory_pair()
        for payload in payloads:
            await write_frame(ours, payload)
        await ours.write(behind)
        await ours.close_write()
        assert [await read_frame(theirs, 300) for _ in payloads] == payloads
        assert await read_all(theirs) == behind

    asyncio.run(main())


@pytest.mark.parametrize(
    ("wire", "error"),
    [(b"\x05abc", StreamClosed), (b"", StreamClosed), (b"\x0babc", RemoteProtocolError), (b"\xff" * 10, DecodeError)],
    ids=["cut", "empty", "oversize", "endless length"],
)
def test_a_bad_frame_is_a_typed_error(wire: bytes, error: type[Exception]) -> None:
    async def main() -> None:
        ours, theirs = memory_pair()
        await ours.write(wire)
        await ours.close_write()
        with pytest.raises(error):
            await read_frame(theirs, 10)

    asyncio.run(main())


def test_pushed_back_bytes_come_first_and_everything_else_is_the_inner_streams() -> None:
    async def main() -> None:
        ours, inner = memory_pair()
        assert push_back(inner, b"") is inner
        stream: ByteStream = push_back(inner, b"back")
        assert isinstance(stream, BufferedStream)
        assert push_back(stream, b"further ") is stream
        await ours.write(b" front")
        await ours.close_write()
        assert await stream.read(10) == b"further ba"
        assert await stream.read(10) == b"ck"
        assert await stream.read(10) == b" front"
        await stream.write(b"answer")
        await stream.close_write()
        assert await read_all(ours) == b"answer"
        await stream.close()
        stream.reset()

    asyncio.run(main())
