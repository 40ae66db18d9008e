"""What becomes of each packet on one direction of a link. Time and chance are arguments, so that it repeats itself.

    lost? → twice? → a bit flipped? → waits for the rate, or is dropped → overtakes? → latency ± jitter → departs

The order is netem's with a tbf below it, but for the rate, which comes before the latency: a packet is first put on
the wire and then travels. Every question has a stream of chance of its own, asked once for every packet that comes to
it, so that a link with more jitter loses the same packets.
"""

from __future__ import annotations

import random
from typing import Final

from lab.model.impairment import Impairment, gilbert

NO_FLIP: Final = -1


class Passage:
    """One direction of one link, on its way through a run."""

    __slots__ = (
        "_back",
        "_corrupting",
        "_duplicating",
        "_free",
        "_impairment",
        "_jitter",
        "_last",
        "_latency",
        "_leaving",
        "_losing",
        "_loss",
        "_out",
        "_per_byte",
        "_queue_seconds",
        "_reordering",
        "_wandering",
        "dropped",
        "lost",
        "ordered",
    )

    def __init__(self, impairment: Impairment, seed: str) -> None:
        self._impairment = impairment
        self._losing, self._duplicating, self._corrupting, self._reordering, self._wandering = (
            random.Random(f"{seed}/{what}").random for what in ("loss", "duplicate", "corrupt", "reorder", "jitter")
        )
        self._loss = impairment.loss
        self._out, self._back = gilbert(impairment.loss, impairment.loss_burst) if impairment.loss_burst else (0.0, 0.0)
        self._leaving = False
        "whether the link is in its losing state (bursts only)"
        self._latency, self._jitter = impairment.latency, impairment.jitter
        self._per_byte = 8.0 / impairment.rate if impairment.rate else 0.0
        self._queue_seconds = impairment.queue * self._per_byte
        self._free = float("-inf")
        "when the wire is free again"
        self._last = float("-inf")
        "when the latest packet leaves that keeps its place"
        self.ordered = bool(impairment.rate or impairment.jitter)
        "whether what comes next depends on when this packet comes: then `departs` has to be asked in that order"
        self.lost = 0
        self.dropped = 0
        "for want of room in the buffer"

    @property
    def rewrites(self) -> bool:
        """Whether `rewrite` has to be asked."""
        return self._impairment.rewrites

    def departs(self, now: float, length: int) -> float | None:
        """When a packet of `length` bytes that arrives `now` leaves the link; None if it never does."""
        if self._loss and self._loses():
            self.lost += 1
            return None
        at = now
        if self._per_byte:
            wait = self._free - now
            time = length * self._per_byte
            if wait <= 0.0:
                at = now + time
            elif wait + time > self._queue_seconds:
                self.dropped += 1
                return None
            else:
                at = self._free + time
            self._free = at
        if self._impairment.reorder and self._reordering() < self._impairment.reorder:
            return at
        at += self._latency
        if self._jitter:
            at += self._jitter * (2.0 * self._wandering() - 1.0)
            at = self._last = max(at, self._last)
        return at

    def rewrite(self, payload: int) -> tuple[bool, int]:
        """Whether a packet goes out twice, and which bit of the `payload` bytes behind its header flips, if any."""
        twice = self._impairment.duplicate > 0.0 and self._duplicating() < self._impairment.duplicate
        bit = NO_FLIP
        if self._impairment.corrupt:
            hit, where = self._corrupting() < self._impairment.corrupt, self._corrupting()
            if hit and payload > 0:
                bit = int(where * payload * 8)
        return twice, bit

    def _loses(self) -> bool:
        if not self._out:
            return self._losing() < self._loss
        chance = self._losing()
        self._leaving = chance >= self._back if self._leaving else chance < self._out
        return self._leaving
