"""A connection to a peer and the streams on it: a muxed, secured transport together with what it is known by.

`Connection` does not choose: it opens streams, negotiates their protocol and serves those of the peer from the
node's `Handlers`. Which connection is used for what is the swarm's and the host's decision.

    inbound stream ─► bound of negotiating streams ─► multistream-select, 10 s ─► bound of the protocol ─► handler
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from node.errors import ConnectionClosed, DeadlineExceeded, LimitExceeded, NegotiationError, NodeError
from node.events import Direction, Path
from node.net.drive import next_events
from node.net.negotiate import propose, respond
from node.wire.multistream import Listed, Lister

if TYPE_CHECKING:
    from node.names.multiaddr import Multiaddr
    from node.names.peerid import PeerId
    from node.names.varint import Buffer
    from node.net.handlers import Handlers
    from node.net.stream import ByteStream
    from node.net.tasks import Tasks
    from node.net.upgrade import Muxed, MuxedStream

__all__ = ["Connection", "Direction", "Endpoints", "Path", "Stream"]

logger = logging.getLogger(__name__)

NEGOTIATION_TIMEOUT = 10.0
"""Seconds an inbound stream may take to agree on a protocol, as in rust and js."""
CLOSE_TIMEOUT = 1.0
"""Seconds to say goodbye before the transport is dropped."""


class Stream:
    """A byte stream with its protocol, on a connection; implements `node.net.stream.ByteStream`."""

    def __init__(self, inner: ByteStream, protocol: str, connection: Connection, direction: Direction) -> None:
        self.protocol = protocol
        self.connection = connection
        self.direction = direction
        self._inner = inner

    @property
    def peer(self) -> PeerId:
        """The peer at the other end."""
        return self.connection.peer

    async def read(self, max_bytes: int = 65536) -> bytes:
        """Return some bytes, b"" at the end; raises StreamReset or ConnectionClosed."""
        return await self._inner.read(max_bytes)

    async def write(self, data: Buffer) -> None:
        """Send all of `data`, waiting for the peer's window."""
        await self._inner.write(data)

    async def close_write(self) -> None:
        """End our direction; the peer reads its end, we may go on reading."""
        await self._inner.close_write()

    async def close(self) -> None:
        """End our direction and refuse the rest of theirs."""
        await self._inner.close()

    def reset(self) -> None:
        """End both directions at once, losing what is under way."""
        self._inner.reset()

    def __repr__(self) -> str:
        return f"<Stream {self.protocol} {self.direction.value} {self.connection!r}>"


@dataclass(frozen=True, slots=True)
class Endpoints:
    """What a connection is known by, apart from its peer."""

    local: Multiaddr
    remote: Multiaddr
    direction: Direction
    path: Path = Path.DIRECT
    limited: bool = False
    transport: str = "tcp"


