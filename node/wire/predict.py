"""Port prediction: two peers on a relayed connection tell each other what their NATs will do, and when to begin.

    B (was dialled through the relay)                        A (dialled)
      │ OFFER: B's allocation, address, ports ──────────────► │
      │ ◄────────────── OFFER: A's allocation, address, ports │     both now know which way it can go, or that none can
      │ GO ─────────────────────────────────────────────────► │     B begins when it has gone, A when it has come

Each message stands behind its length. It is a protocol of our own, spoken only with peers whose identify lists it;
nobody else sees anything of it. Beside it stands the question to a relay whether it sees a peer at an IP address
(`Witness`): a yes or a no, so that nobody learns an address that he has not been told.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address

from node.errors import DecodeError
from node.names.peerid import PeerId
from node.names.varint import Buffer
from node.wire.protobuf import bounded, parse
from node.wire.schema import predict_pb2

PROTOCOL = "/punchlab/predict/1.0.0"
WITNESS_PROTOCOL = "/punchlab/witness/1.0.0"
MAX_MESSAGE = 1024  # bytes
WINDOW = 16
"""Ports that an offer names at most: less than the 20 addresses that DCUtR's CONNECT may have a peer write to."""
TOKEN_SIZE = 16
"""Bytes of the secret that a peer's probes carry, so that nobody else's datagram is taken for one."""


class Allocation(IntEnum):
    """What is known of the external ports of a node's sockets."""

    UNKNOWN = 0
    KNOWN = 1
    """The listen socket has one, for all destinations."""
    SEQUENTIAL = 2
    """Each destination of each socket gets the next of a sequence."""
    FRESH = 3
    """Only the first destination of each socket gets a port that can be told beforehand."""
    RANDOM = 4
    """Nobody knows."""


class PredictType(IntEnum):
    """The step of the exchange."""

    OFFER = 1
    GO = 2


@dataclass(frozen=True, slots=True)
class Offer:
    """What one side knows of its NAT, as it claims."""

    allocation: Allocation
    ip: IPv4Address
    """The external address."""
    ports: tuple[int, ...] = ()
    """KNOWN: the listen socket's external port. SEQUENTIAL, FRESH: those that come next, or that fresh sockets will
    have, in order. RANDOM: some that fresh sockets have had."""
    open: bool = False
    """Whether the NAT lets in every port of whom was written to, so that nothing has to be predicted."""
    spray: bool = False
    """Whether this side is ready to send to, or be sent to, ports at random."""
    token: bytes = bytes(TOKEN_SIZE)
    """What probes to this side begin with, after their first byte."""

    def to_bytes(self) -> bytes:
        """The message without its length."""
        data: bytes = predict_pb2.Predict(
            type=PredictType.OFFER.name,
            allocation=self.allocation.name,
            ip=self.ip.packed,
            ports=self.ports,
            open=self.open,
            spray=self.spray,
            token=self.token,
        ).SerializeToString()
        return data


@dataclass(frozen=True, slots=True)
class Go:
    """The sign to begin."""

    def to_bytes(self) -> bytes:
        """The message without its length."""
        data: bytes = predict_pb2.Predict(type=PredictType.GO.name).SerializeToString()
        return data


def decode(data: Buffer) -> Offer | Go:
    """Parse a message; raises DecodeError."""
    message = parse(predict_pb2.Predict(), data, MAX_MESSAGE)
    try:
        kind = PredictType(message.type)
    except ValueError as error:
        raise DecodeError(f"unknown type {int(message.type)} of a prediction") from error
    if kind is PredictType.GO:
        return Go()
    bounded("predicted ports", message.ports, WINDOW)
    if any(not 0 < port < 1 << 16 for port in message.ports):
        raise DecodeError(f"predicted ports that are none: {list(message.ports)}")
    if len(message.token) != TOKEN_SIZE:
        raise DecodeError(f"token of {len(message.token)} bytes, not {TOKEN_SIZE}")
    try:
        allocation = Allocation(message.allocation)
    except ValueError:  # a kind of a later version: as good as none
        allocation = Allocation.UNKNOWN
    ports = tuple(message.ports)
    return Offer(allocation, _ip(message.ip), ports, message.open, message.spray, bytes(message.token))


@dataclass(frozen=True, slots=True)
class Witness:
    """The question to a relay: do you see this peer at this address?"""

    peer: PeerId
    ip: IPv4Address

    def to_bytes(self) -> bytes:
        """The message without its length."""
        data: bytes = predict_pb2.Witness(peer=self.peer.to_bytes(), ip=self.ip.packed).SerializeToString()
        return data

    @classmethod
    def from_bytes(cls, data: Buffer) -> Witness:
        """Parse the message; raises DecodeError."""
        message = parse(predict_pb2.Witness(), data, MAX_MESSAGE)
        return cls(PeerId(message.peer), _ip(message.ip))


def testimony(seen: bool) -> bytes:
    """The answer, without its length."""
    data: bytes = predict_pb2.Testimony(seen=seen).SerializeToString()
    return data


def decode_testimony(data: Buffer) -> bool:
    """Parse the answer; raises DecodeError."""
    return bool(parse(predict_pb2.Testimony(), data, MAX_MESSAGE).seen)


def _ip(packed: bytes) -> IPv4Address:
    if len(packed) != 4:
        raise DecodeError(f"IPv4 address of {len(packed)} bytes")
    return IPv4Address(packed)
