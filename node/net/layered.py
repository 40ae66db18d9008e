"""A connection over a connection: web TLS, WebSocket and private networks change bytes on their way, one above another.

    Muxed ─► LayeredConnection (WebSocket) ─► LayeredConnection (web TLS) ─► TcpConnection

A layer is a machine. Its handshake runs with the first read or write, so that whoever accepted the connection has
already given it a deadline and a bound. In push mode bytes go through all layers within the callback that brought them.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from node.errors import ConnectionClosed, NodeError, ProtocolError, SecurityError
from node.net.stream import READ_SIZE, RawConnection, Sink

if TYPE_CHECKING:
    from node.names.multiaddr import Multiaddr
    from node.names.varint import Buffer


class Layer(Protocol):
    """What turns the bytes of one connection into those of another, and back."""

    @property
    def is_ready(self) -> bool:
        """Whether the handshake is over."""

    @property
    def has_ended(self) -> bool:
        """Whether the peer has said that it sends no more."""

    def receive_data(self, data: Buffer) -> list[Buffer]:
        """Take bytes from below and return those for above; raises RemoteProtocolError or SecurityError, finally."""

    def send_data(self, data: Buffer) -> None:
        """Take bytes from above."""

    def end(self) -> None:
        """Tell the peer that we send no more, if there are words for it."""

    def data_to_send(self) -> list[Buffer]:
        """Hand out the bytes for below."""


class LayeredConnection:
    """`layer` over `inner`; implements `node.net.stream.RawConnection` and is the sink of `inner`."""

    def __init__(
        self, inner: RawConnection, layer: Layer, *, local: Multiaddr | None = None, remote: Multiaddr | None = None
    ) -> None:
        self.local = local or inner.local
        self.remote = remote or inner.remote
        self._inner = inner
        self._layer = layer
        self._ahead = bytearray()  # at most what one read of `inner` becomes
        self._sink: Sink | None = None
        self._lost = False

    def __repr__(self) -> str:
        return f"<LayeredConnection {self.local} to {self.remote}>"

    @property
    def bytes_in(self) -> int:
        """Bytes received, as they are on the wire."""
        return self._inner.bytes_in

    @property
    def bytes_out(self) -> int:
        """Bytes sent, as they are on the wire."""
        return self._inner.bytes_out

    async def ready(self) -> None:
        """Run the layer's handshake; raises RemoteProtocolError, SecurityError or ConnectionClosed."""
        await self._flush()
        while not self._layer.is_ready:
            data = await self._inner.read()
            if not data:
                raise ConnectionClosed(f"{self.remote}: closed in the middle of a handshake")
            await self._take(data)

    # --- pull

    async def read(self, max_bytes: int = READ_SIZE) -> bytes:
        """Return some bytes, b"" at the end; raises as `ready` does."""
        await self.ready()
        while not self._ahead and not self._layer.has_ended:
            data = await self._inner.read()
            if not data:
                return b""
            await self._take(data)
        data = bytes(self._ahead[:max_bytes])
        del self._ahead[: len(data)]
        return data

    def unread(self, data: bytes) -> None:
        """Return `data` from the next reads."""
        self._ahead[:0] = data

    async def write(self, data: Buffer) -> None:
        """Send all of `data`; raises as `ready` does."""
        await self.ready()
        self._layer.send_data(data)
        await self._flush()

    async def close_write(self) -> None:
        """End our direction."""
        self._layer.end()
        await self._flush()
        await self._inner.close_write()

    async def close(self) -> None:
        """Send what is queued and what ends the layer, and close."""
        self._layer.end()
        self._send_all()
        await self._inner.close()

    def reset(self) -> None:
        """Close at once."""
        self.abort()

    async def _take(self, data: Buffer) -> None:
        try:
            for piece in self._layer.receive_data(data):
                self._ahead += piece
        except (SecurityError, ProtocolError):
            with suppress(NodeError):
                await self._flush()
            raise
        await self._flush()

    async def _flush(self) -> None:
        if buffers := self._layer.data_to_send():
            await self._inner.write(b"".join(buffers))

    # --- push

    @property
    def writable(self) -> bool:
        """Whether `send` is welcome."""
        return self._inner.writable

    def push_to(self, sink: Sink) -> None:
        """Give all that arrives from now on, and what is buffered, to `sink`; the handshake must be over."""
        self._sink = sink
        ahead, self._ahead = self._ahead, bytearray()
        if ahead:
            sink.data_received(memoryview(ahead))
        self._inner.push_to(self)

    def send(self, data: Buffer) -> None:
        """Queue `data` without waiting."""
        self._layer.send_data(data)
        self._send_all()

    def abort(self) -> None:
        """Close at once."""
        self._inner.abort()

    def _send_all(self) -> None:
        for data in self._layer.data_to_send():
            self._inner.send(data)

    # --- what the connection below calls

    def data_received(self, data: memoryview) -> None:
        """Take bytes from below, and hand on what they become."""
        assert self._sink is not None
        if self._lost or self._layer.has_ended:
            return
        try:
            pieces = self._layer.receive_data(data)
        except (SecurityError, ProtocolError) as error:
            self._send_all()
            self.connection_lost(error)
            self._inner.abort()
            return
        for piece in pieces:
            self._sink.data_received(memoryview(piece))
        if self._inner.writable:  # what answers the peer may wait: it does not read
            self._send_all()
        if self._layer.has_ended:
            self._sink.eof_received()

    def eof_received(self) -> None:
        """The peer ended the connection below."""
        if self._sink is not None and not self._layer.has_ended:
            self._sink.eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        """The connection below is gone."""
        if self._sink is not None and not self._lost:
            self._lost = True
            self._sink.connection_lost(error)

    def resume_writing(self) -> None:
        """`writable` has become true again."""
        if self._sink is not None and not self._lost:
            self._sink.resume_writing()
