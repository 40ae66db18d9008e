"""Captured packets as pcapng (draft-ietf-opsawg-pcapng): many named interfaces, nanoseconds, the packet's direction.

    Section Header, Interface Description × n, Enhanced Packet × m, Interface Statistics × n

Every function returns one whole block, so a file that is only ever appended to is valid after each write, even if the
writer dies there. Blocks are little-endian: type, total length, body padded to 4 bytes, total length again.
"""

from __future__ import annotations

import struct
from typing import Final

LINKTYPE_ETHERNET: Final = 1

_SECTION_HEADER, _INTERFACE, _STATISTICS, _PACKET = 0x0A0D0D0A, 1, 5, 6
_BYTE_ORDER_MAGIC = 0x1A2B3C4D
_LENGTH_UNKNOWN = -1
_NANOSECONDS = 9
"if_tsresol: timestamps count units of 10⁻⁹ s"

_SHB_USERAPPL, _IF_NAME, _IF_TSRESOL = 4, 2, 9
_ISB_IFRECV, _ISB_IFDROP = 4, 5
_INBOUND, _OUTBOUND = 1, 2

_BLOCK = struct.Struct("<II")
_OPTION = struct.Struct("<HH")
_PACKET_HEAD = struct.Struct("<IIIIIII")
_PACKET_TAIL = struct.Struct("<HHIHHI")
_PADDING = (b"", bytes(3), bytes(2), bytes(1))


def section_header(application: str) -> bytes:
    """Begin a file, and say which program wrote it."""
    body = struct.pack("<IHHq", _BYTE_ORDER_MAGIC, 1, 0, _LENGTH_UNKNOWN)
    return _block(_SECTION_HEADER, body + _options((_SHB_USERAPPL, application.encode())))


def interface(name: str, snaplen: int) -> bytes:
    """Describe an Ethernet interface; they are numbered from 0 in the order of these blocks."""
    body = struct.pack("<HHI", LINKTYPE_ETHERNET, 0, snaplen)
    return _block(_INTERFACE, body + _options((_IF_NAME, name.encode()), (_IF_TSRESOL, bytes([_NANOSECONDS]))))


def packet(number: int, at: int, data: bytes, length: int, *, outbound: bool) -> bytes:
    """One packet seen at interface `number`, `at` Unix nanoseconds, of `length` bytes of which `data` were kept."""
    kept = len(data)
    padding = _PADDING[kept & 3]
    size = _PACKET_HEAD.size + kept + len(padding) + _PACKET_TAIL.size
    head = _PACKET_HEAD.pack(_PACKET, size, number, at >> 32, at & 0xFFFF_FFFF, kept, length)
    tail = _PACKET_TAIL.pack(2, 4, _OUTBOUND if outbound else _INBOUND, 0, 0, size)
    return b"".join((head, data, padding, tail))


def statistics(number: int, at: int, received: int, dropped: int) -> bytes:
    """What interface `number` saw up to `at`, and how much of it is missing from the file."""
    body = struct.pack("<III", number, at >> 32, at & 0xFFFF_FFFF)
    counts = ((_ISB_IFRECV, struct.pack("<Q", received)), (_ISB_IFDROP, struct.pack("<Q", dropped)))
    return _block(_STATISTICS, body + _options(*counts))


def _block(kind: int, body: bytes) -> bytes:
    size = _BLOCK.size + len(body) + 4
    return _BLOCK.pack(kind, size) + body + struct.pack("<I", size)


def _options(*options: tuple[int, bytes]) -> bytes:
    parts = [_OPTION.pack(code, len(value)) + value + _PADDING[len(value) & 3] for code, value in options]
    return b"".join(parts) + _OPTION.pack(0, 0)
