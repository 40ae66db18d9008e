"""What was lost and when it is tried for, by a clock that jumps."""

from __future__ import annotations

from node.logic.backoff import wait_after
from node.logic.keeping import LOST, SHORT_LIVED, Keeping


def test_what_is_lost_is_tried_for_at_once_and_once_at_a_time() -> None:
    keeping: Keeping[str] = Keeping()
    assert keeping.get_timer(0.0) is None
    keeping.lost("a", 5.0)
    assert "a" in keeping
    assert keeping.get_timer(5.0) == 5.0
    assert keeping.due(5.0) == ["a"]
    assert keeping.due(6.0) == []
    assert keeping.get_timer(6.0) is None


def test_a_failure_makes_the_next_attempt_wait_and_another_network_does_not() -> None:
    keeping: Keeping[str] = Keeping()
    keeping.lost("a", 0.0)
    keeping.due(0.0)
    keeping.failed("a", 1.0)
    assert keeping.get_timer(1.0) == 1.0 + wait_after(1)
    assert keeping.due(1.0 + wait_after(1) - 0.1) == []
    keeping.moved()
    assert keeping.due(1.0) == ["a"]


def test_what_is_found_is_tried_for_no_more() -> None:
    keeping: Keeping[str] = Keeping()
    keeping.lost("a", 0.0)
    keeping.due(0.0)
    keeping.found("a", 1.0)
    assert "a" not in keeping
    assert (len(keeping), keeping.due(99.0)) == (0, [])


def test_what_is_lost_again_at_once_counts_as_a_failure_and_later_as_a_new_loss() -> None:
    keeping: Keeping[str] = Keeping()
    for again, timer in ((SHORT_LIVED - 0.1, wait_after(1)), (SHORT_LIVED, 0.0)):
        keeping.lost("a", 0.0)
        keeping.due(0.0)
        keeping.found("a", 0.0)
        keeping.lost("a", again)
        assert keeping.get_timer(again) == again + timer
        keeping.drop("a")


def test_what_is_dropped_is_forgotten_even_while_it_is_tried_for() -> None:
    keeping: Keeping[str] = Keeping()
    keeping.lost("a", 0.0)
    keeping.due(0.0)
    keeping.drop("a")
    assert (len(keeping), keeping.get_timer(9.0)) == (0, None)


def test_the_memory_is_bounded() -> None:
    keeping: Keeping[int] = Keeping()
    for number in range(LOST + 5):
        keeping.lost(number, 0.0)
    assert len(keeping) == LOST
