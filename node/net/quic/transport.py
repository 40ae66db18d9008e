"""QUIC as a transport: which socket listens, and which one a dial leaves from.

Spec: https://github.com/libp2p/specs/blob/master/quic/README.md, RFC 9000. ALPN `libp2p`, no server name; security and
muxer are QUIC's own, streams are negotiated like everywhere.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from ipaddress import ip_address
from typing import TYPE_CHECKING

from node.errors import DialError
from node.names.multiaddr import Multiaddr
from node.net.credentials import Credentials
from node.net.quic.endpoint import Endpoint
from node.net.quic.udp import multiaddr_of, sockaddr_of
from node.wire.yamux_windows import Growth

if TYPE_CHECKING:
    from node.names.keys import PrivateKey
    from node.net.quic.connection import QuicConnection
    from node.net.quic.udp import SockAddr, UdpSocket
    from node.net.transport import Carried, OnKnock

logger = logging.getLogger(__name__)

_ANY = {4: Multiaddr("/ip4/0.0.0.0/udp/0/quic-v1"), 6: Multiaddr("/ip6/::/udp/0/quic-v1")}


class QuicListener:
    """An endpoint that accepts."""

    def __init__(self, endpoint: Endpoint, forget: Callable[[], None]) -> None:
        self.addr = endpoint.addr
        self._endpoint = endpoint
        self._forget = forget

    async def close(self) -> None:
        """Accept no more; connections that were accepted stay, and the socket as long as they."""
        self._forget()
        self._endpoint.accept(None)


class QuicTransport:
    """Listens and dials; implements `node.net.transport.Transport`."""

    def __init__(self, key: PrivateKey, growth: Growth) -> None:
        self._credentials = Credentials.of(key)
        self._growth = growth
        self._listening: dict[Multiaddr, Endpoint] = {}  # as many as listeners
        self._dialling: dict[int, Endpoint] = {}  # by IP version
        self.on_knock: OnKnock | None = None

    async def listen(self, addr: Multiaddr, on_connection: Callable[[Carried], None]) -> QuicListener:
        """Bind `addr` (`/ip4|ip6/…/udp/…/quic-v1`, port 0 for any); raises ConfigError where that is not possible."""
        endpoint = Endpoint(addr, self._credentials, self._growth)
        endpoint.accept(on_connection, self._knocked)
        self._listening[endpoint.addr] = endpoint
        return QuicListener(endpoint, lambda: self._forget(endpoint))

    def _forget(self, endpoint: Endpoint) -> None:
        self._listening.pop(endpoint.addr, None)

    async def dial(
        self, addr: Multiaddr, *, source: Multiaddr | None = None, strict_source: bool = False, timeout: float = 15.0
    ) -> QuicConnection:
        """Begin a connection to `addr`, from the socket of `source`; whether there is a peer shows in its handshake.

        Without a source, or with one that does not listen any more unless `strict_source`, all dials share a socket of
        their own. Raises DialError.
        """
        endpoint = self._listening.get(source) if source is not None else None
        if endpoint is None and strict_source:
            raise DialError(f"{addr}: nothing listens on {source}")
        try:
            to = sockaddr_of(addr)
        except OSError as error:
            raise DialError(f"{addr}: {error.strerror or error}") from error
        return (endpoint or self._outgoing(addr)).dial(to)

    def dial_from(self, socket: UdpSocket, to: SockAddr) -> QuicConnection:
        """Begin a connection over a socket of the caller's, which is the connection's from now on."""
        return Endpoint(socket, self._credentials, self._growth).dial(to)

    def knock(self, addr: Multiaddr, source: Multiaddr, data: bytes) -> None:
        """Send a datagram that is nobody's from the socket of `source`, to open our NAT towards `addr`."""
        endpoint = self._listening.get(source)
        try:
            to = sockaddr_of(addr)
        except OSError as error:  # by an interface that is not here
            logger.debug("no way to %s: %s", addr, error)
            return
        if endpoint is not None:
            endpoint.spray(data, to)

    def _knocked(self, sender: SockAddr) -> None:
        if self.on_knock is not None:
            self.on_knock(ip_address(sender[0]), lambda: multiaddr_of(sender))

    def _outgoing(self, addr: Multiaddr) -> Endpoint:
        ip = addr.ip
        assert ip is not None
        endpoint = self._dialling.get(ip.version)
        if endpoint is None or endpoint.is_closed:
            endpoint = self._dialling[ip.version] = Endpoint(_ANY[ip.version], self._credentials, self._growth)
        return endpoint