class Connection:
    """One open connection: peer, addresses, path and the way to open streams on it."""

    def __init__(
        self,
        muxed: Muxed,
        endpoints: Endpoints,
        handlers: Handlers,
        tasks: Tasks,
        on_stream: Callable[[Stream], None],
    ) -> None:
        self.peer: PeerId = muxed.remote_peer
        self.direction = endpoints.direction
        self.local: Multiaddr = endpoints.local
        self.remote: Multiaddr = endpoints.remote
        self.path = endpoints.path
        self.limited = endpoints.limited
        self.transport = endpoints.transport
        self.security: str = muxed.security
        self.muxer: str = muxed.muxer
        self.opened_at = time.time()
        self._muxed = muxed
        self._handlers = handlers
        self._on_stream = on_stream
        self._on_closed: Callable[[Connection, str], None] | None = None
        self._tasks = tasks
        self._why: str | None = None

    def start(self, on_closed: Callable[[Connection, str], None]) -> None:
        """Serve the peer's streams from now on; `on_closed` is called once, with the reason of the end."""
        self._on_closed = on_closed
        self._muxed.start(self._accept, self._ended)

    async def new_stream(
        self, protocols: Sequence[str], *, lazy: bool = False, limited: bool = False, timeout: float = 15.0
    ) -> Stream:
        """Open a stream and agree on the first protocol the peer supports; NegotiationError when it has none.

        `limited` must be true for a stream on a limited connection (LimitExceeded otherwise); `lazy` sends the only
        proposal together with the first data.
        """
        if self.limited and not limited:
            raise LimitExceeded(f"the relay limits the connection to {self.peer}: {', '.join(protocols)} needs another")
        if self.is_closed:
            raise ConnectionClosed(f"the connection to {self.peer} has ended: {self._why}")
        try:
            async with asyncio.timeout(timeout):
                stream = await self._open(protocols, lazy)
        except TimeoutError:
            raise DeadlineExceeded(f"no stream for {', '.join(protocols)} to {self.peer} in {timeout:g} s") from None
        self._on_stream(stream)
        return stream

    async def list_protocols(self, timeout: float = 10.0) -> tuple[str, ...]:
        """Ask by `ls` what the peer serves; NegotiationError when it does not tell, as go and js do not."""
        try:
            async with asyncio.timeout(timeout):
                return await self._ask_listing()
        except TimeoutError:
            raise DeadlineExceeded(f"{self.peer} did not answer `ls` in {timeout:g} s") from None

    async def _ask_listing(self) -> tuple[str, ...]:
        raw = await self._muxed.open_stream()
        try:
            (event,) = await next_events(Lister(), raw)
        finally:
            raw.reset()
        if not isinstance(event, Listed):
            raise NegotiationError(f"{self.peer} does not list its protocols")
        return event.protocols

    async def _open(self, protocols: Sequence[str], lazy: bool) -> Stream:
        raw = await self._muxed.open_stream()
        try:
            protocol, inner = await propose(raw, protocols, lazy=lazy)
        except BaseException:
            raw.reset()
            raise
        return Stream(inner, protocol, self, Direction.OUTBOUND)

    def _accept(self, raw: MuxedStream) -> None:
        if not self._handlers.negotiating.take(self.peer):
            raw.reset()
            return
        self._tasks.spawn(self._serve(raw), f"stream {raw.id} of {self.peer}")

    async def _serve(self, raw: MuxedStream) -> None:
        try:
            stream = await self._negotiate(raw)
        finally:
            self._handlers.negotiating.give(self.peer)
        if stream is not None:
            await self._handle(stream)

    async def _negotiate(self, raw: MuxedStream) -> Stream | None:
        handlers = self._handlers
        try:
            async with asyncio.timeout(NEGOTIATION_TIMEOUT):
                protocol, inner = await respond(
                    raw,
                    lambda name: handlers.supports(name, limited=self.limited),
                    listing=lambda: handlers.listing(limited=self.limited),
                )
        except (NodeError, TimeoutError) as error:
            logger.debug("no protocol on stream %s of %s: %r", raw.id, self.peer, error)
            raw.reset()
            return None
        except BaseException:
            raw.reset()
            raise
        return Stream(inner, protocol, self, Direction.INBOUND)

    async def _handle(self, stream: Stream) -> None:
        if self.is_closed:  # what came before the end may still be read, but who was told of the end is done with it
            return
        handler = self._handlers.handler(stream.protocol)
        budget = self._handlers.streams.of(stream.protocol)
        if handler is None or not budget.take(self.peer):
            logger.debug("%s has too many streams of %s", self.peer, stream.protocol)
            stream.reset()
            return
        try:
            self._on_stream(stream)
            await handler(stream)
            await stream.close()
        except (NodeError, TimeoutError) as error:
            logger.debug("%s with %s ended: %r", stream.protocol, self.peer, error)
            stream.reset()
        except BaseException:
            stream.reset()
            raise
        finally:
            budget.give(self.peer)

    async def ping(self) -> float:
        """Return the muxer's round trip in seconds."""
        return await self._muxed.ping()

    async def close(self, why: str = "closed by us") -> None:
        """Close the connection; its streams end with ConnectionClosed, and their handlers by that."""
        self._gone(why)
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._muxed.close()
        except (NodeError, TimeoutError) as error:
            logger.debug("closing %r: %r", self, error)
            self._muxed.raw.abort()

    def _ended(self, error: NodeError | None) -> None:
        self._gone("closed by the peer" if error is None else str(error))

    def _gone(self, why: str) -> None:
        if self._why is not None:
            return
        self._why = why
        if self._on_closed is not None:
            self._on_closed(self, why)

    @property
    def streams(self) -> int:
        """How many streams, of either side, have not ended in both directions."""
        return self._muxed.streams

    @property
    def is_closed(self) -> bool:
        """True from the moment the connection can no longer be used."""
        return self._why is not None or self._muxed.is_closed

    @property
    def is_leaving(self) -> bool:
        """True from the moment no stream of ours can be opened, although those that are open may go on."""
        return self.is_closed or self._muxed.is_leaving

    def __repr__(self) -> str:
        state = f"closed: {self._why}" if self._why is not None else self.path.value
        return f"<Connection {self.direction.value} {self.peer} {self.remote} {state}>"
