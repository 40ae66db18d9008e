"""One UDP socket and the QUIC connections over it, dialled and accepted alike.

    datagram ─► destination id known ─► its connection
             └► an Initial ─► (too many have not proved their address ─► Retry) ─► on_connection ─► a new one
             └► anything else: silence

Dialling from the socket that listens is what makes observed addresses useful and holes possible. All timers of the
connections are in one heap with one timer of the loop.
"""

from __future__ import annotations

import asyncio
import heapq
import ipaddress
import itertools
import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from node.names.multiaddr import Multiaddr
from node.net.quic.connection import QuicConnection
from node.net.quic.machine import CID_LENGTH, Initial, Machine, RetryTokens, parse_initial, version_negotiation
from node.net.quic.udp import SockAddr, UdpSocket, multiaddr_of, source_towards

if TYPE_CHECKING:
    from node.net.credentials import Credentials
    from node.wire.yamux_windows import Growth

logger = logging.getLogger(__name__)

UNPROVEN = 16
"""Handshakes of strangers under way without a proof that their address is theirs; above it a Retry asks for one."""
FAREWELLS = 1024
"""Connections closed lately whose peers are told again, should they not have heard."""
REPEATS = 8
"""How often at most."""
_LONG_HEADER = 0x80

OnConnection = Callable[[QuicConnection], None]


