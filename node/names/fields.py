"""The few bytes of protobuf that names need: fields in, fields out, in exactly this order.

A peer id is the hash of a serialised public key, and an envelope signs what it carries, so these messages must come out
byte for byte the same everywhere, zero values included. The protobuf library promises neither; messages that nobody
hashes or signs are `node.wire`'s and use it.

Wire format: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from node.errors import DecodeError
from node.names.varint import Buffer

MAX_FIELDS = 2048
_MAX_VARINT_BYTES = 10
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class Field:
    """One field as it stands in the message: an int for a varint, bytes for anything length-delimited."""

    number: int
    value: int | bytes

    def as_bytes(self) -> bytes:
        """The value where bytes are expected; raises DecodeError."""
        if not isinstance(self.value, bytes):
            raise DecodeError(f"field {self.number} is a number where bytes belong")
        return self.value

    def as_int(self) -> int:
        """The value where a varint is expected; raises DecodeError."""
        if not isinstance(self.value, int):
            raise DecodeError(f"field {self.number} holds bytes where a number belongs")
        return self.value


def encode(*fields: tuple[int, int | bytes]) -> bytes:
    """A message of these (number, value) pairs, in the order given, zeros included."""
    out = bytearray()
    for number, value in fields:
        if isinstance(value, int):
            out += _encode_varint(number << 3 | _VARINT) + _encode_varint(value)
        else:
            out += _encode_varint(number << 3 | _BYTES) + _encode_varint(len(value)) + value
    return bytes(out)


def decode(data: Buffer) -> Iterator[Field]:
    """The varint and length-delimited fields of a message, fixed-width ones skipped; raises DecodeError."""
    view, offset = memoryview(data), 0
    for _ in range(MAX_FIELDS):
        if offset == len(view):
            return
        tag, offset = _decode_varint(view, offset)
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise DecodeError("protobuf field number 0")
        if kind == _VARINT:
            value, offset = _decode_varint(view, offset)
            yield Field(number, value)
            continue
        if kind == _BYTES:
            size, offset = _decode_varint(view, offset)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise DecodeError(f"protobuf wire type {kind} in field {number}")
        if size > len(view) - offset:
            raise DecodeError(f"field {number} of {size} bytes in a message with {len(view) - offset} left")
        if kind == _BYTES:
            yield Field(number, bytes(view[offset : offset + size]))
        offset += size
    if offset != len(view):
        raise DecodeError(f"more than {MAX_FIELDS} fields in a message")


def _encode_varint(value: int) -> bytes:
    if not 0 <= value < 1 << 64:
        raise ValueError(f"{value} does not fit in 64 bits")
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _decode_varint(view: memoryview, offset: int) -> tuple[int, int]:
    """Protobuf's own varint: up to ten bytes for 64 bits, and not necessarily the shortest."""
    value = 0
    for index in range(_MAX_VARINT_BYTES):
        if offset + index >= len(view):
            raise DecodeError("protobuf message ends inside a varint")
        byte = view[offset + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if value >> 64:
                raise DecodeError("protobuf varint of more than 64 bits")
            return value, offset + index + 1
    raise DecodeError(f"protobuf varint is longer than {_MAX_VARINT_BYTES} bytes")
