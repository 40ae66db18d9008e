from hypothesis import given
from hypothesis import strategies as st

from node.logic.backoff import ENTRIES, LONGEST, Backoff, wait_after


def test_waits_are_five_seconds_plus_the_square_of_the_failures_before() -> None:
    assert [wait_after(n) for n in (1, 2, 3, 4, 10)] == [5.0, 6.0, 9.0, 14.0, 86.0]


@given(st.integers(min_value=1, max_value=10**9))
def test_no_wait_is_longer_than_five_minutes(failures: int) -> None:
    assert 5.0 <= wait_after(failures) <= LONGEST


def test_an_address_that_never_failed_is_free() -> None:
    assert Backoff().remaining("a", now=10.0) == 0.0


def test_an_address_is_left_alone_until_its_wait_is_over() -> None:
    backoff = Backoff()
    assert backoff.failed("a", now=100.0) == 5.0
    assert backoff.remaining("a", now=102.0) == 3.0
    assert backoff.remaining("a", now=105.0) == 0.0
    assert backoff.remaining("b", now=102.0) == 0.0


def test_failures_in_a_row_add_up_and_a_success_forgets_them() -> None:
    backoff = Backoff()
    now = 0.0
    waits = []
    for _ in range(4):
        wait = backoff.failed("a", now)
        waits.append(wait)
        now += wait
    assert waits == [5.0, 6.0, 9.0, 14.0]
    backoff.succeeded("a")
    assert backoff.failed("a", now) == 5.0


def test_a_failure_long_ago_does_not_count() -> None:
    backoff = Backoff()
    backoff.failed("a", now=0.0)
    assert backoff.failed("a", now=10.5) == 5.0


def test_memory_is_bounded_and_the_oldest_failure_goes_first() -> None:
    backoff = Backoff()
    for n in range(ENTRIES + 1):
        backoff.failed(n, now=0.0)
    assert len(backoff) == ENTRIES
    assert backoff.remaining(0, now=0.0) == 0.0
    assert backoff.remaining(1, now=0.0) == 5.0
