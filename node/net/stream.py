"""Byte streams: what protocols read and write, be it TCP, a secured channel, a muxed stream or a circuit.

Two ways to take bytes from a connection. *Pull*: `await read()`, which all of handshake, negotiation and protocols use.
*Push*: `push_to(sink)`, after which bytes go straight from the socket's buffer through decryption and muxer into the
streams' buffers, without a task or an await between; only `Muxed` uses it.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from node.errors import RemoteProtocolError, StreamClosed
from node.names import varint
from node.names.multiaddr import Multiaddr
from node.names.varint import Buffer

READ_SIZE = 65536


class ByteStream(Protocol):
    """A stream of bytes in both directions."""

    async def read(self, max_bytes: int = READ_SIZE) -> bytes:
        """Return some bytes, at most `max_bytes`, b"" at the end; raises StreamReset or ConnectionClosed."""

    async def write(self, data: Buffer) -> None:
        """Send all of `data`, waiting while the peer or the network is slower; raises as `read`, or StreamClosed."""

    async def close_write(self) -> None:
        """End our direction; the peer reads its end, we may go on reading."""

    async def close(self) -> None:
        """End our direction and refuse the rest of the peer's."""

    def reset(self) -> None:
        """End both directions at once, losing what is under way."""


@runtime_checkable
class Unreadable(Protocol):
    """A stream that takes back what was read too far."""

    def unread(self, data: bytes) -> None:
        """Return `data` from the next reads."""


@runtime_checkable
class Taking(Protocol):
    """A connection that knows whether the other end takes what we send."""

    def is_taking(self, within: float) -> bool:
        """Whether something waits to be sent, and the other end took a part of it in the last `within` seconds."""


@runtime_checkable
class Abandonable(Protocol):
    """A connection that can be closed without the other end, which is not there any more."""

    def abandon(self) -> None:
        """Close at once, and let go of what waits for the other end: its addresses can be used again."""


class Sink(Protocol):
    """Whom a connection pushes to; the calls come from the event loop and must not block."""

    def data_received(self, data: memoryview) -> None:
        """Take bytes; `data` is valid during the call only."""

    def eof_received(self) -> None:
        """The peer ended its direction."""

    def connection_lost(self, error: Exception | None) -> None:
        """The last call: the connection is gone."""

    def resume_writing(self) -> None:
        """`writable` has become true again."""


class RawConnection(ByteStream, Protocol):
    """A connection as a transport makes it, not yet secured: a byte stream with addresses."""

    local: Multiaddr
    remote: Multiaddr

    @property
    def bytes_in(self) -> int:
        """Bytes received, as they were on the wire."""

    @property
    def bytes_out(self) -> int:
        """Bytes sent, as they are on the wire."""

    @property
    def writable(self) -> bool:
        """Whether `send` is welcome; false while too much waits to be sent, and after the end."""

    def push_to(self, sink: Sink) -> None:
        """Give all that arrives from now on, and what is buffered, to `sink`; `read` must not be called any more."""

    def send(self, data: Buffer) -> None:
        """Queue `data`, which must not change any more, without waiting."""

    def abort(self) -> None:
        """Close at once, losing what is under way."""


class BufferedStream:
    """A stream with bytes in front that were read too far by whoever had it before."""

    def __init__(self, inner: ByteStream, ahead: bytes = b"") -> None:
        self._inner = inner
        self._ahead = ahead

    async def read(self, max_bytes: int = READ_SIZE) -> bytes:
        """Return what is in front first."""
        if not self._ahead:
            return await self._inner.read(max_bytes)
        data, self._ahead = self._ahead[:max_bytes], self._ahead[max_bytes:]
        return data

    def unread(self, data: bytes) -> None:
        """Return `data` from the next reads."""
        self._ahead = data + self._ahead

    async def write(self, data: Buffer) -> None:
        """Send all of `data`."""
        await self._inner.write(data)

    async def close_write(self) -> None:
        """End our direction."""
        await self._inner.close_write()

    async def close(self) -> None:
        """End our direction and refuse the rest."""
        await self._inner.close()

    def reset(self) -> None:
        """End both directions at once."""
        self._inner.reset()


def push_back(stream: ByteStream, data: bytes) -> ByteStream:
    """The stream whose next bytes are `data`: `stream` itself if it takes them back, else one around it."""
    if not data:
        return stream
    if isinstance(stream, Unreadable):
        stream.unread(data)
        return stream
    return BufferedStream(stream, data)


async def read_exactly(stream: ByteStream, size: int) -> bytes:
    """Return `size` bytes; raises StreamClosed if the stream ends before."""
    chunks: list[bytes] = []
    missing = size
    while missing:
        chunk = await stream.read(missing)
        if not chunk:
            raise StreamClosed(f"stream ends {missing} bytes early")
        chunks.append(chunk)
        missing -= len(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def read_frame(stream: ByteStream, max_bytes: int) -> bytes:
    """Return one length-delimited message and read nothing behind it.

    Raises StreamClosed if the stream ends before or in it, RemoteProtocolError if it is longer than `max_bytes`.
    """
    prefix = b""
    while True:
        prefix += await read_exactly(stream, 1)
        try:
            size, _ = varint.decode(prefix)
        except varint.Truncated:
            continue
        if size > max_bytes:
            raise RemoteProtocolError(f"message of {size} bytes, at most {max_bytes} allowed")
        return await read_exactly(stream, size)


async def write_frame(stream: ByteStream, payload: Buffer) -> None:
    """Send one length-delimited message."""
    await stream.write(b"".join((varint.encode(len(payload)), payload)))
