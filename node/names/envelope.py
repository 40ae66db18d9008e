"""Signed envelopes: a payload, what it is, and who says so, in a form that cannot be replayed as something else.

    Envelope   { public_key:1, payload_type:2, payload:3, signature:5 }
    signature over  len ‖ domain ‖ len ‖ payload_type ‖ len ‖ payload      (len: uvarint)
    PeerRecord { peer_id:1, seq:2, addresses:3* { multiaddr:1 } }          domain `libp2p-peer-record`, type 03 01

The domain is known to both sides and not sent. Relay vouchers travel in envelopes too (`node.wire.relay`).

Specs: RFC 0002 (signed envelopes) and RFC 0003 (routing records) in https://github.com/libp2p/specs. RFC 0003 names
another domain and type than the implementations use; rust-libp2p still writes those by default, so both are read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from node.errors import DecodeError, SecurityError
from node.names import fields, varint
from node.names.keys import PrivateKey, PublicKey
from node.names.multiaddr import Multiaddr, parse_known
from node.names.peerid import PeerId
from node.names.varint import Buffer

MAX_ENVELOPE = 16 * 1024  # bytes; a whole identify message may take 8 KiB
MAX_ADDRS = 500

PEER_RECORD_DOMAIN = "libp2p-peer-record"
PEER_RECORD_TYPE = bytes([0x03, 0x01])
LEGACY_PEER_RECORD_DOMAIN = "libp2p-routing-state"
LEGACY_PEER_RECORD_TYPE = b"/libp2p/routing-state-record"

_PUBLIC_KEY, _PAYLOAD_TYPE, _PAYLOAD, _SIGNATURE = 1, 2, 3, 5
_PEER_ID, _SEQ, _ADDRESSES = 1, 2, 3
_MULTIADDR = 1


@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload with its signature; nothing is proven until `verify` says so, `open` does both."""

    public_key: PublicKey
    payload_type: bytes
    payload: bytes
    signature: bytes

    @classmethod
    def seal(cls, key: PrivateKey, domain: str, payload_type: bytes, payload: bytes) -> Envelope:
        """Sign `payload` for one purpose."""
        signature = key.sign(_signed_bytes(domain, payload_type, payload))
        return cls(key.public, payload_type, payload, signature)

    @classmethod
    def open(cls, data: Buffer, domain: str, payload_type: bytes) -> Envelope:
        """Parse and verify; raises DecodeError if malformed or of another type, SecurityError if not signed so."""
        envelope = cls.from_bytes(data)
        if envelope.payload_type != payload_type:
            raise DecodeError(f"envelope of type {envelope.payload_type.hex()}, not {payload_type.hex()}")
        if not envelope.verify(domain):
            raise SecurityError(f"envelope of {envelope.public_key.peer_id()} is not signed for {domain}")
        return envelope

    @classmethod
    def from_bytes(cls, data: Buffer) -> Envelope:
        """Parse without verifying; raises DecodeError."""
        if len(data) > MAX_ENVELOPE:
            raise DecodeError(f"envelope of {len(data)} bytes, at most {MAX_ENVELOPE} allowed")
        found = {field.number: field for field in fields.decode(data)}
        try:
            key, kind, payload, signature = (
                found[number].as_bytes() for number in (_PUBLIC_KEY, _PAYLOAD_TYPE, _PAYLOAD, _SIGNATURE)
            )
        except KeyError as error:
            raise DecodeError(f"envelope without field {error}") from error
        return cls(PublicKey.from_bytes(key), kind, payload, signature)

    def to_bytes(self) -> bytes:
        """The Envelope message."""
        return fields.encode(
            (_PUBLIC_KEY, self.public_key.to_bytes()),
            (_PAYLOAD_TYPE, self.payload_type),
            (_PAYLOAD, self.payload),
            (_SIGNATURE, self.signature),
        )

    def verify(self, domain: str) -> bool:
        """Whether the key's owner signed this payload for this domain."""
        return self.public_key.verify(_signed_bytes(domain, self.payload_type, self.payload), self.signature)


@dataclass(frozen=True, slots=True)
class PeerRecord:
    """Where a peer says it can be reached; of two records the one with the higher `seq` holds."""

    peer_id: PeerId
    seq: int
    addrs: tuple[Multiaddr, ...]

    def to_bytes(self) -> bytes:
        """The PeerRecord message."""
        addresses = [(_ADDRESSES, fields.encode((_MULTIADDR, addr.to_bytes()))) for addr in self.addrs]
        return fields.encode((_PEER_ID, self.peer_id.to_bytes()), (_SEQ, self.seq), *addresses)

    @classmethod
    def from_bytes(cls, data: Buffer) -> PeerRecord:
        """Parse the message, leaving out addresses of unknown protocols; raises DecodeError."""
        peer: PeerId | None = None
        seq = 0
        addresses: list[bytes] = []
        for field in fields.decode(data):
            if field.number == _PEER_ID:
                peer = PeerId(field.as_bytes())
            elif field.number == _SEQ:
                seq = field.as_int()
            elif field.number == _ADDRESSES:
                addresses.append(_read_address(field.as_bytes()))
        if peer is None:
            raise DecodeError("peer record without a peer id")
        if len(addresses) > MAX_ADDRS:
            raise DecodeError(f"peer record with {len(addresses)} addresses, at most {MAX_ADDRS} allowed")
        return cls(peer, seq, parse_known(addresses))


def seal_peer_record(key: PrivateKey, seq: int, addrs: Iterable[Multiaddr]) -> bytes:
    """The envelope in which the key's owner announces its addresses; `seq` must grow from record to record."""
    record = PeerRecord(key.peer_id(), seq, tuple(addrs))
    return Envelope.seal(key, PEER_RECORD_DOMAIN, PEER_RECORD_TYPE, record.to_bytes()).to_bytes()


def open_peer_record(data: Buffer) -> PeerRecord:
    """A peer record that its peer signed; raises DecodeError, or SecurityError if anybody else did."""
    envelope = Envelope.from_bytes(data)
    domain = _RECORD_DOMAINS.get(envelope.payload_type)
    if domain is None:
        raise DecodeError(f"envelope of type {envelope.payload_type.hex()} holds no peer record")
    if not envelope.verify(domain):
        raise SecurityError(f"peer record of {envelope.public_key.peer_id()} has a bad signature")
    record = PeerRecord.from_bytes(envelope.payload)
    signer = envelope.public_key.peer_id()
    if record.peer_id != signer:
        raise SecurityError(f"peer record of {record.peer_id} is signed by {signer}")
    return record


_RECORD_DOMAINS = {
    PEER_RECORD_TYPE: PEER_RECORD_DOMAIN,
    LEGACY_PEER_RECORD_TYPE: LEGACY_PEER_RECORD_DOMAIN,
}


def _signed_bytes(domain: str, payload_type: bytes, payload: bytes) -> bytes:
    return b"".join(varint.encode(len(part)) + part for part in (domain.encode(), payload_type, payload))


def _read_address(data: bytes) -> bytes:
    found = [field.as_bytes() for field in fields.decode(data) if field.number == _MULTIADDR]
    return found[-1] if found else b""
