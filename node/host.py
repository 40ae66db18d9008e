"""The node as one value: identity, swarm, the protocols it serves, what it knows of others and what it advertises.

Protocols are given the host as `node.protocols.api.HostApi`, so the arrow stays protocols ← host. Each has
`async start()` and `async close()`; the host starts them in order and closes them in reverse.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from node.connmgr import ConnectionManager
from node.errors import ConnectionClosed, DecodeError
from node.events import (
    AddressesChanged,
    Connected,
    Direction,
    Disconnected,
    Event,
    LatencyCrossed,
    Listening,
    Observed,
    Path,
    ProtocolsChanged,
    StreamOpened,
)
from node.logic.addressbook import AddressBook, Ttl
from node.logic.addresses import of_interfaces, unique
from node.logic.gating import Authorisation, Gater
from node.logic.liveness import SILENCE
from node.logic.observed import Mapping, ObservedAddresses
from node.logic.protection import DEFAULT, Security
from node.logic.resources import Resources
from node.logic.traffic import Latencies, Rates
from node.logic.trimming import Watermarks
from node.metrics import Metrics
from node.names.keys import PrivateKey
from node.names.multiaddr import Multiaddr
from node.names.peerid import PeerId
from node.net import machine
from node.net.connection import Connection, Stream
from node.net.handlers import Handler, Handlers
from node.net.interfaces import interface_ips
from node.net.resolve import Resolver
from node.net.swarm import Swarm, Unsubscribe
from node.net.upgrade import UpgradeConfig
from node.net.web_tls import WebConfig
from node.protocols.echo import Echo
from node.protocols.identify import Identify
from node.protocols.keeper import Keeper
from node.protocols.liveness import Liveness
from node.protocols.perf import Perf
from node.protocols.ping import Ping
from node.wire.yamux import PROTOCOL as YAMUX

if TYPE_CHECKING:
    import pathlib

    from node.logic.gating import Authorise
    from node.logic.limits import Limits
    from node.net.peerstore import Peerstore
    from node.oneself import Oneself
    from node.protocols.dcutr import Dcutr
    from node.protocols.portmap import PortMapper
    from node.protocols.relay_client import RelayClient
    from node.protocols.relay_server import RelayServer
    from node.wire.stun import Endpoint

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
    predict_ports: str = "off"
    """`sequential`: foretell ports of symmetric NATs; `spray`: and write to many at random; `off`."""
    punch_private: bool = False
    """Punch to private addresses too: for networks that have no others."""
    bootstrap: tuple[Multiaddr, ...] = ()
    """Peers to connect to at first, `/…/p2p/<peer>` or `/dnsaddr/<name>`."""
    bootstrap_floor: int = 4
    """Peers connected below which they, and those of `state` that proved stable, are connected to again; 0: never."""
    port_mapping: bool = False
    """Have the router open the ports of the listeners."""
    port_mapping_check: float = 60.0
    """Seconds between two looks at the leases."""
    mdns: bool = False
    """Discover peers on the local network, and be discovered."""
    mdns_dial: bool = True
    """Connect to the peers discovered."""
    watermarks: Watermarks = field(default_factory=Watermarks)
    """How many connections are too many, and how many of them go then."""
    liveness: float = SILENCE
    """Seconds of silence after which a peer that is protected, or keeps a slot for us, is asked for a sign of life."""
    metrics_listen: Endpoint | None = None
    """IP address and port at which the metrics are served by HTTP."""
    rates: Rates = field(default_factory=Rates)
    """How fast bytes may pass."""
    latency_threshold: float | None = None
    """Seconds of round trip from which a peer is slow, which events tell."""
    limits: Limits | None = None
    """Who may take how much; None: as go does, by what the machine has."""
    state: pathlib.Path | None = None
    """A folder in which what is known of other peers is kept; None: it is forgotten."""
    deny: tuple[str, ...] = ()
    """Addresses and peers that are neither dialled nor accepted, as rules of `node.logic.gating`."""
    allow: tuple[str, ...] = ()
    """What is exempt from `deny`."""
    authorised: tuple[str, ...] = ()
    """Who may open which protocol, `/protocol=peer,peer`; what is not named is open to everybody."""
    authorise: Authorise | None = None
    """Asked besides, for each stream that a peer opens."""
    security: tuple[Security, ...] = DEFAULT
    """How connections are secured, best first; of one state of protection."""
    muxers: tuple[str, ...] = (YAMUX,)
    psk: bytes | None = field(default=None, repr=False)
    """The key of a private network, 32 bytes."""
    web: WebConfig = field(default_factory=WebConfig)
    """The certificates of secure WebSockets."""
    reachability: str = "off"
    """`auto`: ask AutoNAT servers; `public`, `private`: as somebody knows it to be; `off`: nobody asks or is told."""
    autonat_server: bool = False
    autonat_private: bool = False
    """AutoNAT tests private addresses too, as client and server: for networks that have no others."""
    autonat_dial_timeout: float = 5.0
    """Seconds that our AutoNAT server tries to dial a peer's address."""
    stun: tuple[Endpoint, ...] = ()
    """STUN servers to learn our NAT's kind from."""
    stun_listen: tuple[Endpoint, ...] = ()
    """Where to serve STUN: one endpoint, or two that differ in address and port."""
    relays: tuple[Multiaddr, ...] = ()
    """Relays, ending in their peer id, to keep slots at before those that we happen to be connected to."""

    @property
    def upgrade(self) -> UpgradeConfig:
        """How connections are secured and muxed."""
        return UpgradeConfig(security=self.security, muxers=self.muxers, psk=self.psk)

    @property
    def looks_at_itself(self) -> bool:
        """Whether anything is wanted of `node.oneself`."""
        asked = (self.reachability != "off", self.autonat_server, self.stun, self.stun_listen, self.relays)
        return any(asked)


