"""TLS 1.3 as libp2p runs it: both sides show the certificate of `tls_certificate`, and ALPN agrees on the muxer.

    initiator                                                   responder
        ── ClientHello, ALPN [muxers…, "libp2p"], no SNI ──────────►
        ◄── ServerHello, CertificateRequest, Certificate, Finished ──
        ── Certificate, Finished ──────────────────────────────────►
        ◄═══════════════════ application data ═════════════════════►

OpenSSL works between two memory buffers; certificates are checked in its callback, so that whom we refuse is told by an
alert. Facts: the initiator is done a flight before the responder has seen its certificate, so that a refusal meets it
with the first data. "libp2p" chosen by ALPN (rust knows nothing else) or no ALPN at all leave the muxer to multistream.

`signed_only` confines a connection to the integrity-only suites of RFC 9150: everything is authenticated, in order and
protected from change, and anybody on the way can read it. Such a peer and an encrypting one have no suite in common.

Specs: https://github.com/libp2p/specs/blob/master/tls/tls.md, …/connections/inlined-muxer-negotiation.md, RFC 8446
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from OpenSSL import SSL
from OpenSSL.crypto import FILETYPE_ASN1, dump_certificate

from node.errors import ConfigError, LocalProtocolError, SecurityError
from node.names.keys import PrivateKey
from node.names.peerid import PeerId
from node.names.varint import Buffer
from node.wire.security_events import DataReceived, Event, HandshakeCompleted
from node.wire.tls_certificate import ALPN, PROTOCOL, Proven, make_certificate, verify_certificates

if TYPE_CHECKING:
    from datetime import datetime

    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from OpenSSL.crypto import X509

__all__ = ["PROTOCOL", "Credentials", "Tls"]

MAX_RECORD = 16 * 1024
"""Bytes of plaintext in one record."""
# The largest message of the muxer, 64 KiB, in records.
_READ = 66 * 1024
# AES has instructions of its own nearly everywhere, and 128 bits are what go prefers too.
_ENCRYPTING = b"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
_SIGNING = b"TLS_SHA256_SHA256:TLS_SHA384_SHA384"
# Suites that do not encrypt count as no security at all to OpenSSL.
_SIGNING_LEVEL = b"DEFAULT:@SECLEVEL=0"


@dataclass(slots=True)
class _Terms:
    """What one handshake is to agree on and what it has found out; OpenSSL hands it to the callbacks."""

    muxers: tuple[str, ...]
    expected: PeerId | None
    now: datetime
    proven: Proven | None = None


class Credentials:
    """Our certificate, ready for any number of connections; `key`, `serial` and the times are make_certificate's.

    Raises ConfigError where this OpenSSL cannot do `signed_only`.
    """

    def __init__(
        self,
        identity: PrivateKey,
        key: EllipticCurvePrivateKey,
        *,
        serial: int,
        begin: datetime,
        end: datetime,
        signed_only: bool = False,
    ) -> None:
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
        context.use_certificate(make_certificate(identity, key, serial=serial, begin=begin, end=end))
        context.use_privatekey(key)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_options(SSL.OP_NO_TICKET)
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _check_certificate)
        context.set_alpn_select_callback(_select_muxer)
        try:
            if signed_only:
                context.set_cipher_list(_SIGNING_LEVEL)
            context.set_tls13_ciphersuites(_SIGNING if signed_only else _ENCRYPTING)
        except SSL.Error as error:
            raise ConfigError("this OpenSSL has no integrity-only cipher suites (RFC 9150)") from error
        self.context = context


class Tls:
    """The machine of one connection: handshake, then plaintext in and ciphertext out.

    `expected` is the peer id the other side must prove to have, `now` the time its certificate must be valid at. Any
    error raised by `receive_data` is final; what is to be sent then is the alert that tells the peer.
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        initiator: bool,
        now: datetime,
        expected: PeerId | None = None,
        muxers: Sequence[str] = (),
    ) -> None:
        self._terms = _Terms(tuple(muxers), expected, now)
        self._connection = SSL.Connection(credentials.context)
        self._connection.set_app_data(self._terms)
        self._is_open = False  # between the handshake and the end
        self._failed = False
        if initiator:
            self._connection.set_alpn_protos([name.encode() for name in (*muxers, ALPN)])
            self._connection.set_connect_state()
            self._shake()
        else:
            self._connection.set_accept_state()

    def receive_data(self, data: Buffer) -> list[Event]:
        """Take bytes of the peer, in pieces of any size; raises SecurityError or PeerIdMismatch.

        What follows the peer's closing alert is ignored.
        """
        if not data or self._failed:
            return []
        events: list[Event] = []
        try:
            self._connection.bio_write(data)
            if not self._is_open and (completed := self._shake()):
                events.append(completed)
            if self._is_open:
                self._read_into(events)
        except SSL.Error as error:
            self._failed = True
            raise SecurityError(f"TLS failed: {_reason(error)}") from error
        except SecurityError:
            self._failed = True
            raise
        return events

    def send_data(self, buffers: Sequence[Buffer]) -> None:
        """Encrypt the concatenation of `buffers`; after a failure there is nobody to encrypt for."""
        if self._failed:
            return
        if not self._is_open:
            raise LocalProtocolError("TLS has no keys before the handshake is over")
        if plaintext := buffers[0] if len(buffers) == 1 else b"".join(buffers):
            self._connection.sendall(plaintext)

    def data_to_send(self) -> list[Buffer]:
        """Buffers for the peer, since the last call."""
        out: list[Buffer] = []
        try:
            while not out or len(out[-1]) == _READ:
                out.append(self._connection.bio_read(_READ))
        except SSL.WantReadError:
            pass
        return out

    def _shake(self) -> HandshakeCompleted | None:
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            return None
        proven = self._terms.proven
        # OpenSSL verifies a chain of those that it needs, which is the first; the others would go unnoticed.
        sent = self._connection.get_peer_cert_chain(as_cryptography=True) or []
        others = [each for each in sent if each != self._connection.get_peer_certificate(as_cryptography=True)]
        if proven is None or others:
            self.data_to_send()  # our end of the handshake is not for them
            raise SecurityError(f"the peer sent {1 + len(others)} certificates where one is due")
        self._is_open = True
        chosen = self._connection.get_alpn_proto_negotiated().decode("ascii", "replace")
        return HandshakeCompleted(proven.peer, proven.key, chosen if chosen in self._terms.muxers else None)

    def _read_into(self, events: list[Event]) -> None:
        try:
            while True:
                events.append(DataReceived(self._connection.recv(MAX_RECORD)))
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            self._failed = True


def _check_certificate(connection: SSL.Connection, certificate: X509, error: int, depth: int, valid: int) -> bool:
    """Called by OpenSSL; what is raised ends the handshake, with an alert, and comes out of it."""
    terms: _Terms = connection.get_app_data()
    if depth:
        raise SecurityError(f"the peer sent {depth + 1} certificates where one is due")
    terms.proven = verify_certificates([dump_certificate(FILETYPE_ASN1, certificate)], terms.now, terms.expected)
    return True


def _select_muxer(connection: SSL.Connection, offered: list[bytes]) -> bytes:
    """Called by OpenSSL; the initiator's order decides, and having nothing in common is fatal (RFC 7301 §3.2)."""
    terms: _Terms = connection.get_app_data()
    ours = [name.encode() for name in (*terms.muxers, ALPN)]
    for name in offered:
        if name in ours:
            return name
    raise SecurityError("the peer offers neither a muxer of ours nor libp2p by ALPN")


def _reason(error: SSL.Error) -> str:
    """OpenSSL's words: of its list of (library, function, reason) the last."""
    problems = error.args[0] if error.args else ()
    return str(problems[-1][-1]) if isinstance(problems, list) and problems else repr(error)
