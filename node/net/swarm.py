"""The node's connections: listening, dialling, punching, and which of several connections to a peer is best.

dial(peer, addrs) ─► dial sync ─► gater ─► backoff ─► ranked parallel dials ─► upgrade ─► Connection
listener ─► gater ─► limits ─► (pending punch? its role : responder) ─► upgrade ─► Connection
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from node.net.connection import Connection, Path
from node.net.upgrade import Role

if TYPE_CHECKING:
    from node.names.keys import PrivateKey
    from node.names.multiaddr import Multiaddr
    from node.names.peerid import PeerId
    from node.net.tcp import RawConnection


@dataclass(frozen=True, slots=True)
class TransportDial:
    """What a transport is given to dial: it must return a connection made with `Swarm.add_outbound`."""

    peer: PeerId
    addr: Multiaddr
    timeout: float


DialFunction = Callable[[TransportDial], Awaitable[Connection]]
Unsubscribe = Callable[[], None]


class Swarm:
    """All connections of the node."""

    key: PrivateKey
    peer_id: PeerId

    async def listen(self, addr: Multiaddr) -> Multiaddr:
        """Open a listener and return its address with the port in use."""
        raise NotImplementedError

    def listen_addrs(self) -> list[Multiaddr]:
        """The addresses of the open listeners, wildcards as they were asked for."""
        raise NotImplementedError

    def add_transport(self, matches: Callable[[Multiaddr], bool], dial: DialFunction) -> None:
        """Dial the addresses that match by `dial`; asked before TCP, in the order of registration."""
        raise NotImplementedError

    async def dial(
        self,
        peer: PeerId,
        addrs: Sequence[Multiaddr],
        *,
        timeout: float = 15.0,
        force_direct: bool = False,
        limited_ok: bool = True,
    ) -> Connection:
        """Return a connection to `peer`: an open one that fits, or the first that a dial of `addrs` yields.

        Concurrent callers share one dial. `force_direct` asks for a connection that is not relayed, even when a
        relayed one is open, and pays no heed to backoff. Raises DialError (its message lists each address with its
        reason), DialBackoff, Gated, PeerIdMismatch or DeadlineExceeded.
        """
        raise NotImplementedError

    async def dial_punch(self, peer: PeerId, addrs: Sequence[Multiaddr], role: Role, deadline: float) -> Connection:
        """Punch: dial all `addrs` (TCP, direct) from the listen port again and again until `deadline`.

        `deadline` is a time of the running loop's clock (`loop.time() + seconds`). Connections are upgraded with
        `role` whoever connected; one that arrives from the IP of one of `addrs` in the meantime counts as well. The
        first that proves to be `peer` is returned; raises DialError when there is none by the deadline.
        """
        raise NotImplementedError

    async def add_inbound(
        self, raw: RawConnection, *, path: Path, limited: bool = False, transport: str = "tcp"
    ) -> Connection:
        """Upgrade a connection that a peer made to us (we respond) and keep it."""
        raise NotImplementedError

    async def add_outbound(
        self, raw: RawConnection, *, expected: PeerId, path: Path, limited: bool = False, transport: str = "tcp"
    ) -> Connection:
        """Upgrade a connection that we made (we initiate), check that it is `expected`, and keep it."""
        raise NotImplementedError

    def connections(self, peer: PeerId | None = None) -> list[Connection]:
        """The open connections, to one peer or to all, oldest first."""
        raise NotImplementedError

    def best(self, peer: PeerId) -> Connection | None:
        """The connection new streams should use: direct before relayed, unlimited before limited, then the oldest."""
        raise NotImplementedError

    def on_connected(self, callback: Callable[[Connection], None]) -> Unsubscribe:
        """Call back for each new connection, once its streams can be opened."""
        raise NotImplementedError

    def on_disconnected(self, callback: Callable[[Connection, str], None]) -> Unsubscribe:
        """Call back with each connection that ended and why."""
        raise NotImplementedError

    async def disconnect(self, peer: PeerId) -> int:
        """Close all connections to `peer` and return how many there were."""
        raise NotImplementedError

    async def close(self) -> None:
        """Close listeners and connections, end all dials."""
        raise NotImplementedError
