import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import DecodeError
from node.names import multibase

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "vectors/multibase.json").read_text())
BASES = sorted(VECTORS["encodings"][b"yes mani !".hex()])


@pytest.mark.parametrize(
    ("data", "base", "text"),
    [(data, base, text) for data, texts in VECTORS["encodings"].items() for base, text in texts.items()],
)
def test_bytes_and_text_agree_with_the_vectors(data: str, base: str, text: str) -> None:
    assert multibase.encode(base, bytes.fromhex(data)) == text
    assert multibase.decode(text) == bytes.fromhex(data)


@pytest.mark.parametrize(("data", "text"), [(d, text) for d, texts in VECTORS["any_case"].items() for text in texts])
def test_bases_of_one_case_are_read_in_either(data: str, text: str) -> None:
    assert multibase.decode(text) == bytes.fromhex(data)


@given(st.binary(max_size=80), st.sampled_from(BASES))
def test_every_base_gives_back_what_it_was_given(data: bytes, base: str) -> None:
    assert multibase.decode(multibase.encode(base, data)) == data


@given(st.text(max_size=40))
def test_random_text_raises_nothing_but_decode_errors(text: str) -> None:
    with suppress(DecodeError):
        multibase.decode(text)


@pytest.mark.parametrize(
    "text",
    ["", "?abc", "f0", "fxy", "f00 11", "bab", "b1", "z0", "zl", "k-", "ueWVzIG1hbmkgIQ==", "u+/", "u\n"],
)
def test_text_with_stray_characters_or_bits_is_refused(text: str) -> None:
    with pytest.raises(DecodeError):
        multibase.decode(text)


@pytest.mark.parametrize("prefix", ["z", "k", "f", "u"])
def test_text_that_would_take_long_is_refused_at_once(prefix: str) -> None:
    with pytest.raises(DecodeError, match="at most"):
        multibase.decode(prefix + "1" * 1_000_000)


def test_leading_zero_bytes_survive_base58() -> None:
    assert multibase.base58_encode(bytes(3)) == "111"
    assert multibase.base58_decode("111") == bytes(3)
