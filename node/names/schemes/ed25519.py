"""Ed25519 identity keys: every implementation's default, small enough to be read back from a peer id."""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from node.errors import DecodeError

_SIZE = 32


class _Public:
    def __init__(self, data: bytes) -> None:
        if len(data) != _SIZE:
            raise DecodeError(f"Ed25519 public key of {len(data)} bytes, not {_SIZE}")
        self.data = data
        self._key = Ed25519PublicKey.from_public_bytes(data)

    def verify(self, message: bytes, signature: bytes) -> bool:
        try:
            self._key.verify(signature, message)
        except InvalidSignature:
            return False
        return True


class _Private:
    def __init__(self, key: Ed25519PrivateKey) -> None:
        self.public_data = key.public_key().public_bytes_raw()
        self._key = key

    @property
    def data(self) -> bytes:
        return self._key.private_bytes_raw() + self.public_data

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message)


class _Scheme:
    def load_public(self, data: bytes) -> _Public:
        return _Public(data)

    def load_private(self, data: bytes) -> _Private:
        """seed ‖ public key, or with the public key twice as old implementations wrote it."""
        if len(data) not in (2 * _SIZE, 3 * _SIZE):
            raise DecodeError(f"Ed25519 private key of {len(data)} bytes, neither {2 * _SIZE} nor {3 * _SIZE}")
        private = _Private(Ed25519PrivateKey.from_private_bytes(data[:_SIZE]))
        copies = {data[start : start + _SIZE] for start in range(_SIZE, len(data), _SIZE)}
        if copies != {private.public_data}:
            raise DecodeError("Ed25519 private key next to a public key that is not its own")
        return private

    def generate(self) -> _Private:
        return _Private(Ed25519PrivateKey.generate())


SCHEME = _Scheme()
