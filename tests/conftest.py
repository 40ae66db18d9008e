"""What all tests share."""

from __future__ import annotations

from hypothesis import settings

# A property that holds on a loaded machine holds: how long an example takes is no part of it.
settings.register_profile("punchlab", deadline=None)
settings.load_profile("punchlab")
