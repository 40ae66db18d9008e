"""What tests with Docker's engine share: its own command line, a sandbox for labs, and what is left of them."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

from lab.kernel import sandbox
from lab.kernel.container import RUN

DEADLINE = 240.0
"Seconds for one lab: starting a container is work for the engine, and it has others."
GONE_WITHIN = 60.0
"Seconds until the engine has removed what it was told to, on a busy machine."


def docker(*arguments: str, given: str = "") -> str:
    return subprocess.run(
        ["docker", *arguments], input=given, text=True, capture_output=True, timeout=180, check=True
    ).stdout


def containers(run: str = "") -> list[str]:
    """Those of a run, or of all labs."""
    return docker("ps", "--all", "--quiet", "--filter", f"label={RUN}={run}" if run else f"label={RUN}").split()


def assert_none_left(run: str) -> None:
    """A holder removes itself when its stdin ends, and the engine lists what is being removed until it has been."""
    deadline = time.monotonic() + GONE_WITHIN
    while (left := containers(run)) and time.monotonic() < deadline:
        pass
    assert not left


def in_containers(work: Callable[[], None]) -> None:
    def main() -> bytes:
        work()
        return b"done"

    assert sandbox.fork_into_sandbox(main, DEADLINE, own_users=False) == b"done"
