"""What all tests share."""

from __future__ import annotations

import pytest
from hypothesis import settings

# A property that holds on a loaded machine holds: how long an example takes is no part of it.
settings.register_profile("punchlab", deadline=None)
settings.load_profile("punchlab")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Keep the exit status beside what failed, for `.ci/again.py`; the processes of a parallel run have none.

    Nor has a run without a cache (`-p no:cacheprovider`, as in `.ci/netem`).
    """
    cache = getattr(session.config, "cache", None)
    if cache is not None and not hasattr(session.config, "workerinput"):
        cache.set("punchlab/status", int(exitstatus))
