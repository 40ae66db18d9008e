"""Images written for libp2p's own suites, in the lab's containers: those that keep to the contracts, and bad ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.kernel.container import Engine
from lab.model.upstream import OWN, Case, Suite, Version
from lab.report.results import Mark
from lab.report.upstream import Outcome
from lab.run.evidence import Evidence
from lab.run.upstream_matrix import Order, run_all
from tests.support.containers import assert_none_left, in_containers

THEIRS = 'USER root\nENTRYPOINT ["python3", "-P", "-m", "node.upstream"]'
"Our node by upstream's contracts, as their images are: root, with a program of its own."


@pytest.mark.parametrize(
    "suite", [Suite.TRANSPORT, Suite.HOLE_PUNCH], ids=["two on the internet", "two homes and a relay"]
)
def test_images_of_upstreams_suites_take_part(
    engine: Engine, image: Callable[[str], str], tmp_path: Path, suite: Suite
) -> None:
    theirs = Version("theirs", image=image(THEIRS), securities=("noise",), muxers=("yamux",))
    case = Case(suite, theirs, theirs if suite.punches else OWN, "tcp", "noise", "yamux", relay=theirs)

    def judge(outcome: Outcome) -> None:
        assert (outcome.verdict, outcome.passed, outcome.seen) == (Mark.PASSED, True, "direct"), outcome.why
        assert outcome.ping is not None

    upstreams(case, tmp_path, engine, judge)


@pytest.mark.parametrize(
    ("lines", "mark", "why"),
    [
        (None, Mark.UNSUPPORTED, "the image punchlab-test/none is not here"),
        ('ENTRYPOINT ["/no/such/program"]', Mark.FAILED, "exec /no/such/program failed: No such file"),
        (
            'ENTRYPOINT ["sh", "-c", "echo no such luck >&2; exit 3"]',
            Mark.FAILED,
            "exit status 3; its stderr ends: no such",
        ),
        ('ENTRYPOINT ["sh", "-c", "trap : TERM; while :; do sleep 1; done"]', Mark.FAILED, "did not end within 8 s"),
        ('ENTRYPOINT ["sh", "-c", "while :; do echo nonsense; done"]', Mark.FAILED, "for it printed too much"),
    ],
    ids=["missing", "cannot start", "fails", "hangs", "babbles"],
)
def test_bad_images_of_upstreams_suites_have_one_line_each(
    engine: Engine, image: Callable[[str], str], tmp_path: Path, lines: str | None, mark: Mark, why: str
) -> None:
    name = "punchlab-test/none" if lines is None else image(lines)
    case = Case(Suite.TRANSPORT, Version("bad", image=name), OWN, "tcp", "noise", "yamux")

    def judge(outcome: Outcome) -> None:
        assert (outcome.verdict, outcome.passed) == (mark, False), outcome.why
        assert why in outcome.why

    upstreams(case, tmp_path, engine, judge, within=8.0)


def upstreams(
    case: Case, folder: Path, engine: Engine, judge: Callable[[Outcome], None], within: float = 120.0
) -> None:
    """Judge one test of a suite of upstream's in a lab with containers, which leaves none."""

    def play() -> None:
        order = Order(case.suite, (case,), within=within, engine=engine)
        _, (outcome,) = asyncio.run(run_all(order, folder, lambda _: None))
        judge(outcome)

    in_containers(play)
    (cell,) = folder.glob("2*/cells/*")
    assert_none_left(Evidence(cell).run)
