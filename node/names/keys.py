"""Identity keys: what a peer signs with and is named after.

    PublicKey  { Type:1 enum, Data:2 bytes }       both fields always present, in this order: RSA is `08 00 …`
    PrivateKey { Type:1 enum, Data:2 bytes }       never on the wire; the format of key files

    Type          Data of a public key        Data of a private key            signature
    0 RSA         DER SubjectPublicKeyInfo    DER PKCS #1                      RSASSA-PKCS1-v1_5, SHA-256
    1 Ed25519     32 bytes                    seed ‖ public key (64 bytes)     RFC 8032
    2 Secp256k1   33 bytes, compressed        32 bytes                         DER ECDSA over SHA-256, low S
    3 ECDSA       DER SubjectPublicKeyInfo    DER SEC 1                        DER ECDSA over SHA-256

A key read in another encoding of the same kind is written back in this one, so equal keys have equal peer ids. Each
kind is a module of `node.names.schemes`, imported when the first key of that kind is met: a node that only ever sees
Ed25519 does not wait for the others to load.

Spec: https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md
"""

from __future__ import annotations

from enum import IntEnum
from typing import Protocol

from node.errors import DecodeError
from node.names import fields
from node.names.peerid import PeerId
from node.names.varint import Buffer

# An RSA private key of 8192 bits takes about 4.7 kB of DER, everything else much less.
MAX_KEY = 8192
_TYPE, _DATA = 1, 2


class KeyType(IntEnum):
    """Kinds of key by their number on the wire."""

    RSA = 0
    ED25519 = 1
    SECP256K1 = 2
    ECDSA = 3


class Verifier(Protocol):
    """A scheme's public key: its canonical `data` and what it verifies."""

    @property
    def data(self) -> bytes: ...
    def verify(self, message: bytes, signature: bytes) -> bool: ...


class Signer(Protocol):
    """A scheme's private key: its canonical `data`, that of its public key, and what it signs."""

    @property
    def data(self) -> bytes: ...
    @property
    def public_data(self) -> bytes: ...
    def sign(self, message: bytes) -> bytes: ...


class Scheme(Protocol):
    """One kind of key; loading raises DecodeError."""

    def load_public(self, data: bytes) -> Verifier: ...
    def load_private(self, data: bytes) -> Signer: ...
    def generate(self) -> Signer: ...


class PublicKey:
    """An immutable, hashable public key; the constructor raises DecodeError unless `data` is a key of that kind."""

    __slots__ = ("_verifier", "data", "kind")

    def __init__(self, kind: KeyType, data: bytes) -> None:
        self._verifier = _scheme(kind).load_public(data)
        self.kind = kind
        self.data = self._verifier.data

    @classmethod
    def from_bytes(cls, data: Buffer) -> PublicKey:
        """The key of a serialised PublicKey message; raises DecodeError."""
        return cls(*_read_message(data))

    def to_bytes(self) -> bytes:
        """The PublicKey message, the same bytes for the same key everywhere."""
        return fields.encode((_TYPE, int(self.kind)), (_DATA, self.data))

    def verify(self, message: bytes, signature: bytes) -> bool:
        """Whether `signature` over `message` was made with the private half."""
        return self._verifier.verify(message, signature)

    def peer_id(self) -> PeerId:
        """The id of the peer whose key this is."""
        return PeerId.from_public_key(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicKey) and (self.kind, self.data) == (other.kind, other.data)

    def __hash__(self) -> int:
        return hash((self.kind, self.data))

    def __repr__(self) -> str:
        return f"<PublicKey {self.kind.name} {self.peer_id()}>"


class PrivateKey:
    """An immutable private key; its repr names the peer and never the secret."""

    __slots__ = ("_signer", "kind", "public")

    def __init__(self, kind: KeyType, signer: Signer) -> None:
        self._signer = signer
        self.kind = kind
        self.public = PublicKey(kind, signer.public_data)

    @classmethod
    def generate(cls, kind: KeyType = KeyType.ED25519) -> PrivateKey:
        """A fresh key from the system's randomness; RSA has 2048 bits and takes some 100 ms."""
        return cls(kind, _scheme(kind).generate())

    @classmethod
    def from_bytes(cls, data: Buffer) -> PrivateKey:
        """The key of a serialised PrivateKey message, as key files hold it; raises DecodeError."""
        kind, secret = _read_message(data)
        return cls(kind, _scheme(kind).load_private(secret))

    def to_bytes(self) -> bytes:
        """The PrivateKey message."""
        return fields.encode((_TYPE, int(self.kind)), (_DATA, self._signer.data))

    def sign(self, message: bytes) -> bytes:
        """A signature that `self.public` verifies."""
        return self._signer.sign(message)

    def peer_id(self) -> PeerId:
        """The id of the peer that holds this key."""
        return self.public.peer_id()

    def __repr__(self) -> str:
        return f"<PrivateKey {self.kind.name} {self.peer_id()}>"


def _read_message(data: Buffer) -> tuple[KeyType, bytes]:
    if len(data) > MAX_KEY:
        raise DecodeError(f"key of {len(data)} bytes, at most {MAX_KEY} allowed")
    number: int | None = None
    content: bytes | None = None
    for field in fields.decode(data):
        if field.number == _TYPE:
            number = field.as_int()
        elif field.number == _DATA:
            content = field.as_bytes()
    if number is None or content is None:
        raise DecodeError("key message without type or data")
    try:
        return KeyType(number), content
    except ValueError as error:
        raise DecodeError(f"unknown kind of key: {number}") from error


def _scheme(kind: KeyType) -> Scheme:
    match kind:
        case KeyType.ED25519:
            from node.names.schemes import ed25519

            return ed25519.SCHEME
        case KeyType.SECP256K1:
            from node.names.schemes import secp256k1

            return secp256k1.SCHEME
        case KeyType.ECDSA:
            from node.names.schemes import ecdsa

            return ecdsa.SCHEME
        case KeyType.RSA:
            from node.names.schemes import rsa

            return rsa.SCHEME
