"""What `--security` asks for."""

from __future__ import annotations

import pytest

from node.errors import ConfigError
from node.logic.protection import Protection, Security, securities


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("encrypted", (Security.NOISE, Security.TLS)),
        ("signed", (Security.TLS_SIGNED_ONLY,)),
        ("clear", (Security.PLAINTEXT,)),
        ("tls", (Security.TLS,)),
        ("tls,noise", (Security.TLS, Security.NOISE)),
    ],
)
def test_states_and_lists_of_ways(text: str, expected: tuple[Security, ...]) -> None:
    assert securities(text) == expected


@pytest.mark.parametrize("text", ["", "secio", "tls,plaintext", "tls,tls", "encrypted,clear", "tls-signed-only"])
def test_what_is_neither_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError, match=f"--security: '{text}' is neither"):
        securities(text)


def test_no_two_states_share_a_way() -> None:
    ways = [each for protection in Protection for each in protection.securities]
    assert len(ways) == len(set(ways)) == len(Security)
