"""Which addresses of one peer to dial when: the plan of one dial, shared by all who wait for it.

Direct addresses start at once, at most eight at a time; relayed ones half a second after the last direct one was added
(go's ranker gives them the same handicap), or as soon as no direct one is left to hope for. Nothing here waits: the
swarm asks what is `due`, starts it, and reports what failed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from node.names.multiaddr import Multiaddr

PARALLEL = 8
"""Dials of one peer at a time, as in go."""
ADDRESSES = 100
"""Addresses one dial will ever look at, as in go."""
RELAY_DELAY = 0.5
"""Seconds by which direct addresses are ahead of relayed ones."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why one address did not yield a connection."""

    addr: Multiaddr
    error: Exception

    def __str__(self) -> str:
        why = str(self.error) or type(self.error).__name__
        return f"{self.addr}: {why.removeprefix(f'{self.addr}: ')}"


class Dialling:
    """The state of one dial; times are seconds of the caller's clock."""

    def __init__(self, parallel: int = PARALLEL, bound: int = ADDRESSES) -> None:
        self._parallel = parallel
        self._bound = bound
        self._seen: set[Multiaddr] = set()
        self._direct: list[Multiaddr] = []
        self._relayed: list[Multiaddr] = []
        self._relayed_at = 0.0
        self._active: set[Multiaddr] = set()
        self._failures: list[Failure] = []

    def add(self, addrs: Iterable[Multiaddr], now: float) -> None:
        """Take up the addresses that are new, in this order."""
        for addr in addrs:
            if addr in self._seen or len(self._seen) >= self._bound:
                continue
            self._seen.add(addr)
            if addr.is_relayed:
                self._relayed.append(addr)
            else:
                self._direct.append(addr)
                self._relayed_at = now + RELAY_DELAY

    def due(self, now: float) -> list[Multiaddr]:
        """Return the addresses to dial now and count them as being dialled."""
        start: list[Multiaddr] = []
        while len(self._active) < self._parallel and (addr := self._next(now)) is not None:
            self._active.add(addr)
            start.append(addr)
        return start

    def _next(self, now: float) -> Multiaddr | None:
        if self._direct:
            return self._direct.pop(0)
        if self._relayed and (now >= self._relayed_at or self._no_direct_hope):
            return self._relayed.pop(0)
        return None

    @property
    def _no_direct_hope(self) -> bool:
        return not self._direct and all(addr.is_relayed for addr in self._active)

    def get_timer(self) -> float | None:
        """Return when `due` may have more to say without a failure in between, None if never."""
        waits = self._relayed and len(self._active) < self._parallel
        return self._relayed_at if waits else None

    def failed(self, addr: Multiaddr, error: Exception) -> None:
        """Note that an address which was due failed."""
        self._active.remove(addr)
        self._failures.append(Failure(addr, error))

    @property
    def is_exhausted(self) -> bool:
        """True when nothing is being dialled and nothing is left to dial."""
        return not (self._active or self._direct or self._relayed)

    @property
    def active(self) -> frozenset[Multiaddr]:
        """The addresses being dialled."""
        return frozenset(self._active)

    @property
    def failures(self) -> tuple[Failure, ...]:
        """What failed so far, in the order it did."""
        return tuple(self._failures)
