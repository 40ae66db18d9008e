"""Counts, rates and latencies, by a clock that jumps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.logic.traffic import IN, OTHER, OUT, PEERS, PROTOCOLS, Bucket, Latencies, Rates, Traffic


def test_a_debt_is_paid_in_the_time_that_the_rate_gives_it() -> None:
    bucket = Bucket(1000, 0.0)
    bucket.spend(1000, 0.0)
    assert bucket.wait(0.0) == 0.0
    bucket.spend(500, 0.0)
    assert bucket.wait(0.0) == 0.5
    assert bucket.wait(0.25) == 0.25
    assert bucket.wait(0.5) == 0.0


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(0, 5000)), max_size=50))
def test_whoever_waits_for_its_turn_stays_within_rate_and_burst(steps: list[tuple[float, int]]) -> None:
    bucket, now, passed, last = Bucket(1000, 0.0), 0.0, 0, 0
    for pause, size in steps:
        now += pause
        now += bucket.wait(now)
        bucket.spend(size, now)
        passed, last = passed + size, size
    assert passed - last <= 1000 * now + 1000 + 1e-6


def test_the_rate_of_a_peer_is_its_own_and_that_of_all_is_shared() -> None:
    traffic = Traffic(Rates(total=(4000, None), peer=(1000, 1000)))
    alice, bob = (traffic.account(peer, "/echo", 0.0) for peer in ("alice", "bob"))
    alice.passed(IN, 2000, 0.0)
    assert (alice.wait(IN, 0.0), bob.wait(IN, 0.0), alice.wait(OUT, 0.0)) == (1.0, 0.0, 0.0)
    bob.passed(IN, 6000, 0.0)
    assert traffic.account("carol", "/echo", 0.0).wait(IN, 0.0) == 1.0


def test_a_second_stream_of_a_peer_has_no_rate_of_its_own() -> None:
    traffic = Traffic(Rates(peer=(None, 1000)))
    traffic.account("alice", "/echo", 0.0).passed(OUT, 3000, 0.0)
    assert traffic.account("alice", "/perf", 0.0).wait(OUT, 0.0) == 2.0


def test_bytes_are_counted_by_protocol_and_peer_but_for_relayed_ones_once() -> None:
    traffic = Traffic()
    traffic.account("alice", "/hop", 0.0).passed(IN, 10, 0.0)
    traffic.account("alice", "/echo", 0.0, limited=False).passed(IN, 7, 0.0)
    assert traffic.by_protocol() == {"/hop": (10, 0), "/echo": (7, 0)}
    assert traffic.of_peer("alice") == (10, 0)
    assert traffic.of_peer("bob") == (0, 0)


def test_protocols_and_peers_without_end_do_not_fill_the_memory() -> None:
    traffic, latencies = Traffic(), Latencies()
    for number in range(2 * PEERS):
        traffic.account(number, f"/{number}", 0.0).passed(OUT, 1, 0.0)
        latencies.record(number, 1.0)
    assert len(traffic.by_protocol()) == PROTOCOLS + 1
    assert traffic.by_protocol()[OTHER] == (0, 2 * PEERS - PROTOCOLS)
    assert traffic.of_peer(0) == (0, 0)
    assert traffic.of_peer(2 * PEERS - 1) == (0, 1)
    assert latencies.of(0) is None


def test_a_peer_is_slow_by_its_average_and_not_by_one_measurement() -> None:
    latencies = Latencies(threshold=0.2)
    assert latencies.record("alice", 0.1) is None
    assert latencies.record("alice", 0.6) is None
    assert latencies.of("alice") == pytest.approx(0.15)
    assert latencies.record("alice", 1.1) is True
    assert latencies.record("alice", 1.1) is None
    told = [latencies.record("alice", 0.01) for _ in range(20)]
    assert told.count(False) == 1
    assert told.count(None) == 19
