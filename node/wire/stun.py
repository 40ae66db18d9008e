"""STUN messages: a peer learns from a server's answer which address its packets come from.

     0                   1                   2                   3
     0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    +-+-+-------------------------------+-------------------------------+
    |0 0| method and class (14)         | length of what follows (16)   |
    | magic cookie 0x2112A442                                           |
    | transaction id (96)                                               |
    +-------------------------------------------------------------------+
    | attribute type (16)               | length without padding (16)   |  repeated
    | value, padded to four bytes                                       |

Addresses travel XORed with the cookie, as some NATs rewrite what looks like theirs in payloads. MESSAGE-INTEGRITY
covers the message up to itself, with the header's length as if it were the last attribute; FINGERPRINT, always the
last, the same way.

RFC 8489 (STUN), RFC 5780 (CHANGE-REQUEST, RESPONSE-ORIGIN, OTHER-ADDRESS)
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple, TypeAlias
from zlib import crc32

from node.errors import DecodeError
from node.names.varint import Buffer

COOKIE = 0x2112A442
MAX_MESSAGE = 548
"""Bytes: what fits into one packet on any path of IPv4 (RFC 8489 §6.1)."""
MAX_ATTRIBUTES = 32
TRANSACTION_SIZE = 12
_HEADER = struct.Struct("!HHI12s")
_ATTRIBUTE = struct.Struct("!HH")
_FINGERPRINT_XOR = 0x5354554E
_INTEGRITY_SIZE = 20
_FINGERPRINT_SIZE = 4
_REQUIRED = 0x8000
"""Attribute types below must be understood."""

IPAddress: TypeAlias = IPv4Address | IPv6Address


class Method(IntEnum):
    """What is asked; TURN has more."""

    BINDING = 0x001


class Class(IntEnum):
    """The kind of message."""

    REQUEST = 0
    INDICATION = 1
    SUCCESS = 2
    ERROR = 3


class Attribute(IntEnum):
    """The attributes that are read or written here."""

    MAPPED_ADDRESS = 0x0001
    CHANGE_REQUEST = 0x0003
    USERNAME = 0x0006
    MESSAGE_INTEGRITY = 0x0008
    ERROR_CODE = 0x0009
    UNKNOWN_ATTRIBUTES = 0x000A
    REALM = 0x0014
    NONCE = 0x0015
    XOR_MAPPED_ADDRESS = 0x0020
    PADDING = 0x0026
    SOFTWARE = 0x8022
    FINGERPRINT = 0x8028
    RESPONSE_ORIGIN = 0x802B
    OTHER_ADDRESS = 0x802C


class Endpoint(NamedTuple):
    """An address and a port."""

    ip: IPAddress
    port: int

    def __str__(self) -> str:
        return f"[{self.ip}]:{self.port}" if self.ip.version == 6 else f"{self.ip}:{self.port}"


@dataclass(frozen=True, slots=True)
class Message:
    """A message; MESSAGE-INTEGRITY and FINGERPRINT are not among the attributes, they are made and checked."""

    method: int
    kind: Class
    transaction: bytes
    attributes: tuple[tuple[int, bytes], ...] = ()

    def value(self, attribute: int) -> bytes | None:
        """The value of the first attribute of that type: further ones mean nothing (RFC 8489 §14)."""
        return next((value for number, value in self.attributes if number == attribute), None)

    def unknown(self) -> tuple[int, ...]:
        """The types of the attributes that must be understood and are not."""
        return tuple(number for number, _ in self.attributes if number < _REQUIRED and number not in _KNOWN)

    def endpoint(self, attribute: int) -> Endpoint | None:
        """An attribute that is an address in clear; raises DecodeError."""
        value = self.value(attribute)
        return None if value is None else _decode_endpoint(value)

    @property
    def mapped(self) -> Endpoint | None:
        """Where the request came from, as the server saw it; raises DecodeError."""
        value = self.value(Attribute.XOR_MAPPED_ADDRESS)
        if value is None:
            return self.endpoint(Attribute.MAPPED_ADDRESS)
        return _decode_endpoint(_xored(value, self.transaction))

    def to_bytes(self, *, key: bytes | None = None, fingerprint: bool = False) -> bytes:
        """The message, with MESSAGE-INTEGRITY by `key` and a FINGERPRINT if wanted."""
        body = b"".join(_attribute(number, value) for number, value in self.attributes)
        if key is not None:
            covered = self._header(len(body) + _ATTRIBUTE.size + _INTEGRITY_SIZE) + body
            body += _attribute(Attribute.MESSAGE_INTEGRITY, _hmac(key, covered))
        if fingerprint:
            covered = self._header(len(body) + _ATTRIBUTE.size + _FINGERPRINT_SIZE) + body
            body += _attribute(Attribute.FINGERPRINT, _crc(covered))
        return self._header(len(body)) + body

    def _header(self, length: int) -> bytes:
        return _HEADER.pack(_type(self.method, self.kind), length, COOKIE, self.transaction)


_KNOWN = frozenset(Attribute)


def is_stun(data: Buffer) -> bool:
    """Whether a datagram can be STUN: its first two bits and the cookie say so (RFC 8489 §6)."""
    return len(data) >= _HEADER.size and data[0] < 0x40 and bytes(data[4:8]) == COOKIE.to_bytes(4, "big")


def decode(data: Buffer, *, key: bytes | None = None) -> Message:
    """Parse a datagram; raises DecodeError.

    A FINGERPRINT that is there must be right; with `key`, MESSAGE-INTEGRITY must be there and right. What follows
    MESSAGE-INTEGRITY is not protected by it and left out.
    """
    data = bytes(data)
    if not is_stun(data) or len(data) > MAX_MESSAGE:
        raise DecodeError(f"{len(data)} bytes that are no STUN message")
    number, length, _, transaction = _HEADER.unpack_from(data)
    if length != len(data) - _HEADER.size or length % 4:
        raise DecodeError(f"STUN message of {len(data)} bytes that says {length} follow its header")
    attributes: list[tuple[int, bytes]] = []
    protected = False
    for kind, value, offset in _split(data):
        if kind == Attribute.FINGERPRINT:
            if offset + _ATTRIBUTE.size + len(value) != len(data) or value != _crc(data[:offset]):
                raise DecodeError("STUN message with a wrong fingerprint")
        elif protected:
            continue
        elif kind == Attribute.MESSAGE_INTEGRITY:
            protected = True
            if key is not None and not hmac.compare_digest(value, _hmac(key, _up_to(data, offset))):
                raise DecodeError("STUN message with a wrong message integrity")
        else:
            attributes.append((kind, value))
    if key is not None and not protected:
        raise DecodeError("STUN message without message integrity")
    return Message(_method(number), _class(number), transaction, tuple(attributes))


def xor_mapped(endpoint: Endpoint, transaction: bytes) -> tuple[int, bytes]:
    """The attribute XOR-MAPPED-ADDRESS."""
    return Attribute.XOR_MAPPED_ADDRESS, _xored(_encode_endpoint(endpoint), transaction)


def address(attribute: Attribute, endpoint: Endpoint) -> tuple[int, bytes]:
    """An attribute that is an address in clear: RESPONSE-ORIGIN, OTHER-ADDRESS."""
    return attribute, _encode_endpoint(endpoint)


def change_request(*, ip: bool, port: bool) -> tuple[int, bytes]:
    """The attribute CHANGE-REQUEST: answer from the other IP address, from the other port."""
    return Attribute.CHANGE_REQUEST, ((ip << 2) | (port << 1)).to_bytes(4, "big")


def read_change_request(value: bytes) -> tuple[bool, bool]:
    """Whether the answer is to come from the other IP address, and from the other port; raises DecodeError."""
    if len(value) != 4:
        raise DecodeError(f"CHANGE-REQUEST of {len(value)} bytes")
    return bool(value[3] & 4), bool(value[3] & 2)


def error_code(code: int, reason: str) -> tuple[int, bytes]:
    """The attribute ERROR-CODE."""
    return Attribute.ERROR_CODE, struct.pack("!HBB", 0, code // 100, code % 100) + reason.encode()[:127]


def long_term_key(username: str, realm: str, password: str) -> bytes:
    """The key of the long-term credential mechanism, with MD5 (RFC 8489 §9.2.2); all prepared by the caller."""
    return hashlib.md5(f"{username}:{realm}:{password}".encode(), usedforsecurity=False).digest()


def _split(data: bytes) -> list[tuple[int, bytes, int]]:
    """Type, value and offset of every attribute."""
    found: list[tuple[int, bytes, int]] = []
    offset = _HEADER.size
    while offset < len(data):
        if len(found) == MAX_ATTRIBUTES:
            raise DecodeError(f"STUN message with more than {MAX_ATTRIBUTES} attributes")
        kind, size = _ATTRIBUTE.unpack_from(data, offset)
        start = offset + _ATTRIBUTE.size
        if start + size > len(data):
            raise DecodeError(f"STUN attribute {kind:#06x} of {size} bytes, {len(data) - start} left")
        found.append((kind, data[start : start + size], offset))
        offset = start + size + -size % 4
    return found


def _attribute(number: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(number, len(value)) + value + bytes(-len(value) % 4)


def _hmac(key: bytes, covered: bytes) -> bytes:
    return hmac.digest(key, covered, "sha1")


def _crc(covered: bytes) -> bytes:
    return (crc32(covered) ^ _FINGERPRINT_XOR).to_bytes(4, "big")


def _up_to(data: bytes, offset: int) -> bytes:
    """What the MESSAGE-INTEGRITY at an offset covers: all before, the length in the header reaching to its end."""
    length = offset + _ATTRIBUTE.size + _INTEGRITY_SIZE - _HEADER.size
    return data[:2] + length.to_bytes(2, "big") + data[4:offset]


def _type(method: int, kind: Class) -> int:
    """The class's two bits stand between those of the method."""
    return (method & 0xF80) << 2 | (kind & 2) << 7 | (method & 0x70) << 1 | (kind & 1) << 4 | method & 0xF


def _method(number: int) -> int:
    return (number & 0x3E00) >> 2 | (number & 0xE0) >> 1 | number & 0xF


def _class(number: int) -> Class:
    return Class((number & 0x100) >> 7 | (number & 0x10) >> 4)


def _encode_endpoint(endpoint: Endpoint) -> bytes:
    family = 1 if endpoint.ip.version == 4 else 2
    return struct.pack("!BBH", 0, family, endpoint.port) + endpoint.ip.packed


def _decode_endpoint(value: bytes) -> Endpoint:
    family = value[1] if len(value) > 1 else 0
    if (family, len(value)) not in ((1, 8), (2, 20)):
        raise DecodeError(f"STUN address of family {family} in {len(value)} bytes")
    return Endpoint(ip_address(value[4:]), int.from_bytes(value[2:4], "big"))


def _xored(value: bytes, transaction: bytes) -> bytes:
    """Port and address with the cookie, the rest of an IPv6 address with the transaction id; undoes itself."""
    cookie = COOKIE.to_bytes(4, "big")
    mask = b"\0\0" + cookie[:2] + cookie + transaction
    return bytes(one ^ other for one, other in zip(value, mask, strict=False))