class Host:
    """A libp2p node; `async with Host(config) as host:`."""

    def __init__(self, config: HostConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self.config = config
        self._key = config.key or PrivateKey.generate()
        self._handlers = Handlers(Authorisation(config.authorised, config.authorise).allows)
        gater = Gater(config.deny, config.allow)
        self._resolver = Resolver()
        self._swarm = Swarm(
            self._key,
            self._handlers,
            gater=gater,
            resolver=self._resolver,
            upgrade_config=config.upgrade,
            web=config.web,
            rates=config.rates,
            resources=Resources(config.limits or machine.limits()),
            on_stream=self._stream_opened,
            clock=clock,
        )
        self._addressbook = AddressBook()
        self._observed = ObservedAddresses()
        self.latencies = Latencies(config.latency_threshold)
        self._advertised: dict[Multiaddr, None] = {}
        self._last_addrs: list[Multiaddr] = []
        self._subscribers: list[Callable[[Event], None]] = []
        self._clock = clock
        self.identify = Identify(self, AGENT)
        self.ping = Ping(self)
        self.echo = Echo(self)
        self.perf = Perf(self)
        self.connection_manager = ConnectionManager(self, config.watermarks)
        self.liveness = Liveness(
            self, self.connection_manager.trimmer.is_protected, self.identify.again, config.liveness
        )
        self.keeper = Keeper(self, self.liveness, self.connection_manager.is_wanted)
        self.metrics = Metrics(self, config.metrics_listen)
        self.peerstore: Peerstore | None = None
        self.relay_client: RelayClient | None = None
        self.relay_server: RelayServer | None = None
        self.dcutr: Dcutr | None = None
        self.port_mapper: PortMapper | None = None
        self.oneself: Oneself | None = None
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
        services: list[Service] = [
            self.metrics,
            self.connection_manager,
            self.liveness,
            self.keeper,
            self.identify,
            self.ping,
            self.echo,
            self.perf,
        ]
        if self.config.state is not None:
            from node.net.peerstore import Peerstore

            self.peerstore = Peerstore(self.config.state, self._addressbook, self.now)
            services.insert(0, self.peerstore)
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

            asked = self.config
            policy = PunchPolicy(asked.punch_attempts, punch=asked.punch_timeout, allow_private=asked.punch_private)
            self.dcutr = Dcutr(self, policy)
            services.append(self.dcutr)
        predicts = self.config.predict_ports != "off"
        if self.config.looks_at_itself or predicts:
            from node.oneself import Oneself

            self.oneself = Oneself(self, self.config)
            services.append(self.oneself)
        if predicts:
            from node.predicting import Predicting

            services.append(Predicting(self, self.config))
        if self.config.bootstrap and self.config.bootstrap_floor:
            from node.protocols.bootstrap import Bootstrapper, nobody

            memory = nobody if self.peerstore is None else self.peerstore.stable
            services.append(Bootstrapper(self, self.config.bootstrap, memory, floor=self.config.bootstrap_floor))
        if self.config.port_mapping:
            from node.protocols.portmap import PortMapper

            self.port_mapper = PortMapper(self, check=self.config.port_mapping_check)
            services.append(self.port_mapper)
        if self.config.mdns:
            from node.protocols.mdns import Mdns

            services.append(Mdns(self, dial=self.config.mdns_dial))
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
    def resolver(self) -> Resolver:
        """What turns names in addresses into addresses."""
        return self._resolver

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

    def observed_mapping(self, carrier: str) -> Mapping:
        """What observers say of the NAT in front of our listeners, `carrier` being `tcp` or `udp`."""
        locals_ = [addr for addr in self.listen_addrs() if carrier in addr]
        known = (self._observed.mapping(addr) for addr in locals_)
        return next((each for each in known if each is not Mapping.UNKNOWN), Mapping.UNKNOWN)

    def observe(self, connection: Connection, observed: Multiaddr) -> None:
        """Take note of our address as the peer of a direct connection sees it."""
        observer = connection.remote.ip
        if observer is None or connection.path is not Path.DIRECT:
            return
        local, listening = connection.local, self.listen_addrs()
        if self._observed.record(connection, observer=observer, local=local, observed=observed, listening=listening):
            self.emit(Observed(observed, connection.peer))
            self._addresses_may_have_changed()

    def measured(self, peer: PeerId, rtt: float) -> None:
        """Take note of a round trip to a peer, in seconds."""
        slow = self.latencies.record(peer, rtt)
        if slow is not None:
            self.emit(LatencyCrossed(peer, self.latencies.of(peer) or rtt, slow))

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
        if connection.path is Path.DIRECT:
            dialled = connection.remote if connection.direction is Direction.OUTBOUND else None
            if dialled is not None:
                self._addressbook.connected(connection.peer, dialled)
            if self.peerstore is not None:
                self.peerstore.connected(connection.peer, dialled)
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
