import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.logic.limits import Bound, Budget, StreamBudgets


def test_one_owner_cannot_take_more_than_its_share() -> None:
    budget = Budget(Bound(total=10, each=2))
    assert [budget.take("a") for _ in range(3)] == [True, True, False]
    assert budget.take("b")


def test_all_owners_together_cannot_take_more_than_the_total() -> None:
    budget = Budget(Bound(total=3, each=2))
    assert [budget.take(owner) for owner in "abcd"] == [True, True, True, False]
    budget.give("a")
    assert budget.take("d")


def test_giving_back_what_was_not_taken_is_an_error() -> None:
    budget = Budget(Bound(total=3, each=2))
    with pytest.raises(ValueError, match="never took"):
        budget.give("a")


def test_a_bound_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Bound(total=0, each=1)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), max_size=60))
def test_counts_stay_within_the_bound_and_owners_without_any_are_forgotten(steps: list[tuple[bool, int]]) -> None:
    budget = Budget(Bound(total=5, each=2))
    held: list[int] = []
    for take, owner in steps:
        if take and budget.take(owner):
            held.append(owner)
        elif not take and owner in held:
            held.remove(owner)
            budget.give(owner)
        assert budget.taken == len(held) <= 5
        assert all(budget.taken_by(each) == held.count(each) <= 2 for each in range(5))
        assert len(budget) == len(set(held))


def test_ping_has_fewer_streams_for_a_peer_than_other_protocols() -> None:
    budgets = StreamBudgets()
    ping, other = budgets.of("/ipfs/ping/1.0.0"), budgets.of("/echo/1.0.0")
    assert ping.bound.each < other.bound.each
    assert budgets.of("/echo/1.0.0") is other
