"""Success, attempts and seconds of punches: what counts, what does not, and the page that is made of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lab.errors import LabError
from lab.report import punchdoc
from lab.report.punches import MOST_ATTEMPTS, campaign, load, save, tallies, tally_line
from lab.report.results import Cell, Machine, Mark, Party, Results, Seconds
from lab.report.terminal import markdown

MACHINE = Machine(2, "Debian 12", "6.18", "3.11", "0.1.0")
DOCS = Path(__file__).parents[3] / "docs"


def cell(attempts: int | None, seconds: float, transport: str = "tcp", predicted: str = "direct") -> Cell:
    alice, bob, relay = (Party(name, "own", "1", "home", None) for name in ("alice", "bob", "relay"))
    seen = predicted if attempts is not None else "relayed"
    mark = Mark.PASSED if seen == predicted else Mark.FAILED
    took = Seconds(direct=seconds if seen == "direct" else None)
    return Cell(alice, bob, relay, transport, "", "", predicted, seen, mark, "why", took, "c", attempts)


def of(*cells: Cell) -> Results:
    return Results("r", 1_763_719_000.0, 60.0, MACHINE, cells)


ROUND = of(
    *(cell(1, 0.1 * number) for number in range(1, 19)),
    cell(2, 5.0),
    cell(None, 0.0),
    cell(None, 0.0, predicted="relayed"),
    replace(cell(None, 0.0), seen="", verdict=Mark.INCONCLUSIVE, why="busy"),
    cell(0, 0.5, "quic"),
)


def test_only_what_was_judged_and_possible_counts() -> None:
    tcp, quic = tallies(ROUND.cells)
    assert (tcp.cells, tcp.inconclusive, tcp.as_predicted, tcp.possible, tcp.direct) == (22, 1, 20, 20, 19)
    assert tcp.attempts == (0, 18, 1)
    assert tcp.first == pytest.approx(18 / 19)
    assert tcp.median == pytest.approx(1.0)
    assert tcp.p95 == pytest.approx(1.8 + 0.1 * 3.2)
    assert (quic.attempts, quic.first, quic.median, quic.p95) == ((1,), 1.0, 0.5, 0.5)


def test_a_line_says_it_in_words() -> None:
    tcp, _ = tallies(ROUND.cells)
    assert tally_line(tcp) == (
        "tcp: 19 of 20 possible direct; attempts 1: 18, 2: 1 (94.7 % at the first); median 1.00 s, p95 2.12 s; "
        "1 of 22 inconclusive"
    )
    assert tally_line(tcp) in markdown(ROUND)


def test_nothing_direct_has_no_seconds_and_no_attempts() -> None:
    (tally,) = tallies([cell(None, 0.0)])
    assert (tally.attempts, tally.first, tally.median, tally.p95) == ((), None, None, None)
    assert tally_line(tally) == "tcp: 0 of 1 possible direct"


def test_a_peer_that_counts_to_the_moon_makes_no_long_histogram() -> None:
    (tally,) = tallies([cell(10**9, 1.0)])
    assert len(tally.attempts) == MOST_ATTEMPTS + 1


def test_a_campaign_is_kept_by_its_link_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "punches.json"
    ideal, lossy = campaign(None, [ROUND]), campaign("loss=1%", [ROUND, ROUND])
    save(path, campaign("loss=1%", [ROUND]))
    save(path, ideal)
    save(path, lossy)
    assert load(path) == (ideal, lossy)
    assert (lossy.rounds, lossy.seconds, lossy.tallies[0].cells) == (2, 120.0, 44)
    assert [line for line in lossy.findings if "INCONCLUSIVE" in line] == []
    assert len(lossy.findings) == 2


@pytest.mark.parametrize("text", ["", "{}", '[{"link": ""}]', "[1]"])
def test_what_is_no_campaign_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "punches.json"
    path.write_text(text)
    with pytest.raises(LabError, match=r"punches\.json"):
        load(path)


def test_the_page_shows_each_campaign_and_what_failed() -> None:
    text = punchdoc.page([campaign("loss=1%", [ROUND])])
    row = "| loss=1% | tcp | 1 | 20 of 21 | 20 | 19 | 1: 18, 2: 1 | 94.7 % | 1.00 s | 2.12 s | 1 |"
    assert row in text.splitlines()
    assert "- loss=1%: home → home by tcp: FAILED: why (c)" in text


def test_the_page_in_the_documentation_is_that_of_its_measurements() -> None:
    seen = DOCS / "punches.json"
    assert (DOCS / "punches.md").read_text("utf-8") == punchdoc.page(load(seen) if seen.exists() else ()), (
        "run `make docs`"
    )
