"""A peer's answers: what lacks a field, or has something else in its place, is the peer's fault and says so."""

from __future__ import annotations

from typing import Any

import pytest

from lab.errors import PeerError
from lab.peers.answers import Profile

TOLD: dict[str, Any] = {"agent": "mine/1.2", "protocols": ["/ipfs/ping/1.0.0"]}


def test_a_profile_is_read() -> None:
    assert Profile.of("bob", TOLD | {"more": 1}) == Profile("mine/1.2", ("/ipfs/ping/1.0.0",))


@pytest.mark.parametrize("change", [{"agent": None}, {"protocols": None}, {"protocols": 5}, {"protocols": [[]]}])
def test_a_profile_without_something_is_the_peers_fault(change: dict[str, Any]) -> None:
    with pytest.raises(PeerError, match=f"bob answered without a usable (list )?'{next(iter(change))}'"):
        Profile.of("bob", TOLD | change)
