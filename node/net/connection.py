"""A connection to a peer and the streams on it: a muxed, secured transport together with what it is known by.

`Connection` does not choose: it opens streams, negotiates their protocol and serves those of the peer from the
node's `Handlers`. Which connection is used for what is the swarm's and the host's decision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from node.events import Direction, Path

if TYPE_CHECKING:
    from collections.abc import Buffer

    from node.names.multiaddr import Multiaddr
    from node.names.peerid import PeerId
    from node.net.stream import ByteStream

__all__ = ["Connection", "Direction", "Path", "Stream"]


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


class Connection:
    """One open connection: peer, addresses, path and the way to open streams on it."""

    peer: PeerId
    direction: Direction
    local: Multiaddr
    remote: Multiaddr
    """The address of the socket's other end; over a relay `/…/p2p/R/p2p-circuit` (outbound: `/p2p/PEER` after it)."""
    path: Path
    limited: bool
    """True for a relayed connection whose relay gave a limit: only protocols that opted in run over it."""
    transport: str
    security: str
    muxer: str
    opened_at: float
    """Unix seconds."""

    async def new_stream(
        self, protocols: Sequence[str], *, lazy: bool = False, limited: bool = False, timeout: float = 15.0
    ) -> Stream:
        """Open a stream and agree on the first protocol the peer supports; NegotiationError when it has none.

        `limited` must be true for a stream on a limited connection (LimitExceeded otherwise); `lazy` sends the only
        proposal together with the first data.
        """
        raise NotImplementedError

    async def ping(self) -> float:
        """Return the muxer's round trip in seconds."""
        raise NotImplementedError

    async def close(self, why: str = "closed by us") -> None:
        """Close the connection and end its streams; returns when the serving tasks have ended."""
        raise NotImplementedError

    @property
    def is_closed(self) -> bool:
        """True from the moment the connection can no longer be used."""
        raise NotImplementedError
