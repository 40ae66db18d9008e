"""How fast one stream is: TCP + Noise + yamux of the node, beside the same machine's raw TCP and a bare pipe.

    python -m tests.bench.throughput [--mib 512] [--rounds 3] [--json]

Two processes on loopback. Each round measures, one after the other so that all see the same machine:

    raw     asyncio.BufferedProtocol, 64 KiB writes
    pipe    the floor in Python: the same sockets, ChaCha20-Poly1305 of 65519-byte messages with one yamux header each,
            nothing else (no windows, no streams, no awaits a reader would need)
    node    one stream of an upgraded connection, /perf/1.0.0-like: up, then down

and then full handshakes a second: TCP connect, multistream, Noise, early muxer, ready for a stream, closed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
import struct
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import TypeVar

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from node.names.keys import PrivateKey
from node.names.multiaddr import Multiaddr
from node.net.stream import ByteStream, RawConnection, read_exactly
from node.net.tcp import TcpTransport
from node.net.upgrade import Muxed, MuxedStream, Role, upgrade

T = TypeVar("T")

MIB = 1 << 20
WRITE = 64 * 1024
MAX_PLAINTEXT = 65519
ANY_PORT = Multiaddr("/ip4/127.0.0.1/tcp/0")
DEADLINE = 120.0


@dataclass(frozen=True, slots=True)
class Result:
    """Medians over the rounds; MiB/s and handshakes/s."""

    raw: float
    pipe: float
    up: float
    down: float
    handshakes: float

    @property
    def ratio(self) -> float:
        """The slower direction of the node over the bare pipe."""
        return min(self.up, self.down) / self.pipe


# --- raw TCP and the bare pipe


class _Source(asyncio.Protocol):
    """Sends `total` bytes by `fill`, as fast as the socket takes them."""

    def __init__(self, total: int, encode: Callable[[bytes], bytes | bytearray], payload: bytes) -> None:
        self._left, self._encode, self._payload = total, encode, payload
        self._paused = False
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=256 * 1024)
        self._fill()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._fill()

    def data_received(self, data: bytes) -> None:
        self.done.set_result(None)  # the other side has seen everything

    def _fill(self) -> None:
        while self._left > 0 and not self._paused:
            self._left -= len(self._payload)
            self._transport.write(self._encode(self._payload))


class _Drain(asyncio.BufferedProtocol):
    """Takes `total` payload bytes by `decode`, then sends one byte back."""

    def __init__(self, total: int, decode: Callable[[memoryview], int]) -> None:
        self._left, self._decode = total, decode
        self._buffer = memoryview(bytearray(1 << 20))
        self._filled = 0
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        end, offset = self._filled + nbytes, 0
        while end - offset >= 2:
            size = 2 + (self._buffer[offset] << 8 | self._buffer[offset + 1])
            if offset + size > end:
                break
            self._left -= self._decode(self._buffer[offset + 2 : offset + size])
            offset += size
        self._filled = end - offset
        if offset:
            self._buffer[: self._filled] = self._buffer[offset:end]
        if self._left <= 0 and not self.done.done():
            self._transport.write(b"!")
            self.done.set_result(None)


class _RawDrain(_Drain):
    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._left -= nbytes
        if self._left <= 0 and not self.done.done():
            self._transport.write(b"!")
            self.done.set_result(None)


def _sealer() -> Callable[[bytes], bytearray]:
    aead, counter = ChaCha20Poly1305(bytes(32)), 0

    def seal(payload: bytes) -> bytearray:
        nonlocal counter
        plaintext = struct.pack(">BBHII", 0, 0, 0, 1, len(payload)) + payload
        out = bytearray(2 + len(plaintext) + 16)
        struct.pack_into(">H", out, 0, len(plaintext) + 16)
        aead.encrypt_into(struct.pack("<4xQ", counter), plaintext, None, memoryview(out)[2:])
        counter += 1
        return out

    return seal


def _opener() -> Callable[[memoryview], int]:
    aead, counter = ChaCha20Poly1305(bytes(32)), 0

    def unseal(message: memoryview) -> int:
        nonlocal counter
        plaintext = aead.decrypt(struct.pack("<4xQ", counter), message, None)
        counter += 1
        size: int = struct.unpack_from(">BBHII", plaintext)[4]
        return len(bytes(memoryview(plaintext)[12 : 12 + size]))

    return unseal


async def _send_plain(port: int, total: int, sealed: bool) -> float:
    loop = asyncio.get_running_loop()
    payload = bytes(MAX_PLAINTEXT - 12 if sealed else WRITE)
    encode: Callable[[bytes], bytes | bytearray] = _sealer() if sealed else bytes
    start = time.perf_counter()
    transport, source = await loop.create_connection(lambda: _Source(total, encode, payload), "127.0.0.1", port)
    await source.done
    transport.close()
    return total / MIB / (time.perf_counter() - start)


async def _serve_plain(port_of: Connection, total: int, sealed: bool) -> None:
    loop = asyncio.get_running_loop()
    drained: asyncio.Future[_Drain] = loop.create_future()

    def accept() -> _Drain:
        drain = _Drain(total, _opener()) if sealed else _RawDrain(total, len)
        drained.set_result(drain)
        return drain

    server = await loop.create_server(accept, "127.0.0.1", 0)
    port_of.send(server.sockets[0].getsockname()[1])
    await (await drained).done
    server.close()
    await asyncio.sleep(0)


# --- the node


async def _perf_server(stream: ByteStream) -> None:
    wanted = int.from_bytes(await read_exactly(stream, 8), "big")
    while await stream.read(MIB):
        pass
    chunk = bytes(MIB)
    while wanted > 0:
        await stream.write(chunk[: min(wanted, len(chunk))])
        wanted -= len(chunk)
    await stream.close()


async def _perf_client(stream: ByteStream, up: int, down: int) -> tuple[float, float]:
    """Seconds for the upload and for the download, each until its last byte was acknowledged by what follows it."""
    chunk = bytes(MIB)
    start = time.perf_counter()
    await stream.write(down.to_bytes(8, "big"))
    for _ in range(up // MIB):
        await stream.write(chunk)
    await stream.close_write()
    got = len(await stream.read(1))
    middle = time.perf_counter()
    while data := await stream.read(MIB):
        got += len(data)
    assert got == down, f"{got} of {down} bytes"
    return middle - start, time.perf_counter() - middle


async def _serve_node(port_of: Connection, connections: int) -> None:
    key = PrivateKey.generate()
    transport = TcpTransport()
    accepted: asyncio.Queue[RawConnection] = asyncio.Queue()
    listener = await transport.listen(ANY_PORT, accepted.put_nowait)
    port_of.send(listener.addr.port)

    async def serve(raw: RawConnection) -> None:
        muxed = await upgrade(raw, key=key, role=Role.RESPONDER)
        closed: asyncio.Event = asyncio.Event()
        muxed.start(lambda stream: _track(group.create_task(_perf_server(stream))), lambda _: closed.set())
        await closed.wait()

    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            raw = await accepted.get()
            group.create_task(serve(raw))
    await listener.close()


def _track(task: asyncio.Task[None]) -> None:
    """The group owns it."""


async def _dial(port: int, key: PrivateKey, transport: TcpTransport) -> Muxed:
    raw = await transport.dial(Multiaddr.tcp("127.0.0.1", port))
    muxed = await upgrade(raw, key=key, role=Role.INITIATOR)
    muxed.start(MuxedStream.reset, lambda _: None)
    return muxed


async def _measure_node(port: int, total: int) -> tuple[float, float]:
    muxed = await _dial(port, PrivateKey.generate(), TcpTransport())
    up, down = await _perf_client(await muxed.open_stream(), total, total)
    await muxed.close()
    return total / MIB / up, total / MIB / down


async def _measure_handshakes(port: int, count: int) -> float:
    key, transport = PrivateKey.generate(), TcpTransport()
    start = time.perf_counter()
    for _ in range(count):
        await (await _dial(port, key, transport)).close()
    return count / (time.perf_counter() - start)


# --- two processes


def _child(port_of: Connection, kind: str, amount: int) -> None:
    async def serve() -> None:
        async with asyncio.timeout(DEADLINE):
            if kind == "node":
                await _serve_node(port_of, amount)
            else:
                await _serve_plain(port_of, amount, kind == "pipe")

    asyncio.run(serve())


def _beside(kind: str, amount: int, measure: Callable[[int], Awaitable[T]]) -> T:
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("spawn").Process(target=_child, args=(theirs, kind, amount))
    child.start()

    async def run() -> T:
        async with asyncio.timeout(DEADLINE):
            return await measure(ours.recv())

    try:
        return asyncio.run(run())
    finally:
        child.join(5)
        child.kill()


def run(mib: int, rounds: int, handshakes: int) -> Result:
    """Measure all in turn, `rounds` times."""
    total = mib * MIB
    raw, pipe, up, down, hands = [], [], [], [], []
    for _ in range(rounds):
        raw.append(_beside("raw", total, lambda port: _send_plain(port, total, sealed=False)))
        pipe.append(_beside("pipe", total, lambda port: _send_plain(port, total, sealed=True)))
        one_up, one_down = _beside("node", 1, lambda port: _measure_node(port, total))
        up.append(one_up)
        down.append(one_down)
        hands.append(_beside("node", handshakes, lambda port: _measure_handshakes(port, handshakes)))
    return Result(*(statistics.median(values) for values in (raw, pipe, up, down, hands)))


def main() -> None:
    """Parse the command line and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=512, help="MiB a transfer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--handshakes", type=int, default=300)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    options = parser.parse_args()
    result = run(options.mib, options.rounds, options.handshakes)
    if options.json:
        sys.stdout.write(json.dumps(asdict(result) | {"ratio": result.ratio}) + "\n")
        return
    sys.stdout.write(
        f"raw asyncio TCP       {result.raw:8.0f} MiB/s\n"
        f"bare Noise+yamux pipe {result.pipe:8.0f} MiB/s\n"
        f"node, one stream up   {result.up:8.0f} MiB/s   {result.up / result.pipe:.2f} of the pipe\n"
        f"node, one stream down {result.down:8.0f} MiB/s   {result.down / result.pipe:.2f} of the pipe\n"
        f"full handshakes       {result.handshakes:8.0f} /s, one at a time\n"
    )


if __name__ == "__main__":
    main()
