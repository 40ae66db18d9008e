"""What becomes of packets on a link: shares come out as asked, in an order that repeats itself."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.model.impairment import IDEAL, Impairment
from lab.observe.quality import loss_tolerance
from lab.plan.fate import NO_FLIP, Passage

MANY = 20_000


def departures(impairment: Impairment, arrivals: list[tuple[float, int]], seed: str = "1") -> list[float | None]:
    passage = Passage(impairment, seed)
    return [passage.departs(at, length) for at, length in arrivals]


def evenly(count: int, gap: float = 0.01, length: int = 100) -> list[tuple[float, int]]:
    return [(number * gap, length) for number in range(count)]


impairments = st.builds(
    lambda latency, jitter, loss, burst, reorder, rate: Impairment(
        latency, latency * jitter, loss, burst, reorder=reorder if latency else 0.0, rate=rate
    ),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0, 0.5),
    st.none() | st.floats(1, 20),
    st.floats(0, 1),
    st.none() | st.integers(8_000, 10**9),
)
trains = st.lists(st.tuples(st.floats(0, 10), st.integers(20, 1500)), max_size=50).map(sorted)


@settings(max_examples=100)
@given(impairments, trains, st.integers())
def test_the_same_seed_and_packets_have_the_same_fate(
    impairment: Impairment, train: list[tuple[float, int]], seed: int
) -> None:
    assert departures(impairment, train, str(seed)) == departures(impairment, train, str(seed))


@settings(max_examples=100)
@given(impairments, trains)
def test_no_packet_leaves_before_it_came(impairment: Impairment, train: list[tuple[float, int]]) -> None:
    for (at, _), left in zip(train, departures(impairment, train), strict=True):
        assert left is None or left >= at


@settings(max_examples=100)
@given(impairments.filter(lambda it: not it.reorder), trains)
def test_packets_keep_their_order_unless_reordering_is_asked_for(
    impairment: Impairment, train: list[tuple[float, int]]
) -> None:
    left = [at for at in departures(impairment, train) if at is not None]
    assert left == sorted(left)


def test_an_ideal_link_takes_no_time() -> None:
    train = evenly(100)
    assert departures(IDEAL, train) == [at for at, _ in train]


@pytest.mark.parametrize(
    "impairment",
    [
        Impairment(loss=0.005),
        Impairment(loss=0.3),
        Impairment(loss=1.0),
        Impairment(loss=0.02, loss_burst=4.0),
        Impairment(loss=0.02, loss_burst=1.0),
        Impairment(loss=0.3, loss_burst=20.0),
    ],
)
def test_as_many_are_lost_as_asked(impairment: Impairment) -> None:
    lost = [left is None for left in departures(impairment, evenly(MANY))]
    assert abs(sum(lost) / MANY - impairment.loss) <= loss_tolerance(impairment, MANY)


def test_bursts_are_as_long_as_asked() -> None:
    lost = [left is None for left in departures(Impairment(loss=0.05, loss_burst=5.0), evenly(100_000))]
    bursts = sum(here and not before for before, here in zip([False, *lost], lost, strict=False))
    assert sum(lost) / bursts == pytest.approx(5.0, rel=0.15)


def test_another_seed_loses_others() -> None:
    impairment = Impairment(loss=0.1)
    assert departures(impairment, evenly(200), "1") != departures(impairment, evenly(200), "2")


def test_more_jitter_loses_the_same_packets() -> None:
    calm, wild = Impairment(0.1, loss=0.1), Impairment(0.1, 0.1, loss=0.1)
    lost = [[left is None for left in departures(it, evenly(500))] for it in (calm, wild)]
    assert lost[0] == lost[1]


def test_jitter_is_even_around_the_latency() -> None:
    impairment = Impairment(latency=0.02, jitter=0.005)
    delays = [
        (left or 0.0) - at
        for (at, _), left in zip(evenly(MANY, 0.02), departures(impairment, evenly(MANY, 0.02)), strict=True)
    ]
    assert 0.015 <= min(delays) < 0.0151
    assert 0.0249 < max(delays) <= 0.025
    assert sum(delays) / MANY == pytest.approx(0.02, abs=0.0001)


def test_packets_follow_each_other_at_the_rate() -> None:
    left = departures(Impairment(rate=1_000_000), [(0.0, 1250)] * 5)
    assert left == pytest.approx([0.01, 0.02, 0.03, 0.04, 0.05])


def test_what_the_buffer_has_no_room_for_is_dropped() -> None:
    passage = Passage(Impairment(rate=1_000_000, buffer=2500), "1")
    left = [passage.departs(0.0, 1250) for _ in range(5)]
    assert left == [pytest.approx(0.01), pytest.approx(0.02), None, None, None]
    assert (passage.dropped, passage.lost) == (3, 0)
    assert passage.departs(0.02, 1250) == pytest.approx(0.03)


def test_the_latency_comes_on_top_of_the_wait_for_the_rate() -> None:
    assert departures(Impairment(latency=0.1, rate=1_000_000), [(0.0, 1250)]) == [pytest.approx(0.11)]


def test_those_that_overtake_do_not_wait_for_the_latency() -> None:
    train = evenly(MANY, 0.001)
    delays = [
        round((left or 0.0) - at, 9)
        for (at, _), left in zip(train, departures(Impairment(0.02, reorder=0.1), train), strict=True)
    ]
    assert set(delays) == {0.0, 0.02}
    assert delays.count(0.0) / MANY == pytest.approx(0.1, abs=3 * math.sqrt(0.09 / MANY))


def test_as_many_are_doubled_and_spoilt_as_asked() -> None:
    passage = Passage(Impairment(duplicate=0.1, corrupt=0.05), "1")
    fates = [passage.rewrite(80) for _ in range(MANY)]
    assert sum(twice for twice, _ in fates) / MANY == pytest.approx(0.1, abs=0.007)
    flipped = [bit for _, bit in fates if bit != NO_FLIP]
    assert len(flipped) / MANY == pytest.approx(0.05, abs=0.005)
    assert 0 <= min(flipped) < 20
    assert 620 < max(flipped) < 640


def test_a_packet_without_payload_is_not_spoilt() -> None:
    assert Passage(Impairment(corrupt=1.0), "1").rewrite(0) == (False, NO_FLIP)


@pytest.mark.parametrize(
    ("impairment", "ordered"),
    [(Impairment(0.1, loss=0.1), False), (Impairment(0.1, 0.01), True), (Impairment(rate=10_000), True)],
)
def test_a_link_with_a_memory_says_so(impairment: Impairment, ordered: bool) -> None:
    assert Passage(impairment, "1").ordered is ordered
