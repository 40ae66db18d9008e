"""What trains of probes tell about a link."""

from __future__ import annotations

import random
from statistics import pstdev

import pytest

from lab.model.impairment import Impairment
from lab.observe.quality import (
    Arrival,
    LinkReport,
    Load,
    Row,
    Train,
    compare,
    corrupted,
    delay,
    duplicated,
    loss,
    loss_tolerance,
    lost_runs,
    overtaking,
    rate,
    sent_at,
)
from lab.plan.fate import Passage
from lab.report.linkdoc import page
from lab.report.links import from_json, link_table, load_table, summary, to_json
from lab.run.links import Case, take_turns


def train(numbers: list[int], sent: int, took: float = 0.02) -> Train:
    return Train(sent, tuple(Arrival(n, n * 0.1, n * 0.1 + took, 100) for n in numbers))


def carried(asked: Impairment, sent: int, gap: float, seed: str = "1") -> Train:
    """What an exact link makes of evenly sent probes."""
    passage = Passage(asked, seed)
    left = [(passage.departs(n * gap, 1000), n) for n in range(sent)]
    came = sorted((at, n) for at, n in left if at is not None)
    return Train(sent, tuple(Arrival(n, n * gap, at, 1000) for at, n in came))


def test_what_did_not_come_is_lost() -> None:
    assert loss(train([0, 1, 4, 5, 9], 10)) == 0.5
    assert lost_runs(train([0, 1, 4, 5, 9], 10)) == [2, 3]
    assert lost_runs(train([], 3)) == [3]


def test_what_came_twice_is_a_duplicate_and_not_lost() -> None:
    twice = train([0, 1, 1, 2, 3], 4)
    assert (duplicated(twice), loss(twice)) == (0.25, 0.0)


def test_what_could_not_be_read_was_spoilt() -> None:
    assert corrupted(train([0, -1, 2, 3], 4)) == 0.25
    assert duplicated(train([-1, -1, 2, 3], 4)) == 0.0


def test_only_those_overtake_that_come_before_an_earlier_one() -> None:
    assert overtaking(train([0, 1, 4, 2, 3, 5], 6)) == pytest.approx(1 / 6)
    assert overtaking(train([0, 1, 2], 3)) == 0.0


def test_delays_are_quantiles() -> None:
    assert delay(train([0, 1, 2], 3), 0.5) == pytest.approx(0.02)
    assert delay(Train(3, ()), 0.5) == 0.0


def test_the_rate_is_counted_from_the_first_arrival_on() -> None:
    assert rate(Train(3, tuple(Arrival(n, 0.0, n * 0.01, 1250) for n in range(3)))) == pytest.approx(1_000_000)
    assert rate(train([0], 1)) == 0.0


def test_a_link_that_has_nothing_to_send_is_not_slow() -> None:
    passage = Passage(Impairment(0.02, rate=1_000_000, buffer=25_000), "1")
    sent = [n * 0.005 + (0.5 if n > 300 else 0.0) for n in range(600)]
    left = [(passage.departs(at, 1000), at, n) for n, at in enumerate(sent)]
    made = Train(600, tuple(Arrival(n, was, at, 1000) for at, was, n in left if at is not None))
    first, last = made.arrivals[0].at, made.arrivals[-1].at
    assert len(made.arrivals) * 8000 / (last - first) < 950_000, "it was idle for a third of a second"
    assert rate(made, 0.02) == pytest.approx(1_000_000)


def test_losses_in_bursts_have_the_standard_error_of_gilberts_chain() -> None:
    asked, sent = Impairment(loss=0.02, loss_burst=4.0), 2000
    rows = [compare("link", asked, carried(asked, sent, 0.001, str(seed))) for seed in range(150)]
    shares, bursts = ([row.measured for row in column] for column in zip(*rows, strict=True))
    # The spread of 150 trials is known to 6 %; three of its own standard errors. Bursts are some ten in each.
    assert 3 * pstdev(shares, 0.02) == pytest.approx(loss_tolerance(asked, sent), rel=0.18)
    assert 3 * pstdev(bursts, 4.0) == pytest.approx(rows[0][1].tolerance, rel=0.25)
    assert loss_tolerance(asked, sent) > 2.5 * loss_tolerance(Impairment(loss=0.02), sent)


def test_a_link_that_loses_nothing_has_no_bursts_of_the_length_that_was_asked_for() -> None:
    rows = compare("link", Impairment(loss=0.02, loss_burst=4.0), carried(Impairment(), 60_000, 0.001))
    assert [row.ok for row in rows] == [False, False]


def test_bursts_leave_more_to_chance_than_single_losses() -> None:
    single, bursts = Impairment(loss=0.02), Impairment(loss=0.02, loss_burst=8.0)
    assert loss_tolerance(bursts, 1000) > 2 * loss_tolerance(single, 1000)


