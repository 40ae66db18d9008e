"""Certificates of libp2p TLS: those of the spec, our own, and those that must not be believed."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from node.errors import PeerIdMismatch, SecurityError
from node.names.keys import KeyType, PrivateKey
from node.names.peerid import PeerId
from node.net.credentials import Credentials, verify_now
from node.wire.tls_certificate import EXTENSION, MAX_CERTIFICATE, PREFIX, make_certificate, verify_certificates

VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "vectors" / "tls_certificates.json").read_text()
)["certificates"]
NOW = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
ALICE, BOB = PrivateKey.generate(), PrivateKey.generate()
KEY = ec.generate_private_key(ec.SECP256R1())
OTHER_KEY = ec.generate_private_key(ec.SECP256R1())


def certificate(identity: PrivateKey = ALICE, begin: datetime = NOW - DAY, end: datetime = NOW + DAY) -> bytes:
    return make_certificate(identity, KEY, serial=1, begin=begin, end=end).public_bytes(Encoding.DER)


MADE = certificate()
UNUSED_BITS = MADE.rindex(bytes.fromhex("06082a8648ce3d04030203")) + 12
"Where the signature's BIT STRING counts them: behind the algorithm, the tag and a length of one byte."


def with_extension(
    *extensions: tuple[x509.ExtensionType, bool], signer: ec.EllipticCurvePrivateKey = KEY
) -> x509.Certificate:
    """A certificate of `KEY` with these extensions, signed by `signer`."""
    builder = x509.CertificateBuilder(x509.Name([]), x509.Name([]), KEY.public_key(), 1, NOW - DAY, NOW + DAY)
    for value, critical in extensions:
        builder = builder.add_extension(value, critical)
    return builder.sign(signer, hashes.SHA256())


def signed_key(mangle: Callable[[bytes], bytes] = lambda value: value) -> x509.UnrecognizedExtension:
    """Alice's identity as an extension of a certificate with `KEY`."""
    made = x509.load_der_x509_certificate(certificate())
    (extension,) = made.extensions
    assert isinstance(extension.value, x509.UnrecognizedExtension)
    return x509.UnrecognizedExtension(EXTENSION, mangle(extension.value.value))


@pytest.mark.parametrize("vector", [each for each in VECTORS if each["peer"]], ids=lambda each: each["name"])
def test_the_specs_certificates_name_their_peers(vector: dict[str, Any]) -> None:
    peer = PeerId.parse(vector["peer"])
    assert verify_certificates([bytes.fromhex(vector["der"])], NOW, peer).peer == peer


@pytest.mark.parametrize("vector", [each for each in VECTORS if not each["peer"]], ids=lambda each: each["name"])
def test_the_specs_invalid_certificates_are_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(SecurityError, match="has not signed"):
        verify_certificates([bytes.fromhex(vector["der"])], NOW)


@pytest.mark.parametrize("kind", KeyType)
def test_ours_prove_an_identity_of_any_kind(kind: KeyType) -> None:
    identity = PrivateKey.generate(kind)
    proven = verify_certificates([certificate(identity)], NOW, identity.peer_id())
    assert (proven.peer, proven.key) == (identity.peer_id(), identity.public)


def test_those_of_a_running_node_are_valid_now() -> None:
    credentials = Credentials.of(ALICE)
    assert verify_now([credentials.certificate], ALICE.peer_id()).peer == ALICE.peer_id()


def test_ours_have_no_critical_extension() -> None:
    """rust refuses certificates with critical extensions that it does not know."""
    made = x509.load_der_x509_certificate(certificate())
    assert [(each.oid, each.critical) for each in made.extensions] == [(EXTENSION, False)]


def test_a_critical_identity_is_read_as_well() -> None:
    assert verify_certificates([with_extension((signed_key(), True))], NOW).peer == ALICE.peer_id()


def test_somebody_else_is_told_apart() -> None:
    with pytest.raises(PeerIdMismatch, match=str(BOB.peer_id())):
        verify_certificates([certificate()], NOW, BOB.peer_id())


@pytest.mark.parametrize("count", [0, 2])
def test_only_a_single_certificate_is_accepted(count: int) -> None:
    with pytest.raises(SecurityError, match=f"{count} certificates"):
        verify_certificates([certificate()] * count, NOW)


