"""Where machines meet streams.

`next_events` drives a machine by pull: handshakes and negotiations. `RelayedRaw` gives any byte stream, such as a
circuit through a relay, the push side of a raw connection, so that one `Muxed` serves TCP and circuits alike.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Protocol, TypeVar

from node.errors import ConnectionClosed, LocalProtocolError, NodeError
from node.names.multiaddr import Multiaddr
from node.names.varint import Buffer
from node.net.stream import READ_SIZE, BufferedStream, ByteStream, Sink

E_co = TypeVar("E_co", covariant=True)

# Queued in `RelayedRaw` before it stops being writable; the muxer adds at most one batch of 64 KiB.
WRITE_HIGH_WATER = 128 * 1024
CLOSE_TIMEOUT = 2.0
# A few messages of the muxer at a time.
_PUSH_SIZE = 256 * 1024


class Machine(Protocol[E_co]):
    """A protocol as bytes in, events out, bytes to send."""

    def receive_data(self, data: Buffer) -> Sequence[E_co]:
        """Take the peer's bytes."""

    def data_to_send(self) -> Sequence[Buffer]:
        """Hand out what is to be sent."""


async def flush(machine: Machine[object], stream: ByteStream) -> None:
    """Send what the machine has to send."""
    if buffers := machine.data_to_send():
        await stream.write(b"".join(buffers))


async def next_events(machine: Machine[E_co], stream: ByteStream) -> Sequence[E_co]:
    """Run the machine until it has something to say; raises ConnectionClosed if the stream ends before."""
    while True:
        await flush(machine, stream)
        data = await stream.read()
        if not data:
            raise ConnectionClosed("the peer closed in the middle of a handshake")
        if events := machine.receive_data(data):
            await flush(machine, stream)
            return events


class RelayedRaw:
    """A byte stream as a raw connection; implements `node.net.stream.RawConnection`."""

    def __init__(self, stream: ByteStream, local: Multiaddr, remote: Multiaddr) -> None:
        self.local = local
        self.remote = remote
        self.bytes_in = self.bytes_out = 0
        self._stream = BufferedStream(stream)
        self._queue: deque[Buffer] = deque()
        self._queued = 0  # bytes, not much above WRITE_HIGH_WATER
        self._wake = asyncio.Event()
        self._closing = False
        self._sink: Sink | None = None
        self._pump: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<RelayedRaw {self.local} to {self.remote}>"

    # --- pull

    async def read(self, max_bytes: int = READ_SIZE) -> bytes:
        """Return some bytes, b"" at the end."""
        data = await self._stream.read(max_bytes)
        self.bytes_in += len(data)
        return data

    def unread(self, data: bytes) -> None:
        """Return `data` from the next reads."""
        self.bytes_in -= len(data)  # to be counted when read again
        self._stream.unread(data)

    async def write(self, data: Buffer) -> None:
        """Send all of `data`."""
        self.bytes_out += len(data)
        await self._stream.write(data)

    async def close_write(self) -> None:
        """End our direction."""
        await self._stream.close_write()

    async def close(self) -> None:
        """Send what is queued, but no longer than CLOSE_TIMEOUT, and close the stream."""
        self._closing = True
        self._wake.set()
        if self._pump is None:
            await self._stream.close()
            return
        await asyncio.wait({self._pump}, timeout=CLOSE_TIMEOUT)
        if not self._pump.done():
            self.abort()
            await asyncio.wait({self._pump}, timeout=CLOSE_TIMEOUT)

    def reset(self) -> None:
        """Close at once."""
        self.abort()

    # --- push

    @property
    def writable(self) -> bool:
        """Whether `send` is welcome."""
        return self._queued < WRITE_HIGH_WATER and not self._closing

    def push_to(self, sink: Sink) -> None:
        """Give all that arrives from now on to `sink`."""
        if self._pump is not None:
            raise LocalProtocolError(f"{self} is pushed to somebody already")
        self._sink = sink
        self._pump = asyncio.get_running_loop().create_task(self._run(sink), name=f"pump of {self}")

    def send(self, data: Buffer) -> None:
        """Queue `data` without waiting; nothing happens after the end."""
        if not self._closing:
            self._queue.append(data)
            self._queued += len(data)
            self._wake.set()

    def abort(self) -> None:
        """Close at once; the pump ends in the loop's next turn."""
        self._closing = True
        self._stream.reset()
        if self._pump is not None:
            self._pump.cancel()

    async def _run(self, sink: Sink) -> None:
        error: Exception | None = None
        try:
            async with asyncio.TaskGroup() as group:
                self._reading = group.create_task(self._read_all(sink))
                group.create_task(self._write_all(sink))
        except* NodeError as errors:
            error = errors.exceptions[0]
        finally:
            self._closing = True
            sink.connection_lost(error)

    async def _read_all(self, sink: Sink) -> None:
        while data := await self.read(_PUSH_SIZE):
            sink.data_received(memoryview(data))
        sink.eof_received()

    async def _write_all(self, sink: Sink) -> None:
        while self._queue or not self._closing:
            if not self._queue:
                self._wake.clear()
                await self._wake.wait()
                continue
            was_writable = self.writable
            batch = b"".join(self._queue)
            self._queue.clear()
            await self.write(batch)
            self._queued -= len(batch)
            if not was_writable and self.writable:
                sink.resume_writing()
        await self._stream.close()
        assert self._reading is not None
        self._reading.cancel()
