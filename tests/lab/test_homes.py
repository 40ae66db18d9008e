"""A hundred homes on one machine."""

from __future__ import annotations

from collections.abc import Callable

from tests.bench.homes import run

Inside = Callable[[Callable[[], None]], None]


def test_a_hundred_homes_are_built_and_leave_nothing(inside: Inside) -> None:
    inside(lambda: None)  # skips where there are no sandboxes; each round makes its own
    result = run(100, rounds=1)
    assert result.namespaces == 201
    assert result.leftovers == ()
