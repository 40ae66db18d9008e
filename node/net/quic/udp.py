"""A UDP socket for one endpoint: datagrams with both addresses, drained in the loop's reader callback.

Facts: asyncio's own datagram transport takes one datagram a turn of the loop, a thirtieth of what a drained socket
gives. A socket bound to a wildcard answers from whatever address routing picks, not the one that was written to, so
the kernel is asked for that (IP_PKTINFO) and told it when sending. Datagrams are never fragmented (RFC 9000 §14).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from node.errors import ConfigError
from node.names.multiaddr import Multiaddr

if TYPE_CHECKING:
    from node.names.multiaddr import IPAddress

SockAddr = tuple[str, int] | tuple[str, int, int, int]
OnDatagram = Callable[[bytes, SockAddr, "bytes | None"], None]

DRAIN = 64
"""Datagrams taken in one turn of the loop: enough to be fast, few enough for others to have their turn."""
MAX_DATAGRAM = 65536
SOCKET_BUFFER = 4 * 1024 * 1024
"""Bytes asked of the kernel for what arrives while we are busy; it may give less."""
QUEUE = 1024
"""Datagrams that wait for the socket; what comes then is lost, as it would be in the network."""

_ANCILLARY = 64
_IP_PKTINFO, _IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE = 8, 10, 23, 3
_PKTINFO4 = struct.Struct("=i4s4s")  # interface, our address, the address in the header
_PKTINFO6 = struct.Struct("=16si")
_GONE = (errno.EADDRNOTAVAIL, errno.EINVAL)


class UdpSocket:
    """Bound, non-blocking, and read from as soon as `start` is called."""

    def __init__(self, addr: Multiaddr) -> None:
        """Bind `/ip4|ip6/…/udp/…`; raises ConfigError where that is not possible."""
        try:
            self._sock, self._is_wildcard = _bound(addr)
        except OSError as error:
            raise ConfigError(f"cannot listen on {addr}: {error.strerror or error}") from error
        self.family = self._sock.family
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[bytes, SockAddr, bytes | None]] = deque()  # at most QUEUE
        self._on_datagram: OnDatagram | None = None
        self._on_drained: Callable[[], None] | None = None

    @property
    def sockaddr(self) -> SockAddr:
        """Where it is bound."""
        name: SockAddr = self._sock.getsockname()
        return name

    def start(self, on_datagram: OnDatagram, on_drained: Callable[[], None]) -> None:
        """Call back with each datagram (data, sender, our address or None), and after each batch of them."""
        self._on_datagram, self._on_drained = on_datagram, on_drained
        self._loop.add_reader(self._sock.fileno(), self._readable)

    def _readable(self) -> None:
        assert self._on_datagram is not None
        assert self._on_drained is not None
        on_datagram = self._on_datagram
        try:
            for _ in range(DRAIN):
                if self._is_wildcard:
                    data, ancillary, _, sender = self._sock.recvmsg(MAX_DATAGRAM, _ANCILLARY)
                    on_datagram(data, _unzoned(sender), _our_address(ancillary))
                else:
                    data, sender = self._sock.recvfrom(MAX_DATAGRAM)
                    on_datagram(data, _unzoned(sender), None)
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:  # what the kernel tells of an earlier datagram, such as a refusal
            if error.errno == errno.EBADF:
                return
        self._on_drained()

    def send(self, data: bytes, to: SockAddr, source: bytes | None = None) -> None:
        """Send from `source`, one of our addresses packed, or from where routing says; what cannot leave is lost."""
        if self._queue or not self._try(data, to, source):
            if not self._queue:
                self._loop.add_writer(self._sock.fileno(), self._writable)
            if len(self._queue) < QUEUE:
                self._queue.append((data, to, source))

    def _try(self, data: bytes, to: SockAddr, source: bytes | None) -> bool:
        """Send at once; False when the socket has no room."""
        try:
            if source is None or not self._is_wildcard:
                self._sock.sendto(data, to)
            else:
                self._sock.sendmsg([data], [self._pktinfo(source)], 0, to)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            if source is not None and error.errno in _GONE:  # the interface has another address now
                return self._try(data, to, None)
        return True

    def _writable(self) -> None:
        while self._queue and self._try(*self._queue[0]):
            self._queue.popleft()
        if not self._queue:
            self._loop.remove_writer(self._sock.fileno())

    def _pktinfo(self, source: bytes) -> tuple[int, int, bytes]:
        if self.family == socket.AF_INET:
            return socket.IPPROTO_IP, _IP_PKTINFO, _PKTINFO4.pack(0, source, bytes(4))
        return socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _PKTINFO6.pack(source, 0)

    def close(self) -> None:
        """Send what waits, if the socket takes it, and close."""
        while self._queue and self._try(*self._queue.popleft()):
            pass
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()


def _unzoned(sender: SockAddr) -> SockAddr:
    """The sender as `sockaddr_of` writes it: the zone of a link-local address by its number alone."""
    if len(sender) == 4 and ("%" in sender[0] or sender[2]):
        return sender[0].partition("%")[0], sender[1], 0, sender[3]
    return sender


def _our_address(ancillary: list[tuple[int, int, bytes]]) -> bytes | None:
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
            own: bytes = _PKTINFO4.unpack_from(data)[1]
            return own
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
            return data[:16]
    return None


def _bound(addr: Multiaddr) -> tuple[socket.socket, bool]:
    target = sockaddr_of(addr)
    ip = addr.ip
    assert ip is not None
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.socket(family_of(ip), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK))
        if ip.version == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_PROBE)
        if ip.is_unspecified:
            level, option = (
                (socket.IPPROTO_IP, _IP_PKTINFO) if ip.version == 4 else (socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO)
            )
            sock.setsockopt(level, option, 1)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER)
        sock.bind(target)
        stack.pop_all()
    return sock, ip.is_unspecified


def family_of(ip: IPAddress) -> socket.AddressFamily:
    """The socket family of an address."""
    return socket.AF_INET if ip.version == 4 else socket.AF_INET6


def sockaddr_of(addr: Multiaddr) -> SockAddr:
    """What the socket calls need for `/ip4|ip6/…/udp/…`; raises OSError for anything else or an unknown zone."""
    ip, port = addr.ip, addr.port
    if ip is None or port is None or "udp" not in addr:
        raise OSError(errno.EAFNOSUPPORT, "not an IP address and a UDP port")
    if ip.version == 4:
        return str(ip), port
    zone = addr.value("ip6zone")
    return str(ip).partition("%")[0], port, 0, socket.if_nametoindex(zone) if zone else 0


def multiaddr_of(sockaddr: SockAddr) -> Multiaddr:
    """`/ip4|ip6/…/udp/…/quic-v1` of what the socket calls return."""
    host, scope = sockaddr[0], sockaddr[3] if len(sockaddr) == 4 else 0
    return Multiaddr.quic(f"{host}%{socket.if_indextoname(scope)}" if scope else host, sockaddr[1])


def source_towards(to: SockAddr, sock_family: int) -> bytes | None:
    """The address of ours, packed, that routing picks for a destination; None when there is no route."""
    with socket.socket(sock_family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(to)
        except OSError:
            return None
        return ipaddress.ip_address(probe.getsockname()[0].partition("%")[0]).packed
