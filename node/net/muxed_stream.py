"""One stream of a muxed connection, as its user sees it.

What arrives is kept as it came: views of decrypted messages for bulk data, gathered copies for small pieces. A read
copies what it takes, and only then.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from node.errors import LocalProtocolError, NodeError, StreamReset
from node.names.varint import Buffer
from node.net.stream import READ_SIZE

# A view keeps the whole message it is part of in memory; smaller pieces than this are copied out of it.
_COPY_BELOW = 16 * 1024
# A read joins no more than this: malloc takes blocks of 128 KiB and more from the system and gives them back each
# time, and the page faults cost more than further reads do.
_MAX_JOIN = 126 * 1024
# Copied pieces are gathered up to this size, so that a stream of tiny frames costs no more than its bytes.
_GATHER = 16 * 1024


class Streams(Protocol):
    """What a stream asks of its connection."""

    def create_future(self) -> asyncio.Future[None]:
        """A future of the connection's loop."""

    def send(self, stream_id: int, data: memoryview) -> bool:
        """Send or queue bytes; true if none of them waits."""

    def consume(self, stream_id: int, size: int) -> None:
        """Give credit for bytes that were read."""

    def close_write(self, stream_id: int) -> None:
        """End our direction of a stream."""

    def close_stream(self, stream_id: int, unread: int) -> None:
        """End our direction of a stream and refuse the rest of the peer's."""

    def reset_stream(self, stream_id: int, code: int) -> None:
        """End both directions of a stream."""


class MuxedStream:
    """One stream of a connection; implements `node.net.stream.ByteStream`. One task may read at a time."""

    def __init__(self, muxed: Streams, stream_id: int) -> None:
        self.id = stream_id
        self._muxed = muxed
        self._chunks: deque[bytes | bytearray | memoryview] = deque()  # bounded by the receive window
        self._prepaid = 0  # bytes in `_chunks` that were read before and given back
        self._ended = self._closed = False
        self._error: NodeError | None = None
        self._refusal: NodeError | None = None  # of what we write, while we may still read
        self._reader: asyncio.Future[None] | None = None
        self._writers: list[asyncio.Future[None]] = []

    def __repr__(self) -> str:
        return f"<MuxedStream {self.id} of {self._muxed}>"

    async def read(self, max_bytes: int = READ_SIZE) -> bytes:
        """Return some bytes, b"" at the end; raises StreamReset or ConnectionClosed."""
        while not self._chunks:
            if self._error is not None:
                raise self._error.with_traceback(None)
            if self._ended or self._closed:
                return b""
            await self._readable()
        data = self._take(max_bytes)
        fresh = len(data) - min(len(data), self._prepaid)
        self._prepaid -= len(data) - fresh
        self._muxed.consume(self.id, fresh)
        return data

    def unread(self, data: bytes) -> None:
        """Return `data` from the next reads."""
        self._chunks.appendleft(data)
        self._prepaid += len(data)

    async def write(self, data: Buffer) -> None:
        """Send all of `data`, waiting for window and socket; a cancelled write resets the stream.

        Raises StreamClosed, StreamReset or ConnectionClosed.
        """
        if (error := self._error or self._refusal) is not None:
            raise error.with_traceback(None)
        if self._muxed.send(self.id, memoryview(data)):
            return
        waiter = self._muxed.create_future()
        self._writers.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            self.reset()  # nobody could tell how much was sent, and the buffer is the caller's again
            raise

    async def close_write(self) -> None:
        """End our direction; the peer reads its end, we may go on reading."""
        self._muxed.close_write(self.id)

    async def close(self) -> None:
        """End our direction; what the peer still sends is answered by a reset, its end is not."""
        self._closed = True
        self._muxed.close_stream(self.id, sum(map(len, self._chunks)) - self._prepaid)
        self._chunks.clear()
        self._wake_reader()

    def reset(self, code: int = 0) -> None:
        """End both directions at once, losing what is under way."""
        self._muxed.reset_stream(self.id, code)
        self.fail(StreamReset(f"stream {self.id} was reset by us"))

    # --- what the connection tells

    def receive(self, data: memoryview) -> None:
        """Buffer bytes of the peer."""
        if len(data) >= _COPY_BELOW:
            self._chunks.append(data)
        elif self._chunks and isinstance(last := self._chunks[-1], bytearray) and len(last) < _GATHER:
            last += data
        else:
            self._chunks.append(bytearray(data))
        self._wake_reader()

    def end(self) -> None:
        """The peer's direction has ended."""
        self._ended = True
        self._wake_reader()

    def fail(self, error: NodeError, *, keep_buffered: bool = False) -> None:
        """The stream is gone: writes raise `error` from now on, reads once what came before is read, if it is kept."""
        if self._error is None:
            self._error = error
        if not keep_buffered:
            self._chunks.clear()
        self._wake_reader()
        self._wake_writers(self._error)

    def refuse(self, error: NodeError) -> None:
        """The peer takes no more of our direction: writes raise `error` from now on, reads go on."""
        self._refusal = error
        self._wake_writers(error)

    def drained(self) -> None:
        """All that was written has been handed to the socket."""
        self._wake_writers(None)

    def _take(self, max_bytes: int) -> bytes:
        chunks = self._chunks
        if len(chunks) == 1 and len(chunks[0]) <= max_bytes:
            return bytes(chunks.popleft())
        if len(chunks[0]) > max_bytes:
            rest = memoryview(chunks[0])
            chunks[0] = rest[max_bytes:]
            return bytes(rest[:max_bytes])
        taken: list[Buffer] = []
        room = max(len(chunks[0]), min(max_bytes, _MAX_JOIN))
        while chunks and room >= len(chunks[0]):
            room -= len(chunks[0])
            taken.append(chunks.popleft())
        return b"".join(taken)

    async def _readable(self) -> None:
        if self._reader is not None:
            raise LocalProtocolError(f"two readers of {self}")
        self._reader = self._muxed.create_future()
        try:
            await self._reader
        finally:
            self._reader = None

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _wake_writers(self, error: NodeError | None) -> None:
        writers, self._writers = self._writers, []
        for waiter in writers:
            if waiter.done():
                continue
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error.with_traceback(None))