@pytest.mark.parametrize(("begin", "end"), [(NOW + DAY, NOW + 2 * DAY), (NOW - 2 * DAY, NOW - DAY)])
def test_its_time_must_be_now(begin: datetime, end: datetime) -> None:
    with pytest.raises(SecurityError, match="valid from"):
        verify_certificates([certificate(begin=begin, end=end)], NOW)


def test_it_must_name_an_identity() -> None:
    with pytest.raises(SecurityError, match="names no libp2p identity"):
        verify_certificates([with_extension()], NOW)


def test_the_identity_must_have_signed_this_key() -> None:
    """An extension taken over from a certificate with another key."""
    other = make_certificate(ALICE, OTHER_KEY, serial=1, begin=NOW - DAY, end=NOW + DAY)
    (extension,) = other.extensions
    with pytest.raises(SecurityError, match="has not signed"):
        verify_certificates([with_extension((extension.value, False))], NOW)


def test_the_certificate_must_be_signed_by_its_own_key() -> None:
    with pytest.raises(SecurityError, match="not signed by its own key"):
        verify_certificates([with_extension((signed_key(), False), signer=OTHER_KEY)], NOW)


def test_another_critical_extension_is_refused() -> None:
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"")
    verify_certificates([with_extension((signed_key(), False), (unknown, False))], NOW)
    with pytest.raises(SecurityError, match=r"critical extension 1\.2\.3\.4"):
        verify_certificates([with_extension((signed_key(), False), (unknown, True))], NOW)


@pytest.mark.parametrize(
    "mangle",
    [
        lambda value: b"",
        lambda value: value[:-1],
        lambda value: value + b"\0",
        lambda value: b"\x31" + value[1:],
        lambda value: b"\x30\x82\x00" + value[1:],
        lambda value: b"\x30\x84\xff\xff\xff\xff" + value[2:],
        lambda value: b"\x30\x80" + value[2:],
    ],
)
def test_a_malformed_identity_is_refused(mangle: Callable[[bytes], bytes]) -> None:
    with pytest.raises(SecurityError):
        verify_certificates([with_extension((signed_key(mangle), False))], NOW)


def test_an_identity_given_twice_is_refused() -> None:
    """The library does not make such a certificate, and will not read the extensions of one."""
    other = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.53594.1.2"), signed_key().value)
    tbs = with_extension((signed_key(), False), (other, False)).tbs_certificate_bytes
    oid = bytes.fromhex("2b0601040183a25a0102")
    twice = tbs.replace(oid, oid[:-1] + b"\x01")
    signature = KEY.sign(twice, ec.ECDSA(hashes.SHA256()))
    body = twice + bytes.fromhex("300a06082a8648ce3d040302") + bytes((3, len(signature) + 1, 0)) + signature
    with pytest.raises(SecurityError, match=r"[Dd]uplicate"):
        verify_certificates([b"\x30\x82" + len(body).to_bytes(2, "big") + body], NOW)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_whatever_is_changed_or_missing_nobody_else_is_believed(data: st.DataObject) -> None:
    made = bytearray(MADE)
    if data.draw(st.booleans()):
        made[data.draw(st.integers(0, len(made) - 1))] ^= data.draw(st.integers(1, 255))
    else:
        del made[data.draw(st.integers(0, len(made) - 1)) :]
    try:
        proven = verify_certificates([bytes(made)], NOW)
    except SecurityError:
        return
    # Nothing signs the count of unused bits in front of the signature; the library wants only those bits to be 0.
    assert [index for index, byte in enumerate(MADE) if byte != made[index]] == [UNUSED_BITS]
    assert proven == verify_certificates([MADE], NOW)


@given(st.binary(max_size=300))
def test_random_bytes_are_no_certificate(junk: bytes) -> None:
    with pytest.raises(SecurityError):
        verify_certificates([junk], NOW)


def test_a_huge_certificate_is_not_even_parsed() -> None:
    with pytest.raises(SecurityError, match="at most"):
        verify_certificates([bytes(MAX_CERTIFICATE + 1)], NOW)


def test_the_signature_covers_prefix_and_key() -> None:
    spki = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert ALICE.sign(PREFIX + spki) in certificate()
