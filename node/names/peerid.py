"""Peer ids: the multihash of a public key, by which peers name each other.

A serialised public key of at most 42 bytes (Ed25519, secp256k1) is kept whole in an identity multihash, so that the
key can be read back from the id; a longer one (RSA, ECDSA) becomes its sha2-256. On the wire an id is the bare
multihash. As text it is base58btc without a prefix (`12D3KooW…`, `16Uiu2…`, `Qm…`) or a CIDv1 of codec `libp2p-key`
in any multibase; which one is told by the first characters.

Specs: https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md, RFC 0001 in the same repository
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from node.errors import DecodeError
from node.names import multibase, varint
from node.names.multihash import HashCode, Multihash
from node.names.varint import Buffer

if TYPE_CHECKING:
    from node.names.keys import PublicKey

MAX_INLINE_KEY = 42  # bytes of a serialised public key that the spec keeps whole
MAX_TEXT = 128
_SHA2_256_SIZE = 32
_CID_VERSION = 1
_LIBP2P_KEY = 0x72


class PeerId:
    """An immutable, hashable, ordered peer id; `PeerId(multihash_bytes)` raises DecodeError if it cannot be one."""

    __slots__ = ("_bytes", "_text")

    def __init__(self, data: Buffer) -> None:
        multihash = Multihash.from_bytes(data)
        if multihash.code == HashCode.IDENTITY:
            if not 0 < len(multihash.digest) <= MAX_INLINE_KEY:
                raise DecodeError(f"peer id holds a key of {len(multihash.digest)} bytes")
        elif multihash.code != HashCode.SHA2_256 or len(multihash.digest) != _SHA2_256_SIZE:
            raise DecodeError(f"peer id {multihash.to_bytes().hex()} is neither an identity nor a whole sha2-256 hash")
        self._bytes = bytes(data)
        self._text: str | None = None

    @classmethod
    def from_public_key(cls, key: PublicKey) -> PeerId:
        """The id of whoever holds the private key to `key`."""
        data = key.to_bytes()
        code = HashCode.IDENTITY if len(data) <= MAX_INLINE_KEY else HashCode.SHA2_256
        return cls(Multihash.of(code, data).to_bytes())

    @classmethod
    def parse(cls, text: str) -> PeerId:
        """A peer id from base58btc or a CIDv1; raises DecodeError."""
        if len(text) > MAX_TEXT:
            raise DecodeError(f"peer id of {len(text)} characters, at most {MAX_TEXT} allowed")
        if text.startswith(("1", "Qm")):
            return cls(multibase.base58_decode(text))
        cid = multibase.decode(text)
        version, offset = varint.decode(cid)
        codec, offset = varint.decode(cid, offset)
        if version != _CID_VERSION or codec != _LIBP2P_KEY:
            raise DecodeError(f"{text} is a CID of version {version} and codec {codec:#x}, not of a libp2p key")
        return cls(cid[offset:])

    def to_bytes(self) -> bytes:
        """The multihash."""
        return self._bytes

    def to_cid(self, base: str = "base32") -> str:
        """The id as CIDv1 text in the given multibase, e.g. `base36` for host names."""
        return multibase.encode(base, bytes([_CID_VERSION, _LIBP2P_KEY]) + self._bytes)

    def public_key(self) -> PublicKey | None:
        """The key, if the id holds it whole; raises DecodeError if what it holds is no key."""
        multihash = Multihash.from_bytes(self._bytes)
        if multihash.code != HashCode.IDENTITY:
            return None
        from node.names.keys import PublicKey  # most ids are never asked, and keys costs the crypto library's import

        key = PublicKey.from_bytes(multihash.digest)
        if key.to_bytes() != multihash.digest:
            raise DecodeError("peer id holds a key that is not serialised canonically")
        return key

    def __str__(self) -> str:
        if self._text is None:
            self._text = multibase.base58_encode(self._bytes)
        return self._text

    def __repr__(self) -> str:
        return f"PeerId.parse({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PeerId) and self._bytes == other._bytes

    def __lt__(self, other: PeerId) -> bool:
        return self._bytes < other._bytes

    def __hash__(self) -> int:
        return hash(self._bytes)
