"""The machine's own addresses, so that a listener on a wildcard can be advertised.

Asked of the kernel by rtnetlink (RTM_GETADDR, `man 7 rtnetlink`): one request, one dump, no threads and no packages.
Message: nlmsghdr { u32 len, u16 type, u16 flags, u32 seq, u32 pid } ‖ ifaddrmsg { u8 family, u8 prefix, u8 flags,
u8 scope, u32 index } ‖ attributes { u16 len, u16 type, value }, each padded to four bytes.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterator

from node.names.multiaddr import IPAddress

# A dump comes in datagrams of up to this size; more of them than the bound is a kernel gone mad.
_DATAGRAM = 1 << 16
MAX_DATAGRAMS = 256
TIMEOUT = 1.0

_HEADER = struct.Struct("=IHHII")
_IFADDRMSG = struct.Struct("=BBBBI")
_ATTRIBUTE = struct.Struct("=HH")
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_RTM_NEWADDR, _RTM_GETADDR = 20, 22
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_IFA_F_TENTATIVE_OR_FAILED = 0x40 | 0x08


def interface_ips() -> list[IPAddress]:
    """All usable addresses in the kernel's order, loopback and link-local ones (with their zone) included; OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        sock.settimeout(TIMEOUT)
        sock.bind((0, 0))
        size = _HEADER.size + _IFADDRMSG.size
        request = _HEADER.pack(size, _RTM_GETADDR, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0)
        sock.send(request + _IFADDRMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0))
        return [address for message in _dump(sock) if (address := _address(message)) is not None]


def _dump(sock: socket.socket) -> Iterator[bytes]:
    """The RTM_NEWADDR messages, without their header."""
    for _ in range(MAX_DATAGRAMS):
        data, offset = sock.recv(_DATAGRAM), 0
        while offset + _HEADER.size <= len(data):
            size, kind, *_ = _HEADER.unpack_from(data, offset)
            if kind == _NLMSG_DONE:
                return
            if kind == _NLMSG_ERROR or size < _HEADER.size:
                raise OSError("the kernel refuses to list addresses")
            if kind == _RTM_NEWADDR:
                yield data[offset + _HEADER.size : offset + size]
            offset += _padded(size)
    raise OSError(f"more than {MAX_DATAGRAMS} datagrams of addresses")


def _address(message: bytes) -> IPAddress | None:
    family, _, flags, _, index = _IFADDRMSG.unpack_from(message)
    if family not in (socket.AF_INET, socket.AF_INET6) or flags & _IFA_F_TENTATIVE_OR_FAILED:
        return None
    attributes = dict(_attributes(message))
    # On a point-to-point link ADDRESS is the other end's and LOCAL ours; IPv6 has ADDRESS only.
    packed = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS)
    if packed is None:
        return None
    address = ipaddress.ip_address(packed)
    if address.version == 6 and address.is_link_local:
        return ipaddress.IPv6Address(f"{address}%{socket.if_indextoname(index)}")
    return address


def _attributes(message: bytes) -> Iterator[tuple[int, bytes]]:
    offset = _IFADDRMSG.size
    while offset + _ATTRIBUTE.size <= len(message):
        size, kind = _ATTRIBUTE.unpack_from(message, offset)
        if size < _ATTRIBUTE.size:
            return
        yield kind, message[offset + _ATTRIBUTE.size : offset + size]
        offset += _padded(size)


def _padded(size: int) -> int:
    return (size + 3) & ~3
