import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import DecodeError
from node.names import fields, multibase
from node.names.keys import KeyType, PrivateKey
from node.names.multihash import HashCode, Multihash
from node.names.peerid import PeerId

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "vectors/peerids.json").read_text())

PEER_IDS = st.one_of(
    st.binary(min_size=1, max_size=42).map(lambda key: PeerId(b"\x00" + bytes([len(key)]) + key)),
    st.binary(min_size=32, max_size=32).map(lambda digest: PeerId(b"\x12\x20" + digest)),
)


@pytest.mark.parametrize("texts", VECTORS["same"])
def test_all_texts_of_a_peer_id_name_the_same_peer(texts: list[str]) -> None:
    assert {str(PeerId.parse(text)) for text in texts} == {texts[0]}
    for text in texts[1:]:
        base = {"b": "base32", "k": "base36"}[text[0]]
        assert PeerId.parse(texts[0]).to_cid(base) == text


@pytest.mark.parametrize("text", VECTORS["invalid"])
def test_texts_that_are_no_peer_id_are_refused(text: str) -> None:
    with pytest.raises(DecodeError):
        PeerId.parse(text)


@given(PEER_IDS, st.sampled_from(["base32", "base36", "base58btc", "base16"]))
def test_a_peer_id_is_read_back_from_each_of_its_forms(peer: PeerId, base: str) -> None:
    assert PeerId(peer.to_bytes()) == peer
    assert PeerId.parse(str(peer)) == peer
    assert PeerId.parse(peer.to_cid(base)) == peer
    assert hash(PeerId.parse(str(peer))) == hash(peer)


@given(st.binary(max_size=48))
def test_random_bytes_raise_nothing_but_decode_errors(data: bytes) -> None:
    with suppress(DecodeError):
        PeerId(data).public_key()


@given(st.text(max_size=60))
def test_random_text_raises_nothing_but_decode_errors(text: str) -> None:
    with suppress(DecodeError):
        PeerId.parse(text)


@pytest.mark.parametrize("kind", [KeyType.ED25519, KeyType.SECP256K1])
def test_a_short_key_is_read_back_from_its_peer_id(kind: KeyType) -> None:
    key = PrivateKey.generate(kind)
    assert PeerId.parse(str(key.peer_id())).public_key() == key.public


def test_a_long_key_is_only_hashed_into_its_peer_id() -> None:
    key = PrivateKey.generate(KeyType.ECDSA)
    assert key.peer_id().public_key() is None
    assert key.peer_id().to_bytes() == Multihash.of(HashCode.SHA2_256, key.public.to_bytes()).to_bytes()
    assert str(key.peer_id()).startswith("Qm")


def test_a_key_that_is_not_serialised_canonically_is_not_taken_from_a_peer_id() -> None:
    key = PrivateKey.generate().public
    swapped = fields.encode((2, key.data), (1, int(key.kind)))
    with pytest.raises(DecodeError, match="canonical"):
        PeerId(b"\x00" + bytes([len(swapped)]) + swapped).public_key()


@pytest.mark.parametrize("data", ["0000", "1114" + "00" * 20, "1214" + "00" * 20, "002b" + "00" * 43, ""])
def test_multihashes_that_no_peer_id_can_be_are_refused(data: str) -> None:
    with pytest.raises(DecodeError):
        PeerId(bytes.fromhex(data))


@pytest.mark.parametrize("prefix", [b"\x01\x70", b"\x00\x72", b"\x02\x72"])
def test_a_cid_of_something_else_than_a_libp2p_key_is_refused(prefix: bytes) -> None:
    with pytest.raises(DecodeError, match="not of a libp2p key"):
        PeerId.parse(multibase.encode("base32", prefix + b"\x12\x20" + bytes(32)))


def test_text_that_would_take_long_is_refused_at_once() -> None:
    with pytest.raises(DecodeError, match="at most 128"):
        PeerId.parse("1" * 1_000_000)


def test_peer_ids_sort_by_their_bytes() -> None:
    low, high = PeerId(b"\x12\x20" + bytes(32)), PeerId(b"\x12\x20" + b"\xff" * 32)
    assert sorted([high, low]) == [low, high]
    assert low < high
    assert low != "not a peer id"
    assert repr(low) == f"PeerId.parse('{low}')"
