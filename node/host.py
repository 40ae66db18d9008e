"""The node as one value: identity, swarm, the protocols it serves, what it knows of others and what it advertises.

Protocols are given the host as `node.protocols.api.HostApi`, so the arrow stays protocols ← host. Each has
`async start()` and `async close()`; the host starts them in order and closes them in reverse.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from node.errors import ConnectionClosed, DecodeError
from node.events import (
    AddressesChanged,
    Connected,
    Direction,
    Disconnected,
    Event,
    Listening,
    Observed,
    Path,
    ProtocolsChanged,
    StreamOpened,
)
from node.logic.addressbook import AddressBook, Ttl
from node.logic.addresses import Gater, of_interfaces, unique
from node.logic.observed import ObservedAddresses
from node.names.keys import PrivateKey
from node.names.multiaddr import Multiaddr
from node.names.peerid import PeerId
from node.net.connection import Connection, Stream
from node.net.handlers import Handler, Handlers
from node.net.interfaces import interface_ips
from node.net.swarm import Swarm, Unsubscribe
from node.protocols.echo import Echo
from node.protocols.identify import Identify
from node.protocols.perf import Perf
from node.protocols.ping import Ping

if TYPE_CHECKING:
    from node.protocols.dcutr import Dcutr
    from node.protocols.relay_client import RelayClient
    from node.protocols.relay_server import RelayServer

logger = logging.getLogger(__name__)

VERSION = "0.1.0"
AGENT = f"punchlab-python/{VERSION}"
ADVERTISED = 64
"""Addresses that protocols may have us advertise in addition to those of the interfaces."""
_ONE_OBSERVER = 1


class Service(Protocol):
    """A protocol in the host."""

    async def start(self) -> None:
        """Register handlers, begin work."""

    async def close(self) -> None:
        """End the work, unregister."""


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

    def __init__(self, config: HostConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self.config = config
        self._key = config.key or PrivateKey.generate()
        self._handlers = Handlers()
        gater = Gater(config.deny, config.allow)
        self._swarm = Swarm(self._key, self._handlers, gater=gater, on_stream=self._stream_opened, clock=clock)
        self._addressbook = AddressBook()
        self._observed = ObservedAddresses()
        self._advertised: dict[Multiaddr, None] = {}
        self._last_addrs: list[Multiaddr] = []
        self._subscribers: list[Callable[[Event], None]] = []
        self._clock = clock
        self.identify = Identify(self, AGENT)
        self.ping = Ping(self)
        self.echo = Echo(self)
        self.perf = Perf(self)
        self.relay_client: RelayClient | None = None
        self.relay_server: RelayServer | None = None
        self.dcutr: Dcutr | None = None
        self._exit = contextlib.AsyncExitStack()
        self._closing = False

    async def __aenter__(self) -> Host:
        async with contextlib.AsyncExitStack() as stack:
            self._swarm.on_connected(self._connected)
            self._swarm.on_disconnected(self._disconnected)
            stack.push_async_callback(self._swarm.close)
            for service in self._build_services():
                stack.push_async_callback(service.close)
                await service.start()
            for addr in self.config.listen:
                self.emit(Listening(await self._swarm.listen(addr)))
            self._last_addrs = self.addrs()
            self._exit = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        await self._exit.__aexit__(kind, error, trace)

    def _build_services(self) -> list[Service]:
        """The protocols, those of the flags imported only when wanted: start-up is short by what is not loaded."""
        services: list[Service] = [self.identify, self.ping, self.echo, self.perf]
        if self.config.relay_server:
            from node.protocols.relay_server import RelayServer

            self.relay_server = RelayServer(self)
            services.append(self.relay_server)
        if self.config.relay_client:
            from node.protocols.relay_client import RelayClient

            self.relay_client = RelayClient(self)
            services.append(self.relay_client)
        if self.config.dcutr:
            from node.logic.dcutr import PunchPolicy
            from node.protocols.dcutr import Dcutr

            self.dcutr = Dcutr(self, PunchPolicy(self.config.punch_attempts, punch=self.config.punch_timeout))
            services.append(self.dcutr)
        return services

    # ── who we are ───────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def key(self) -> PrivateKey:
        """The identity key."""
        return self._key

    @property
    def peer_id(self) -> PeerId:
        """Our own peer id."""
        return self._swarm.peer_id

    @property
    def swarm(self) -> Swarm:
        """All connections."""
        return self._swarm

    @property
    def addressbook(self) -> AddressBook:
        """What is known of other peers."""
        return self._addressbook

    def now(self) -> float:
        """Seconds of a monotonic clock."""
        return self._clock()

    # ── what we serve ────────────────────────────────────────────────────────────────────────────────────────────

    def handle(self, protocol: str, handler: Handler, *, limited: bool = False) -> None:
        """Serve `protocol`; `limited`: on limited connections too."""
        self._handlers.add(protocol, handler, limited=limited)
        self.emit(ProtocolsChanged(self._handlers.listing()))

    def unhandle(self, protocol: str) -> None:
        """Serve `protocol` no more."""
        self._handlers.remove(protocol)
        if not self._closing:  # nobody needs to hear that a node which goes serves one protocol less
            self.emit(ProtocolsChanged(self._handlers.listing()))

    def protocols(self) -> list[str]:
        """What we serve."""
        return list(self._handlers.listing())

    # ── whom we reach ────────────────────────────────────────────────────────────────────────────────────────────

    async def connect(self, addr: Multiaddr, *, timeout: float = 15.0) -> Connection:
        """Connect to the peer named by the last `/p2p` of `addr`, by this address.

        A connection that is open is returned, unless it is relayed and `addr` is not. Raises DecodeError when the
        address names no peer, else as `Swarm.dial`.
        """
        peer = addr.peer_id
        if peer is None:
            raise DecodeError(f"{addr} does not end in /p2p/<peer id>")
        address = addr.without("p2p")
        best = self._swarm.best(peer)
        replaces = best is not None and best.path is Path.RELAYED and not addr.is_relayed
        connection = await self._swarm.dial(peer, [address], timeout=timeout, force_direct=replaces)
        self._addressbook.add(peer, [address], Ttl.TOLD, self.now())
        return connection

    async def new_stream(
        self, peer: PeerId, protocols: Sequence[str], *, limited: bool = False, timeout: float = 15.0
    ) -> Stream:
        """Open a stream over the best connection (dialling if none); limited ones only if `limited`."""
        for connection in self._swarm.by_preference(peer):
            with contextlib.suppress(ConnectionClosed):  # it ended this very moment: the next one may do
                return await connection.new_stream(protocols, limited=limited, timeout=timeout)
        addrs = self._addressbook.addrs(peer, self.now())
        connection = await self._swarm.dial(peer, addrs, timeout=timeout)
        return await connection.new_stream(protocols, limited=limited, timeout=timeout)

    async def identified(self, connection: Connection, timeout: float = 5.0) -> None:
        """Wait until identify has ended on this connection, whether it succeeded or not."""
        await self.identify.wait(connection, timeout)

    def protocols_of(self, peer: PeerId) -> frozenset[str]:
        """What the peer said it serves; empty when it has not said."""
        return self._addressbook.protocols(peer)

    # ── where we are reached ─────────────────────────────────────────────────────────────────────────────────────

    def addrs(self) -> list[Multiaddr]:
        """The addresses we advertise, without `/p2p/<us>`: interfaces, confirmed observations, reservations."""
        return unique([*self.listen_addrs(), *self._observed.addrs(), *self._advertised])

    def listen_addrs(self) -> list[Multiaddr]:
        """The addresses of the listeners, wildcards resolved to those of the interfaces."""
        listening = self._swarm.listen_addrs()
        wild = any(addr.ip is not None and addr.ip.is_unspecified for addr in listening)
        ips = interface_ips() if wild else []
        return unique(each for addr in listening for each in of_interfaces(addr, ips))

    def observed_addrs(self) -> list[Multiaddr]:
        """Our addresses as at least one directly connected peer saw them, most often seen first."""
        return self._observed.addrs(_ONE_OBSERVER)

    def observe(self, connection: Connection, observed: Multiaddr) -> None:
        """Take note of our address as the peer of a direct connection sees it."""
        observer = connection.remote.ip
        if observer is None or connection.path is not Path.DIRECT:
            return
        local, listening = connection.local, self.listen_addrs()
        if self._observed.record(connection, observer=observer, local=local, observed=observed, listening=listening):
            self.emit(Observed(observed, connection.peer))
            self._addresses_may_have_changed()

    def add_advertised(self, addr: Multiaddr) -> None:
        """Advertise `addr` in addition; beyond the bound it is left out."""
        if len(self._advertised) >= ADVERTISED:
            logger.warning("not advertising %s: %d addresses are advertised already", addr, ADVERTISED)
            return
        self._advertised[addr] = None
        self._addresses_may_have_changed()

    def remove_advertised(self, addr: Multiaddr) -> None:
        """Advertise it no more."""
        self._advertised.pop(addr, None)
        self._addresses_may_have_changed()

    def _addresses_may_have_changed(self) -> None:
        if self._closing:
            return
        addrs = self.addrs()
        if addrs != self._last_addrs:
            self._last_addrs = addrs
            self.emit(AddressesChanged(tuple(addrs)))

    # ── what happens ─────────────────────────────────────────────────────────────────────────────────────────────

    def emit(self, event: Event) -> None:
        """Tell all subscribers."""
        for callback in list(self._subscribers):
            callback(event)

    def subscribe(self, callback: Callable[[Event], None]) -> Unsubscribe:
        """Call back with every event from now on; the callback must not block."""
        self._subscribers.append(callback)
        return lambda: self._subscribers.remove(callback)

    def _connected(self, connection: Connection) -> None:
        if connection.direction is Direction.OUTBOUND and connection.path is Path.DIRECT:
            self._addressbook.connected(connection.peer, connection.remote)
        self.emit(
            Connected(
                connection.peer,
                connection.path,
                connection.direction,
                connection.local,
                connection.remote,
                connection.transport,
                connection.security,
                connection.muxer,
            )
        )

    def _disconnected(self, connection: Connection, why: str) -> None:
        if not self._swarm.connections(connection.peer):
            self._addressbook.disconnected(connection.peer, self.now())
        self._observed.forget(connection)
        self.emit(Disconnected(connection.peer, connection.path, connection.remote, why))
        self._addresses_may_have_changed()

    def _stream_opened(self, stream: Stream) -> None:
        self.emit(StreamOpened(stream.protocol, stream.peer, stream.connection.path, stream.direction))
