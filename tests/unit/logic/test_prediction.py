"""Who fans, who sweeps, at which ports, and when nothing is to be done; the two sides always fit together."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.logic.nat import Filtering, Mapping, NatKind
from node.logic.prediction import (
    BLOCK_SOCKETS,
    FRESH_SOCKETS,
    HOSTS,
    PORTS,
    PROBES,
    SOCKETS,
    SPRAY_WINDOW,
    SPRAYS_PER_HOST,
    Budget,
    NoPlan,
    Part,
    Plan,
    Sample,
    Way,
    allocation_of,
    chance_of_a_hit,
    due,
    is_open,
    plan,
)
from node.wire.predict import WINDOW, Allocation, Offer

ALICE, BOB = IPv4Address("11.0.1.2"), IPv4Address("11.0.2.2")
KNOWN, SEQUENTIAL, FRESH, RANDOM = Allocation.KNOWN, Allocation.SEQUENTIAL, Allocation.FRESH, Allocation.RANDOM
SYMMETRIC = NatKind(Mapping.ADDRESS_AND_PORT_DEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT)


def draw(numbers: range, count: int) -> list[int]:
    return random.Random(1).sample(numbers, count)


def offer(allocation: Allocation, ip: IPv4Address, *, spray: bool = True, opened: bool = False) -> Offer:
    ports = {KNOWN: (4001,), RANDOM: ()}.get(allocation, tuple(range(30000, 30000 + WINDOW)))
    return Offer(allocation, ip, ports, opened, spray)


def both(one: Offer, other: Offer) -> tuple[Plan | NoPlan, Plan | NoPlan]:
    return plan(one, other, opens=True, draw=draw), plan(other, one, opens=False, draw=draw)


@pytest.mark.parametrize("spray", [True, False])
@pytest.mark.parametrize(("one", "other"), list(itertools.product(Allocation, Allocation)))
def test_both_sides_come_to_parts_that_fit(one: Allocation, other: Allocation, spray: bool) -> None:
    mine, theirs = offer(one, ALICE), offer(other, BOB, spray=spray)
    planned = both(mine, theirs)
    if any(isinstance(each, NoPlan) for each in planned):
        assert planned[0] == planned[1]
        return
    alice, bob = (each for each in planned if isinstance(each, Plan))
    assert {alice.part, bob.part} == {Part.FAN, Part.SWEEP}
    assert (alice.way, alice.ip, bob.ip) == (bob.way, BOB, ALICE)
    fan, sweep = (alice, bob) if alice.part is Part.FAN else (bob, alice)
    aimed_at = theirs if fan is alice else mine
    swept = mine if fan is alice else theirs
    assert fan.ports[0] in aimed_at.ports
    assert sweep.ports == swept.ports or (sweep.way is Way.SPRAY and len(set(sweep.ports)) == PROBES)
    assert fan.sockets == (SOCKETS if fan.way is Way.SPRAY else WINDOW)


WAYS = {
    (KNOWN, SEQUENTIAL): Way.PREDICTED,
    (KNOWN, FRESH): Way.PREDICTED,
    (SEQUENTIAL, SEQUENTIAL): Way.PREDICTED,
    (SEQUENTIAL, FRESH): Way.PREDICTED,
    (KNOWN, RANDOM): Way.SPRAY,
}


@pytest.mark.parametrize(("one", "other"), list(itertools.product(Allocation, Allocation)))
def test_what_can_be_tried_is_tried_and_nothing_else(one: Allocation, other: Allocation) -> None:
    planned, _ = both(offer(one, ALICE), offer(other, BOB))
    assert (planned.way if isinstance(planned, Plan) else None) == WAYS.get((one, other), WAYS.get((other, one)))


def test_nothing_is_tried_where_plain_punching_does_or_one_side_does_not_want_it() -> None:
    known, random_ = offer(KNOWN, ALICE), offer(RANDOM, BOB)
    for one, other, why in (
        (replace(known, open=True), random_, "lets in every port"),
        (known, replace(random_, ip=ALICE), "behind one address"),
        (known, replace(random_, spray=False), "not both spray"),
        (replace(known, ports=()), random_, "which ports are to be expected"),
        (known, offer(KNOWN, BOB), "a port for all destinations"),
    ):
        for planned in both(one, other):
            assert isinstance(planned, NoPlan)
            assert why in planned.why


@given(st.integers(0, 1), st.integers(0, 7), st.integers(0, 7))
def test_two_nats_that_count_meet_though_others_use_them_too(step: int, ahead_a: int, ahead_b: int) -> None:
    """The NATs' own rule, played through: a datagram arrives where one that left has opened exactly its way."""
    if ahead_a + ahead_b >= WINDOW // 2:
        return
    size = step + 1
    one = Offer(SEQUENTIAL, ALICE, tuple(20000 + size * n for n in range(1, WINDOW + 1)))
    other = Offer(SEQUENTIAL, BOB, tuple(50000 + size * n for n in range(1, WINDOW + 1)))
    sweep, fan = both(one, other)
    assert isinstance(sweep, Plan)
    assert isinstance(fan, Plan)
    assert (sweep.part, fan.part) == (Part.SWEEP, Part.FAN)
    left = {(20000 + size * (n + ahead_a), port) for n, port in enumerate(sweep.ports, 1)}
    opened = {(fan.ports[0], 50000 + size * (n + ahead_b)) for n in range(1, fan.sockets + 1)}
    assert left & opened


