"""Multihash: a digest that says which function made it.

    uvarint code ‖ uvarint length ‖ digest

The code `identity` holds the data itself; peer ids of short public keys are made so.

Spec: https://github.com/multiformats/multihash
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import IntEnum

from node.errors import DecodeError
from node.names import varint
from node.names.varint import Buffer

MAX_DIGEST = 128  # bytes; sha2-512 needs 64, and other implementations refuse identity hashes beyond 128


class HashCode(IntEnum):
    """Hash functions by their multicodec number."""

    IDENTITY = 0x00
    SHA1 = 0x11
    SHA2_256 = 0x12
    SHA2_512 = 0x13
    SHA3_512 = 0x14
    SHA3_384 = 0x15
    SHA3_256 = 0x16
    SHA3_224 = 0x17


_HASHLIB = {
    HashCode.SHA1: "sha1",
    HashCode.SHA2_256: "sha256",
    HashCode.SHA2_512: "sha512",
    HashCode.SHA3_512: "sha3_512",
    HashCode.SHA3_384: "sha3_384",
    HashCode.SHA3_256: "sha3_256",
    HashCode.SHA3_224: "sha3_224",
}


@dataclass(frozen=True, slots=True)
class Multihash:
    """A digest, possibly truncated, and the multicodec number of its function, which need not be one of `HashCode`."""

    code: int
    digest: bytes

    def __post_init__(self) -> None:
        if len(self.digest) > MAX_DIGEST:
            raise DecodeError(f"digest of {len(self.digest)} bytes, at most {MAX_DIGEST} allowed")

    @classmethod
    def of(cls, code: HashCode, data: bytes) -> Multihash:
        """The multihash of `data`; DecodeError if `data` is too long for an identity hash."""
        if code is HashCode.IDENTITY:
            return cls(code, data)
        return cls(code, hashlib.new(_HASHLIB[code], data, usedforsecurity=False).digest())

    @classmethod
    def from_bytes(cls, data: Buffer) -> Multihash:
        """Exactly one multihash; raises DecodeError."""
        code, offset = varint.decode(data)
        length, offset = varint.decode(data, offset)
        digest = bytes(data[offset:])
        if len(digest) != length:
            raise DecodeError(f"multihash declares a digest of {length} bytes and holds {len(digest)}")
        return cls(code, digest)

    def to_bytes(self) -> bytes:
        """The binary form."""
        return varint.encode(self.code) + varint.encode(len(self.digest)) + self.digest
