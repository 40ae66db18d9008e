"""secp256k1 identity keys, with Bitcoin's encodings.

Of the two signatures (r, s) and (r, n − s) that verify alike, Bitcoin (BIP 62) makes only the one with s ≤ n/2, and
some verifiers refuse the other. We write low S and, as go-libp2p, accept both.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from node.errors import DecodeError

ORDER = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
_SCALAR_SIZE = 32
_POINT_SIZES = (33, 65)
_ALGORITHM = ec.ECDSA(hashes.SHA256())


def _compress(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)


class _Public:
    def __init__(self, data: bytes) -> None:
        if len(data) not in _POINT_SIZES:
            raise DecodeError(f"secp256k1 public key of {len(data)} bytes")
        try:
            self._key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), data)
        except ValueError as error:
            raise DecodeError("secp256k1 public key is not a point of the curve") from error
        self.data = _compress(self._key)

    def verify(self, message: bytes, signature: bytes) -> bool:
        try:
            self._key.verify(signature, message, _ALGORITHM)
        except InvalidSignature:
            return False
        return True


class _Private:
    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self.public_data = _compress(key.public_key())
        self._key = key

    @property
    def data(self) -> bytes:
        return self._key.private_numbers().private_value.to_bytes(_SCALAR_SIZE, "big")

    def sign(self, message: bytes) -> bytes:
        r, s = decode_dss_signature(self._key.sign(message, _ALGORITHM))
        return encode_dss_signature(r, min(s, ORDER - s))


class _Scheme:
    def load_public(self, data: bytes) -> _Public:
        return _Public(data)

    def load_private(self, data: bytes) -> _Private:
        scalar = int.from_bytes(data, "big")
        if len(data) != _SCALAR_SIZE or not 0 < scalar < ORDER:
            raise DecodeError(f"secp256k1 private key must be {_SCALAR_SIZE} bytes and within the group's order")
        return _Private(ec.derive_private_key(scalar, ec.SECP256K1()))

    def generate(self) -> _Private:
        return _Private(ec.generate_private_key(ec.SECP256K1()))


SCHEME = _Scheme()
