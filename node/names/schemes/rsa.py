"""RSA identity keys of 2048 to 8192 bits: the lower bound is the spec's, the upper keeps a peer from spending our time.

Verifying costs more than linearly in the modulus, and a key comes from whoever connects (CVE-2023-39533).
"""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
)

from node.errors import DecodeError

MIN_BITS = 2048
MAX_BITS = 8192
MAX_PUBLIC_DER = 1200  # bytes; 8192 bits take 1062
MAX_PRIVATE_DER = 6144  # bytes; 8192 bits take about 4700
_PADDING = padding.PKCS1v15()


def _public_der(key: rsa.RSAPublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _check_bits(bits: int) -> None:
    if not MIN_BITS <= bits <= MAX_BITS:
        raise DecodeError(f"RSA key of {bits} bits, {MIN_BITS} to {MAX_BITS} allowed")


class _Public:
    def __init__(self, data: bytes) -> None:
        if len(data) > MAX_PUBLIC_DER:
            raise DecodeError(f"RSA public key of {len(data)} bytes, at most {MAX_PUBLIC_DER} allowed")
        try:
            key = load_der_public_key(data)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise DecodeError(f"not an RSA public key in DER: {error}") from error
        if not isinstance(key, rsa.RSAPublicKey):
            raise DecodeError("RSA public key is of another algorithm")
        _check_bits(key.key_size)
        self.data = _public_der(key)
        self._key = key

    def verify(self, message: bytes, signature: bytes) -> bool:
        try:
            self._key.verify(signature, message, _PADDING, hashes.SHA256())
        except InvalidSignature:
            return False
        return True


class _Private:
    def __init__(self, key: rsa.RSAPrivateKey) -> None:
        self.public_data = _public_der(key.public_key())
        self._key = key

    @property
    def data(self) -> bytes:
        return self._key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message, _PADDING, hashes.SHA256())


class _Scheme:
    def load_public(self, data: bytes) -> _Public:
        return _Public(data)

    def load_private(self, data: bytes) -> _Private:
        if len(data) > MAX_PRIVATE_DER:
            raise DecodeError(f"RSA private key of {len(data)} bytes, at most {MAX_PRIVATE_DER} allowed")
        try:
            key = load_der_private_key(data, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise DecodeError(f"not an RSA private key in DER: {error}") from error
        if not isinstance(key, rsa.RSAPrivateKey):
            raise DecodeError("RSA private key is of another algorithm")
        _check_bits(key.key_size)
        return _Private(key)

    def generate(self) -> _Private:
        return _Private(rsa.generate_private_key(public_exponent=65537, key_size=MIN_BITS))


SCHEME = _Scheme()