@pytest.mark.parametrize(
    ("asked", "sent", "gap", "quantities"),
    [
        (Impairment(0.02), 100, 0.01, {"delay"}),
        (Impairment(0.02, 0.005), 500, 0.02, {"delay", "jitter"}),
        (Impairment(loss=0.05), 5000, 0.001, {"loss"}),
        (Impairment(loss=0.05, loss_burst=4.0), 5000, 0.001, {"loss", "loss burst"}),
        (Impairment(0.02, reorder=0.05), 5000, 0.002, {"reorder"}),
        (Impairment(0.01, rate=1_000_000, buffer=25_000), 1000, 0.005, {"rate", "full buffer"}),
    ],
)
def test_an_exact_link_is_within_every_tolerance(
    asked: Impairment, sent: int, gap: float, quantities: set[str]
) -> None:
    rows = compare("link", asked, carried(asked, sent, gap))
    assert {row.quantity for row in rows} == quantities
    assert all(row.ok for row in rows), rows


@pytest.mark.parametrize(
    ("asked", "real", "sent", "gap"),
    [
        (Impairment(0.02), Impairment(0.0207), 100, 0.01),
        (Impairment(0.02, 0.005), Impairment(0.02, 0.001), 500, 0.02),
        (Impairment(loss=0.05), Impairment(loss=0.08), 5000, 0.001),
        (Impairment(loss=0.05, loss_burst=8.0), Impairment(loss=0.05), 5000, 0.001),
        (Impairment(0.02, reorder=0.05), Impairment(0.02), 5000, 0.002),
        (Impairment(rate=1_000_000), Impairment(rate=1_100_000), 1000, 0.005),
    ],
)
def test_another_link_than_the_one_asked_for_is_found_out(
    asked: Impairment, real: Impairment, sent: int, gap: float
) -> None:
    assert not all(row.ok for row in compare("link", asked, carried(real, sent, gap)))


def test_the_pace_of_a_train_is_that_of_the_probes_that_came() -> None:
    train = carried(Impairment(0.02, loss=0.3), 500, 0.01)
    assert sent_at(train) == pytest.approx(100)
    assert sent_at(Train(500, ())) == 0.0


def test_cases_take_turns_where_their_probes_are_too_many_at_once() -> None:
    full = Impairment(rate=1_000_000)
    some = (Case("a", Impairment(), 1, 500), Case("b", Impairment(), 1, 500), Case("c", full, 1, 5000))
    assert list(take_turns((some, some[:1]), 1000)) == [some[:2], some[2:], some[:1]]
    assert list(take_turns((some, some[:1]), 10_000)) == [some, some[:1]]


def test_no_case_is_faster_than_the_pace_but_one_that_has_to_overfill_a_buffer() -> None:
    fast, full = Case("a", Impairment(), 9, 5000), Case("b", Impairment(rate=1_000_000), 9, 5000)
    assert [case.rate for turn in take_turns(((fast, full),), 1000) for case in turn] == [1000, 5000]


def report() -> LinkReport:
    loads = (
        Load(10.0, 1.0, 10, 10, 0.02, 0.0204),
        Load(20.0, 1.0, 20, 20, 0.0204, 0.021),
        Load(30.0, 1.0, 30, 30, 0.021, 0.03),
        Load(40.0, 1.0, 40, 39, 0.02, 0.02),
        Load(50.0, 1.0, 50, 50, 0.02, 0.02),
    )
    rows = (Row("latency", "delay", 0.02, 0.0201, 0.0005, "s"), Row("loss", "loss", 0.05, 0.2, 0.01, "share"))
    return LinkReport("userspace", "", "6.18", "3.11", 2, rows, (), loads, 0.02)


def test_a_link_carries_what_it_bore_before_the_first_loss_and_the_first_delay() -> None:
    assert report().capacity == 30
    assert (report().on_time, report().all_on_time) == (20, 10)
    assert summary(report()) == (
        "1 of 2 within tolerance; links by userspace; 30 packets/s without loss, 20 with the median delay within"
        " tolerance, 10 with 99 of 100"
    )


def test_a_report_is_read_back_as_it_was_saved() -> None:
    assert from_json(to_json(report())) == report()


def test_the_tables_have_a_row_for_everything() -> None:
    assert (link_table(report()).row_count, load_table(report()).row_count) == (2, 5)


def test_the_page_names_every_preset_and_what_was_measured() -> None:
    text = page(report())
    assert "| `wifi-bad` | both | 25ms ± 20ms | 2%, 4 in a row | 10Mbit/s | 100 ms |" in text
    assert "| latency | delay | 20.00 ms | 20.10 ms | ±0.50 ms | ✓ |" in text
    assert "| loss | loss | 5% | 20% | ±1% | ✗ |" in text
    assert "No measurements" in page()


def test_chance_does_not_leak_between_links() -> None:
    random.seed(1)
    first = carried(Impairment(loss=0.5), 50, 0.1)
    random.seed(2)
    assert carried(Impairment(loss=0.5), 50, 0.1) == first
