"""The node as one value: identity, swarm, the protocols it serves, what it knows of others and what it advertises.

Protocols are given the host as `node.protocols.api.HostApi`, so the arrow stays protocols ← host. Each has
`async start()` and `async close()`; the host starts them in order and closes them in reverse.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from node.net.connection import Connection, Stream
from node.net.swarm import Swarm
from node.protocols.api import Handler, Unsubscribe

if TYPE_CHECKING:
    from node.events import Event
    from node.logic.addressbook import AddressBook
    from node.names.keys import PrivateKey
    from node.names.multiaddr import Multiaddr
    from node.names.peerid import PeerId


@dataclass(frozen=True, slots=True)
class HostConfig:
    """What a node is made of."""

    key: PrivateKey | None = None
    """The identity; a new Ed25519 key where None."""
    listen: tuple[Multiaddr, ...] = ()
    relay_client: bool = True
    relay_server: bool = False
    dcutr: bool = True
    punch_attempts: int = 3
    punch_timeout: float = 5.0
    """Seconds one punch may take."""
    deny: tuple[str, ...] = ()
    """CIDRs that are neither dialled nor accepted."""
    allow: tuple[str, ...] = ()
    """CIDRs that are exempt from `deny`."""


class Host:
    """A libp2p node; `async with Host(config) as host:`."""

    key: PrivateKey
    peer_id: PeerId
    swarm: Swarm
    addressbook: AddressBook

    def __init__(self, config: HostConfig) -> None:
        raise NotImplementedError

    async def __aenter__(self) -> Host:
        raise NotImplementedError

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        raise NotImplementedError

    def now(self) -> float:
        """Seconds of a monotonic clock."""
        raise NotImplementedError

    def handle(self, protocol: str, handler: Handler, *, limited: bool = False) -> None:
        """Serve `protocol`; `limited`: on limited connections too."""
        raise NotImplementedError

    def unhandle(self, protocol: str) -> None:
        """Serve `protocol` no more."""
        raise NotImplementedError

    async def connect(self, addr: Multiaddr, *, timeout: float = 15.0) -> Connection:
        """Connect to the peer named by the last `/p2p` of `addr`, by this address and those known."""
        raise NotImplementedError

    async def new_stream(
        self, peer: PeerId, protocols: Sequence[str], *, limited: bool = False, timeout: float = 15.0
    ) -> Stream:
        """Open a stream over the best connection (dialling if none); limited ones only if `limited`."""
        raise NotImplementedError

    async def identified(self, connection: Connection, timeout: float = 5.0) -> None:
        """Wait until identify has ended on this connection, whether it succeeded or not."""
        raise NotImplementedError

    def protocols_of(self, peer: PeerId) -> frozenset[str]:
        """What the peer said it serves; empty when it has not said."""
        raise NotImplementedError

    def addrs(self) -> list[Multiaddr]:
        """The addresses we advertise, without `/p2p/<us>`."""
        raise NotImplementedError

    def listen_addrs(self) -> list[Multiaddr]:
        """The addresses of the listeners, wildcards resolved to those of the interfaces."""
        raise NotImplementedError

    def observed_addrs(self) -> list[Multiaddr]:
        """Our addresses as at least one directly connected peer saw them."""
        raise NotImplementedError

    def add_advertised(self, addr: Multiaddr) -> None:
        """Advertise `addr` in addition."""
        raise NotImplementedError

    def remove_advertised(self, addr: Multiaddr) -> None:
        """Advertise it no more."""
        raise NotImplementedError

    def emit(self, event: Event) -> None:
        """Tell all subscribers."""
        raise NotImplementedError

    def subscribe(self, callback: Callable[[Event], None]) -> Unsubscribe:
        """Call back with every event from now on; the callback must not block."""
        raise NotImplementedError
