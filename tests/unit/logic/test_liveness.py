"""Whom to ask for a sign of life, by a clock that jumps."""

from __future__ import annotations

from node.logic.liveness import Liveness


def test_a_kept_connection_is_asked_once_it_was_silent_long_enough() -> None:
    plan: Liveness[str] = Liveness(silence=10.0)
    plan.look("a", 100, 0.0)
    plan.look("a", 100, 9.0)
    assert plan.due(["a"], 9.9) == []
    assert plan.due(["a"], 10.0) == ["a"]


def test_whatever_comes_in_is_a_sign_of_life() -> None:
    plan: Liveness[str] = Liveness(silence=10.0)
    plan.look("a", 100, 0.0)
    plan.look("a", 101, 9.0)
    assert plan.due(["a"], 18.9) == []
    assert plan.due(["a"], 19.0) == ["a"]


def test_who_is_being_asked_is_not_asked_again_until_there_is_an_answer() -> None:
    plan: Liveness[str] = Liveness(silence=10.0)
    plan.look("a", 100, 0.0)
    assert plan.due(["a"], 10.0) == ["a"]
    assert plan.due(["a"], 30.0) == []
    assert plan.ask(["a", "b"]) == ["b"]
    plan.answered("a", 30.0)
    assert plan.due(["a"], 39.9) == []
    assert plan.due(["a"], 40.0) == ["a"]


def test_a_connection_that_is_over_is_forgotten() -> None:
    plan: Liveness[str] = Liveness(silence=10.0)
    plan.look("a", 100, 0.0)
    plan.due(["a"], 10.0)
    plan.forget("a")
    assert len(plan) == 0
    assert plan.due(["a"], 99.0) == []
    assert plan.ask(["a"]) == ["a"]


def test_what_began_or_was_heard_of_just_now_is_not_doubted() -> None:
    plan: Liveness[str] = Liveness(silence=10.0)
    plan.look("a", 100, 0.0)
    assert plan.is_fresh("a", 0.9)
    assert not plan.is_fresh("a", 1.0)
    plan.look("a", 101, 5.0)
    assert plan.is_fresh("a", 5.9)
    assert not plan.is_fresh("b", 5.9)
