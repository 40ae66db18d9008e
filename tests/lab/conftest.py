"""What tests of the kernel ring share: a sandbox to run in, and one reason to skip where none can be made."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache

import pytest

from lab.errors import LabError
from lab.kernel import sandbox
from lab.kernel.container import Engine
from tests.support.containers import docker

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


@pytest.fixture(scope="module")
def engine() -> Engine:
    """Docker's engine with our image, or the reason why there is none."""
    try:
        found = Engine.find()
        found.require_rights()
        found.user_of("punchlab/node")
    except LabError as error:
        pytest.skip(str(error))
    return found


@pytest.fixture
def image(engine: Engine) -> Iterator[Callable[..., str]]:
    """Make an image of ours that starts something else, by that name or one of its own."""
    made: list[str] = []

    def make(lines: str, name: str = "") -> str:
        name = name or f"punchlab-test/{os.getpid()}-{len(made)}"
        docker("build", "--quiet", "--tag", name, "-", given=f"FROM punchlab/node\n{lines}\n")
        made.append(name)
        return name

    yield make
    for name in made:
        docker("image", "rm", "--force", name)
