"""A hundred homes on one machine."""

from __future__ import annotations

from collections.abc import Callable

from tests.bench.homes import run

Inside = Callable[[Callable[[], None]], None]


def test_a_hundred_homes_are_built_and_leave_nothing(inside: Inside) -> None:
    def check() -> None:
        # Each round makes a sandbox of its own. In this one nobody else makes interfaces, as an engine does outside.
        result = run(100, rounds=1)
        assert result.namespaces == 201
        assert result.leftovers == ()

    inside(check)
