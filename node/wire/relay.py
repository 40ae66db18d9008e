"""Circuit relay v2: messages between a peer and its relay (hop) and between a relay and the peer behind it (stop).

    peer B              relay R             peer A
      │ HOP RESERVE ──────►│                  │
      │◄──── STATUS OK, reservation, limit    │            B can now be dialled as …/p2p/R/p2p-circuit/p2p/B
      │                    │◄── HOP CONNECT B │
      │◄── STOP CONNECT A, limit              │
      │ STATUS OK ────────►│                  │
      │                    │ STATUS OK, limit►│            from here on R copies bytes between the two streams

Each message stands behind its length. A limit holds per circuit and per direction; without one the circuit is not
limited. The voucher, signed by the relay, lets B prove its reservation; rust relays issue none.

Spec: https://github.com/libp2p/specs/blob/master/relay/circuit-v2.md
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

from node.errors import DecodeError, SecurityError
from node.names import fields
from node.names.envelope import Envelope
from node.names.keys import PrivateKey
from node.names.multiaddr import Multiaddr, parse_known
from node.names.peerid import PeerId
from node.names.varint import Buffer
from node.wire.protobuf import bounded, parse
from node.wire.schema import relay_pb2

HOP_PROTOCOL = "/libp2p/circuit/relay/0.2.0/hop"
STOP_PROTOCOL = "/libp2p/circuit/relay/0.2.0/stop"
MAX_MESSAGE = 4096  # bytes, as go
MAX_ADDRS = 128

VOUCHER_DOMAIN = "libp2p-relay-rsvp"
VOUCHER_TYPE = bytes([0x03, 0x02])
_RELAY, _PEER, _EXPIRATION = 1, 2, 3


class HopType(IntEnum):
    """What a hop message asks or answers."""

    RESERVE = 0
    CONNECT = 1
    STATUS = 2


class StopType(IntEnum):
    """What a stop message asks or answers."""

    CONNECT = 0
    STATUS = 1


class Status(IntEnum):
    """How a request ended."""

    UNUSED = 0
    OK = 100
    RESERVATION_REFUSED = 200
    RESOURCE_LIMIT_EXCEEDED = 201
    PERMISSION_DENIED = 202
    CONNECTION_FAILED = 203
    NO_RESERVATION = 204
    MALFORMED_MESSAGE = 400
    UNEXPECTED_MESSAGE = 401


@dataclass(frozen=True, slots=True)
class RelayPeer:
    """The peer that a request is about, and addresses of it if the sender knows any."""

    peer_id: PeerId
    addrs: tuple[Multiaddr, ...] = ()


@dataclass(frozen=True, slots=True)
class Reservation:
    """A slot at the relay."""

    expire: int
    "Unix time in seconds."
    addrs: tuple[Multiaddr, ...] = ()
    "The relay's public addresses, ending in /p2p/<relay> and without /p2p-circuit."
    voucher: bytes | None = None
    "An envelope for `Voucher.open`."


@dataclass(frozen=True, slots=True)
class Limit:
    """What a circuit may use before the relay resets it; None, and 0 on the wire, is no limit."""

    duration: int | None = None
    "Seconds."
    data: int | None = None
    "Bytes in each direction."


@dataclass(frozen=True, slots=True)
class HopMessage:
    """A message on a hop stream."""

    type: HopType
    peer: RelayPeer | None = None
    reservation: Reservation | None = None
    limit: Limit | None = None
    status: Status | None = None

    def to_bytes(self) -> bytes:
        """The message without its length."""
        data: bytes = relay_pb2.HopMessage(
            type=self.type.name,
            peer=_peer_message(self.peer),
            reservation=_reservation_message(self.reservation),
            limit=_limit_message(self.limit),
            status=None if self.status is None else self.status.name,
        ).SerializeToString()
        return data

    @classmethod
    def from_bytes(cls, data: Buffer) -> HopMessage:
        """Parse the message, an absent type being 0 as go reads it; raises DecodeError."""
        message = parse(relay_pb2.HopMessage(), data, MAX_MESSAGE)
        return cls(
            type=_member(HopType, message.type),
            peer=_read_peer(message.peer) if message.HasField("peer") else None,
            reservation=_read_reservation(message.reservation) if message.HasField("reservation") else None,
            limit=_read_limit(message.limit) if message.HasField("limit") else None,
            status=_member(Status, message.status) if message.HasField("status") else None,
        )


@dataclass(frozen=True, slots=True)
class StopMessage:
    """A message on a stop stream."""

    type: StopType
    peer: RelayPeer | None = None
    limit: Limit | None = None
    status: Status | None = None

    def to_bytes(self) -> bytes:
        """The message without its length."""
        data: bytes = relay_pb2.StopMessage(
            type=self.type.name,
            peer=_peer_message(self.peer),
            limit=_limit_message(self.limit),
            status=None if self.status is None else self.status.name,
        ).SerializeToString()
        return data

    @classmethod
    def from_bytes(cls, data: Buffer) -> StopMessage:
        """Parse the message, an absent type being 0 as go reads it; raises DecodeError."""
        message = parse(relay_pb2.StopMessage(), data, MAX_MESSAGE)
        return cls(
            type=_member(StopType, message.type),
            peer=_read_peer(message.peer) if message.HasField("peer") else None,
            limit=_read_limit(message.limit) if message.HasField("limit") else None,
            status=_member(Status, message.status) if message.HasField("status") else None,
        )


@dataclass(frozen=True, slots=True)
class Voucher:
    """A relay's signed word that a peer has a reservation until `expiration` (Unix seconds)."""

    relay: PeerId
    peer: PeerId
    expiration: int

    def seal(self, key: PrivateKey) -> bytes:
        """The envelope, signed by the relay whose `key` this is."""
        payload = fields.encode(
            (_RELAY, self.relay.to_bytes()), (_PEER, self.peer.to_bytes()), (_EXPIRATION, self.expiration)
        )
        return Envelope.seal(key, VOUCHER_DOMAIN, VOUCHER_TYPE, payload).to_bytes()

    @classmethod
    def open(cls, data: Buffer) -> Voucher:
        """A voucher that its relay signed; raises DecodeError, or SecurityError if anybody else did."""
        envelope = Envelope.open(data, VOUCHER_DOMAIN, VOUCHER_TYPE)
        found = {field.number: field for field in fields.decode(envelope.payload)}
        try:
            relay, peer = PeerId(found[_RELAY].as_bytes()), PeerId(found[_PEER].as_bytes())
            expiration = found[_EXPIRATION].as_int()
        except KeyError as error:
            raise DecodeError(f"voucher without field {error}") from error
        if envelope.public_key.peer_id() != relay:
            raise SecurityError(f"voucher of relay {relay} is signed by {envelope.public_key.peer_id()}")
        return cls(relay, peer, expiration)


