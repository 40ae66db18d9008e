"""Unsigned varints: the length and code prefix of everything in libp2p.

Seven bits a byte, least significant first, the top bit set on all bytes but the last. The multiformats variant is
stricter than protobuf's: at most nine bytes (63 bits), and the shortest encoding only.

Spec: https://github.com/multiformats/unsigned-varint
"""

from __future__ import annotations

from node.errors import DecodeError

Buffer = bytes | bytearray | memoryview

MAX_BYTES = 9
MAX_VALUE = (1 << 63) - 1

_ONE_BYTE = tuple(bytes([n]) for n in range(0x80))


class Truncated(DecodeError):
    """The bytes end before the value does; a reader of a stream waits for more."""


def encode(value: int) -> bytes:
    """The shortest encoding of `value`; ValueError outside 0 … 2**63-1."""
    if 0 <= value < 0x80:
        return _ONE_BYTE[value]
    if not 0 <= value <= MAX_VALUE:
        raise ValueError(f"{value} does not fit in a varint of {MAX_BYTES} bytes")
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode(data: Buffer, offset: int = 0) -> tuple[int, int]:
    """The value at `offset` and the offset behind it; raises Truncated, or DecodeError if longer than allowed."""
    value = 0
    for index in range(MAX_BYTES):
        if offset + index >= len(data):
            raise Truncated("varint ends early")
        byte = data[offset + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if byte == 0 and index > 0:
                raise DecodeError("varint is not minimal")
            return value, offset + index + 1
    raise DecodeError(f"varint is longer than {MAX_BYTES} bytes")