class Endpoint:
    """A bound socket; it lives until it neither listens nor has connections."""

    def __init__(self, at: Multiaddr | UdpSocket, credentials: Credentials, pool: Growth) -> None:
        """Bind an address, or take over a socket; raises ConfigError where the address cannot be bound."""
        self._socket = at if isinstance(at, UdpSocket) else UdpSocket(at)
        self.addr = multiaddr_of(self._socket.sockaddr)
        """The address bound, with the port in use."""
        self._credentials = credentials
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._by_cid: dict[bytes, QuicConnection] = {}  # at most 9 for each connection
        self._connections: dict[QuicConnection, set[bytes]] = {}  # bounded by those who dial and accept
        self._unproven: set[QuicConnection] = set()
        self._touched: dict[QuicConnection, None] = {}
        self._farewells: OrderedDict[bytes, tuple[bytes, int]] = OrderedDict()  # at most FAREWELLS
        self._timers: list[tuple[float, int, QuicConnection]] = []  # a few for each connection
        self._order = itertools.count()
        self._handle: asyncio.TimerHandle | None = None
        self._tokens = RetryTokens()
        self._on_connection: OnConnection | None = None
        self._on_knock: Callable[[SockAddr], None] = lambda sender: None
        self._closed = False
        self._socket.start(self._receive, self._advance)

    def __repr__(self) -> str:
        return f"<Endpoint {self.addr}>"

    # --- what the transport calls

    @property
    def is_closed(self) -> bool:
        """Whether the socket has been closed."""
        return self._closed

    def accept(
        self, on_connection: OnConnection | None, on_knock: Callable[[SockAddr], None] = lambda sender: None
    ) -> None:
        """Offer whoever connects to `on_connection`, which may refuse by `abort`; None: accept nobody any more.

        `on_knock` is called with the sender of each datagram that means nothing.
        """
        self._on_connection, self._on_knock = on_connection, on_knock
        self._close_if_idle()

    def dial(self, to: SockAddr) -> QuicConnection:
        """Begin a connection."""
        now = self._loop.time()
        source = source_towards(to, self._socket.family)
        connection = QuicConnection(self, self._local(source), to, None)
        machine = Machine(self._credentials, pool=self._pool, now=now)
        self._add(connection, machine)
        connection.begin(machine, to)
        return connection

    def spray(self, data: bytes, to: SockAddr) -> None:
        """Send a datagram that is nobody's."""
        self._socket.send(data, to)

    # --- what connections call

    def proven(self, connection: QuicConnection) -> None:
        """The handshake has ended well."""
        self._unproven.discard(connection)

    def send(self, data: bytes, to: SockAddr, source: bytes | None) -> None:
        """Send a datagram."""
        self._socket.send(data, to, source)

    def add_cid(self, cid: bytes, connection: QuicConnection) -> None:
        """From now on the peer may address the connection so."""
        if connection in self._connections:
            self._connections[connection].add(cid)
            self._by_cid[cid] = connection

    def remove_cid(self, cid: bytes) -> None:
        """The peer will not use this id any more."""
        connection = self._by_cid.pop(cid, None)
        if connection is not None:
            self._connections[connection].discard(cid)

    def set_timer(self, connection: QuicConnection, when: float) -> None:
        """Call `handle_timer` at `when` (of the loop's clock), which replaces what was set before."""
        connection.timer = when
        if connection.scheduled is None or when < connection.scheduled:
            connection.scheduled = when
            heapq.heappush(self._timers, (when, next(self._order), connection))
            self._arm()

    def say_farewell(self, connection: QuicConnection, datagrams: list[tuple[bytes, SockAddr]]) -> None:
        """Send the last word, and keep it for a peer that does not hear it at once."""
        for data, to in datagrams:
            self._socket.send(data, to, connection.source)
            for cid in self._connections.get(connection, ()):
                self._farewells[cid] = (data, REPEATS)
        while len(self._farewells) > FAREWELLS:
            self._farewells.popitem(last=False)

    def remove(self, connection: QuicConnection) -> None:
        """The connection is over."""
        for cid in self._connections.pop(connection, ()):
            self._by_cid.pop(cid, None)
        self._unproven.discard(connection)
        self._touched.pop(connection, None)
        connection.timer = None
        self._close_if_idle()

    # --- inside

    def _add(self, connection: QuicConnection, machine: Machine, *cids: bytes) -> None:
        self._connections[connection] = set()
        for cid in (*machine.cids, *cids):
            self.add_cid(cid, connection)

    def _local(self, source: bytes | None) -> Multiaddr:
        return self.addr if source is None else self.addr.with_ip(ipaddress.ip_address(source))

    def _receive(self, data: bytes, sender: SockAddr, source: bytes | None) -> None:
        if not data:
            return
        if data[0] & _LONG_HEADER:  # noqa: SIM108
            cid = data[6 : 6 + data[5]] if len(data) > 6 else b""  # version, length, id
        else:
            cid = data[1 : 1 + CID_LENGTH]
        connection = self._by_cid.get(cid) or self._stranger(cid, data, sender, source)
        if connection is not None:
            connection.receive(data, sender, source, self._loop.time())
            self._touched[connection] = None

    def _advance(self) -> None:
        while self._touched:
            connection, _ = self._touched.popitem()
            connection.advance()

    def _stranger(self, cid: bytes, data: bytes, sender: SockAddr, source: bytes | None) -> QuicConnection | None:
        """What to do with a datagram for nobody; the new connection if it is the beginning of one."""
        if (farewell := self._farewells.pop(cid, None)) is not None:
            last, left = farewell
            self._socket.send(last, sender, source)
            if left > 1:
                self._farewells[cid] = (last, left - 1)
            return None
        if self._on_connection is None:
            return None
        if (initial := parse_initial(data)) is not None:
            return self._accept(initial, sender, source)
        if (answer := version_negotiation(data)) is not None:
            self._socket.send(answer, sender, source)
        else:
            self._on_knock(sender)
        return None

    def _accept(self, initial: Initial, sender: SockAddr, source: bytes | None) -> QuicConnection | None:
        now = self._loop.time()
        original, retry_cid = initial.destination_cid, None
        if initial.token:
            proven = self._tokens.original_cid(initial, sender, now)
            if proven is not None:
                original, retry_cid = proven, initial.destination_cid
        if retry_cid is None and len(self._unproven) >= UNPROVEN:
            self._socket.send(self._tokens.retry(initial, sender, now), sender, source)
            return None
        connection = QuicConnection(self, self._local(source), sender, source)
        assert self._on_connection is not None
        self._on_connection(connection)
        if connection.is_refused:
            return None
        machine = Machine(self._credentials, pool=self._pool, now=now, original_cid=original, retry_cid=retry_cid)
        self._add(connection, machine, initial.destination_cid)
        connection.begin(machine)
        if retry_cid is None:
            self._unproven.add(connection)
        return connection

    def _arm(self) -> None:
        if self._handle is not None:
            if not self._timers or self._handle.when() <= self._timers[0][0]:
                return
            self._handle.cancel()
        self._handle = self._loop.call_at(self._timers[0][0], self._fire) if self._timers else None

    def _fire(self) -> None:
        self._handle = None
        now = self._loop.time()
        while self._timers and self._timers[0][0] <= now:
            when, _, connection = heapq.heappop(self._timers)
            due = connection.timer
            if connection.scheduled != when or due is None:  # replaced by a sooner one, or over
                continue
            connection.scheduled = None
            if due <= now:
                connection.handle_timer(now)
            else:
                self.set_timer(connection, due)
        self._arm()

    def _close_if_idle(self) -> None:
        if self._closed or self._on_connection is not None or self._connections:
            return
        self._closed = True
        if self._handle is not None:
            self._handle.cancel()
        self._timers.clear()
        self._socket.close()
