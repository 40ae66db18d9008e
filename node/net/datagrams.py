"""A UDP socket whose datagrams are handed on as they come.

Read when the loop says it is readable, many at a time: asyncio's own datagram transport takes one a turn of the loop,
and is thirty times slower for it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from ipaddress import ip_address

from node.errors import ConfigError
from node.wire.stun import Endpoint

logger = logging.getLogger(__name__)

DRAIN = 64
"""Datagrams taken at a time, so that others have their turn."""
MAX_DATAGRAM = 2048
"""Bytes; the rest of a longer one is lost."""

OnDatagram = Callable[[bytes, Endpoint], None]


class DatagramPort:
    """One bound socket, open until `close`."""

    def __init__(self, bind: Endpoint, on_datagram: OnDatagram) -> None:
        """Bind (port 0 for any) and begin to listen; ConfigError where that is not possible."""
        family = socket.AF_INET if bind.ip.version == 4 else socket.AF_INET6
        self._socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self._socket.bind((str(bind.ip), bind.port))
        except OSError as error:
            self._socket.close()
            raise ConfigError(f"cannot listen on udp {bind}: {error.strerror or error}") from error
        self._on_datagram = on_datagram
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self._read)

    @property
    def local(self) -> Endpoint:
        """Where it is bound."""
        return _endpoint(self._socket.getsockname())

    def send(self, data: bytes, to: Endpoint) -> None:
        """Send, or do not: what a network may lose anyway is not waited for."""
        try:
            self._socket.sendto(data, (str(to.ip), to.port))
        except OSError as error:
            logger.debug("not sent to %s: %s", to, error)

    def close(self) -> None:
        """Close; closing twice does nothing."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._socket.close()

    def _read(self) -> None:
        for _ in range(DRAIN):
            try:
                data, source = self._socket.recvfrom(MAX_DATAGRAM)
            except BlockingIOError:
                return
            except OSError as error:  # an ICMP error of something that was sent before
                logger.debug("udp %s: %s", self.local, error)
                continue
            self._on_datagram(data, _endpoint(source))
            if self._socket.fileno() < 0:
                return


def source_towards(target: Endpoint) -> Endpoint:
    """Return which of our addresses packets to `target` leave from, port 0; OSError where there is no route."""
    family = socket.AF_INET if target.ip.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect((str(target.ip), target.port))
        return Endpoint(_endpoint(sock.getsockname()).ip, 0)


def _endpoint(sockaddr: tuple[str, int] | tuple[str, int, int, int]) -> Endpoint:
    return Endpoint(ip_address(sockaddr[0]), sockaddr[1])
