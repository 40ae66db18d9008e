import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from node.errors import DecodeError
from node.names import fields
from node.names.keys import MAX_KEY, KeyType, PrivateKey, PublicKey
from node.names.schemes.secp256k1 import ORDER

VECTORS = Path(__file__).parents[2] / "vectors"
PAIRS: list[dict[str, str]] = json.loads((VECTORS / "keys.json").read_text())["pairs"]
SIGNATURES: dict[str, Any] = json.loads((VECTORS / "signatures.json").read_text())
KEYS = [PrivateKey.from_bytes(bytes.fromhex(pair["private"])) for pair in PAIRS]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair["kind"])
def test_the_public_key_follows_from_the_private_one(pair: dict[str, str]) -> None:
    key = PrivateKey.from_bytes(bytes.fromhex(pair["private"]))
    assert key.kind is KeyType[pair["kind"]]
    assert key.public.to_bytes().hex() == pair["public"]
    assert key.to_bytes().hex() == pair["private"]
    assert PublicKey.from_bytes(bytes.fromhex(pair["public"])) == key.public


@pytest.mark.parametrize(
    ("kind", "prefix"), [("ED25519", "12D3KooW"), ("SECP256K1", "16Uiu2HA"), ("ECDSA", "Qm"), ("RSA", "Qm")]
)
def test_the_kind_of_key_shows_in_the_peer_id(kind: str, prefix: str) -> None:
    key = next(key for key in KEYS if key.kind.name == kind)
    assert str(key.peer_id()).startswith(prefix)
    assert key.public.peer_id() == key.peer_id()


@pytest.mark.parametrize("case", SIGNATURES["ed25519"], ids=["64 bytes", "96 bytes"])
def test_ed25519_signs_as_go_does(case: dict[str, str]) -> None:
    key = PrivateKey.from_bytes(bytes.fromhex(case["private"]))
    message, signature = bytes.fromhex(case["message"]), bytes.fromhex(case["signature"])
    assert key.public.to_bytes().hex() == case["public"]
    assert key.sign(message) == signature
    assert key.public.verify(message, signature)


def test_secp256k1_derives_the_public_key_as_js_does() -> None:
    case = SIGNATURES["secp256k1"]
    assert PrivateKey.from_bytes(bytes.fromhex(case["private"])).public.to_bytes().hex() == case["public"]


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.kind.name)
def test_a_signature_holds_for_its_message_and_key_only(key: PrivateKey) -> None:
    signature = key.sign(b"message")
    other = PrivateKey.generate(KeyType.ED25519 if key.kind is KeyType.RSA else key.kind)
    assert key.public.verify(b"message", signature)
    assert not key.public.verify(b"another", signature)
    assert not key.public.verify(b"message", signature[:-1])
    assert not key.public.verify(b"message", b"")
    assert not other.public.verify(b"message", signature)


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.kind.name)
def test_random_signatures_do_not_verify(key: PrivateKey) -> None:
    @given(st.binary(max_size=80))
    @settings(max_examples=30)
    def check(signature: bytes) -> None:
        assert not key.public.verify(b"message", signature)

    check()


@pytest.mark.parametrize("kind", [KeyType.ED25519, KeyType.SECP256K1, KeyType.ECDSA])
def test_generated_keys_are_read_back(kind: KeyType) -> None:
    key = PrivateKey.generate(kind)
    again = PrivateKey.from_bytes(key.to_bytes())
    assert again.public == key.public
    assert hash(again.public) == hash(key.public)
    assert again.public.verify(b"x", key.sign(b"x"))
    assert PrivateKey.generate(kind).public != key.public


def test_a_generated_rsa_key_has_2048_bits() -> None:
    key = PrivateKey.generate(KeyType.RSA)
    assert PublicKey.from_bytes(key.public.to_bytes()).verify(b"x", key.sign(b"x"))
    assert len(key.sign(b"x")) * 8 == 2048


def test_secp256k1_signs_with_low_s_and_verifies_both() -> None:
    key = next(key for key in KEYS if key.kind is KeyType.SECP256K1)
    for number in range(20):
        message = bytes([number])
        r, s = decode_dss_signature(key.sign(message))
        assert s <= ORDER // 2
        assert key.public.verify(message, encode_dss_signature(r, ORDER - s))


