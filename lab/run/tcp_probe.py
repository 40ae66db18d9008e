"""TCP's side of a probe: a token is eight bytes on a connection.

An end sends on the connection that it has with an address, and else opens one from the very port that it listens on. So
it is one endpoint with one mapping, as a UDP socket is, and simultaneous opens come about as they do in hole punching:

    left  ── SYN ──▶ NAT (dropped, and it opens the port)
    left  ◀── SYN ── NAT ◀── SYN ── right                   meets left's own attempt: both are connected, none accepted
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from lab.observe.endpoint import endpoint_text
from lab.observe.nat import Address
from lab.run.probes import MAX_TOKENS, TOKEN, End, Probe, ProbeError, bind, errors
from lab.run.versions import V4, Space, Version

MAX_CONNECTIONS: Final = 32
"Connections of one TCP end."
MAX_SYNS: Final = 256
"SYNs that are noted; a probe sends a few dozen."
HEADERS: Final = 120
"The longest headers of IPv4 and TCP together."
SYN: Final = 0x02
ACK: Final = 0x10
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"SO_LINGER of 0 s: close() sends RST, and neither end of a connection lingers in any state."


class TcpProbe(Probe):
    """Tokens as bytes on connections."""

    protocol = "TCP"
    kind = socket.SOCK_STREAM

    def __init__(self, version: Version = V4) -> None:
        super().__init__(version)
        self._watchers: list[socket.socket] = []
        self._syns: set[tuple[int, Address]] = set()

    async def __aexit__(self, *exception: object) -> None:
        await super().__aexit__(*exception)
        for watcher in self._watchers:
            asyncio.get_running_loop().remove_reader(watcher)
            watcher.close()

    def watch(self, space: Space) -> None:
        """Note the SYNs that reach a host: one whose answer goes astray never becomes a connection."""
        try:
            watcher = self.version.new_socket(space, socket.SOCK_RAW, socket.IPPROTO_TCP)
        except OSError as error:
            raise ProbeError(f"no raw socket in {space.name}: {error.strerror}") from error
        watcher.setblocking(False)
        self._watchers.append(watcher)
        asyncio.get_running_loop().add_reader(watcher, self._see, watcher)

    def attempted(self, receiver: End, sender: End, besides: Iterable[str]) -> Address | None:
        public = set(besides)
        return next(
            (
                source
                for port, source in self._syns
                if port == receiver.address[1] and source[1] == sender.address[1] and source[0] not in public
            ),
            None,
        )

    def _see(self, watcher: socket.socket) -> None:
        try:
            while len(self._syns) < MAX_SYNS:
                packet, (source, _) = watcher.recvfrom(HEADERS)
                segment = self.version.segment(packet)
                sport, dport, flags = struct.unpack_from("!HH9xB", segment)
                if flags & (SYN | ACK) == SYN:
                    self._syns.add((dport, (source, sport)))
        except BlockingIOError:
            return
        asyncio.get_running_loop().remove_reader(watcher)

    def _open(self, space: Space, address: Address) -> End:
        return _TcpEnd(self, space, address)


@dataclass(slots=True)
class _Connection:
    """One connection of an end; without a socket, one that the listener is about to hand out."""

    remote: Address
    socket: socket.socket | None = None
    established: bool = False
    waiting: list[bytes] = field(default_factory=list)
    "tokens to send once it is established; at most MAX_TOKENS"
    received: bytearray = field(default_factory=bytearray)
    "the beginning of a token"


class _TcpEnd(End):
    def __init__(self, probe: TcpProbe, space: Space, address: Address) -> None:
        self._probe = probe
        self._space = space
        self.address = address
        self._loop = asyncio.get_running_loop()
        self._connections: dict[Address, _Connection] = {}
        self._listener = self._bound()
        self._listener.listen(MAX_CONNECTIONS)
        self._loop.add_reader(self._listener, self._accept)

    def send(self, to: Address) -> bytes:
        token = self._probe.sending(self, to)
        connection = self._connections.get(to) or self._connect(to)
        connection.waiting.append(token)
        self._flush(connection)
        return token

    def again(self, token: bytes, to: Address) -> None:
        """TCP has seen to that."""

    def hang_up(self, to: Address) -> None:
        self._drop(self._connections[to])

    def close(self) -> None:
        for connection in self._connections.values():
            self._drop(connection)
        self._loop.remove_reader(self._listener)
        # A program that is being started may hold a copy, which would go on listening beside a later end on this port.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _bound(self) -> socket.socket:
        """A socket on this end's address, beside the others that are on it."""
        fresh = self._probe.version.new_socket(self._space, socket.SOCK_STREAM)
        fresh.setblocking(False)
        fresh.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        fresh.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        fresh.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._probe.version.keep_errors(fresh)
        bind(fresh, self.address)
        return fresh

    def _connect(self, to: Address) -> _Connection:
        if len(self._connections) >= MAX_CONNECTIONS:
            raise ProbeError(f"more than {MAX_CONNECTIONS} connections at {self.address[0]}:{self.address[1]}")
        connection = self._connections[to] = _Connection(to)
        attempt = self._bound()
        result = attempt.connect_ex(to)
        if result in (errno.EADDRNOTAVAIL, errno.EADDRINUSE):
            attempt.close()  # the kernel has this very connection already, and the listener will hand it out
            return connection
        if result not in (0, errno.EINPROGRESS):
            attempt.close()
            raise ProbeError(f"TCP to {endpoint_text(*to)}: {errno.errorcode[result]}")
        connection.socket = attempt
        self._loop.add_writer(attempt, self._connected, connection, attempt)
        return connection

    def _connected(self, connection: _Connection, attempt: socket.socket) -> None:
        self._loop.remove_writer(attempt)
        if result := attempt.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            if errors(attempt):
                self._probe.undeliverable(connection.waiting)
            elif result == errno.ECONNREFUSED:
                self._probe.refuse(connection.waiting)
            self._drop(connection)
        else:
            self._establish(connection, attempt)

    def _accept(self) -> None:
        while True:
            try:
                accepted, remote = self._listener.accept()
            except BlockingIOError:
                return
            if len(self._connections) >= MAX_CONNECTIONS:
                accepted.close()
                continue
            accepted.setblocking(False)
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            known = self._connections.get(remote)
            if known is not None and known.socket is not None:
                self._drop(known)  # an earlier connection from there is over, or this one would not be
            self._establish(self._connections.setdefault(remote, _Connection(remote)), accepted)

    def _establish(self, connection: _Connection, its: socket.socket) -> None:
        connection.socket, connection.established = its, True
        self._loop.add_reader(its, self._receive, connection, its)
        self._flush(connection)

    def _flush(self, connection: _Connection) -> None:
        if not (connection.established and connection.socket and connection.waiting):
            return
        tokens, connection.waiting = b"".join(connection.waiting), []
        try:
            connection.socket.send(tokens)  # controls, and a few more: the send buffer has room for all of them
        except ConnectionError:
            self._drop(connection)

    def _receive(self, connection: _Connection, its: socket.socket) -> None:
        try:
            data = its.recv(MAX_TOKENS * TOKEN)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            self._drop(connection)
            return
        connection.received += data
        while len(connection.received) >= TOKEN:
            self._probe.heard(self, bytes(connection.received[:TOKEN]), connection.remote)
            del connection.received[:TOKEN]

    def _drop(self, connection: _Connection) -> None:
        """Close a connection's socket; it stays known, so that nothing is tried over it again."""
        if connection.socket is not None:
            self._loop.remove_writer(connection.socket)
            self._loop.remove_reader(connection.socket)
            connection.socket.close()
        connection.socket, connection.established = None, False
