"""A connection to a peer and the streams on it: a muxed, secured transport together with what it is known by.

`Connection` does not choose: it opens streams, negotiates their protocol and serves those of the peer from the
node's `Handlers`. Which connection is used for what is the swarm's and the host's decision.

    inbound stream ─► transient limits ─► multistream-select, 10 s ─► limits of protocol and service ─► handler
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from node.errors import ConnectionClosed, DeadlineExceeded, LimitExceeded, NegotiationError, NodeError, StreamReset
from node.events import Direction, Path
from node.logic.resources import Kind
from node.logic.traffic import IN, OUT, PIECE
from node.net.drive import next_events
from node.net.negotiate import propose, respond
from node.net.stream import Abandonable, Taking
from node.net.transport import Handshake
from node.wire.multistream import Listed, Lister

if TYPE_CHECKING:
    from node.logic.resources import ConnectionClaim, StreamClaim
    from node.logic.traffic import Traffic
    from node.names.multiaddr import Multiaddr
    from node.names.peerid import PeerId
    from node.names.varint import Buffer
    from node.net.handlers import Handlers
    from node.net.muxed_stream import MuxedStream
    from node.net.stream import ByteStream
    from node.net.tasks import Tasks
    from node.net.transport import MuxedConnection

__all__ = ["Connection", "Direction", "Endpoints", "Path", "Stream"]

logger = logging.getLogger(__name__)

NEGOTIATION_TIMEOUT = 10.0
"""Seconds an inbound stream may take to agree on a protocol, as in rust and js."""
CLOSE_TIMEOUT = 1.0
"""Seconds to say goodbye before the transport is dropped."""


class Stream:
    """A byte stream with its protocol, on a connection; implements `node.net.stream.ByteStream`."""

    def __init__(
        self, inner: ByteStream, protocol: str, connection: Connection, direction: Direction, claim: StreamClaim
    ) -> None:
        self.protocol = protocol
        self.connection = connection
        self.direction = direction
        self._inner = inner
        self._claim = claim
        self._clock = asyncio.get_running_loop().time
        direct = connection.path is Path.DIRECT  # what is relayed is limited as the stream that carries it
        self._account = connection.traffic.account(connection.peer, protocol, self._clock(), limited=direct)
        self._is_read = self._is_written = False

    @property
    def peer(self) -> PeerId:
        """The peer at the other end."""
        return self.connection.peer

    async def read(self, max_bytes: int = 65536) -> bytes:
        """Return some bytes, b"" at the end; raises StreamReset or ConnectionClosed."""
        try:
            if self._account.is_limited(IN):
                await self._turn(IN)
            data = await self._inner.read(max_bytes)
        except NodeError:
            self._claim.release()
            raise
        self._account.passed(IN, len(data), self._clock())
        if not data:
            self._is_read = True
            self._release_if_ended()
        return data

    async def write(self, data: Buffer) -> None:
        """Send all of `data`, waiting for the peer's window."""
        try:
            if not self._account.is_limited(OUT):
                await self._inner.write(data)
                self._account.passed(OUT, len(data), self._clock())
                return
            whole = memoryview(data)
            for start in range(0, len(whole), PIECE):
                await self._turn(OUT)
                piece = whole[start : start + PIECE]
                await self._inner.write(piece)
                self._account.passed(OUT, len(piece), self._clock())
        except StreamReset:
            self._claim.release()
            raise

    async def _turn(self, flow: int) -> None:
        """Wait until the debt is paid that there is now: as long as PIECE bytes of everybody who waits take."""
        if wait := self._account.wait(flow, self._clock()):
            await asyncio.sleep(wait)

    async def close_write(self) -> None:
        """End our direction; the peer reads its end, we may go on reading."""
        await self._inner.close_write()
        self._is_written = True
        self._release_if_ended()

    async def close(self) -> None:
        """End our direction and refuse the rest of theirs."""
        self._claim.release()
        await self._inner.close()

    def reset(self) -> None:
        """End both directions at once, losing what is under way."""
        self._claim.release()
        self._inner.reset()

    def _release_if_ended(self) -> None:
        if self._is_read and self._is_written:
            self._claim.release()

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
        muxed: MuxedConnection,
        endpoints: Endpoints,
        handlers: Handlers,
        tasks: Tasks,
        on_stream: Callable[[Stream], None],
        claim: ConnectionClaim,
        traffic: Traffic,
    ) -> None:
        self.peer: PeerId = muxed.remote_peer
        self.direction = endpoints.direction
        self.local: Multiaddr = endpoints.local
        self.path = endpoints.path
        self.limited = endpoints.limited
        self.transport = endpoints.transport
        self.security: str = muxed.security
        self.muxer: str = muxed.muxer
        self.opened_at = time.time()
        self.is_doubted = False
        """Whether there is reason to think that it leads nowhere any more; others are preferred meanwhile."""
        self.traffic = traffic
        """What its streams are counted by, with those of all others."""
        self.claim = claim
        """What it holds of the node's resources."""
        self._muxed = muxed
        self._remote = endpoints.remote
        self._moving = muxed if isinstance(muxed, Handshake) else None
        self._handlers = handlers
        self._on_stream = on_stream
        self._serving: Counter[str] = Counter()  # at most one entry a protocol that is served
        self._on_closed: Callable[[Connection, str], None] | None = None
        self._tasks = tasks
        self._why: str | None = None

    @property
    def remote(self) -> Multiaddr:
        """Where the peer is; over QUIC it may move."""
        return self._remote if self._moving is None else self._moving.remote

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
        claim = self.claim.stream(Kind.STREAMS_OUT)
        try:
            raw = await self._muxed.open_stream()
            try:
                protocol, inner = await propose(raw, protocols, lazy=lazy)
                claim.agreed(protocol)
            except BaseException:
                raw.reset()
                raise
        except BaseException:
            claim.release()
            raise
        return Stream(inner, protocol, self, Direction.OUTBOUND, claim)

    def _accept(self, raw: MuxedStream) -> None:
        try:
            claim = self.claim.stream(Kind.STREAMS_IN)
        except LimitExceeded as error:
            logger.debug("no stream for %s: %s", self.peer, error)
            raw.reset()
            return
        self._tasks.spawn(self._serve(raw, claim), f"stream {raw.id} of {self.peer}")

    async def _serve(self, raw: MuxedStream, claim: StreamClaim) -> None:
        try:
            stream = await self._negotiate(raw, claim)
            if stream is not None:
                await self._handle(stream)
        finally:
            claim.release()

    async def _negotiate(self, raw: MuxedStream, claim: StreamClaim) -> Stream | None:
        handlers = self._handlers
        try:
            async with asyncio.timeout(NEGOTIATION_TIMEOUT):
                protocol, inner = await respond(
                    raw,
                    lambda name: handlers.supports(name, self.peer, limited=self.limited),
                    listing=lambda: handlers.listing_for(self.peer, limited=self.limited),
                )
                claim.agreed(protocol)
        except (NodeError, TimeoutError) as error:
            logger.debug("no protocol on stream %s of %s: %r", raw.id, self.peer, error)
            raw.reset()
            return None
        except BaseException:
            raw.reset()
            raise
        return Stream(inner, protocol, self, Direction.INBOUND, claim)

    async def _handle(self, stream: Stream) -> None:
        if self.is_closed:  # what came before the end may still be read, but who was told of the end is done with it
            return
        handler = self._handlers.handler(stream.protocol)
        if handler is None:  # it was served a moment ago
            stream.reset()
            return
        self._serving[stream.protocol] += 1
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
            self._serving[stream.protocol] -= 1

    async def ping(self) -> float:
        """Return the muxer's round trip in seconds."""
        return await self._muxed.ping()

    def is_taking(self, within: float) -> bool:
        """Whether the peer's host took something in the last `within` seconds of what still waits to be sent, as far
        as the transport knows."""
        return isinstance(self._muxed, Taking) and self._muxed.is_taking(within)

    async def close(self, why: str = "closed by us") -> None:
        """Close the connection; its streams end with ConnectionClosed, and their handlers by that."""
        self._gone(why)
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._muxed.close()
        except (NodeError, TimeoutError) as error:
            logger.debug("closing %r: %r", self, error)
            self._muxed.abort()

    async def abandon(self, why: str) -> None:
        """Close a connection whose other end is not there any more; QUIC's takes leave of it all the same."""
        if not isinstance(self._muxed, Abandonable):
            await self.close(why)
            return
        self._gone(why)
        self._muxed.abandon()

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

    def serving(self, protocol: str) -> int:
        """How many streams of a protocol we serve the peer."""
        return self._serving[protocol]

    @property
    def is_closed(self) -> bool:
        """True from the moment the connection can no longer be used."""
        return self._why is not None or self._muxed.is_closed

    @property
    def is_leaving(self) -> bool:
        """True from the moment no stream of ours can be opened, although those that are open may go on."""
        return self.is_closed or self._muxed.is_leaving

    @property
    def bytes_in(self) -> int:
        """Bytes received, as the transport counts them."""
        return self._muxed.bytes_in

    @property
    def bytes_out(self) -> int:
        """Bytes sent, as the transport counts them."""
        return self._muxed.bytes_out

    def __repr__(self) -> str:
        state = f"closed: {self._why}" if self._why is not None else self.path.value
        return f"<Connection {self.direction.value} {self.peer} {self.remote} {state}>"
