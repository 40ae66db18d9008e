"""ECDSA identity keys on the NIST curves; P-256 where we choose.

Spec and practice differ for the private key: the text says PKIX, its test vector and all implementations hold SEC 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
)

from node.errors import DecodeError

MAX_DER = 512  # bytes; a P-521 private key takes 223
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_ALGORITHM = ec.ECDSA(hashes.SHA256())
_Key = TypeVar("_Key")


def _load(loader: Callable[[bytes], _Key], der: bytes) -> _Key:
    if len(der) > MAX_DER:
        raise DecodeError(f"ECDSA key of {len(der)} bytes, at most {MAX_DER} allowed")
    try:
        return loader(der)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise DecodeError(f"not an ECDSA key in DER: {error}") from error


def _public_der(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


class _Public:
    def __init__(self, data: bytes) -> None:
        key = _load(load_der_public_key, data)
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, _CURVES):
            raise DecodeError("ECDSA public key is of another algorithm or curve")
        self.data = _public_der(key)
        self._key = key

    def verify(self, message: bytes, signature: bytes) -> bool:
        try:
            self._key.verify(signature, message, _ALGORITHM)
        except InvalidSignature:
            return False
        return True


class _Private:
    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self.public_data = _public_der(key.public_key())
        self._key = key

    @property
    def data(self) -> bytes:
        return self._key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message, _ALGORITHM)


class _Scheme:
    def load_public(self, data: bytes) -> _Public:
        return _Public(data)

    def load_private(self, data: bytes) -> _Private:
        key = _load(lambda der: load_der_private_key(der, password=None), data)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, _CURVES):
            raise DecodeError("ECDSA private key is of another algorithm or curve")
        return _Private(key)

    def generate(self) -> _Private:
        return _Private(ec.generate_private_key(ec.SECP256R1()))


SCHEME = _Scheme()
