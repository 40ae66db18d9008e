"""NAT-PMP, RFC 6886: asking the gateway for its outer address and for ports.

    request   { u8 version 0, u8 opcode }                                       the outer address
              { …, u16 reserved, u16 internal, u16 external, u32 lifetime }     a port; opcode 1: UDP, 2: TCP
    response  { u8 version 0, u8 opcode + 128, u16 result, u32 epoch, … }

Facts: an error may end after the epoch or before it; the epoch is the router's seconds since it began anew. A router
that speaks PCP only answers in version 2 (RFC 6887 §9).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address
from typing import Final

from node.errors import DecodeError

PORT: Final = 5351
"""Of the gateway, PCP's too."""
ANNOUNCED: Final = ("224.0.0.1", 5350)
"""Where a gateway tells unasked that it has begun anew or has another address."""
MAX_RESPONSE: Final = 16
VERSION: Final = 0
_RESPONSE: Final = 0x80
_EXTERNAL_ADDRESS: Final = 0
_OPCODES: Final = {"udp": 1, "tcp": 2}
_TRANSPORTS: Final = {opcode: transport for transport, opcode in _OPCODES.items()}


class Result(IntEnum):
    """RFC 6886 §3.5."""

    SUCCESS = 0
    UNSUPPORTED_VERSION = 1
    NOT_AUTHORIZED = 2
    NETWORK_FAILURE = 3
    OUT_OF_RESOURCES = 4
    UNSUPPORTED_OPCODE = 5


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that was not granted; `transport` is None for the outer address."""

    transport: str | None
    result: int
    epoch: int | None

    @property
    def why(self) -> str:
        """The RFC's name of the result."""
        return Result(self.result).name if self.result in set(Result) else f"result {self.result}"


@dataclass(frozen=True, slots=True)
class External:
    """The gateway's outer address."""

    epoch: int
    ip: IPv4Address


@dataclass(frozen=True, slots=True)
class Mapped:
    """A port that is open, or with lifetime 0 no more; seconds."""

    epoch: int
    transport: str
    internal: int
    external: int
    lifetime: int


def external_request() -> bytes:
    """Ask for the outer address."""
    return bytes([VERSION, _EXTERNAL_ADDRESS])


def map_request(transport: str, internal: int, external: int, lifetime: int) -> bytes:
    """Ask for a port, `external` if it is free; with lifetime 0 give it back, `external` being 0 as well."""
    return struct.pack("!BBHHHI", VERSION, _OPCODES[transport], 0, internal, external, lifetime)


def decode(data: bytes) -> External | Mapped | Refused:
    """Read a response; DecodeError if it is none."""
    if len(data) < 4 or data[0] != VERSION or not data[1] & _RESPONSE:
        raise DecodeError("not a response of NAT-PMP")
    opcode, result = data[1] & ~_RESPONSE, int.from_bytes(data[2:4], "big")
    epoch = int.from_bytes(data[4:8], "big") if len(data) >= 8 else None
    transport = _TRANSPORTS.get(opcode)
    if opcode != _EXTERNAL_ADDRESS and transport is None:
        raise DecodeError(f"NAT-PMP has no opcode {opcode}")
    if result:
        return Refused(transport, result, epoch)
    if epoch is None or len(data) < (12 if transport is None else 16):
        raise DecodeError(f"a response of NAT-PMP of {len(data)} bytes")
    if transport is None:
        return External(epoch, IPv4Address(data[8:12]))
    internal, external, lifetime = struct.unpack_from("!HHI", data, 8)
    return Mapped(epoch, transport, internal, external, lifetime)
