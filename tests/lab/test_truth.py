"""The oracle, held against a puncher that shares no code with it and knows nothing of libp2p."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from itertools import count

import pytest

from lab.errors import LabError
from lab.kernel.network import Network
from lab.model.classical import cell_topology
from lab.model.ipv6 import Ip
from lab.plan.build import build
from lab.run.truth import OFFSETS, TRANSPORTS, Punch, _try, families, field, punches_of_a_round, try_rounds

Inside = Callable[[Callable[[], None]], None]

SAMPLE = 200
"punches; `punchlab truth` tries all"


@pytest.mark.parametrize("ip", [Ip.V4, Ip.V6], ids=lambda ip: ip.value)
def test_what_the_oracle_predicts_is_what_a_bare_puncher_sees(inside: Inside, ip: Ip) -> None:
    def check() -> None:
        tried = asyncio.run(try_rounds(1, seed=3, ip=ip, sample=SAMPLE))
        assert [str(punch) for punch in tried if not punch.agrees] == []
        assert len(tried) == SAMPLE
        outcomes = Counter((punch.transport, punch.seen) for punch in tried)
        assert set(outcomes) == {("udp", True), ("udp", False), ("tcp", True), ("tcp", False)}

    inside(check)


def test_a_rendezvous_that_does_not_answer_is_told_in_one_line(inside: Inside) -> None:
    def check() -> None:
        plan = build(cell_topology("home", "home"), 1)
        with Network.build(plan) as network:
            punch = Punch("alice", "bob", None, None, "tcp", 0.0, predicted=True, why="")
            trying = _try([punch, punch], network.spaces, (plan.vantages[0], 9), count(10_000), lambda _: None)
            with pytest.raises(LabError, match="the rendezvous did not answer"):
                asyncio.run(trying)

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
