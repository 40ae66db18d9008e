"""Which connections to close when there are many: the connection manager's decisions.

Above the high watermark connections are closed until the low one is reached, those of the least valued peers first.
Left alone are peers that are protected, connections younger than the grace period, and everything for a while after
each trim. The hard bound on connections (`node.logic.limits`) is another matter: it refuses new ones.

Facts: watermarks 160 and 192, grace 1 min, silence 10 s and the order (value, then direction, then streams) are those
of go-libp2p's connection manager.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from node.errors import ConfigError

OWNERS = 1024
"""Peers that can have tags or be protected."""
TAGS = 32
"""Tags of one peer, and reasons to protect it."""

Conn = TypeVar("Conn", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Watermarks:
    """When to trim and how far; times are seconds."""

    low: int = 160
    high: int = 192
    grace: float = 60.0
    silence: float = 10.0

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high:
            raise ConfigError(f"the low watermark ({self.low}) must be from 0 to the high one ({self.high})")


@dataclass(frozen=True, slots=True)
class Candidate(Generic[Conn]):
    """What there is to know of one connection."""

    connection: Conn
    peer: Hashable
    since: float
    """Seconds of the caller's clock."""
    inbound: bool
    streams: int


class Trimmer:
    """What peers are worth, whom to keep, and when the last trim was."""

    def __init__(self, marks: Watermarks | None = None) -> None:
        self.marks = marks or Watermarks()
        self._values: dict[Hashable, dict[str, int]] = {}
        self._protected: dict[Hashable, set[str]] = {}
        self._trimmed_at: float | None = None

    def tag(self, peer: Hashable, tag: str, value: int) -> bool:
        """Value a peer by `value`, instead of what that tag said before; False beyond the bound."""
        if not self._has_room(self._values, peer, tag):
            return False
        self._values.setdefault(peer, {})[tag] = value
        return True

    def untag(self, peer: Hashable, tag: str) -> None:
        """Take a tag away."""
        tags = self._values.get(peer, {})
        tags.pop(tag, None)
        if not tags:
            self._values.pop(peer, None)

    def value(self, peer: Hashable) -> int:
        """The sum of a peer's tags."""
        return sum(self._values.get(peer, {}).values())

    def protect(self, peer: Hashable, tag: str) -> bool:
        """Never trim this peer as long as one of its protections stands; False beyond the bound."""
        if not self._has_room(self._protected, peer, tag):
            return False
        self._protected.setdefault(peer, set()).add(tag)
        return True

    def unprotect(self, peer: Hashable, tag: str) -> bool:
        """Take one protection away; returns whether another one stands."""
        tags = self._protected.get(peer, set())
        tags.discard(tag)
        if not tags:
            self._protected.pop(peer, None)
        return bool(tags)

    def is_protected(self, peer: Hashable) -> bool:
        """Whether the peer is never trimmed."""
        return peer in self._protected

    def protections(self, peer: Hashable) -> frozenset[str]:
        """Why the peer is never trimmed."""
        return frozenset(self._protected.get(peer, ()))

    def get_timer(self, count: int, now: float) -> float | None:
        """When to ask `trim` with so many connections open: at once, after the silence, or not at all."""
        if count <= self.marks.high:
            return None
        return now if self._trimmed_at is None else max(now, self._trimmed_at + self.marks.silence)

    def trim(self, candidates: Iterable[Candidate[Conn]], now: float) -> list[Conn]:
        """Return the connections to close now; fewer than would be needed where the rest is left alone."""
        every = list(candidates)
        timer = self.get_timer(len(every), now)
        if timer is None or timer > now:
            return []
        self._trimmed_at = now
        loose = [each for each in every if not self.is_protected(each.peer) and now - each.since >= self.marks.grace]
        loose.sort(key=lambda each: (self.value(each.peer), not each.inbound, each.streams, -each.since))
        return [each.connection for each in loose[: len(every) - self.marks.low]]

    @staticmethod
    def _has_room(kept: dict[Hashable, dict[str, int]] | dict[Hashable, set[str]], peer: Hashable, tag: str) -> bool:
        tags = kept.get(peer)
        if tags is None:
            return len(kept) < OWNERS
        return tag in tags or len(tags) < TAGS