def test_an_uncompressed_secp256k1_key_is_the_same_key() -> None:
    key = next(key for key in KEYS if key.kind is KeyType.SECP256K1).public
    point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), key.data)
    data = point.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    assert PublicKey(KeyType.SECP256K1, data) == key


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_ecdsa_on_larger_nist_curves_is_understood(curve: ec.EllipticCurve) -> None:
    der = ec.generate_private_key(curve).private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    key = PrivateKey.from_bytes(_message(KeyType.ECDSA, der))
    assert PublicKey.from_bytes(key.public.to_bytes()).verify(b"x", key.sign(b"x"))


def test_a_key_says_nothing_secret_about_itself() -> None:
    for key in KEYS:
        assert repr(key) == f"<PrivateKey {key.kind.name} {key.peer_id()}>"
        assert repr(key.public) == f"<PublicKey {key.kind.name} {key.peer_id()}>"


def _message(kind: int, data: bytes) -> bytes:
    return fields.encode((1, kind), (2, data))


def _pkix(key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


P256 = ec.derive_private_key(7, ec.SECP256R1())
K256 = ec.derive_private_key(7, ec.SECP256K1())
RSA_PUBLIC = next(key for key in KEYS if key.kind is KeyType.RSA).public.data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        fields.encode((1, 1)),
        fields.encode((2, bytes(32))),
        fields.encode((1, b"")),
        _message(4, bytes(32)),
        _message(2**40, bytes(32)),
        _message(KeyType.ED25519, bytes(31)),
        _message(KeyType.SECP256K1, bytes(33)),
        _message(KeyType.SECP256K1, b"\x02" + b"\xff" * 32),
        _message(KeyType.SECP256K1, bytes(32)),
        _message(KeyType.ECDSA, b"\x30\x00"),
        _message(KeyType.ECDSA, bytes(600)),
        _message(KeyType.ECDSA, RSA_PUBLIC),
        _message(KeyType.ECDSA, _pkix(K256.public_key())),
        _message(KeyType.RSA, b"\x30\x00"),
        _message(KeyType.RSA, bytes(1201)),
        _message(KeyType.RSA, _pkix(P256.public_key())),
        _message(KeyType.RSA, _pkix(rsa.RSAPublicNumbers(65537, (1 << 1023) + 1).public_key())),
        _message(KeyType.RSA, bytes(MAX_KEY)),
    ],
)
def test_public_keys_that_are_none_are_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        PublicKey.from_bytes(data)


def test_an_rsa_key_beyond_8192_bits_is_refused() -> None:
    numbers = rsa.RSAPublicNumbers(65537, (1 << 8200) + 1)
    with pytest.raises(DecodeError, match="8201 bits"):
        PublicKey.from_bytes(_message(KeyType.RSA, _pkix(numbers.public_key())))


@pytest.mark.parametrize(
    "data",
    [
        _message(KeyType.ED25519, bytes(32)),
        _message(KeyType.ED25519, bytes(64)),
        _message(KeyType.SECP256K1, bytes(32)),
        _message(KeyType.SECP256K1, b"\xff" * 32),
        _message(KeyType.SECP256K1, b"\x01"),
        _message(KeyType.ECDSA, b"\x30\x00"),
        _message(KeyType.ECDSA, K256.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())),
        _message(KeyType.RSA, b"\x30\x00"),
        _message(KeyType.RSA, bytes(7000)),
        _message(KeyType.RSA, P256.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())),
        _message(7, bytes(32)),
        b"\xff",
    ],
)
def test_private_keys_that_are_none_are_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        PrivateKey.from_bytes(data)


def test_an_old_ed25519_key_whose_public_halves_differ_is_refused() -> None:
    key = next(key for key in KEYS if key.kind is KeyType.ED25519)
    with pytest.raises(DecodeError, match="not its own"):
        PrivateKey.from_bytes(_message(KeyType.ED25519, fields_data(key) + bytes(32)))


def fields_data(key: PrivateKey) -> bytes:
    return next(field.as_bytes() for field in fields.decode(key.to_bytes()) if field.number == 2)


@given(st.sampled_from(list(KeyType)), st.binary(max_size=100))
@settings(max_examples=150)
def test_random_keys_raise_nothing_but_decode_errors(kind: KeyType, data: bytes) -> None:
    for read in (PublicKey.from_bytes, PrivateKey.from_bytes):
        for message in (data, _message(kind, data)):
            try:
                read(message)
            except DecodeError:
                continue
