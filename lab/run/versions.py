"""The two versions of IP as probes see them: sockets whose endpoints are an address and a port, and no more."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self, cast

IP_RECVERR: Final = 11
"of linux/in.h, which the socket module leaves out"
IPV6_RECVERR: Final = 25
"of linux/in6.h"


class Space(Protocol):
    """Where sockets are made; `lab.kernel.namespace.Namespace` is one."""

    name: str

    def socket(self, family: int, kind: int, proto: int = 0) -> socket.socket: ...


@dataclass(frozen=True, slots=True)
class Version:
    """What differs between the two."""

    name: str
    anywhere: str
    "the address that stands for all of a host's own"
    icmp: int
    "the protocol of its ICMP"
    echo_request: int
    echo_reply: int
    errors: tuple[int, int]
    "the option that keeps ICMP errors for whoever asks"
    make: Callable[[Space, int, int], socket.socket]
    segment: Callable[[bytes], bytes]
    "what a raw socket hands over, without IP's header"

    def new_socket(self, space: Space, kind: int, proto: int = 0) -> socket.socket:
        """A socket in a namespace. Raises OSError."""
        return self.make(space, kind, proto)

    def keep_errors(self, its: socket.socket) -> None:
        """Have a socket keep the ICMP errors that come back, until they are asked for."""
        its.setsockopt(*self.errors, 1)

    def __str__(self) -> str:
        return self.name


def _socket4(space: Space, kind: int, proto: int) -> socket.socket:
    return space.socket(socket.AF_INET, kind, proto)


def _socket6(space: Space, kind: int, proto: int) -> socket.socket:
    made = space.socket(socket.AF_INET6, kind, proto)
    if kind != socket.SOCK_RAW:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return _Socket6(fileno=made.detach())


class _Socket6(socket.socket):
    """Flow labels and zones are no part of the endpoints that a probe compares."""

    def recvfrom(self, bufsize: int, flags: int = 0) -> tuple[bytes, Any]:
        data, source = super().recvfrom(bufsize, flags)
        return data, source[:2]

    def accept(self) -> tuple[Self, Any]:
        accepted, remote = super().accept()
        return cast("Self", accepted), remote[:2]

    def getsockname(self) -> Any:
        return super().getsockname()[:2]


def _without_header(packet: bytes) -> bytes:
    return packet[(packet[0] & 0x0F) * 4 :]


V4: Final = Version(
    "IPv4",
    "0.0.0.0",  # noqa: S104 -- in a namespace of our own, on the address that its routes choose
    icmp=socket.IPPROTO_ICMP,
    echo_request=8,
    echo_reply=0,
    errors=(socket.IPPROTO_IP, IP_RECVERR),
    make=_socket4,
    segment=_without_header,
)
V6: Final = Version(
    "IPv6",
    "::",
    icmp=socket.IPPROTO_ICMPV6,
    echo_request=128,
    echo_reply=129,
    errors=(socket.IPPROTO_IPV6, IPV6_RECVERR),
    make=_socket6,
    segment=bytes,  # a raw socket of IPv6 keeps the header to itself (RFC 3542 §3)
)


def version_of(address: str) -> Version:
    """The version that an address, as text, belongs to."""
    return V6 if ":" in address else V4
