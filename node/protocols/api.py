"""What a protocol may ask of the host that it serves.

The host builds the protocols and knows them; they know only this. `node.host.Host` satisfies it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from node.events import Event
    from node.logic.addressbook import AddressBook
    from node.names.keys import PrivateKey
    from node.names.multiaddr import Multiaddr
    from node.names.peerid import PeerId
    from node.net.connection import Connection, Stream
    from node.net.resolve import Resolver
    from node.net.swarm import Swarm

Handler = Callable[["Stream"], Awaitable[None]]
Unsubscribe = Callable[[], None]


class HostApi(Protocol):
    """The host as its protocols see it."""

    @property
    def key(self) -> PrivateKey:
        """The identity key."""

    @property
    def peer_id(self) -> PeerId:
        """Our own peer id."""

    @property
    def swarm(self) -> Swarm:
        """All connections."""

    @property
    def resolver(self) -> Resolver:
        """What turns names in addresses into addresses."""

    @property
    def addressbook(self) -> AddressBook:
        """What is known of other peers: addresses, protocols, agents."""

    def now(self) -> float:
        """Seconds of a monotonic clock, the one of the addressbook and of all backoffs."""

    def handle(self, protocol: str, handler: Handler, *, limited: bool = False) -> None:
        """Serve `protocol`; `limited`: on limited connections too. The stream is closed when the handler returns
        and reset when it raises."""

    def unhandle(self, protocol: str) -> None:
        """Serve `protocol` no more."""

    async def connect(self, addr: Multiaddr, *, timeout: float = 15.0) -> Connection:
        """Connect to the peer named by the last `/p2p` of `addr`, by this address."""

    async def new_stream(
        self, peer: PeerId, protocols: Sequence[str], *, limited: bool = False, timeout: float = 15.0
    ) -> Stream:
        """Open a stream over the best connection (dialling if none); limited ones only if `limited`."""

    async def identified(self, connection: Connection, timeout: float = 5.0) -> None:
        """Wait until identify has ended on this connection, whether it succeeded or not."""

    def protocols_of(self, peer: PeerId) -> frozenset[str]:
        """What the peer said it serves; empty when it has not said."""

    def protocols(self) -> list[str]:
        """What we serve."""

    def observe(self, connection: Connection, observed: Multiaddr) -> None:
        """Take note of our address as the peer of a direct connection sees it."""

    def addrs(self) -> list[Multiaddr]:
        """The addresses we advertise, without `/p2p/<us>`: interfaces, confirmed observations, reservations."""

    def listen_addrs(self) -> list[Multiaddr]:
        """The addresses of the listeners, wildcards resolved to those of the interfaces."""

    def observed_addrs(self) -> list[Multiaddr]:
        """Our addresses as at least one directly connected peer saw them, most often seen first."""

    def measured(self, peer: PeerId, rtt: float) -> None:
        """Take note of a round trip to a peer, in seconds."""

    def add_advertised(self, addr: Multiaddr) -> None:
        """Advertise `addr` in addition, e.g. a reservation's `/…/p2p/R/p2p-circuit`."""

    def remove_advertised(self, addr: Multiaddr) -> None:
        """Advertise it no more."""

    def emit(self, event: Event) -> None:
        """Tell all subscribers."""

    def subscribe(self, callback: Callable[[Event], None]) -> Unsubscribe:
        """Call back with every event from now on; the callback must not block."""
