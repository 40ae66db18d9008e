"""libp2p TLS over TCP: what ALPN agrees on, which certificates are refused, and that the peer is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL

from node.errors import LocalProtocolError, PeerIdMismatch, SecurityError
from node.names.keys import KeyType, PrivateKey
from node.names.peerid import PeerId
from node.wire.security_events import DataReceived, Event, HandshakeCompleted
from node.wire.tls import Credentials, Tls
from node.wire.tls_certificate import make_certificate

ALICE, BOB = PrivateKey.generate(), PrivateKey.generate()
NOW, DAY = datetime(2026, 5, 4, tzinfo=UTC), timedelta(days=1)
YAMUX, MPLEX = "/yamux/1.0.0", "/mplex/6.7.0"
Certificates = list[x509.Certificate]


@cache
def credentials(identity: PrivateKey, *, begin: datetime = NOW - DAY, end: datetime = NOW + DAY) -> Credentials:
    key = ec.generate_private_key(ec.SECP256R1())
    return Credentials(identity, key, serial=1, begin=begin, end=end)


def machine(
    identity: PrivateKey, *, initiator: bool, muxers: Sequence[str] = (), expected: PeerId | None = None
) -> Tls:
    return Tls(credentials(identity), initiator=initiator, now=NOW, expected=expected, muxers=muxers)


def shake_hands(alice: Tls, bob: Tls) -> tuple[list[Event], list[Event]]:
    at_alice: list[Event] = []
    at_bob: list[Event] = []
    while (forth := b"".join(alice.data_to_send())) + (back := b"".join(bob.data_to_send())):
        at_bob += bob.receive_data(forth)
        at_alice += alice.receive_data(back)
    return at_alice, at_bob


class Stranger:
    """A TLS peer of the library's making, to offer what ours never would."""

    def __init__(self, certificates: Certificates, key: ec.EllipticCurvePrivateKey, alpn: Sequence[bytes]) -> None:
        context = SSL.Context(SSL.TLS_METHOD)
        if certificates:
            context.use_certificate(certificates[0])
            context.use_privatekey(key)
        for each in certificates[1:]:
            context.add_extra_chain_cert(each)
        self.connection = SSL.Connection(context)
        if alpn:
            self.connection.set_alpn_protos(list(alpn))
        self.connection.set_connect_state()

    def meet(self, bob: Tls) -> list[Event]:
        """What Bob learns; raises what he raises once his last words have come here."""
        events: list[Event] = []
        for _ in range(4):
            with suppress(SSL.WantReadError):
                self.connection.do_handshake()
            try:
                events += bob.receive_data(self.connection.bio_read(1 << 17))
            except SSL.WantReadError:
                break
            finally:
                for data in bob.data_to_send():
                    self.connection.bio_write(data)
        return events

    def refusal(self) -> str:
        """The alert that came."""
        with pytest.raises(SSL.Error) as raised:
            self.connection.recv(1)
        return str(raised.value.args[0][0][2])


def genuine(key: ec.EllipticCurvePrivateKey, begin: datetime = NOW - DAY) -> x509.Certificate:
    return make_certificate(ALICE, key, serial=1, begin=begin, end=begin + DAY + DAY)


def critical(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, NOW - DAY, NOW + DAY)
    extension = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x04\x00")
    for each in genuine(key).extensions:
        builder = builder.add_extension(each.value, critical=True)
    return builder.add_extension(extension, critical=True).sign(key, hashes.SHA256())


