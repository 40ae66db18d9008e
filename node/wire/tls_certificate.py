"""The certificate by which a peer says who it is: libp2p TLS, over TCP and in QUIC alike.

The certificate is self-signed with a key of its own; what counts is an extension in which the identity key vouches for
that key:

    OID 1.3.6.1.4.1.53594.1.1    SEQUENCE { OCTET STRING publicKey, OCTET STRING signature }
    publicKey                    the PublicKey protobuf of the identity
    signature                    of "libp2p-tls-handshake:" ‖ the certificate key's SubjectPublicKeyInfo in DER

Facts: exactly one certificate is sent; rust marks the extension critical, go does not, and rust refuses any other
critical extension that it does not know, so ours has none. The certificate's signature is checked as well as that of
the extension, or anybody could change its dates. Both sides must show one: a server has to refuse a client without.

Spec: https://github.com/libp2p/specs/blob/master/tls/tls.md
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.utils import CryptographyDeprecationWarning

from node.errors import DecodeError, PeerIdMismatch, SecurityError
from node.names.keys import PrivateKey, PublicKey

if TYPE_CHECKING:
    from datetime import datetime

    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    from node.names.peerid import PeerId

PROTOCOL = "/tls/1.0.0"
ALPN = "libp2p"
"""What is agreed on where no muxer is, and always in QUIC."""
EXTENSION = x509.ObjectIdentifier("1.3.6.1.4.1.53594.1.1")
PREFIX = b"libp2p-tls-handshake:"
MAX_CERTIFICATE = 16 * 1024
"""Bytes: one with an RSA identity of 8192 bits takes less than 4 KiB."""

_MALFORMED = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
_SEQUENCE, _OCTET_STRING = 0x30, 0x04
_LONG_FORM = 0x80
_MAX_LENGTH_BYTES = 2


@dataclass(frozen=True, slots=True)
class Proven:
    """Whom a certificate proved the other side to be."""

    peer: PeerId
    key: PublicKey


def make_certificate(
    identity: PrivateKey, key: EllipticCurvePrivateKey, *, serial: int, begin: datetime, end: datetime
) -> x509.Certificate:
    """Return a certificate for `key` (P-256, as go's and rust's) that names `identity`, valid from `begin` to `end`."""
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    signed_key = _der(
        _SEQUENCE,
        _der(_OCTET_STRING, identity.public.to_bytes()) + _der(_OCTET_STRING, identity.sign(PREFIX + spki)),
    )
    nobody = x509.Name([])
    builder = x509.CertificateBuilder(nobody, nobody, key.public_key(), serial, begin, end)
    builder = builder.add_extension(x509.UnrecognizedExtension(EXTENSION, signed_key), critical=False)
    return builder.sign(key, hashes.SHA256())


def verify_certificates(
    chain: Sequence[bytes | x509.Certificate], now: datetime, expected: PeerId | None = None
) -> Proven:
    """Return who the other side is, by the certificates it sent, in DER or parsed.

    Raises SecurityError unless there is exactly one, valid at `now` (aware of its zone), signed by its own key and
    vouched for by an identity; PeerIdMismatch when the identity is not `expected`.
    """
    if len(chain) != 1:
        raise SecurityError(f"the peer sent {len(chain)} certificates where one is due")
    try:
        certificate = _parse(chain[0])
        proven = _verify(certificate, now)
    except _MALFORMED as error:
        raise SecurityError(f"the peer's certificate cannot be used: {error}") from error
    if expected is not None and proven.peer != expected:
        raise PeerIdMismatch(f"the peer is {proven.peer}, not {expected}")
    return proven


def _parse(certificate: bytes | x509.Certificate) -> x509.Certificate:
    if isinstance(certificate, x509.Certificate):
        return certificate
    if len(certificate) > MAX_CERTIFICATE:
        raise ValueError(f"{len(certificate)} bytes, at most {MAX_CERTIFICATE} allowed")
    with warnings.catch_warnings():
        # A stranger's odd serial number is no reason to tell whoever runs us; it is covered by the signature.
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        return x509.load_der_x509_certificate(certificate)


def _verify(certificate: x509.Certificate, now: datetime) -> Proven:
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise SecurityError(
            f"the peer's certificate is valid from {certificate.not_valid_before_utc} to "
            f"{certificate.not_valid_after_utc}, and it is {now}: is a clock wrong?"
        )
    _check_own_signature(certificate)
    key, signature = _signed_key(certificate)
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if not key.verify(PREFIX + spki, signature):
        raise SecurityError("the identity in the peer's certificate has not signed the certificate's key")
    return Proven(key.peer_id(), key)


def _check_own_signature(certificate: x509.Certificate) -> None:
    try:
        certificate.verify_directly_issued_by(certificate)
    except InvalidSignature as error:
        raise SecurityError("the peer's certificate is not signed by its own key") from error


def _signed_key(certificate: x509.Certificate) -> tuple[PublicKey, bytes]:
    """The identity and its signature; all other extensions are to be ignored unless they are critical."""
    found: x509.UnrecognizedExtension | None = None
    for extension in certificate.extensions:
        if extension.oid == EXTENSION and isinstance(extension.value, x509.UnrecognizedExtension):
            found = extension.value
        elif extension.critical and isinstance(extension.value, x509.UnrecognizedExtension):
            raise SecurityError(f"the peer's certificate has a critical extension {extension.oid.dotted_string}")
    if found is None:
        raise SecurityError("the peer's certificate names no libp2p identity")
    content, rest = _value(_SEQUENCE, found.value)
    key, tail = _value(_OCTET_STRING, content)
    signature, end = _value(_OCTET_STRING, tail)
    if rest or end:
        raise SecurityError("the identity in the peer's certificate is followed by something else")
    return PublicKey.from_bytes(key), signature


def _der(tag: int, content: bytes) -> bytes:
    """One DER value of less than 64 KiB."""
    size = len(content)
    if size < _LONG_FORM:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, _LONG_FORM | len(length))) + length + content


def _value(tag: int, data: bytes) -> tuple[bytes, bytes]:
    """The content of the DER value in front and what follows it; raises DecodeError."""
    if len(data) < 2 or data[0] != tag:
        raise DecodeError(f"no DER value of tag {tag:#04x} in the identity of a certificate")
    size, start = data[1], 2
    if size & _LONG_FORM:
        count = size & ~_LONG_FORM
        start += count
        size = int.from_bytes(data[2:start], "big")
        if not 0 < count <= _MAX_LENGTH_BYTES or size < _LONG_FORM or size.bit_length() <= 8 * (count - 1):
            raise DecodeError("a DER length in the identity of a certificate is not in its shortest form")
    if len(data) < start + size:
        raise DecodeError("the identity of a certificate ends early")
    return data[start : start + size], data[start + size :]
