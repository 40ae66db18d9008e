"""Which relays to ask for a slot, and when: candidates, how many slots are missing, whom to leave alone for a while.

    offer, withdraw ─► candidates ─┐
    held, lost, refused ───────────┼─► choose(now) ─► those to ask now      get_timer() ─► when to choose again
    wanted ────────────────────────┘

Facts: go keeps slots at two relays of at most twenty candidates and leaves one that failed alone for an hour. A relay
that restarts is back in seconds, though, so here the first wait is short and grows. Relays that the user has listed
come first, then those that we are connected to, in the order in which they were met.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from node.names.multiaddr import Multiaddr
    from node.names.peerid import PeerId

SLOTS = 2
"""Relays at which a slot is kept: one may die while another takes its place."""
CANDIDATES = 20
"""Relays that are remembered beside those that the user has listed, as in go."""
LISTED = 16
"""Relays that the user may list."""
FIRST_WAIT = 10.0
"""Seconds for which a relay is left alone that failed once; each further time twice as long."""
LONGEST_WAIT = 3600.0


@dataclass(slots=True)
class Candidate:
    """A relay that may give us a slot."""

    relay: Multiaddr
    """Its address, ending in its peer id."""
    listed: bool
    failures: int = 0
    ask_at: float = 0.0


class RelayChoice:
    """The candidates and the slots; times are seconds of the caller's clock."""

    def __init__(self, slots: int = SLOTS) -> None:
        self.wanted = False
        """Whether any slot is wanted at all."""
        self._slots = slots
        self._candidates: dict[PeerId, Candidate] = {}  # bounded by CANDIDATES and LISTED
        self._held: set[PeerId] = set()  # bounded by who is a candidate
        self._asked: set[PeerId] = set()

    def offer(self, peer: PeerId, relay: Multiaddr, *, listed: bool = False) -> None:
        """Take note of a relay; beyond the bound it is left out."""
        known = self._candidates.get(peer)
        if known is not None:
            if listed or not known.listed:
                known.relay, known.listed = relay, listed
            return
        others = sum(each.listed is listed for each in self._candidates.values())
        if others < (LISTED if listed else CANDIDATES):
            self._candidates[peer] = Candidate(relay, listed)

    def withdraw(self, peer: PeerId) -> None:
        """A relay is gone: without a connection only those that are listed can be asked."""
        known = self._candidates.get(peer)
        if known is not None and not known.listed and peer not in self._asked:
            del self._candidates[peer]

    def held(self, peer: PeerId) -> None:
        """A slot is held there now."""
        self._asked.discard(peer)
        self._held.add(peer)
        if (known := self._candidates.get(peer)) is not None:
            known.failures, known.ask_at = 0, 0.0

    def failed(self, peer: PeerId, now: float) -> None:
        """A slot was refused, or is lost: leave the relay alone for a while."""
        self._asked.discard(peer)
        self._held.discard(peer)
        if (known := self._candidates.get(peer)) is not None:
            known.ask_at = now + min(LONGEST_WAIT, FIRST_WAIT * 2**known.failures)
            known.failures = min(known.failures + 1, 16)

    def choose(self, now: float) -> list[Multiaddr]:
        """Return the relays to ask now, as many as slots are missing; each counts as asked until `held` or `failed`."""
        missing = self._slots - len(self._held) - len(self._asked) if self.wanted else 0
        ready = [peer for peer in self._ranked() if self._candidates[peer].ask_at <= now]
        chosen = ready[: max(0, missing)]
        self._asked.update(chosen)
        return [self._candidates[peer].relay for peer in chosen]

    def peers(self) -> list[PeerId]:
        """Return who is a candidate."""
        return list(self._candidates)

    def surplus(self) -> list[PeerId]:
        """Return the relays at which a slot is held for nothing."""
        return [] if self.wanted else sorted(self._held, key=str)

    def get_timer(self) -> float | None:
        """Return when to choose again for a slot that is missing, None when there is nothing to wait for."""
        if not self.wanted or len(self._held) + len(self._asked) >= self._slots:
            return None
        return min((self._candidates[peer].ask_at for peer in self._ranked()), default=None)

    def _ranked(self) -> list[PeerId]:
        free = [peer for peer in self._candidates if peer not in self._held and peer not in self._asked]
        return sorted(free, key=lambda peer: not self._candidates[peer].listed)

    def __len__(self) -> int:
        return len(self._candidates)
