"""PCP, RFC 6887: asking the gateway for ports by MAP, and whether it is there by ANNOUNCE.

    request   { u8 version 2, u8 opcode, u16, u32 lifetime, u128 client's address }
    response  { u8 version 2, u8 opcode | 128, u8, u8 result, u32 lifetime, u32 epoch, u96 }
    MAP       { u96 nonce, u8 protocol, u24, u16 internal, u16 external, u128 external address }       after either

Facts: an IPv4 address is written as ::ffff:a.b.c.d. The nonce says whose the mapping is: who comes back with another
one is refused, so a client that may be killed had better know its own again. A router of NAT-PMP answers in version 0.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from node.errors import DecodeError

VERSION: Final = 2
MAX_MESSAGE: Final = 1100
"""Bytes, RFC 6887 §7."""
NONCE: Final = 12
"""Bytes."""
_RESPONSE: Final = 0x80
_HEADER: Final = struct.Struct("!BBBBII12x")
_MAP: Final = struct.Struct("!12sB3xHH16s")
_PROTOCOLS: Final = {"tcp": 6, "udp": 17}
_TRANSPORTS: Final = {number: transport for transport, number in _PROTOCOLS.items()}

IPAddress = IPv4Address | IPv6Address


class Opcode(IntEnum):
    """RFC 6887 §19.1; PEER is not used."""

    ANNOUNCE = 0
    MAP = 1


class Result(IntEnum):
    """RFC 6887 §7.4."""

    SUCCESS = 0
    UNSUPP_VERSION = 1
    NOT_AUTHORIZED = 2
    MALFORMED_REQUEST = 3
    UNSUPP_OPCODE = 4
    UNSUPP_OPTION = 5
    MALFORMED_OPTION = 6
    NETWORK_FAILURE = 7
    NO_RESOURCES = 8
    UNSUPP_PROTOCOL = 9
    USER_EX_QUOTA = 10
    CANNOT_PROVIDE_EXTERNAL = 11
    ADDRESS_MISMATCH = 12
    EXCESSIVE_REMOTE_PEERS = 13


@dataclass(frozen=True, slots=True)
class Mapping:
    """What MAP asks for and is told."""

    nonce: bytes
    transport: str
    internal: int
    external: int
    ip: IPAddress
    """The outer address; unspecified in a request that takes any."""


@dataclass(frozen=True, slots=True)
class Response:
    """A response; `mapping` is None for ANNOUNCE, and for a refusal without one."""

    opcode: Opcode
    result: int
    lifetime: int
    """Seconds; of an error: how long it is expected to last."""
    epoch: int
    mapping: Mapping | None = None

    @property
    def why(self) -> str:
        """The RFC's name of the result."""
        return Result(self.result).name if self.result in set(Result) else f"result {self.result}"


def announce_request(client: IPAddress) -> bytes:
    """Ask whether a gateway speaks PCP, and for its epoch."""
    return _request(Opcode.ANNOUNCE, client, 0)


def map_request(client: IPAddress, mapping: Mapping, lifetime: int) -> bytes:
    """Ask for a port for `lifetime` seconds; with 0 give it back."""
    number = _PROTOCOLS[mapping.transport]
    body = _MAP.pack(mapping.nonce, number, mapping.internal, mapping.external, _packed(mapping.ip))
    return _request(Opcode.MAP, client, lifetime) + body


def decode(data: bytes) -> Response:
    """Read a response; DecodeError if it is none."""
    if not _HEADER.size <= len(data) <= MAX_MESSAGE or data[0] != VERSION or not data[1] & _RESPONSE:
        raise DecodeError("not a response of PCP")
    _, opcode, _, result, lifetime, epoch = _HEADER.unpack_from(data)
    opcode &= ~_RESPONSE
    if opcode not in set(Opcode):
        raise DecodeError(f"a response of PCP with opcode {opcode}, which was not asked for")
    mapping = _mapping(data) if opcode == Opcode.MAP else None
    if mapping is None and opcode == Opcode.MAP and result == Result.SUCCESS:
        raise DecodeError("PCP granted a mapping without saying which")
    return Response(Opcode(opcode), result, lifetime, epoch, mapping)


def _request(opcode: Opcode, client: IPAddress, lifetime: int) -> bytes:
    return struct.pack("!BBHI", VERSION, opcode, 0, lifetime) + _packed(client)


def _mapping(data: bytes) -> Mapping | None:
    if len(data) < _HEADER.size + _MAP.size:
        return None
    nonce, number, internal, external, packed = _MAP.unpack_from(data, _HEADER.size)
    transport = _TRANSPORTS.get(number)
    if transport is None:
        raise DecodeError(f"a mapping of protocol {number}, which was not asked for")
    ip = IPv6Address(packed)
    return Mapping(nonce, transport, internal, external, ip.ipv4_mapped or ip)


def _packed(ip: IPAddress) -> bytes:
    return ip.packed if ip.version == 6 else b"\0" * 10 + b"\xff\xff" + ip.packed