_Member = TypeVar("_Member", bound=IntEnum)


def _member(kind: type[_Member], number: int) -> _Member:
    try:
        return kind(number)
    except ValueError as error:
        raise DecodeError(f"unknown relay {kind.__name__} {number}") from error


def _peer_message(peer: RelayPeer | None) -> relay_pb2.Peer | None:
    if peer is None:
        return None
    return relay_pb2.Peer(id=peer.peer_id.to_bytes(), addrs=[addr.to_bytes() for addr in peer.addrs])


def _read_peer(message: relay_pb2.Peer) -> RelayPeer:
    bounded("addresses of a peer", message.addrs, MAX_ADDRS)
    return RelayPeer(PeerId(message.id), parse_known(message.addrs))


def _reservation_message(reservation: Reservation | None) -> relay_pb2.Reservation | None:
    if reservation is None:
        return None
    addrs = [addr.to_bytes() for addr in reservation.addrs]
    return relay_pb2.Reservation(expire=reservation.expire, addrs=addrs, voucher=reservation.voucher)


def _read_reservation(message: relay_pb2.Reservation) -> Reservation:
    bounded("addresses of a relay", message.addrs, MAX_ADDRS)
    if not message.HasField("expire"):
        raise DecodeError("reservation without a time of expiry")
    voucher = message.voucher if message.HasField("voucher") else None
    return Reservation(message.expire, parse_known(message.addrs), voucher)


def _limit_message(limit: Limit | None) -> relay_pb2.Limit | None:
    return None if limit is None else relay_pb2.Limit(duration=limit.duration, data=limit.data)


def _read_limit(message: relay_pb2.Limit) -> Limit:
    return Limit(message.duration or None, message.data or None)
