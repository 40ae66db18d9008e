"""The node's connections: listening, dialling, punching, and which of several connections to a peer is best.

    dial(peer, addrs) ─► dial sync ─► gater ─► backoff ─► ranked parallel dials ─► upgrade ─► Connection
    listener ─► gater ─► limits ─► (pending punch? its role : responder) ─► upgrade ─► Connection

Which transport listens or dials follows from the multiaddr (`node.net.transports`).

A peer may have several connections, e.g. a relayed one and the direct one that was punched with its help; all are kept
until one side closes them, and new streams use the best.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from node.errors import (
    ConnectionClosed,
    DeadlineExceeded,
    DialError,
    Gated,
    LimitExceeded,
    NodeError,
    PeerIdMismatch,
    ProtocolError,
    SecurityError,
)
from node.logic.addresses import has_hole, is_near, source_for
from node.logic.gating import Gater
from node.logic.resources import ConnectionClaim, Kind, Resources
from node.logic.traffic import Rates, Traffic
from node.logic.transports import kind_of
from node.names.peerid import PeerId
from node.net.connection import Connection, Direction, Endpoints, Path
from node.net.dialler import Dialler
from node.net.punch import Punch, Punches, begins
from node.net.resolve import Resolver
from node.net.tasks import Tasks
from node.net.transport import Handshake, Knocker
from node.net.transports import Transports
from node.net.upgrade import Role, UpgradeConfig, upgrade

if TYPE_CHECKING:
    from node.names.keys import PrivateKey
    from node.names.multiaddr import Multiaddr
    from node.net.connection import Stream
    from node.net.handlers import Handlers
    from node.net.transport import Carried, Listener, MuxedConnection, Transport
    from node.net.web_tls import WebConfig

logger = logging.getLogger(__name__)

ATTEMPT_TIMEOUT = 15.0
"""Seconds for one address, from SYN to muxed, as in go."""
INBOUND_TIMEOUT = 10.0
"""Seconds an inbound connection may take to be muxed, as in rust and js."""


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

    def __init__(
        self,
        key: PrivateKey,
        handlers: Handlers,
        *,
        gater: Gater | None = None,
        resolver: Resolver | None = None,
        upgrade_config: UpgradeConfig | None = None,
        web: WebConfig | None = None,
        resources: Resources | None = None,
        rates: Rates | None = None,
        on_stream: Callable[[Stream], None] = lambda stream: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.key = key
        self.peer_id = PeerId.from_public_key(key.public)
        self._handlers = handlers
        self._gater = gater or Gater()
        self._on_stream = on_stream
        self.resources = resources or Resources()
        """Who holds how much of the node."""
        self.traffic = Traffic(rates)
        """What has passed, and how fast it may."""
        self._clock = clock
        self._upgrade_config = upgrade_config or UpgradeConfig()
        self._transports = Transports(key, self.resources, web, private=self._upgrade_config.psk is not None)
        self._listeners: list[Listener] = []
        self._ways: list[tuple[Callable[[Multiaddr], bool], DialFunction]] = []  # as many as protocols register
        self._dialler = Dialler(self._dial_address, self._gater, clock, resolver or Resolver())
        self._punches = Punches()
        self._connections: dict[PeerId, list[Connection]] = {}
        self._tasks = Tasks()
        self._connected: list[Callable[[Connection], None]] = []
        self._disconnected: list[Callable[[Connection, str], None]] = []
        self._closed = False

    # ── listening ────────────────────────────────────────────────────────────────────────────────────────────────

    async def listen(self, addr: Multiaddr) -> Multiaddr:
        """Open a listener and return its address with the port in use; ConfigError where that is not possible."""
        listener = await self._transports.of(addr).listen(addr, self._accept)
        self._listeners.append(listener)
        return listener.addr

    def listen_addrs(self) -> list[Multiaddr]:
        """The addresses of the open listeners, wildcards as they were asked for."""
        return [listener.addr for listener in self._listeners]

    def _accept(self, carried: Carried) -> None:
        ip = carried.remote.ip
        if not self._gater.allows(carried.remote, inbound=True):
            logger.info("refused a connection from %s: denied by the address filter", carried.remote)
            carried.abort()
        elif self._punches.offer(carried):
            logger.debug("%s arrived for a punch", carried.remote)
        else:
            try:
                claim = self.resources.accept(ip, self._clock())
            except LimitExceeded as error:
                logger.info("refused a connection from %s: %s", carried.remote, error)
                carried.abort()
                return
            task = self._tasks.spawn(self._receive(carried, claim), f"upgrade of {carried.remote}")
            task.add_done_callback(lambda done: self._received(carried, claim, done))

    async def _receive(self, carried: Carried, claim: ConnectionClaim) -> None:
        endpoints = _endpoints(carried, Direction.INBOUND, Path.DIRECT, limited=False)
        try:
            await self._add(carried, Role.RESPONDER, None, endpoints, claim)
        except (NodeError, OSError) as error:
            logger.info("inbound %s: %s", carried.remote, error)

    def _received(self, carried: Carried, claim: ConnectionClaim, done: asyncio.Task[None]) -> None:
        if done.cancelled():  # perhaps before its first step, and then nothing in it can close the connection
            claim.release()
            carried.abort()

    # ── dialling ─────────────────────────────────────────────────────────────────────────────────────────────────

    def add_transport(self, matches: Callable[[Multiaddr], bool], dial: DialFunction) -> None:
        """Dial the addresses that match by `dial`; asked before the transports, in the order of registration."""
        self._ways.append((matches, dial))

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
        reason), DialBackoff, Gated, PeerIdMismatch, RelayError, DeadlineExceeded, or LimitExceeded where the connection
        is limited and must not be.
        """
        if peer == self.peer_id:
            raise DialError("that is our own peer id")
        if not self._gater.allows_peer(peer, inbound=False):
            raise Gated(f"{peer} is denied")
        best = self.best(peer)
        if best is not None and (best.path is Path.DIRECT or not force_direct) and (limited_ok or not best.limited):
            return best
        if force_direct:
            addrs = [addr for addr in addrs if not addr.is_relayed]
        connection = await self._dialler.dial(peer, addrs, timeout=timeout, forced=force_direct)
        if connection.limited and not limited_ok:
            raise LimitExceeded(f"{peer} can only be reached through a relay that limits the connection")
        return connection

    async def dial_anew(self, peer: PeerId, addr: Multiaddr) -> Connection:
        """Return a new connection by exactly this address, whatever is open already or has failed before.

        Raises Gated, or what the one dial raises.
        """
        if not self._gater.allows(addr, inbound=False):
            raise Gated(f"{addr.ip} is denied by the address filter")
        return await self._dial_address(peer, addr)

    async def _dial_address(self, peer: PeerId, addr: Multiaddr) -> Connection:
        for matches, dial in self._ways:
            if matches(addr):
                return await dial(TransportDial(peer, addr, ATTEMPT_TIMEOUT))
        if kind_of(addr) is None:
            raise DialError("no transport for this kind of address")
        try:
            async with asyncio.timeout(ATTEMPT_TIMEOUT):
                return await self._dial_directly(peer, addr)
        except TimeoutError:
            raise DeadlineExceeded(f"no answer in {ATTEMPT_TIMEOUT:g} s") from None

    def transport(self, addr: Multiaddr) -> Transport:
        """Return what listens on and dials addresses like `addr`, for who does either by hand."""
        return self._transports.of(addr)

    async def _dial_directly(self, peer: PeerId, addr: Multiaddr) -> Connection:
        transport = self._transports.of(addr)
        source = source_for(addr, self.listen_addrs())
        carried = await transport.dial(addr, source=source, timeout=ATTEMPT_TIMEOUT)
        try:
            return await self.add_outbound(carried, expected=peer, path=Path.DIRECT)
        except PeerIdMismatch:
            raise
        except (SecurityError, ProtocolError, ConnectionClosed) as error:
            if isinstance(carried, Handshake) or source is None or carried.local.port != source.port:
                raise
            # Two peers that dial each other from their listen ports at the same moment meet in a simultaneous open:
            # one connection on which both are the initiator. From another port it cannot happen again.
            logger.debug("dial of %s from the listen port: %s; once more from another", addr, error)
        carried = await transport.dial(addr, source=None, timeout=ATTEMPT_TIMEOUT)
        return await self.add_outbound(carried, expected=peer, path=Path.DIRECT)

    async def dial_punch(self, peer: PeerId, addrs: Sequence[Multiaddr], role: Role, deadline: float) -> Connection:
        """Punch: dial all `addrs` (direct ones) from the listen port again and again until `deadline`.

        `deadline` is a time of the running loop's clock (`loop.time() + seconds`). Connections are upgraded with
        `role` whoever connected; one that arrives from the IP of one of `addrs` in the meantime counts as well. The
        first that proves to be `peer` is returned; raises DialError when there is none by the deadline.
        """
        held = self._punches.held(peer, role)
        if held is not None:
            return await held.run(deadline)
        punch = self._punch(peer, addrs, role)
        async with self._punches.expecting(punch):
            return await punch.run(deadline)

    def expect_punch(self, peer: PeerId, addrs: Sequence[Multiaddr], role: Role) -> AbstractAsyncContextManager[None]:
        """Within the block, give connections from the IPs of `addrs` the punch's role; `dial_punch` joins in later."""
        return self._punches.expecting(self._punch(peer, addrs, role))

    def _punch(self, peer: PeerId, addrs: Sequence[Multiaddr], role: Role) -> Punch:
        targets = [addr for addr in addrs if has_hole(addr) and self._gater.allows(addr, inbound=False)]
        if not targets:
            raise DialError(f"no address to punch to: {', '.join(map(str, addrs)) or 'none given'}")
        for transport in {self._transports.of(addr) for addr in targets}:
            if isinstance(transport, Knocker):
                transport.on_knock = self._punches.knocked
        return Punch(peer, targets, role, self._dial_from_listen_port, self._knock, self._upgrade_punched, self._tasks)

    def _knock(self, addr: Multiaddr, data: bytes) -> bool:
        transport, source = self._transports.of(addr), source_for(addr, self.listen_addrs())
        if not isinstance(transport, Knocker) or source is None:
            return False
        transport.knock(addr, source, data)
        return True

    async def _dial_from_listen_port(self, addr: Multiaddr) -> Carried:
        source = source_for(addr, self.listen_addrs())
        if source is None:
            raise DialError("no listener whose port the dial could leave from")
        transport = self._transports.of(addr)
        return await transport.dial(addr, source=source, timeout=ATTEMPT_TIMEOUT, strict_source=True)

    async def _upgrade_punched(self, carried: Carried, peer: PeerId, role: Role, unsure: bool) -> Connection:
        """Upgrade what a punch brought. Others behind the same IP address may connect meanwhile: let them, as
        responder; as initiator we would not know how to answer them."""
        if await begins(carried, role, unsure=unsure, private=self._upgrade_config.psk is not None):
            return await self.add_outbound(carried, expected=peer, path=Path.DIRECT)
        return await self.add_inbound(carried, path=Path.DIRECT)

    # ── connections ──────────────────────────────────────────────────────────────────────────────────────────────

    async def add_inbound(self, carried: Carried, *, path: Path, limited: bool = False) -> Connection:
        """Upgrade a connection that a peer made to us (we respond) and keep it."""
        endpoints = _endpoints(carried, Direction.INBOUND, path, limited)
        return await self._add(carried, Role.RESPONDER, None, endpoints)

    async def add_outbound(
        self, carried: Carried, *, expected: PeerId, path: Path, limited: bool = False
    ) -> Connection:
        """Upgrade a connection that we made (we initiate), check that it is `expected`, and keep it."""
        endpoints = _endpoints(carried, Direction.OUTBOUND, path, limited)
        return await self._add(carried, Role.INITIATOR, expected, endpoints)

    async def _add(
        self,
        carried: Carried,
        role: Role,
        expected: PeerId | None,
        endpoints: Endpoints,
        claim: ConnectionClaim | None = None,
    ) -> Connection:
        try:
            claim = claim or self._claim(endpoints)
            muxed = await self._establish(carried, role, expected, claim)
            self._admit(muxed.remote_peer, endpoints.direction, claim)
        except BaseException:
            if claim is not None:
                claim.release()
            carried.abort()
            raise
        connection = Connection(muxed, endpoints, self._handlers, self._tasks, self._on_stream, claim, self.traffic)
        self._connections.setdefault(connection.peer, []).append(connection)
        for callback in list(self._connected):
            callback(connection)
        connection.start(self._gone)  # may end it at once, so those who hear of its end have heard of its beginning
        return connection

    async def _establish(
        self, carried: Carried, role: Role, expected: PeerId | None, claim: ConnectionClaim
    ) -> MuxedConnection:
        timeout = INBOUND_TIMEOUT if role is Role.RESPONDER else ATTEMPT_TIMEOUT
        if not isinstance(carried, Handshake):
            config = replace(self._upgrade_config, timeout=timeout, growth=claim)
            return await upgrade(carried, key=self.key, role=role, expected=expected, config=config)
        try:
            async with asyncio.timeout(timeout):
                return await carried.complete(expected)
        except TimeoutError as error:
            raise DeadlineExceeded(f"{carried.remote}: no handshake within {timeout:g} s") from error

    def _claim(self, endpoints: Endpoints) -> ConnectionClaim:
        """Of a connection that a transport of a protocol brings, that was dialled, or that a punch expected."""
        direct = endpoints.path is Path.DIRECT
        if endpoints.direction is Direction.OUTBOUND:
            return self.resources.connection(Kind.CONNECTIONS_OUT, files=int(direct))
        ip = endpoints.remote.ip if direct else None  # a relayed connection's address is the relay's
        return self.resources.connection(Kind.CONNECTIONS_IN, ip, files=int(direct))

    def _admit(self, peer: PeerId, direction: Direction, claim: ConnectionClaim) -> None:
        if self._closed:
            raise ConnectionClosed("the node is closing")
        if peer == self.peer_id:
            raise PeerIdMismatch("the peer has our own identity")
        if not self._gater.allows_peer(peer, inbound=direction is Direction.INBOUND):
            raise Gated(f"{peer} is denied")
        claim.known(peer)

    def _gone(self, connection: Connection, why: str) -> None:
        connection.claim.release()
        remaining = self._connections[connection.peer]
        remaining.remove(connection)
        if not remaining:
            del self._connections[connection.peer]
        for callback in list(self._disconnected):
            callback(connection, why)

    @property
    def dialled(self) -> Mapping[str, int]:
        """How many addresses we dialled, by what came of it: connected, failed, gated, backed_off."""
        return self._dialler.outcomes

    def connections(self, peer: PeerId | None = None) -> list[Connection]:
        """The open connections, to one peer or to all, oldest first."""
        if peer is not None:
            return list(self._connections.get(peer, ()))
        return sorted((each for known in self._connections.values() for each in known), key=lambda each: each.opened_at)

    def best(self, peer: PeerId) -> Connection | None:
        """The connection new streams should use: direct before relayed, unlimited, within the LAN, then the oldest."""
        return next(iter(self.by_preference(peer)), None)

    def direct(self, peer: PeerId) -> Connection | None:
        """The best of those that are not relayed."""
        return next((each for each in self.by_preference(peer) if each.path is Path.DIRECT), None)

    def by_preference(self, peer: PeerId) -> list[Connection]:
        """The connections to one peer on which streams can be opened, best first, as `best` judges them.

        Of two direct ones that within a LAN is better: the other goes to the router and back, if that lets it. One that
        may lead nowhere any more comes last.
        """
        usable = [each for each in self._connections.get(peer, ()) if not each.is_leaving]
        if len(usable) < 2:
            return usable
        return sorted(usable, key=_demerits)

    def on_connected(self, callback: Callable[[Connection], None]) -> Unsubscribe:
        """Call back for each new connection, once its streams can be opened."""
        self._connected.append(callback)
        return lambda: self._connected.remove(callback)

    def on_disconnected(self, callback: Callable[[Connection, str], None]) -> Unsubscribe:
        """Call back with each connection that ended and why."""
        self._disconnected.append(callback)
        return lambda: self._disconnected.remove(callback)

    async def disconnect(self, peer: PeerId) -> int:
        """Close all connections to `peer` and return how many there were."""
        connections = self.connections(peer)
        await asyncio.gather(*(connection.close() for connection in connections))
        return len(connections)

    async def close(self) -> None:
        """Close listeners and connections, end all dials."""
        self._closed = True
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            await listener.close()
        await self._dialler.close()
        await asyncio.gather(*(connection.close("the node is closing") for connection in self.connections()))
        await self._tasks.close()


def _demerits(connection: Connection) -> tuple[bool, bool, bool, bool, float]:
    """What the connections to one peer are sorted by."""
    relayed, far = connection.path is Path.RELAYED, not is_near(connection.remote)
    return connection.is_doubted, relayed, connection.limited, far, connection.opened_at


def _endpoints(carried: Carried, direction: Direction, path: Path, limited: bool) -> Endpoints:
    kind = kind_of(carried.remote)
    transport = "relay" if kind is None else kind.name
    return Endpoints(carried.local, carried.remote, direction, path, limited, transport)
