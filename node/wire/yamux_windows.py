"""How far the receive windows of many yamux sessions may grow together.

A window grows for a stream whose reader is fast and then belongs to the peer: one that first reads its echoes and then
does not can fill it and leave it full. Sessions cannot know of each other, memory is one.
"""

from __future__ import annotations

from typing import Protocol


class Growth(Protocol):
    """What windows may grow by, whoever else takes of it."""

    def take(self, wanted: int) -> int:
        """Take up to `wanted` bytes, and return how many that were."""

    def give(self, size: int) -> None:
        """Return what was taken."""


class GrowthPool:
    """By how many bytes the receive windows of all who share it may exceed their initial size."""

    def __init__(self, size: int) -> None:
        self.left = size

    def take(self, wanted: int) -> int:
        """Take up to `wanted`, and return how much that was."""
        taken = min(wanted, self.left)
        self.left -= taken
        return taken

    def give(self, size: int) -> None:
        """Return what was taken."""
        self.left += size
