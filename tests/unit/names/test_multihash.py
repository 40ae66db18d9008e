import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import DecodeError
from node.names.multihash import MAX_DIGEST, HashCode, Multihash

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "vectors/multihash.json").read_text())


@pytest.mark.parametrize(("function", "bits", "encoded"), VECTORS["digests"])
def test_hashing_agrees_with_the_vectors(function: str, bits: int, encoded: str) -> None:
    multihash = Multihash.of(HashCode[function], b"")
    assert multihash.to_bytes().hex() == encoded
    assert len(multihash.digest) * 8 == bits
    assert Multihash.from_bytes(bytes.fromhex(encoded)) == multihash


@pytest.mark.parametrize(("function", "bits", "encoded"), VECTORS["truncated"])
def test_truncated_digests_are_read(function: str, bits: int, encoded: str) -> None:
    multihash = Multihash.from_bytes(bytes.fromhex(encoded))
    assert (multihash.code, len(multihash.digest) * 8) == (HashCode[function], bits)


@pytest.mark.parametrize("function", list(HashCode))
def test_every_function_gives_a_digest_that_is_read_back(function: HashCode) -> None:
    multihash = Multihash.of(function, b"punchlab")
    assert Multihash.from_bytes(multihash.to_bytes()) == multihash


@given(st.integers(0, 2**40), st.binary(max_size=MAX_DIGEST))
def test_a_multihash_of_any_function_is_read_back(code: int, digest: bytes) -> None:
    assert Multihash.from_bytes(Multihash(code, digest).to_bytes()) == Multihash(code, digest)


@given(st.binary(max_size=48))
def test_random_bytes_raise_nothing_but_decode_errors(data: bytes) -> None:
    try:
        multihash = Multihash.from_bytes(data)
    except DecodeError:
        return
    assert multihash.to_bytes() == data


@pytest.mark.parametrize("encoded", ["", "12", "1220", "1202ff", "0001ffff"])
def test_a_digest_of_another_length_than_declared_is_refused(encoded: str) -> None:
    with pytest.raises(DecodeError):
        Multihash.from_bytes(bytes.fromhex(encoded))


def test_an_identity_hash_of_long_data_is_refused() -> None:
    with pytest.raises(DecodeError, match="at most"):
        Multihash.of(HashCode.IDENTITY, bytes(MAX_DIGEST + 1))
