"""Floors of a stream's throughput in Python, as programs of the shape that `tests.bench.foreign` describes.

    python -m tests.bench.bare raw  …   asyncio's transports and protocols, 64 KiB writes, nothing else
    python -m tests.bench.bare pipe …   the same, with ChaCha20-Poly1305 of 65519-byte messages and one yamux header in
                                        each: no windows, no streams, no awaits that a reader would need

Every transfer has a connection of its own and goes one way, for it is the same both ways. The receiver answers the
last byte with one of its own. Connecting is in the time; amounts are such that it does not count.
"""

from __future__ import annotations

import asyncio
import json
import struct
import sys
import time
from collections.abc import Callable

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

WRITE = 64 * 1024
MAX_PLAINTEXT = 65519
HEADER = struct.Struct(">BBHII")
"A yamux header."
HIGH_WATER = 256 * 1024
"Bytes that the sender's transport buffers before it says stop."
RECEIVE = 1 << 20
DEADLINE = 110.0
_AMOUNT = struct.Struct(">Q")

Encode = Callable[[], bytes | bytearray]
Decode = Callable[[memoryview], int]


class Source(asyncio.Protocol):
    """Sends `total` bytes in pieces that `encode` makes of `size` bytes each, as fast as the socket takes them."""

    def __init__(self, total: int, size: int, encode: Encode) -> None:
        self._left, self._size, self._encode = total, size, encode
        self._amount = -(-total // size) * size
        self._paused = False
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=HIGH_WATER)
        transport.write(_AMOUNT.pack(self._amount))
        self._fill()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._fill()

    def data_received(self, data: bytes) -> None:
        self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionResetError("the receiver has gone"))

    def _fill(self) -> None:
        while self._left > 0 and not self._paused:
            self._left -= self._size
            self._transport.write(self._encode())


class Drain(asyncio.BufferedProtocol):
    """Takes as many payload bytes as its first eight bytes announce, then sends one byte back."""

    def __init__(self) -> None:
        self._left: int | None = None
        self._buffer = memoryview(bytearray(RECEIVE))
        self._filled = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        end, offset = self._filled + nbytes, 0
        if self._left is None:
            (self._left,) = _AMOUNT.unpack_from(self._buffer)
            offset = _AMOUNT.size
        used, payload = self.take(self._buffer[offset:end])
        self._left -= payload
        offset += used
        self._filled = end - offset
        if self._filled:
            self._buffer[: self._filled] = self._buffer[offset:end]
        if self._left <= 0:
            self._transport.write(b"!")

    def take(self, data: memoryview) -> tuple[int, int]:
        """Bytes used of `data`, and payload bytes found in them."""
        return len(data), len(data)


class SealedDrain(Drain):
    """The same of messages, each behind its length."""

    def __init__(self) -> None:
        super().__init__()
        self._open = opener()

    def take(self, data: memoryview) -> tuple[int, int]:
        offset = payload = 0
        while len(data) - offset >= 2:
            size = 2 + (data[offset] << 8 | data[offset + 1])
            if offset + size > len(data):
                break
            payload += self._open(data[offset + 2 : offset + size])
            offset += size
        return offset, payload


def sealer(payload: bytes) -> Encode:
    """Makes messages of one yamux data frame with `payload`."""
    aead, counter = ChaCha20Poly1305(bytes(32)), 0

    def seal() -> bytearray:
        nonlocal counter
        plaintext = HEADER.pack(0, 0, 0, 1, len(payload)) + payload
        out = bytearray(2 + len(plaintext) + 16)
        struct.pack_into(">H", out, 0, len(plaintext) + 16)
        aead.encrypt_into(struct.pack("<4xQ", counter), plaintext, None, memoryview(out)[2:])
        counter += 1
        return out

    return seal


def opener() -> Decode:
    """Opens such messages and says how much payload was in them, having copied it out as a reader would."""
    aead, counter = ChaCha20Poly1305(bytes(32)), 0

    def unseal(message: memoryview) -> int:
        nonlocal counter
        plaintext = aead.decrypt(struct.pack("<4xQ", counter), message, None)
        counter += 1
        size: int = HEADER.unpack_from(plaintext)[4]
        return len(bytes(memoryview(plaintext)[HEADER.size : HEADER.size + size]))

    return unseal


async def send(port: int, total: int, sealed: bool) -> float:
    """Seconds until the receiver has all of it."""
    payload = bytes(MAX_PLAINTEXT - HEADER.size if sealed else WRITE)
    encode = sealer(payload) if sealed else lambda: payload
    began = time.perf_counter()
    transport, source = await asyncio.get_running_loop().create_connection(
        lambda: Source(total, len(payload), encode), "127.0.0.1", port
    )
    async with asyncio.timeout(DEADLINE):
        await source.done
    transport.close()
    return time.perf_counter() - began


async def listen(sealed: bool) -> None:
    """Serve until stdin ends."""
    server = await asyncio.get_running_loop().create_server(SealedDrain if sealed else Drain, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()


async def dial(sealed: bool, port: int, total: int, times: int) -> None:
    """Print the seconds of several transfers."""
    for _ in range(times):
        print(json.dumps({"upload_seconds": await send(port, total, sealed), "download_seconds": None}), flush=True)


def main(kind: str, verb: str, *arguments: str) -> None:
    """Run one side."""
    sealed = kind == "pipe"
    if verb == "listen":
        asyncio.run(listen(sealed))
    else:
        port, up, _, times = map(int, arguments)
        asyncio.run(dial(sealed, port, up, times))


if __name__ == "__main__":
    main(*sys.argv[1:])
