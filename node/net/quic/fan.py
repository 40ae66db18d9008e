"""Many UDP sockets that wait for one peer: a NAT gives each of them an external port, and one of these may be hit.

Whichever is hit can become the socket of a QUIC connection. What does not carry our token is not the peer's.
"""

from __future__ import annotations

import asyncio
import random
from functools import partial
from typing import TYPE_CHECKING

from node.errors import ConfigError
from node.names.multiaddr import Multiaddr
from node.net.quic.udp import UdpSocket
from node.wire.predict import TOKEN_SIZE

if TYPE_CHECKING:
    from node.net.quic.udp import SockAddr

ANY = Multiaddr("/ip4/0.0.0.0/udp/0/quic-v1")
HITS = 4
"""Sockets of one fan that may be hit and tried: the peer's probes, repeated, hit the same ones."""
PADDING = (15, 79)
"""Bytes of a probe behind its token, from and to: with it as long as what a punch sends."""


def probe(token: bytes) -> bytes:
    """A datagram that nobody takes for QUIC, whose fixed bit it has not set (RFC 9000 §17), with the peer's token."""
    return bytes((random.getrandbits(6),)) + token + random.randbytes(random.randint(*PADDING))


class Fan:
    """The sockets, open until `close`; the one that was taken is its taker's."""

    def __init__(self, count: int, token: bytes) -> None:
        """Open so many sockets, or as many as the system lets us; ConfigError where that is none."""
        self._token = token
        self._sockets: list[UdpSocket] = []  # at most `count`
        self._hits: asyncio.Queue[tuple[UdpSocket, SockAddr]] = asyncio.Queue(HITS)
        self._hit: set[UdpSocket] = set()
        self._taken: set[UdpSocket] = set()
        while len(self._sockets) < count:
            try:
                opened = UdpSocket(ANY)
            except ConfigError:
                if not self._sockets:
                    raise
                break
            opened.start(partial(self._received, opened), _nothing_more)
            self._sockets.append(opened)

    def __len__(self) -> int:
        return len(self._sockets)

    @property
    def ports(self) -> list[int]:
        """Their own ports, in the order in which they send."""
        return [each.sockaddr[1] for each in self._sockets]

    def send(self, index: int, data: bytes, to: SockAddr) -> None:
        """Send from one of them, unless somebody has taken it."""
        if self._sockets[index] not in self._taken:
            self._sockets[index].send(data, to)

    async def hit(self) -> tuple[UdpSocket, SockAddr]:
        """Wait until one is hit, and return it, now the caller's, with the sender's endpoint."""
        hit, sender = await self._hits.get()
        self._taken.add(hit)
        return hit, sender

    def _received(self, socket: UdpSocket, data: bytes, sender: SockAddr, _source: bytes | None) -> None:
        if data[1 : 1 + TOKEN_SIZE] != self._token or socket in self._hit or self._hits.full():
            return
        self._hit.add(socket)
        self._hits.put_nowait((socket, sender))

    def close(self) -> None:
        """Close all that were not taken."""
        for each in self._sockets:
            if each not in self._taken:
                each.close()
        self._sockets.clear()


def _nothing_more() -> None:
    """What is to be done after a batch of datagrams."""
