"""Perf: how fast bytes go up and come down.

    client ── u64 BE: bytes wanted ── upload, end ─► server
           ◄─ that many bytes, end ────────────────

Spec: https://github.com/libp2p/specs/blob/master/perf/perf.md
"""

from __future__ import annotations

import asyncio
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from node.errors import DeadlineExceeded, RemoteProtocolError
from node.net.stream import read_exactly
from node.wire.noise import MAX_PLAINTEXT
from node.wire.yamux_frames import HEADER

if TYPE_CHECKING:
    from node.net.connection import Connection, Stream
    from node.protocols.api import HostApi

PROTOCOL = "/perf/1.0.0"
BLOCK = 4 * (MAX_PLAINTEXT - HEADER.size)
"""Bytes of one write or read: four frames that each fill a Noise message, and no small one behind them."""
SERVE_TIMEOUT = 600.0
"""Seconds one measurement may take on the serving side."""
_WANTED = struct.Struct(">Q")


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds from the first byte of the upload to the server's answer, and from there to the last byte down."""

    upload_seconds: float
    download_seconds: float


class Perf:
    """Serves measurements and makes them."""

    def __init__(self, host: HostApi) -> None:
        self._host = host

    async def start(self) -> None:
        """Serve measurements from now on, over connections without a limit only."""
        self._host.handle(PROTOCOL, self._serve)

    async def close(self) -> None:
        """Serve no more."""
        self._host.unhandle(PROTOCOL)

    async def measure(
        self, connection: Connection, upload: int, download: int, *, timeout: float = SERVE_TIMEOUT
    ) -> Measured:
        """Send `upload` bytes, then receive `download` bytes."""
        stream = await connection.new_stream([PROTOCOL], timeout=min(timeout, 15.0))
        try:
            async with asyncio.timeout(timeout):
                measured = await _measure(stream, upload, download)
                await stream.close()
        except TimeoutError:
            stream.reset()
            raise DeadlineExceeded(f"perf with {connection.peer} took more than {timeout:g} s") from None
        except BaseException:
            stream.reset()
            raise
        return measured

    async def _serve(self, stream: Stream) -> None:
        async with asyncio.timeout(SERVE_TIMEOUT):
            (wanted,) = _WANTED.unpack(await read_exactly(stream, _WANTED.size))
            while await stream.read(BLOCK):
                pass
            await _send(stream, wanted)
            await stream.close_write()


async def _measure(stream: Stream, upload: int, download: int) -> Measured:
    started = time.perf_counter()
    await stream.write(_WANTED.pack(download))
    await _send(stream, upload)
    await stream.close_write()
    received = len(await stream.read(BLOCK))
    uploaded = time.perf_counter()
    while data := await stream.read(BLOCK):
        received += len(data)
    if received != download:
        raise RemoteProtocolError(f"{stream.peer} sent {received} bytes, {download} were asked for")
    return Measured(uploaded - started, time.perf_counter() - uploaded)


async def _send(stream: Stream, size: int) -> None:
    zeros = memoryview(bytes(min(size, BLOCK)))
    whole, rest = divmod(size, BLOCK)
    for _ in range(whole):
        await stream.write(zeros)
    if rest:
        await stream.write(zeros[:rest])
