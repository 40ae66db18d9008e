"""The node's connections: listening, dialling, punching, and which of several connections to a peer is best.

    dial(peer, addrs) ─► dial sync ─► gater ─► backoff ─► ranked parallel dials ─► upgrade ─► Connection
    listener ─► gater ─► limits ─► (pending punch? its role : responder) ─► upgrade ─► Connection

A peer may have several connections, e.g. a relayed one and the direct one that was punched with its help; all are kept
until one side closes them, and new streams use the best.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from node.errors import (
    ConnectionClosed,
    DeadlineExceeded,
    DialError,
    LimitExceeded,
    NodeError,
    PeerIdMismatch,
    ProtocolError,
    SecurityError,
)
from node.logic.addresses import Gater, is_tcp, source_for
from node.logic.limits import CONNECTIONS, INBOUND, UPGRADING, Budget
from node.names.peerid import PeerId
from node.net.connection import Connection, Direction, Endpoints, Path
from node.net.dialler import Dialler
from node.net.punch import Punch, Punches
from node.net.tasks import Tasks
from node.net.tcp import TcpTransport
from node.net.upgrade import Role, UpgradeConfig, upgrade
from node.wire.yamux_windows import GrowthPool

if TYPE_CHECKING:
    from node.names.keys import PrivateKey
    from node.names.multiaddr import Multiaddr
    from node.net.connection import Stream
    from node.net.handlers import Handlers
    from node.net.stream import RawConnection
    from node.net.tcp import Listener

logger = logging.getLogger(__name__)

ATTEMPT_TIMEOUT = 15.0
"""Seconds for one address, from SYN to muxed, as in go."""
INBOUND_TIMEOUT = 10.0
"""Seconds an inbound connection may take to be muxed, as in rust and js."""


WINDOW_GROWTH = 256 * 1024 * 1024
"""Bytes by which the receive windows of all connections together may exceed their initial size."""


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
        on_stream: Callable[[Stream], None] = lambda stream: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.key = key
        self.peer_id = PeerId.from_public_key(key.public)
        self._handlers = handlers
        self._gater = gater or Gater()
        self._on_stream = on_stream
        self._tcp = TcpTransport()
        self._listeners: list[Listener] = []
        self._transports: list[tuple[Callable[[Multiaddr], bool], DialFunction]] = []
        self._dialler = Dialler(self._dial_address, self._gater, clock)
        self._punches = Punches()
        self._connections: dict[PeerId, list[Connection]] = {}
        self._open = Budget(CONNECTIONS)
        self._inbound = Budget(INBOUND)
        self._growth = GrowthPool(WINDOW_GROWTH)
        self._upgrading = Budget(UPGRADING)
        self._tasks = Tasks()
        self._connected: list[Callable[[Connection], None]] = []
        self._disconnected: list[Callable[[Connection, str], None]] = []
        self._closed = False

    # ── listening ────────────────────────────────────────────────────────────────────────────────────────────────

    async def listen(self, addr: Multiaddr) -> Multiaddr:
        """Open a listener and return its address with the port in use."""
        listener = await self._tcp.listen(addr, self._accept)
        self._listeners.append(listener)
        return listener.addr

    def listen_addrs(self) -> list[Multiaddr]:
        """The addresses of the open listeners, wildcards as they were asked for."""
        return [listener.addr for listener in self._listeners]

    def _accept(self, raw: RawConnection) -> None:
        ip = raw.remote.ip
        if ip is not None and not self._gater.allows_ip(ip):
            logger.info("refused a connection from %s: denied by the address filter", raw.remote)
            raw.abort()
        elif self._punches.offer(raw):
            logger.debug("%s arrived for a punch", raw.remote)
        elif not self._upgrading.take(ip):
            logger.info("refused a connection from %s: too many have not proved who they are", raw.remote)
            raw.abort()
        else:
            task = self._tasks.spawn(self._receive(raw), f"upgrade of {raw.remote}")
            task.add_done_callback(lambda done: self._received(raw, done))

    async def _receive(self, raw: RawConnection) -> None:
        try:
            await self.add_inbound(raw, path=Path.DIRECT)
        except (NodeError, OSError) as error:
            logger.info("inbound %s: %s", raw.remote, error)

    def _received(self, raw: RawConnection, done: asyncio.Task[None]) -> None:
        self._upgrading.give(raw.remote.ip)
        if done.cancelled():  # perhaps before its first step, and then nothing in it can close the connection
            raw.abort()

    # ── dialling ─────────────────────────────────────────────────────────────────────────────────────────────────

    def add_transport(self, matches: Callable[[Multiaddr], bool], dial: DialFunction) -> None:
        """Dial the addresses that match by `dial`; asked before TCP, in the order of registration."""
        self._transports.append((matches, dial))

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
        best = self.best(peer)
        if best is not None and (best.path is Path.DIRECT or not force_direct) and (limited_ok or not best.limited):
            return best
        if force_direct:
            addrs = [addr for addr in addrs if not addr.is_relayed]
        connection = await self._dialler.dial(peer, addrs, timeout=timeout, forced=force_direct)
        if connection.limited and not limited_ok:
            raise LimitExceeded(f"{peer} can only be reached through a relay that limits the connection")
        return connection

    async def _dial_address(self, peer: PeerId, addr: Multiaddr) -> Connection:
        for matches, dial in self._transports:
            if matches(addr):
                return await dial(TransportDial(peer, addr, ATTEMPT_TIMEOUT))
        if not is_tcp(addr):
            raise DialError("no transport for this kind of address")
        try:
            async with asyncio.timeout(ATTEMPT_TIMEOUT):
                return await self._dial_tcp(peer, addr)
        except TimeoutError:
            raise DeadlineExceeded(f"no answer in {ATTEMPT_TIMEOUT:g} s") from None

    async def _dial_tcp(self, peer: PeerId, addr: Multiaddr) -> Connection:
        source = source_for(addr, self.listen_addrs())
        raw = await self._tcp.dial(addr, source=source, timeout=ATTEMPT_TIMEOUT)
        try:
            return await self.add_outbound(raw, expected=peer, path=Path.DIRECT)
        except PeerIdMismatch:
            raise
        except (SecurityError, ProtocolError, ConnectionClosed) as error:
            if source is None or raw.local.port != source.port:
                raise
            # Two peers that dial each other from their listen ports at the same moment meet in a simultaneous open:
            # one connection on which both are the initiator. From another port it cannot happen again.
            logger.debug("dial of %s from the listen port: %s; once more from another", addr, error)
        raw = await self._tcp.dial(addr, source=None, timeout=ATTEMPT_TIMEOUT)
        return await self.add_outbound(raw, expected=peer, path=Path.DIRECT)

    async def dial_punch(self, peer: PeerId, addrs: Sequence[Multiaddr], role: Role, deadline: float) -> Connection:
        """Punch: dial all `addrs` (TCP, direct) from the listen port again and again until `deadline`.

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
        targets = [addr for addr in addrs if is_tcp(addr) and self._gater.allows(addr)]
        if not targets:
            raise DialError(f"no address to punch to: {', '.join(map(str, addrs)) or 'none given'}")
        return Punch(peer, targets, role, self._dial_from_listen_port, self._upgrade_punched, self._tasks)

    async def _dial_from_listen_port(self, addr: Multiaddr) -> RawConnection:
        source = source_for(addr, self.listen_addrs())
        if source is None:
            raise DialError("no listener whose port the dial could leave from")
        return await self._tcp.dial(addr, source=source, timeout=ATTEMPT_TIMEOUT, strict_source=True)

    async def _upgrade_punched(self, raw: RawConnection, peer: PeerId, role: Role) -> Connection:
        """Upgrade what a punch brought. Others behind the same IP address may connect meanwhile: let them, as
        responder; as initiator we would not know how to answer them."""
        if role is Role.INITIATOR:
            return await self.add_outbound(raw, expected=peer, path=Path.DIRECT)
        return await self.add_inbound(raw, path=Path.DIRECT)

    # ── connections ──────────────────────────────────────────────────────────────────────────────────────────────

    async def add_inbound(
        self, raw: RawConnection, *, path: Path, limited: bool = False, transport: str = "tcp"
    ) -> Connection:
        """Upgrade a connection that a peer made to us (we respond) and keep it."""
        endpoints = Endpoints(raw.local, raw.remote, Direction.INBOUND, path, limited, transport)
        return await self._add(raw, Role.RESPONDER, None, endpoints, INBOUND_TIMEOUT)

    async def add_outbound(
        self, raw: RawConnection, *, expected: PeerId, path: Path, limited: bool = False, transport: str = "tcp"
    ) -> Connection:
        """Upgrade a connection that we made (we initiate), check that it is `expected`, and keep it."""
        endpoints = Endpoints(raw.local, raw.remote, Direction.OUTBOUND, path, limited, transport)
        return await self._add(raw, Role.INITIATOR, expected, endpoints, ATTEMPT_TIMEOUT)

    async def _add(
        self, raw: RawConnection, role: Role, expected: PeerId | None, endpoints: Endpoints, timeout: float
    ) -> Connection:
        try:
            muxed = await upgrade(
                raw,
                key=self.key,
                role=role,
                expected=expected,
                config=UpgradeConfig(timeout=timeout, growth=self._growth),
            )
            self._admit(muxed.remote_peer, endpoints)
        except BaseException:
            raw.abort()
            raise
        connection = Connection(muxed, endpoints, self._handlers, self._tasks, self._on_stream)
        self._connections.setdefault(connection.peer, []).append(connection)
        for callback in list(self._connected):
            callback(connection)
        connection.start(self._gone)  # may end it at once, so those who hear of its end have heard of its beginning
        return connection

    def _admit(self, peer: PeerId, endpoints: Endpoints) -> None:
        if self._closed:
            raise ConnectionClosed("the node is closing")
        if peer == self.peer_id:
            raise PeerIdMismatch("the peer has our own identity")
        if not self._open.take(peer):
            raise LimitExceeded(f"too many connections: {self._open.taken}, {self._open.taken_by(peer)} of {peer}")
        ip = endpoints.remote.ip
        if _is_from_outside(endpoints) and not self._inbound.take(ip):
            self._open.give(peer)
            raise LimitExceeded(f"too many inbound connections: {self._inbound.taken_by(ip)} from {ip}")

    def _gone(self, connection: Connection, why: str) -> None:
        self._open.give(connection.peer)
        if _is_from_outside(connection):
            self._inbound.give(connection.remote.ip)
        remaining = self._connections[connection.peer]
        remaining.remove(connection)
        if not remaining:
            del self._connections[connection.peer]
        for callback in list(self._disconnected):
            callback(connection, why)

    def connections(self, peer: PeerId | None = None) -> list[Connection]:
        """The open connections, to one peer or to all, oldest first."""
        if peer is not None:
            return list(self._connections.get(peer, ()))
        return sorted((each for known in self._connections.values() for each in known), key=lambda each: each.opened_at)

    def best(self, peer: PeerId) -> Connection | None:
        """The connection new streams should use: direct before relayed, unlimited before limited, then the oldest."""
        return next(iter(self.by_preference(peer)), None)

    def by_preference(self, peer: PeerId) -> list[Connection]:
        """The connections to one peer on which streams can be opened, best first, as `best` judges them."""
        usable = [each for each in self._connections.get(peer, ()) if not each.is_leaving]
        return sorted(usable, key=lambda each: (each.path is Path.RELAYED, each.limited, each.opened_at))

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


def _is_from_outside(connection: Endpoints | Connection) -> bool:
    """Whether a remote IP address came by itself, and is the peer's and not its relay's."""
    return connection.direction is Direction.INBOUND and connection.path is Path.DIRECT
