"""Which addresses of one peer to dial when: the plan of one dial, shared by all who wait for it.

The better transports start at once, at most eight addresses at a time; each class of others waits for a while, as go's
ranker has it, or until nothing better is left to hope for:

    QUIC                            at once
    TCP                             250 ms after the first QUIC address, 30 ms if private; at once where there is none
    other direct transports         1 s after QUIC or TCP
    through a relay                 500 ms after the last direct address was added

Nothing here waits: the swarm asks what is `due`, starts it, and reports what failed. Addresses with a name are given
out to be resolved first (`names`) and come back, by `add`, as what they stand for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from node.logic.addresses import is_public
from node.logic.resolving import is_name
from node.logic.transports import QUIC, TCP, kind_of

if TYPE_CHECKING:
    from node.names.multiaddr import Multiaddr

PARALLEL = 8
"""Dials of one peer at a time, as in go."""
ADDRESSES = 100
"""Addresses one dial will ever look at, as in go."""
RELAY_DELAY = 0.5
"""Seconds by which direct addresses are ahead of relayed ones."""
TCP_DELAY, PRIVATE_TCP_DELAY = 0.25, 0.03
"""Seconds by which QUIC is ahead of TCP: on the internet, and where round trips are short."""
OTHERS_DELAY = 1.0
"""Seconds by which QUIC and TCP are ahead of all other direct transports."""
_RELAYED = 3


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
        self._direct: dict[Multiaddr, float] = {}  # when it is its turn
        self._relayed: list[Multiaddr] = []
        self._relayed_at = 0.0
        self._names: list[Multiaddr] = []
        self._resolving: set[Multiaddr] = set()
        self._active: set[Multiaddr] = set()
        self._failures: list[Failure] = []

    def add(self, addrs: Iterable[Multiaddr], now: float) -> None:
        """Take up the addresses that are new, in this order."""
        direct: list[Multiaddr] = []
        for addr in addrs:
            if addr in self._seen or len(self._seen) >= self._bound:
                continue
            self._seen.add(addr)
            kind = self._names if is_name(addr) else self._relayed if addr.is_relayed else direct
            kind.append(addr)
            if not addr.is_relayed:
                self._relayed_at = now + RELAY_DELAY
        best = min((_rank(addr) for addr in self._seen if not is_name(addr)), default=0)
        for addr in direct:
            self._direct[addr] = now + (_delay(addr) if _rank(addr) > best else 0.0)

    def names(self) -> list[Multiaddr]:
        """Return the addresses to resolve now and count them as being resolved."""
        names, self._names = self._names, []
        self._resolving.update(names)
        return names

    def resolved(self, names: Iterable[Multiaddr], failures: Iterable[tuple[Multiaddr, Exception]]) -> None:
        """Note that names have been resolved, and what came to nothing; what was found has been added before."""
        self._resolving.difference_update(names)
        self._failures.extend(Failure(addr, error) for addr, error in failures)

    def due(self, now: float) -> list[Multiaddr]:
        """Return the addresses to dial now and count them as being dialled."""
        start: list[Multiaddr] = []
        while len(self._active) < self._parallel and (addr := self._next(now)) is not None:
            self._active.add(addr)
            start.append(addr)
        return start

    def _next(self, now: float) -> Multiaddr | None:
        for addr in sorted(self._direct, key=_rank):  # a stable sort: else in the order they were given
            if now >= self._direct[addr] or not self._hopes_for_better_than(_rank(addr)):
                del self._direct[addr]
                return addr
        if self._relayed and (now >= self._relayed_at or not self._hopes_for_better_than(_RELAYED)):
            return self._relayed.pop(0)
        return None

    def _hopes_for_better_than(self, rank: int) -> bool:
        hopes = (*self._direct, *self._active, *self._names, *self._resolving)
        return any(_rank(addr) < rank for addr in hopes)

    def get_timer(self) -> float | None:
        """Return when `due` may have more to say without a failure in between, None if never."""
        if len(self._active) >= self._parallel:
            return None
        return min([*self._direct.values(), *([self._relayed_at] if self._relayed else [])], default=None)

    def failed(self, addr: Multiaddr, error: Exception) -> None:
        """Note that an address which was due failed."""
        self._active.remove(addr)
        self._failures.append(Failure(addr, error))

    @property
    def is_exhausted(self) -> bool:
        """True when nothing is being dialled or resolved and nothing is left to dial."""
        return not (self._active or self._direct or self._relayed or self._names or self._resolving)

    @property
    def active(self) -> frozenset[Multiaddr]:
        """The addresses being dialled."""
        return frozenset(self._active)

    @property
    def failures(self) -> tuple[Failure, ...]:
        """What failed so far, in the order it did."""
        return tuple(self._failures)


def _rank(addr: Multiaddr) -> int:
    """The class of an address, the best being 0; a name may stand for the best."""
    if addr.is_relayed:
        return _RELAYED
    if is_name(addr):
        return 0
    kind = kind_of(addr)
    return 0 if kind is QUIC else 1 if kind is TCP else 2


def _delay(addr: Multiaddr) -> float:
    if kind_of(addr) is not TCP:
        return OTHERS_DELAY
    return TCP_DELAY if is_public(addr) else PRIVATE_TCP_DELAY
