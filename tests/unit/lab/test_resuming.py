"""Seconds until traffic resumes: what counts, what does not, and the page that is made of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lab.errors import LabError
from lab.model.event import parse
from lab.model.resuming import CASES, case_topology
from lab.model.transport import PUNCHABLE
from lab.plan.build import build
from lab.report import resumedoc
from lab.report.results import Machine, Mark
from lab.report.resuming import Campaign, Try, findings, load, rows, save

MACHINE = Machine(2, "Debian 12", "6.18", "3.11", "0.1.0")
DOCS = Path(__file__).parents[3] / "docs"
WHATS = [("move", "it moves"), ("lease", "a lease is lost"), ("untried", "nothing")]
TRIES = [
    *(Try("move", "tcp", Mark.PASSED, "", seconds) for seconds in (7.0, 5.0, 20.0)),
    Try("move", "tcp", Mark.FAILED, "bob is silent", capture="c/1"),
    Try("move", "tcp", Mark.INCONCLUSIVE, "busy", capture="c/2"),
    Try("lease", "quic", Mark.PASSED, "", 0.25, lived_on=True),
]


def campaign(silence: float) -> Campaign:
    return Campaign(silence, 5, 1_763_719_000.0, 600.0, (1.0, 4.0), MACHINE, rows(WHATS, TRIES), findings(TRIES))


@pytest.mark.parametrize("transport", PUNCHABLE)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_case_is_of_a_network_that_can_be_built_and_holds_its_target(case, transport: str) -> None:  # type: ignore[no-untyped-def]
    plan = build(case_topology(case, transport), 1)
    assert case.target in {space.name for space in plan.spaces}
    assert str(parse(case.event)) == case.event
    assert {launch.transports for launch in plan.launches} == {(transport,)}


def test_only_what_came_back_has_seconds() -> None:
    move, lease = rows(WHATS, TRIES)
    assert (move.tries, move.inconclusive, move.resumed, move.lived_on) == (5, 1, 3, 0)
    assert (move.median, move.most) == (7.0, 20.0)
    assert (lease.case, lease.transport, lease.lived_on, lease.median) == ("lease", "quic", 1, 0.25)


def test_where_nothing_came_back_there_are_none() -> None:
    (row,) = rows(WHATS, TRIES[3:4])
    assert (row.resumed, row.median, row.most) == (0, None, None)


def test_a_campaign_is_kept_by_its_configuration_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "resuming.json"
    save(path, campaign(2.0))
    save(path, replace(campaign(15.0), rounds=1))
    save(path, campaign(15.0))
    assert load(path) == (campaign(15.0), campaign(2.0))


@pytest.mark.parametrize("text", ["", "{}", '[{"silence": 1.0}]', "[1]"])
def test_what_is_no_campaign_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "resuming.json"
    path.write_text(text)
    with pytest.raises(LabError, match=r"resuming\.json"):
        load(path)


def test_the_page_shows_each_case_and_what_failed() -> None:
    lines = resumedoc.page([campaign(15.0)]).splitlines()
    assert "| it moves | tcp | 3 of 4 | 0 | 7.0 s | 20.0 s | 1 |" in lines
    assert "- move over tcp: FAILED: bob is silent (c/1)" in lines
    assert "- move over tcp: INCONCLUSIVE: busy (c/2)" in lines


def test_the_page_in_the_documentation_is_that_of_its_measurements() -> None:
    seen = DOCS / "resuming.json"
    page = resumedoc.page(load(seen) if seen.exists() else ())
    assert (DOCS / "resuming.md").read_text("utf-8") == page, "run `make docs`"