@pytest.mark.parametrize(
    ("seen", "swept"),
    [
        ((30000, 30100, 30050), range(29589, 30512)),
        ((30000, 30511, 30050), range(30000, 30512)),
        ((1024, 1030, 1100), range(1024, 1536)),
        ((65535, 65530, 65400), range(65024, 65536)),
    ],
)
def test_a_block_is_swept_where_it_can_be_and_by_fewer_sockets(seen: tuple[int, ...], swept: range) -> None:
    sweep, fan = both(offer(KNOWN, ALICE), replace(offer(RANDOM, BOB), ports=seen))
    assert isinstance(sweep, Plan)
    assert isinstance(fan, Plan)
    assert sorted(sweep.ports) == list(swept)
    assert (fan.sockets, fan.expected, sweep.expected) == (BLOCK_SOCKETS, 1.0, 1.0)


def test_ports_that_are_far_apart_are_from_no_block() -> None:
    sweep, fan = both(offer(KNOWN, ALICE), replace(offer(RANDOM, BOB), ports=(30000, 30512, 30100)))
    assert isinstance(sweep, Plan)
    assert isinstance(fan, Plan)
    assert (len(sweep.ports), fan.sockets) == (PROBES, SOCKETS)


# ── what we offer ────────────────────────────────────────────────────────────────────────────────────────────────────


def samples(*pairs: tuple[int, int]) -> list[Sample]:
    return [Sample(*pair) for pair in pairs]


def test_a_nat_that_counts_goes_on_counting_by_its_step() -> None:
    allocation, ports = allocation_of(SYMMETRIC, samples((1, 5000), (2, 5002), (3, 5006)), [])
    assert allocation is SEQUENTIAL
    assert ports == tuple(range(5008, 5008 + 2 * WINDOW, 2))


def test_a_sequence_ends_where_ports_do() -> None:
    _, ports = allocation_of(SYMMETRIC, samples((1, 65530), (2, 65531), (3, 65532)), [])
    assert ports == (65533, 65534, 65535)


def test_one_that_keeps_fresh_ports_gives_those_of_the_fan() -> None:
    kept = samples((40001, 40001), (40007, 40007), (40003, 40003))
    assert allocation_of(SYMMETRIC, kept, [41000, 41001]) == (FRESH, (41000, 41001))


def test_one_that_maps_by_address_cannot_sweep() -> None:
    kind = replace(SYMMETRIC, mapping=Mapping.ADDRESS_DEPENDENT)
    assert allocation_of(kind, samples((1, 100), (2, 101), (3, 102)), [])[0] is FRESH


@pytest.mark.parametrize("external", [(7000, 9000, 8000), (7000, 7000, 7000), (7002, 7001, 7000), (7000, 7001, 7100)])
def test_anything_else_is_drawn(external: tuple[int, ...]) -> None:
    assert allocation_of(SYMMETRIC, [Sample(1, port) for port in external], []) == (RANDOM, external)


def test_without_samples_a_port_cannot_be_foretold_and_without_a_kind_nothing_can() -> None:
    assert allocation_of(SYMMETRIC, samples((1, 100)) * (FRESH_SOCKETS - 1), []) == (RANDOM, ())
    assert allocation_of(NatKind(), [], []) == (Allocation.UNKNOWN, ())
    assert allocation_of(NatKind(Mapping.ENDPOINT_INDEPENDENT), [], []) == (KNOWN, ())


def test_open_is_who_lets_in_every_port() -> None:
    assert [is_open(replace(SYMMETRIC, filtering=each)) for each in Filtering] == [False, True, True, False]


# ── how much, how fast, how often ────────────────────────────────────────────────────────────────────────────────────


def test_the_chance_of_a_hit_is_that_of_the_birthday_paradox() -> None:
    assert chance_of_a_hit(1, 1, 10) == pytest.approx(0.1)
    assert chance_of_a_hit(2, 2, 4) == pytest.approx(1 - (2 / 4) * (1 / 3))
    assert chance_of_a_hit(3, 2, 4) == pytest.approx(1.0)
    assert chance_of_a_hit(0, 5, 10) == 0.0
    assert chance_of_a_hit(SOCKETS, PROBES) == pytest.approx(1 - math.exp(-SOCKETS * PROBES / len(PORTS)), abs=2e-3)
    chance = random.Random(7)
    drawn = [not set(chance.sample(PORTS, 128)).isdisjoint(chance.sample(PORTS, 256)) for _ in range(1000)]
    assert sum(drawn) / len(drawn) == pytest.approx(chance_of_a_hit(128, 256), abs=0.05)


def test_a_plan_says_how_long_it_may_take() -> None:
    for one, other in (pair for pair in itertools.product(Allocation, Allocation) if pair in WAYS):
        for planned in both(offer(one, ALICE), offer(other, BOB)):
            assert isinstance(planned, Plan)
            count = max(planned.sockets, len(planned.ports))
            assert planned.delay + count / planned.rate < planned.seconds < 10
            assert (planned.expected is None) == (planned.way is Way.PREDICTED)


def test_datagrams_are_due_by_their_rate() -> None:
    assert [due(elapsed, 100.0, 5) for elapsed in (0.0, 0.009, 0.011, 0.045, 9.0)] == [1, 1, 2, 5, 5]


def test_an_address_is_sprayed_at_so_often_and_all_of_them_together_so_often() -> None:
    budget = Budget()
    assert [budget.take(ALICE, float(n)) for n in range(SPRAYS_PER_HOST + 1)] == [True] * SPRAYS_PER_HOST + [False]
    assert budget.take(ALICE, SPRAY_WINDOW + 0.5)
    others = [IPv4Address(int(BOB) + n) for n in range(HOSTS)]
    assert sum(budget.take(other, SPRAY_WINDOW + 1.0) for other in others) == HOSTS - 1
    assert budget.take(others[-1], 3 * SPRAY_WINDOW)
