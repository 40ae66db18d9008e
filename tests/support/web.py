"""A certificate authority of the web and what it signs, in files."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from node.net.web_tls import WebConfig

DAY = timedelta(days=1)


def web(folder: Path, *names: str) -> WebConfig:
    """A server's certificate for DNS names and IP addresses, its key, and the authority that signed it."""
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = _certificate("authority", authority_key, "authority", authority_key, x509.BasicConstraints(True, None))
    leaf = _certificate("server", key, "authority", authority_key, x509.SubjectAlternativeName(list(map(_name, names))))
    files = [folder / name for name in ("server.pem", "server.key", "authority.pem")]
    files[0].write_bytes(leaf.public_bytes(Encoding.PEM))
    files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    files[2].write_bytes(authority.public_bytes(Encoding.PEM))
    return WebConfig(*files)


def _certificate(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    extension: x509.ExtensionType,
) -> x509.Certificate:
    now = datetime.now(UTC)
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in (subject, issuer)]
    serial = x509.random_serial_number()
    builder = x509.CertificateBuilder(names[1], names[0], key.public_key(), serial, now - DAY, now + DAY)
    ours, theirs = (each.public_key() for each in (key, issuer_key))
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(theirs)
    return (
        builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ours), critical=False)
        .add_extension(identifier, critical=False)
        .sign(issuer_key, hashes.SHA256())
    )


def _name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)
