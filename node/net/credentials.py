"""The certificate that this run of the node shows, in TLS and QUIC alike.

Its key is made anew at every start and never written down; only the identity behind it lasts.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from node.wire.tls_certificate import Proven, make_certificate, verify_certificates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from node.names.keys import PrivateKey
    from node.names.peerid import PeerId

SKEW = timedelta(hours=1)
"""What a peer's clock may be behind ours."""
VALIDITY = timedelta(days=100 * 365)
"""As long as go's: a node may run for years, and the certificate's key dies with it."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def of(cls, identity: PrivateKey) -> Credentials:
        """Make some that name `identity`."""
        key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
        serial = x509.random_serial_number()
        return cls(make_certificate(identity, key, serial=serial, begin=now - SKEW, end=now + VALIDITY), key)


def verify_now(chain: Sequence[bytes | x509.Certificate], expected: PeerId | None = None) -> Proven:
    """Return who the other side is; raises SecurityError or PeerIdMismatch, see `verify_certificates`."""
    return verify_certificates(chain, datetime.now(UTC), expected)
