"""What the wire shows while an echo runs, and what it is called."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lab.report.results import Mark
from lab.run.verdict import Sighting, judge

DIRECT = Sighting(
    predicted="direct",
    predicted_why="home-b lets in anybody",
    claimed="direct",
    direct_on_wire=True,
    relay_bytes=0,
    echo_bytes=16384,
)


@pytest.mark.parametrize(
    ("relay_bytes", "seen"),
    [(0, "direct"), (16383, "direct"), (16384, "unclear"), (65535, "unclear"), (65536, "relayed")],
)
def test_a_relay_may_talk_during_an_echo_but_not_carry_it(relay_bytes: int, seen: str) -> None:
    assert replace(DIRECT, relay_bytes=relay_bytes).seen == seen


def test_the_peers_word_is_held_against_the_wire() -> None:
    assert judge(DIRECT).mark is Mark.PASSED
    assert judge(replace(DIRECT, direct_on_wire=False)).mark is Mark.FAILED
    assert judge(replace(DIRECT, relay_bytes=65536, claimed="relayed")).why.startswith("seen relayed, predicted direct")
