"""A reflector: mDNS heard on one LAN is said again on the others, as `avahi-daemon --reflector` does on a router.

    alice ── 224.0.0.251:5353 ──▶ home's lan ┐
                                             ├─ the same bytes, from the other router's own address
    bob   ◀── 224.0.0.251:5353 ── guest's lan ┘

It has one socket per LAN and family, in the namespace of the LAN's router, bound to the group. What it says itself it
does not hear (IP_MULTICAST_LOOP), and all LANs that exchange mDNS have one reflector between them, so nothing goes
round.

A question from another port than 5353 wants its answer by unicast (RFC 6762 §6.7), which would have to find its way
back through the reflector; such questions are not passed on. Nothing in a message is changed: an answer names addresses
of the LAN that it comes from, and whether they can be reached from the other is for the routers to say.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from lab.kernel.namespace import Namespace

GROUP4: Final = "224.0.0.251"
GROUP6: Final = "ff02::fb"
PORT: Final = 5353
MAX_MESSAGE: Final = 9000
"Bytes, of which RFC 6762 §17 has the headers; what is longer is not passed on."
HEADER: Final = 12
"Bytes; shorter is no DNS message."
AT_ONCE: Final = 64
"Messages taken from one socket before others have their turn."
HOPS: Final = 255

_MREQN = struct.Struct("@4s4si")
_MREQ6 = struct.Struct("@16si")
_IP_MULTICAST_ALL: Final = 49


@dataclass(frozen=True, slots=True)
class Side:
    """A LAN as its router sees it."""

    space: Namespace
    bridge: str
    ipv6: bool


class Reflector:
    """Exchanges mDNS between LANs from `start` to `close`; both are called where a loop runs."""

    def __init__(self, sides: Sequence[Side]) -> None:
        self.passed_on = 0
        "messages said again, one for each LAN"
        self.lost = 0
        "messages that a LAN did not take, as one whose router is down"
        self._sides = tuple(sides)
        self._sockets: dict[socket.AddressFamily, list[socket.socket]] = {socket.AF_INET: [], socket.AF_INET6: []}

    def start(self) -> None:
        """Join the groups; raises OSError where a LAN has no such address family."""
        loop = asyncio.get_running_loop()
        for side in self._sides:
            for family in (socket.AF_INET, *([socket.AF_INET6] if side.ipv6 else [])):
                listener = _listener(side, family)
                self._sockets[family].append(listener)
                loop.add_reader(listener, self._take, family, listener)

    def close(self) -> None:
        """Leave; closing twice does nothing."""
        loop = asyncio.get_running_loop()
        for sockets in self._sockets.values():
            for listener in sockets:
                loop.remove_reader(listener)
                listener.close()
            sockets.clear()

    def _take(self, family: socket.AddressFamily, heard_by: socket.socket) -> None:
        for _ in range(AT_ONCE):
            try:
                message, source = heard_by.recvfrom(MAX_MESSAGE + 1)
            except BlockingIOError:
                return
            if source[1] == PORT and HEADER <= len(message) <= MAX_MESSAGE:
                for other in self._sockets[family]:
                    if other is not heard_by:
                        self._say(family, other, message)

    def _say(self, family: socket.AddressFamily, by: socket.socket, message: bytes) -> None:
        try:
            by.sendto(message, (GROUP4 if family == socket.AF_INET else GROUP6, PORT))
            self.passed_on += 1
        except OSError:  # mDNS is said again by whoever needs an answer; a reflector is no sender
            self.lost += 1


def _listener(side: Side, family: socket.AddressFamily) -> socket.socket:
    listener = side.space.socket(family, socket.SOCK_DGRAM)
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with side.space.entered():
            index = socket.if_nametoindex(side.bridge)
        if family == socket.AF_INET:
            _join4(listener, index)
        else:
            _join6(listener, index)
    except OSError:
        listener.close()
        raise
    return listener


def _join4(listener: socket.socket, index: int) -> None:
    group = _MREQN.pack(socket.inet_aton(GROUP4), bytes(4), index)
    listener.bind((GROUP4, PORT))
    listener.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
    listener.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, group)
    listener.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
    listener.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
    listener.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, HOPS)


def _join6(listener: socket.socket, index: int) -> None:
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.bind((GROUP6, PORT, 0, index))
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, _MREQ6.pack(_packed(GROUP6), index))
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, HOPS)


def _packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6, address)
