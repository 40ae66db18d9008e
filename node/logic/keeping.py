"""What was lost and is to be had again: connections to peers that we keep, slots at relays that we asked for.

lost ─► due at once ─► failed: due again after a while, ever longer    found, let go ─► nothing to do
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from node.logic.backoff import Backoff

SHORT_LIVED = 10.0
"""Seconds; what is lost again sooner was not worth much: it is tried for as after a failure."""
LOST = 1024
"""Things missed at a time; as many as there can be protected peers."""

Thing = TypeVar("Thing", bound=Hashable)


class Keeping(Generic[Thing]):
    """What is missing, and when to try for it; times are seconds of the caller's clock."""

    def __init__(self) -> None:
        self._lost: dict[Thing, None] = {}
        self._found_at: OrderedDict[Thing, float] = OrderedDict()
        self._trying: set[Thing] = set()
        self._backoff = Backoff()

    def lost(self, thing: Thing, now: float) -> None:
        """Something that we want has gone; beyond the bound it is not missed."""
        found_at = self._found_at.pop(thing, None)
        if found_at is not None and now - found_at < SHORT_LIVED:
            self._backoff.failed(thing, now)
        else:
            self._backoff.succeeded(thing)
        if len(self._lost) < LOST:
            self._lost[thing] = None

    def found(self, thing: Thing, now: float) -> None:
        """We have it again."""
        self._trying.discard(thing)
        if thing in self._lost:
            del self._lost[thing]
            self._found_at[thing] = now
            if len(self._found_at) > LOST:
                self._found_at.popitem(last=False)

    def failed(self, thing: Thing, now: float) -> None:
        """An attempt came to nothing."""
        self._trying.discard(thing)
        self._backoff.failed(thing, now)

    def drop(self, thing: Thing) -> None:
        """We want it no more."""
        self._lost.pop(thing, None)
        self._found_at.pop(thing, None)
        self._trying.discard(thing)

    def due(self, now: float) -> list[Thing]:
        """Return what to try for now; each counts as tried for until `found`, `failed` or `drop`."""
        ready = [each for each in self._idle() if self._backoff.remaining(each, now) <= 0]
        self._trying.update(ready)
        return ready

    def get_timer(self, now: float) -> float | None:
        """Return when `due` has more to say, if nothing happens until then; None if never."""
        return min((now + self._backoff.remaining(each, now) for each in self._idle()), default=None)

    def moved(self) -> None:
        """Forget what failed: we are on another network."""
        self._backoff = Backoff()

    def _idle(self) -> list[Thing]:
        return [each for each in self._lost if each not in self._trying]

    def __contains__(self, thing: object) -> bool:
        return thing in self._lost

    def __len__(self) -> int:
        return len(self._lost)
