"""AutoNAT v1: a client asks a server to dial it back, and believes what the server says.

    client ── DIAL(own id, addrs) ─► server            the server dials the address that it sees the client at
           ◄─ DIAL_RESPONSE(status, text, addr) ──

Each message stands behind its length.

Spec: https://github.com/libp2p/specs/blob/master/autonat/autonat-v1.md
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from node.errors import DecodeError
from node.names.multiaddr import Multiaddr, parse_known
from node.names.peerid import PeerId
from node.names.varint import Buffer
from node.wire.protobuf import bounded, parse
from node.wire.schema import autonat_v1_pb2

PROTOCOL = "/libp2p/autonat/1.0.0"
MAX_MESSAGE = 4096
"""Bytes, as in go."""
MAX_ADDRS = 128
MAX_TEXT = 200
"""Characters of a status text that are kept."""


class Status(IntEnum):
    """How the dial ended."""

    OK = 0
    E_DIAL_ERROR = 100
    E_DIAL_REFUSED = 101
    E_BAD_REQUEST = 200
    E_INTERNAL_ERROR = 300


@dataclass(frozen=True, slots=True)
class Dial:
    """Who asks, and at which addresses it may be dialled; those of unknown protocols are left out."""

    peer: PeerId
    addrs: tuple[Multiaddr, ...]

    def to_bytes(self) -> bytes:
        """The message without its length."""
        peer = autonat_v1_pb2.Message.PeerInfo(id=self.peer.to_bytes(), addrs=[addr.to_bytes() for addr in self.addrs])
        message = autonat_v1_pb2.Message(type="DIAL", dial=autonat_v1_pb2.Message.Dial(peer=peer))
        data: bytes = message.SerializeToString()
        return data

    @classmethod
    def from_bytes(cls, data: Buffer) -> Dial:
        """Parse the message; raises DecodeError."""
        message = parse(autonat_v1_pb2.Message(), data, MAX_MESSAGE)
        if message.type != autonat_v1_pb2.Message.DIAL or not message.dial.HasField("peer"):
            raise DecodeError("an AutoNAT request that asks for no dial")
        bounded("addresses to dial back", message.dial.peer.addrs, MAX_ADDRS)
        return cls(PeerId(message.dial.peer.id), parse_known(message.dial.peer.addrs))


@dataclass(frozen=True, slots=True)
class DialResponse:
    """What the server says came of it; `addr` is the one that it reached us at, if any."""

    status: Status
    text: str = ""
    addr: Multiaddr | None = None

    def to_bytes(self) -> bytes:
        """The message without its length."""
        response = autonat_v1_pb2.Message.DialResponse(
            status=self.status.name,
            status_text=self.text[:MAX_TEXT] or None,
            addr=None if self.addr is None else self.addr.to_bytes(),
        )
        data: bytes = autonat_v1_pb2.Message(type="DIAL_RESPONSE", dial_response=response).SerializeToString()
        return data

    @classmethod
    def from_bytes(cls, data: Buffer) -> DialResponse:
        """Parse the message; raises DecodeError."""
        message = parse(autonat_v1_pb2.Message(), data, MAX_MESSAGE)
        if message.type != autonat_v1_pb2.Message.DIAL_RESPONSE or not message.dial_response.HasField("status"):
            raise DecodeError("an AutoNAT answer without a status")
        response = message.dial_response
        addr = Multiaddr.from_bytes(response.addr) if response.addr else None
        return cls(Status(response.status), response.status_text[:MAX_TEXT], addr)
