"""What a transport is: it listens, it dials, and what it makes becomes a muxed connection, in one of two ways.

    TCP, WebSocket, a circuit     a RawConnection: bytes, which `upgrade` secures and muxes
    QUIC                          a Handshake: secures and muxes itself

Both have addresses and can be refused (`abort`) before anything was spent on them; so the swarm's gater, bounds and
punches treat all transports alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from node.net.stream import RawConnection

if TYPE_CHECKING:
    from node.errors import NodeError
    from node.names.multiaddr import IPAddress, Multiaddr
    from node.names.peerid import PeerId
    from node.net.muxed_stream import MuxedStream

OnStream = Callable[["MuxedStream"], None]
OnKnock = Callable[["IPAddress", Callable[[], "Multiaddr"]], None]
OnClosed = Callable[["NodeError | None"], None]


class MuxedConnection(Protocol):
    """A secured connection with many streams; nothing of it moves before `start`."""

    remote_peer: PeerId
    security: str
    """The protocol that proved who the peer is, `/noise`."""
    muxer: str

    def start(self, on_stream: OnStream, on_closed: OnClosed) -> None:
        """Begin: `on_stream` gets each stream the peer opens, `on_closed` once the reason of the end, None if wanted.

        Both are called from the event loop and must not block; either may come before `start` returns.
        """

    @property
    def is_closed(self) -> bool:
        """True from the moment no stream can be used any more."""

    @property
    def is_leaving(self) -> bool:
        """True from the moment the peer takes no more streams of ours; it may let the open ones go on for long."""

    @property
    def streams(self) -> int:
        """How many streams have not ended in both directions."""

    @property
    def bytes_in(self) -> int:
        """Bytes received, as the transport counts them."""

    @property
    def bytes_out(self) -> int:
        """Bytes sent, as the transport counts them."""

    async def open_stream(self) -> MuxedStream:
        """Open a stream, waiting while the peer allows no more; raises ConnectionClosed or LimitExceeded."""

    async def ping(self, timeout: float = 10.0) -> float:
        """Return the round trip in seconds; raises DeadlineExceeded or ConnectionClosed."""

    async def close(self) -> None:
        """Tell the peer, end all streams and close the connection."""

    def abort(self) -> None:
        """Close at once, losing what is under way."""


@runtime_checkable
class Handshake(Protocol):
    """A connection that secures and muxes itself, dialled or accepted; it goes on only in `complete`."""

    local: Multiaddr
    remote: Multiaddr
    dialled: bool
    """Whether it was we who began."""

    async def complete(self, expected: PeerId | None) -> MuxedConnection:
        """Finish the handshake, with deadlines set by the caller; on any failure the connection is closed.

        Raises PeerIdMismatch when the peer is not `expected`, SecurityError, RemoteProtocolError or ConnectionClosed.
        """

    def abort(self) -> None:
        """Refuse it, or give it up."""


Carried = RawConnection | Handshake
"""A connection as a transport makes it."""


class Listener(Protocol):
    """An open listener."""

    addr: Multiaddr
    """The address bound, with the port in use; a wildcard as it was asked for."""

    async def close(self) -> None:
        """Accept no more; connections that were accepted stay."""


@runtime_checkable
class Knocker(Protocol):
    """A transport whose hole is made from one side by datagrams that mean nothing, while the other side dials."""

    on_knock: OnKnock | None
    """Called with each datagram that means nothing: the sender's IP address, and a function that makes the whole one.
    """

    def knock(self, addr: Multiaddr, source: Multiaddr, data: bytes) -> None:
        """Send a datagram that is nobody's from the socket of `source`, to open our NAT towards `addr`."""


class Transport(Protocol):
    """Listens and dials; several dials may be under way at once."""

    async def listen(self, addr: Multiaddr, on_connection: Callable[[Carried], None]) -> Listener:
        """Bind `addr`, port 0 for any, and call back with whoever connects; ConfigError where that is not possible."""

    async def dial(
        self, addr: Multiaddr, *, source: Multiaddr | None = None, strict_source: bool = False, timeout: float = 15.0
    ) -> Carried:
        """Connect to `addr`, from the address and port of `source`, a listener of the same transport, if given.

        Where the source cannot be used for this path, another port is taken, unless `strict_source`. Raises DialError
        or DeadlineExceeded.
        """
