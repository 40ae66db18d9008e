"""How long an address that failed is left alone.

The first failure costs 5 s, the n-th after it 5 s + n² · 1 s, at most 300 s: go-libp2p's figures, kept per (peer,
address), so that one dead address of a peer does not hold back the others. A success forgets; so does time, once the
address has been left alone for as long again as it had to be.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

BASE = 5.0
"""Seconds after the first failure."""
COEFFICIENT = 1.0
"""Seconds, times the square of the number of failures before."""
LONGEST = 300.0
ENTRIES = 1024
"""Bound of what is remembered; the entry that failed longest ago goes first."""


@dataclass(frozen=True, slots=True)
class _Entry:
    failures: int
    until: float

    def is_stale(self, now: float) -> bool:
        return now > self.until + wait_after(self.failures)


def wait_after(failures: int) -> float:
    """Return the seconds to wait after that many failures in a row (≥ 1)."""
    return min(BASE + COEFFICIENT * (failures - 1) ** 2, LONGEST)


class Backoff:
    """The addresses that failed and until when each is left alone; times are seconds of the caller's clock."""

    def __init__(self, entries: int = ENTRIES) -> None:
        self._bound = entries
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()

    def remaining(self, key: Hashable, now: float) -> float:
        """Return the seconds for which `key` must still be left alone, 0.0 when it may be dialled."""
        entry = self._entries.get(key)
        if entry is None:
            return 0.0
        return max(0.0, entry.until - now)

    def failed(self, key: Hashable, now: float) -> float:
        """Note a failure and return the seconds to wait."""
        before = self._entries.pop(key, None)
        failures = 1 if before is None or before.is_stale(now) else before.failures + 1
        wait = wait_after(failures)
        self._entries[key] = _Entry(failures, now + wait)
        if len(self._entries) > self._bound:
            self._entries.popitem(last=False)
        return wait

    def succeeded(self, key: Hashable) -> None:
        """Forget the failures of `key`."""
        self._entries.pop(key, None)

    def __len__(self) -> int:
        return len(self._entries)
