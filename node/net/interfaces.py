"""The machine's own addresses and its way out, as the kernel tells them.

ifaddrmsg { u8 family, u8 prefix, u8 flags, u8 scope, u32 index }
rtmsg     { u8 family, u8 dst_len, u8 src_len, u8 tos, u8 table, u8 protocol, u8 scope, u8 type, u32 flags }
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from dataclasses import dataclass

from node.names.multiaddr import IPAddress
from node.net import rtnetlink

_IFADDRMSG = struct.Struct("=BBBBI")
_RTMSG = struct.Struct("=BBBBBBBBI")
_U32 = struct.Struct("=I")
_RTM_NEWADDR, _RTM_GETADDR = 20, 22
_RTM_NEWROUTE, _RTM_GETROUTE = 24, 26
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_IFA_F_TENTATIVE_OR_FAILED = 0x40 | 0x08
_RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY = 4, 5, 6
_RT_TABLE_MAIN, _RTN_UNICAST = 254, 1


@dataclass(frozen=True, slots=True)
class Interface:
    """One address of an interface; a link-local IPv6 address has its zone."""

    index: int
    ip: IPAddress


@dataclass(frozen=True, slots=True)
class Gateway:
    """The router that what has no better route is given to."""

    index: int
    """Of the interface that it is behind."""
    ip: IPAddress


def interface_ips() -> list[IPAddress]:
    """All usable addresses in the kernel's order, loopback and link-local ones (with their zone) included; OSError."""
    return [interface.ip for interface in interfaces()]


def interfaces() -> list[Interface]:
    """As `interface_ips`, each address with its interface; OSError."""
    messages = rtnetlink.dump(_RTM_GETADDR, _RTM_NEWADDR, _IFADDRMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0))
    return [found for message in messages if (found := _interface(message)) is not None]


def default_gateway(version: int = 4) -> Gateway | None:
    """The next hop of the best default route of that IP version; None without one, as on a bare link; OSError."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    messages = rtnetlink.dump(_RTM_GETROUTE, _RTM_NEWROUTE, _RTMSG.pack(family, *(0,) * 8))
    routes = [found for message in messages if (found := _default_route(message, family)) is not None]
    return min(routes, key=lambda route: route[0])[1] if routes else None


def _interface(message: bytes) -> Interface | None:
    family, _, flags, _, index = _IFADDRMSG.unpack_from(message)
    if family not in (socket.AF_INET, socket.AF_INET6) or flags & _IFA_F_TENTATIVE_OR_FAILED:
        return None
    attributes = rtnetlink.attributes(message, _IFADDRMSG.size)
    # On a point-to-point link ADDRESS is the other end's and LOCAL ours; IPv6 has ADDRESS only.
    packed = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS)
    if packed is None:
        return None
    return Interface(index, _zoned(ipaddress.ip_address(packed), index))


def _default_route(message: bytes, family: int) -> tuple[int, Gateway] | None:
    """The route's metric and next hop, if it is a default route with one."""
    own, dst_len, _, _, table, _, _, kind, _ = _RTMSG.unpack_from(message)
    if (own, dst_len, table, kind) != (family, 0, _RT_TABLE_MAIN, _RTN_UNICAST):
        return None
    attributes = rtnetlink.attributes(message, _RTMSG.size)
    packed, out = attributes.get(_RTA_GATEWAY), attributes.get(_RTA_OIF)
    if packed is None or out is None:
        return None
    metric = _U32.unpack(attributes.get(_RTA_PRIORITY, bytes(4)))[0]
    index = _U32.unpack(out)[0]
    return metric, Gateway(index, _zoned(ipaddress.ip_address(packed), index))


def _zoned(address: IPAddress, index: int) -> IPAddress:
    if address.version == 6 and address.is_link_local:
        return ipaddress.IPv6Address(f"{address}%{socket.if_indextoname(index)}")
    return address