def plain(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([])
    return x509.CertificateBuilder(name, name, key.public_key(), 1, NOW - DAY, NOW + DAY).sign(key, hashes.SHA256())


def forged(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """The identity vouches for another key."""
    name = x509.Name([])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, NOW - DAY, NOW + DAY)
    for each in genuine(ec.generate_private_key(ec.SECP256R1())).extensions:
        builder = builder.add_extension(each.value, critical=False)
    return builder.sign(key, hashes.SHA256())


@pytest.mark.parametrize(
    ("ours", "theirs", "agreed"),
    [
        ([YAMUX, MPLEX], [YAMUX, MPLEX], YAMUX),
        ([MPLEX, YAMUX], [YAMUX, MPLEX], MPLEX),
        ([YAMUX], [MPLEX], None),
        ([], [YAMUX], None),
        ([YAMUX], [], None),
    ],
)
def test_the_initiators_order_decides_on_the_muxer_and_libp2p_leaves_it_open(
    ours: list[str], theirs: list[str], agreed: str | None
) -> None:
    alice, bob = machine(ALICE, initiator=True, muxers=ours), machine(BOB, initiator=False, muxers=theirs)
    (at_alice,), (at_bob,) = shake_hands(alice, bob)
    for event in (at_alice, at_bob):
        assert isinstance(event, HandshakeCompleted)
        assert event.muxer == agreed


@pytest.mark.parametrize("kind", list(KeyType))
def test_any_kind_of_identity_is_proved(kind: KeyType) -> None:
    identity = PrivateKey.generate(kind)
    alice, bob = machine(identity, initiator=True), machine(BOB, initiator=False)
    (at_alice,), (at_bob,) = shake_hands(alice, bob)
    assert at_alice == HandshakeCompleted(BOB.peer_id(), BOB.public, None)
    assert at_bob == HandshakeCompleted(identity.peer_id(), identity.public, None)


@pytest.mark.parametrize("alpn", [[], [b"libp2p"], [b"h2", b"libp2p"], [b"/yamux/1.0.0", b"libp2p"]])
def test_a_client_without_a_muxer_is_welcome(alpn: list[bytes]) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    (event,) = Stranger([genuine(key)], key, alpn).meet(machine(BOB, initiator=False, muxers=[YAMUX]))
    expected = YAMUX if b"/yamux/1.0.0" in alpn else None
    assert event == HandshakeCompleted(ALICE.peer_id(), ALICE.public, expected)


@pytest.mark.parametrize(
    ("certificates", "why"),
    [
        (lambda key: [], "not return a certificate"),
        (lambda key: [genuine(key), plain(key)], "2 certificates where one is due"),
        (lambda key: [plain(key)], "names no libp2p identity"),
        (lambda key: [forged(key)], "has not signed"),
        (lambda key: [critical(key)], "critical extension 1.2.3.4"),
        (lambda key: [genuine(key, begin=NOW + DAY)], "is a clock wrong"),
        (lambda key: [genuine(key, begin=NOW - 5 * DAY)], "is a clock wrong"),
    ],
    ids=["none", "two", "no identity", "of another key", "critical", "not yet", "no more"],
)
def test_a_client_whose_certificate_is_not_right_is_refused(
    certificates: Callable[[ec.EllipticCurvePrivateKey], Certificates], why: str
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    bob = machine(BOB, initiator=False)
    with pytest.raises(SecurityError, match=why):
        Stranger(certificates(key), key, [b"libp2p"]).meet(bob)
    assert bob.receive_data(b"and on it talks") == []


@pytest.mark.parametrize(
    ("certificates", "alpn", "alert"),
    [
        (lambda key: [], [b"libp2p"], "certificate required"),
        (lambda key: [plain(key)], [b"libp2p"], "alert"),
        (lambda key: [genuine(key)], [b"h2"], "no application protocol"),
    ],
    ids=["none", "no identity", "alpn"],
)
def test_the_client_is_told_by_an_alert(
    certificates: Callable[[ec.EllipticCurvePrivateKey], Certificates], alpn: list[bytes], alert: str
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    stranger = Stranger(certificates(key), key, alpn)
    with pytest.raises(SecurityError):
        stranger.meet(machine(BOB, initiator=False))
    assert alert in stranger.refusal()


def test_a_responder_of_an_older_tls_is_refused() -> None:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    server = SSL.Connection(context)
    server.set_accept_state()
    alice = machine(ALICE, initiator=True)
    server.bio_write(b"".join(alice.data_to_send()))
    with pytest.raises(SSL.Error):
        server.do_handshake()
    with pytest.raises(SecurityError, match="version"):
        alice.receive_data(server.bio_read(1 << 17))


def test_no_server_name_is_sent() -> None:
    hello = b"".join(machine(ALICE, initiator=True).data_to_send())
    names: list[bytes | None] = []
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_tlsext_servername_callback(lambda connection: names.append(connection.get_servername()))
    server = SSL.Connection(context)
    server.set_accept_state()
    server.bio_write(hello)
    with pytest.raises(SSL.Error):  # it has no certificate to go on with
        server.do_handshake()
    assert names == [None]


def test_a_refusal_by_the_responder_reaches_the_initiator_with_the_first_data() -> None:
    alice, bob = machine(ALICE, initiator=True), machine(BOB, initiator=False, expected=BOB.peer_id())
    bob.receive_data(b"".join(alice.data_to_send()))
    (event,) = alice.receive_data(b"".join(bob.data_to_send()))
    assert isinstance(event, HandshakeCompleted)
    with pytest.raises(PeerIdMismatch):
        bob.receive_data(b"".join(alice.data_to_send()))
    with pytest.raises(SecurityError, match="alert"):
        alice.receive_data(b"".join(bob.data_to_send()))


def test_there_are_no_keys_before_the_handshake_is_over() -> None:
    with pytest.raises(LocalProtocolError, match="before the handshake"):
        machine(ALICE, initiator=True).send_data([b"early"])


def test_data_right_behind_the_handshake_is_not_lost() -> None:
    alice, bob = machine(ALICE, initiator=True), machine(BOB, initiator=False)
    bob.receive_data(b"".join(alice.data_to_send()))
    alice.receive_data(b"".join(bob.data_to_send()))
    alice.send_data([b"first"])
    completed, data = bob.receive_data(b"".join(alice.data_to_send()))
    assert isinstance(completed, HandshakeCompleted)
    assert data == DataReceived(b"first")
