"""How large a packet may be on a path, as what was sent large and small tells; and how far that is from what was asked.

Where a link takes smaller packets than those at its ends, a router answers the ones that are too large with their limit
(RFC 1191 §4, RFC 8201 §4): TCP then sends smaller ones. In a black hole nobody answers (RFC 2923 §2.1). Pure.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from errno import EMSGSIZE
from typing import Final

from lab.observe.quality import Row

NONE: Final = 0
"bytes of a packet that there was not"
_ERROR: Final = struct.Struct("=IBBBxI4x")
"sock_extended_err of ip(7): errno, origin, type, code, info"
_BY_ICMP: Final = (2, 3)
"origins: ICMP, ICMPv6"
_VIRTIO: Final = struct.Struct("=BBHHHH")
"virtio_net_hdr: flags, kind, length of the headers, size of each segment's data, and two offsets"
_ETHERNET: Final = 14
_IPV6_HEADER: Final = 40
_TCP_OFFSET_AT: Final = 12
_IP, _TCP, _IPV6 = 0, 6, 41
"protocols, and levels of what comes with a message"


@dataclass(frozen=True, slots=True)
class OneWay:
    """What was found in one direction of a path. Sizes are bytes of IP packets; NONE: there was no such packet."""

    largest: int
    "the largest datagram that came; none was to be fragmented"
    told: int
    "the limit that the ICMP message named about the first that was too large"
    tcp: int
    "the largest packet with data that came by a TCP connection"


def size_rows(name: str, way: str, mtu: int, found: OneWay, *, black_hole: bool) -> tuple[Row, ...]:
    """Three rows for one direction of a link of that MTU."""
    told = NONE if black_hole else mtu
    # A black hole lets no full segment through, and TCP begins with those.
    asked = (("UDP", mtu, found.largest), ("ICMP", told, found.told), ("TCP", told, found.tcp))
    return tuple(Row(name, f"{what}, {way}", size, measured, 0, "B") for what, size, measured in asked)


def told_limit(ancillary: Iterable[tuple[int, int, bytes]]) -> int:
    """The limit that an ICMP message named, by what came with a socket's error of its kind; NONE if there is none."""
    for level, _, data in ancillary:
        if level in (_IP, _IPV6) and len(data) >= _ERROR.size:
            code, origin, _, _, info = _ERROR.unpack_from(data)
            if code == EMSGSIZE and origin in _BY_ICMP:
                return int(info)
    return NONE


def tcp_size(captured: bytes, port: int) -> int:
    """Bytes of the IP packet in a frame behind its virtio_net_hdr, if it brings data of a port's TCP; NONE if not.

    Packets that the kernel has not split yet count as what they will be split into.
    """
    _, _, _, segment, _, _ = _VIRTIO.unpack_from(captured)
    packet = captured[_VIRTIO.size + _ETHERNET :]
    if len(packet) < _IPV6_HEADER:
        return NONE
    if packet[0] >> 4 == 4:
        header, protocol, length = (packet[0] & 15) * 4, packet[9], int.from_bytes(packet[2:4], "big")
    else:
        header, protocol, length = _IPV6_HEADER, packet[6], _IPV6_HEADER + int.from_bytes(packet[4:6], "big")
    tcp = packet[header : header + 20]
    if protocol != _TCP or len(tcp) < 20:
        return NONE
    headers = header + (tcp[_TCP_OFFSET_AT] >> 4) * 4
    ports = {int.from_bytes(tcp[:2], "big"), int.from_bytes(tcp[2:4], "big")}
    if port not in ports or length <= headers:
        return NONE
    return headers + segment if segment else length
