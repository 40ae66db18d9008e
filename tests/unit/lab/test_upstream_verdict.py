"""Upstream's tests by the wire: which verdict follows from what was seen, predicted and said."""

from __future__ import annotations

import pytest

from lab.model.upstream import OWN, Case, Suite
from lab.report.results import Mark
from lab.run.oracle import Prediction
from lab.run.upstream import judge

HOLE, NONE = Prediction("direct", "both keep their ports"), Prediction("relayed", "neither keeps its port")
CRASH = "the dialer failed, exit status 1"


@pytest.mark.parametrize(
    ("prediction", "seen", "problem", "owned_up", "tried", "mark", "why"),
    [
        (HOLE, "direct", None, False, False, Mark.PASSED, "both keep their ports"),
        (HOLE, "relayed", None, False, True, Mark.FAILED, "the dialer reports a hole, the wire shows none"),
        (HOLE, "direct", CRASH, True, True, Mark.FAILED, CRASH),
        (HOLE, "relayed", CRASH, True, True, Mark.FAILED, CRASH),
        (NONE, "direct", None, False, True, Mark.FAILED, "seen direct, predicted relayed"),
        (NONE, "direct", CRASH, True, True, Mark.FAILED, "seen direct, predicted relayed"),
        (NONE, "relayed", None, False, True, Mark.FAILED, "the dialer reports a hole, the wire shows none"),
        (NONE, "relayed", CRASH, True, True, Mark.PASSED, "no hole, as predicted: neither keeps its port"),
        (NONE, "relayed", CRASH, True, False, Mark.FAILED, f"neither has tried to punch: {CRASH}"),
        (NONE, "relayed", "the dialer did not end", False, True, Mark.FAILED, "the dialer did not end"),
    ],
)
def test_a_hole_is_believed_when_the_wire_shows_it_and_none_when_theory_dialer_and_wire_agree(
    prediction: Prediction, seen: str, problem: str | None, owned_up: bool, tried: bool, mark: Mark, why: str
) -> None:
    case = Case(Suite.HOLE_PUNCH, OWN, OWN, "tcp", "noise", "yamux")
    verdict = judge(case, prediction, seen, problem, owned_up=owned_up, tried=tried)
    assert (verdict.mark, verdict.why[: len(why)]) == (mark, why)


@pytest.mark.parametrize(
    ("seen", "problem", "mark"),
    [("direct", None, Mark.PASSED), ("none", None, Mark.FAILED), ("direct", CRASH, Mark.FAILED)],
)
def test_where_there_are_no_nats_the_wire_has_to_agree_too(seen: str, problem: str | None, mark: Mark) -> None:
    case = Case(Suite.TRANSPORT, OWN, OWN, "quic-v1")
    assert judge(case, HOLE, seen, problem, owned_up=problem is not None, tried=False).mark is mark
