"""The oracle, held against a puncher that shares no code with it and knows nothing of libp2p."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable

from lab.run.truth import OFFSETS, TRANSPORTS, families, field, punches_of_a_round, try_rounds

Inside = Callable[[Callable[[], None]], None]

SAMPLE = 250
"punches; `punchlab truth` tries all"


def test_what_the_oracle_predicts_is_what_a_bare_puncher_sees(inside: Inside) -> None:
    def check() -> None:
        tried = asyncio.run(try_rounds(1, seed=3, sample=SAMPLE))
        assert [str(punch) for punch in tried if not punch.agrees] == []
        assert len(tried) == SAMPLE
        outcomes = Counter((punch.transport, punch.seen) for punch in tried)
        assert set(outcomes) == {("udp", True), ("udp", False), ("tcp", True), ("tcp", False)}

    inside(check)


def test_a_round_has_every_pair_of_families_at_every_offset() -> None:
    laid = field()
    punches = laid.round(random.Random(1))
    assert len(punches) == punches_of_a_round()
    between = [punch for punch in punches if not punch.left.startswith("s")]
    assert len(between) == len(families()) ** 2 * len(TRANSPORTS) * len(OFFSETS)
    assert Counter(punch.offset for punch in between) == dict.fromkeys(OFFSETS, len(between) // len(OFFSETS))


def test_a_round_repeats_itself_for_a_seed() -> None:
    laid = field()
    assert laid.round(random.Random(5)) == laid.round(random.Random(5))
    assert laid.round(random.Random(5)) != laid.round(random.Random(6))
