"""What tests of the kernel ring share: a sandbox to run in, and one reason to skip where none can be made."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from lab.kernel import sandbox

problem = cache(sandbox.problem)
DEADLINE = 300.0
"Seconds: the whole grid of NATs takes half a minute on a quiet machine, and several on one that is not."


@pytest.fixture
def inside() -> Callable[[Callable[[], None]], None]:
    """Run a check in a sandbox of its own; what fails in there fails here, with its traceback as a note."""
    if reason := problem():
        pytest.skip(reason)

    def run(check: Callable[[], None]) -> None:
        def main() -> bytes:
            check()
            return b"checked"

        assert sandbox.fork_into_sandbox(main, DEADLINE) == b"checked"

    return run
