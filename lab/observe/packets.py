"""Reads the packets of a run: one pcapng with named interfaces in, frozen values out.

The blocks are read by scapy, the headers by `struct`: scapy's dissection takes 110 µs a packet, all this takes 8, and a
matrix has some forty thousand (docs/decisions/0002). Ethernet, IPv4 (RFC 791), IPv6
without extension headers (RFC 8200), TCP (RFC 9293) and UDP (RFC 768) are what verdicts are made of; all other frames
are passed over.

A NAT rewrites addresses, ports and checksums and leaves the rest alone. So what it leaves alone tells one packet from
all others on every interface that it passes: `Packet.identity`.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address
from pathlib import Path
from struct import Struct
from struct import error as StructError
from typing import Final
from zlib import crc32

from scapy.error import Scapy_Exception
from scapy.utils import RawPcapNgReader

from lab.errors import LabError
from lab.observe.endpoint import endpoint_text

# What scapy has to say of a damaged file is said by a LabError here; its own lines would land between the lab's.
logging.getLogger("scapy.runtime").setLevel(logging.CRITICAL)

MAX_BYTES: Final = 512 << 20
"Size of a capture that is judged; a larger one is for Wireshark."

FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
_FLAG_NAMES: Final = ((SYN, "SYN"), (FIN, "FIN"), (RST, "RST"), (ACK, "ACK"))

_SECTION_HEADER: Final = 0x0A0D0D0A
_ENHANCED_PACKET: Final = 6
_WORDS: Final = {order: Struct(f"{order}II") for order in "<>"}
"type and length of a block"
_LINKTYPE_ETHERNET: Final = 1
_ETHERTYPE_IPV4: Final = b"\x08\x00"
_ETHERTYPE_IPV6: Final = b"\x86\xdd"
_TCP, _UDP = 6, 17
_IPV4: Final = Struct("!BxHHHxB2x4s4s")
_IPV6: Final = Struct("!IHBx16s16s")
_TCP_HEADER: Final = Struct("!HHIIBB")
_UDP_HEADER: Final = Struct("!HHH")
_FINGERPRINT: Final = 96
"Bytes after the fixed transport header that enter the identity: TCP's options, whose timestamps mark retransmissions."

Identity = tuple[str, int, int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class Packet:
    """One TCP segment or UDP datagram, as seen on one interface."""

    at: float
    "Unix seconds, by the kernel's clock"
    ns: int
    "the same, in nanoseconds: floats do not tell the hops of one packet apart"
    interface: str
    "`home-a/wan`"
    src: str
    sport: int
    dst: str
    dport: int
    proto: str
    "tcp or udp"
    flags: int
    "TCP's; 0 for UDP"
    seq: int
    ack: int
    payload: int
    "bytes after the transport header, by the headers' account"
    frame_length: int
    "bytes on the wire"
    mark: int
    "checksum of what no NAT rewrites: the IP identification, TCP's options, the payload's beginning"

    @property
    def identity(self) -> Identity:
        """What this packet has in common with itself on other interfaces, and with no other packet."""
        return (self.proto, self.flags, self.seq, self.ack, self.payload, self.frame_length, self.mark)

    @property
    def space(self) -> str:
        """The router or host that it was seen at."""
        return self.interface.partition("/")[0]

    @property
    def is_syn(self) -> bool:
        """Whether it asks for a connection: SYN without ACK."""
        return self.flags & (SYN | ACK | RST | FIN) == SYN

    @property
    def is_syn_ack(self) -> bool:
        """Whether it grants one, or answers a simultaneous open."""
        return self.flags & (SYN | ACK | RST | FIN) == SYN | ACK

    @property
    def kind(self) -> str:
        """`SYN`, `SYN-ACK`, `RST`, `FIN-ACK`, `ACK`, `UDP`."""
        if self.proto == "udp":
            return "UDP"
        return "-".join(name for bit, name in _FLAG_NAMES if self.flags & bit) or "TCP"

    def __str__(self) -> str:
        ends = (endpoint_text(self.src, self.sport), endpoint_text(self.dst, self.dport))
        return f"{self.kind} {' → '.join(ends)}"


def read(path: Path, growing: bool = False) -> tuple[Packet, ...]:
    """All TCP and UDP packets of a capture in the order of time; `LabError` names a file that is not whole.

    The last block of a capture that is `growing` may still be on its way into the file; it is left for the next time.
    """
    data = _contents(path)
    expected, end = _count_frames(path, data, growing)
    packets: list[Packet] = []
    frames = 0
    try:
        for frame, about in RawPcapNgReader(io.BytesIO(data[:end])):
            frames += 1
            ns = ((about.tshigh << 32) + about.tslow) * 1_000_000_000 // about.tsresol
            if about.linktype == _LINKTYPE_ETHERNET:
                packets.extend(_dissect(frame, ns, _interface(about.ifname), about.wirelen))
    except (Scapy_Exception, EOFError, StructError, TypeError, ValueError, OverflowError) as error:
        raise LabError(f"{path}: damaged capture, packet {frames + 1}: {error}") from error
    if frames != expected:
        raise LabError(f"{path}: damaged capture: only {frames} of {expected} packets can be read")
    packets.sort(key=lambda packet: packet.ns)
    return tuple(packets)


def _contents(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise LabError(f"{path}: {size >> 20} MiB are too many to judge (at most {MAX_BYTES >> 20}); use Wireshark")
        return path.read_bytes()
    except OSError as error:
        raise LabError(f"{path}: cannot read the capture: {error.strerror}") from error


def _count_frames(path: Path, data: bytes, growing: bool) -> tuple[int, int]:
    """Packet blocks of a pcapng and where the last whole block ends; scapy would take a broken one for the end."""
    if data[:4] != _SECTION_HEADER.to_bytes(4):
        raise LabError(f"{path}: not a pcapng capture")
    frames = offset = 0
    words = _WORDS["<"]
    while offset < len(data):
        if data[offset : offset + 4] == _SECTION_HEADER.to_bytes(4):
            words = _WORDS[_byte_order(path, data, offset)]
        kind, length = words.unpack(data[offset : offset + 8].ljust(8, b"\0"))
        whole = length >= 12 and length % 4 == 0 and offset + length <= len(data)
        if not whole and growing and offset:
            break
        if not whole:
            raise LabError(f"{path}: damaged or truncated capture: the block at byte {offset} is not whole")
        frames += kind == _ENHANCED_PACKET
        offset += length
    return frames, offset


def _byte_order(path: Path, data: bytes, offset: int) -> str:
    """Of the section that begins there."""
    match data[offset + 8 : offset + 12]:
        case b"\x1a\x2b\x3c\x4d":
            return ">"
        case b"\x4d\x3c\x2b\x1a":
            return "<"
        case _:
            raise LabError(f"{path}: damaged capture: no byte order in the section at byte {offset}")


def _dissect(frame: bytes, ns: int, interface: str, wire_length: int) -> Iterator[Packet]:
    """The packet in an Ethernet frame, if it is one that is judged; cut off headers count as none."""
    ip = _ip(frame)
    if ip is None:
        return
    protocol, src, dst, start, end, identification = ip
    if protocol == _TCP and len(frame) >= start + 20:
        sport, dport, seq, ack, offset, flags = _TCP_HEADER.unpack_from(frame, start)
        fixed, header = start + 20, (offset >> 4) * 4
        proto = "tcp"
    elif protocol == _UDP and len(frame) >= start + 8:
        sport, dport, _ = _UDP_HEADER.unpack_from(frame, start)
        seq = ack = flags = 0
        fixed, header = start + 8, 8
        proto = "udp"
    else:
        return
    yield Packet(
        at=ns / 1e9,
        ns=ns,
        interface=interface,
        src=_address(src),
        sport=sport,
        dst=_address(dst),
        dport=dport,
        proto=proto,
        flags=flags,
        seq=seq,
        ack=ack,
        payload=max(0, end - start - header),
        frame_length=wire_length,
        mark=crc32(frame[fixed : fixed + _FINGERPRINT], identification),
    )


def _ip(frame: bytes) -> tuple[int, bytes, bytes, int, int, int] | None:
    """Protocol, source, destination, where the transport begins and the packet ends, and what marks the packet."""
    if frame[12:14] == _ETHERTYPE_IPV4 and len(frame) >= 42:
        version_ihl, total, identification, fragment, protocol, src, dst = _IPV4.unpack_from(frame, 14)
        start = 14 + (version_ihl & 15) * 4
        if version_ihl >> 4 == 4 and start >= 34 and not fragment & 0x1FFF:
            return protocol, src, dst, start, 14 + total, identification
    elif frame[12:14] == _ETHERTYPE_IPV6 and len(frame) >= 62:
        first, length, protocol, src, dst = _IPV6.unpack_from(frame, 14)
        if first >> 28 == 6:
            return protocol, src, dst, 54, 54 + length, first & 0xFFFFF  # the flow label
    return None


@lru_cache(maxsize=4096)
def _address(packed: bytes) -> str:
    return ".".join(map(str, packed)) if len(packed) == 4 else str(IPv6Address(packed))


@lru_cache(maxsize=4096)
def _interface(name: bytes | None) -> str:
    return "?" if name is None else name.decode("utf-8", "replace")
