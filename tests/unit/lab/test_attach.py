"""A container's streams over one connection: frames taken apart, and streams that end when the engine hangs up."""

from __future__ import annotations

import asyncio
import socket
import struct
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from lab.kernel.attach import Attached, Frames

STDOUT, STDERR = 1, 2


def framed(stream: int, data: bytes) -> bytes:
    return struct.pack(">BxxxI", stream, len(data)) + data


@given(
    frames=st.lists(st.tuples(st.sampled_from([STDOUT, STDERR]), st.binary(max_size=40)), max_size=8),
    cuts=st.lists(st.integers(1, 30), max_size=40),
)
def test_frames_are_the_same_however_their_bytes_are_split(frames: list[tuple[int, bytes]], cuts: list[int]) -> None:
    data = b"".join(framed(stream, part) for stream, part in frames)
    parser, got = Frames(), {STDOUT: b"", STDERR: b""}
    while data:
        size = cuts.pop() if cuts else len(data)
        for stream, part in parser.receive(data[:size]):
            got[stream] += part
        data = data[size:]
    for stream, whole in got.items():
        assert whole == b"".join(part for which, part in frames if which == stream)


def test_streams_go_where_they_belong_and_end_with_the_connection(tmp_path: Path) -> None:
    async def talk() -> None:
        ours, engine = socket.socketpair()
        attached = await Attached.over(ours, (tmp_path / "log").open("wb", buffering=0), 1 << 16)
        attached.stdin.write(b"to it\n")
        await attached.stdin.drain()
        assert engine.recv(100) == b"to it\n"
        engine.sendall(framed(STDOUT, b"one\ntw") + framed(STDERR, b"a log\n") + framed(STDOUT, b"o\n"))
        assert [await attached.stdout.readline() for _ in range(2)] == [b"one\n", b"two\n"]
        engine.close()
        async with asyncio.timeout(10):
            await attached.ended
        assert await attached.stdout.read() == b""
        assert (tmp_path / "log").read_bytes() == b"a log\n"

    asyncio.run(talk())


def test_who_does_not_read_holds_the_engine_back(tmp_path: Path) -> None:
    async def flood() -> None:
        ours, engine = socket.socketpair()
        engine.setblocking(False)
        attached = await Attached.over(ours, (tmp_path / "log").open("wb", buffering=0), 1 << 12)
        loop = asyncio.get_running_loop()
        sending = asyncio.ensure_future(loop.sock_sendall(engine, framed(STDOUT, bytes(8 << 20))))
        got = 0
        while not sending.done():
            got += len(await attached.stdout.read(1 << 16))
        assert got >= 4 << 20, "what is not read stays with the sender, but for what fits into the buffers"
        engine.close()
        while data := await attached.stdout.read(1 << 16):
            got += len(data)
        assert got == 8 << 20

    asyncio.run(flood())
