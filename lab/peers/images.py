"""The images of peers that run in containers; all take the flags of the contract."""

from __future__ import annotations

from typing import Final

from lab.plan.plan import Launch

OWN: Final = "punchlab/node"


def image_of(launch: Launch) -> str:
    """The image that the topology names, or what `make images` calls that of this implementation."""
    return launch.image or image_for(launch.impl)


def image_for(impl: str) -> str:
    """What `make images` calls the image of an implementation."""
    return OWN if impl == "own" else f"punchlab/{impl}"
