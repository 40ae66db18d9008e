"""DCUtR: two peers connected through a relay agree on the moment to dial each other directly.

    B (was dialled through the relay)                        A (dialled)
      │ CONNECT, B's observed addresses ────────────────────► │
      │ ◄──────────────────── CONNECT, A's observed addresses │     B measures the round trip
      │ SYNC ───────────────────────────────────────────────► │     A dials when it arrives
      │                                                             B dials half a round trip after sending it

Each message stands behind its length.

Spec: https://github.com/libp2p/specs/blob/master/relay/DCUtR.md
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from node.errors import DecodeError
from node.names.multiaddr import Multiaddr, parse_known
from node.names.varint import Buffer
from node.wire.protobuf import bounded, parse
from node.wire.schema import dcutr_pb2

PROTOCOL = "/libp2p/dcutr"
MAX_MESSAGE = 4096  # bytes
MAX_ADDRS = 128


class HolePunchType(IntEnum):
    """The step of the exchange."""

    CONNECT = 100
    SYNC = 300


@dataclass(frozen=True, slots=True)
class HolePunch:
    """One message; the addresses are as claimed, to be filtered before any of them is dialled."""

    type: HolePunchType
    addrs: tuple[Multiaddr, ...] = ()

    def to_bytes(self) -> bytes:
        """The message without its length."""
        addrs = [addr.to_bytes() for addr in self.addrs]
        data: bytes = dcutr_pb2.HolePunch(type=self.type.name, obs_addrs=addrs).SerializeToString()
        return data

    @classmethod
    def from_bytes(cls, data: Buffer) -> HolePunch:
        """Parse the message, leaving out addresses of unknown protocols; raises DecodeError."""
        message = parse(dcutr_pb2.HolePunch(), data, MAX_MESSAGE)
        bounded("addresses to punch", message.obs_addrs, MAX_ADDRS)
        try:
            kind = HolePunchType(message.type)
        except ValueError as error:
            raise DecodeError(f"unknown DCUtR message type {int(message.type)}") from error
        return cls(kind, parse_known(message.obs_addrs))
