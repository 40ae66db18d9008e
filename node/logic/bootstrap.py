"""Whom to ask for a way into the network: the list we were given, and peers that have proved stable before.

    connections below the floor ─► due: entries of the list and stable peers, those that failed left alone for a while

Facts: a list that was written years ago has entries that are dead, slow, taken over or lying, so all are tried side by
side, each with a backoff of its own, and none is ever given up. An address without a peer id proves nothing, so only
`/dnsaddr` may leave it out: its records have it. A peer that takes a connection and ends it at once has failed.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from node.errors import DecodeError
from node.logic.backoff import Backoff
from node.names.multiaddr import Multiaddr

if TYPE_CHECKING:
    from node.names.peerid import PeerId

FLOOR: Final = 4
"""Peers connected below which others are looked for, as in kubo."""
ENTRIES: Final = 64
"""Entries of the list."""
PEERS_OF_ENTRY: Final = 8
"""Peers that are dialled of those that one `/dnsaddr` names."""
AGAIN: Final = 300.0
"""Seconds after which a `/dnsaddr` that has led to a peer is asked for more."""
SHORT_LIVED: Final = 10.0
"""Seconds; a connection that ends sooner was no success."""
STABLE: Final = 32
"""Stable peers that are tried besides the list."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """Somebody to connect to; `peer` is None for a name that has to be asked who they are."""

    key: Hashable
    addrs: tuple[Multiaddr, ...]
    peer: PeerId | None

    def __str__(self) -> str:
        return str(self.addrs[0] if self.peer is None else self.addrs[0].with_peer(self.peer))


def candidate(entry: Multiaddr) -> Candidate:
    """Return what an entry of the list stands for; DecodeError if it does not say whom to connect to."""
    peer = entry.peer_id
    if peer is None and (entry.names[0] != "dnsaddr" or entry.is_relayed):
        raise DecodeError(f"{entry} does not end in /p2p/<peer id>, which only /dnsaddr may leave out")
    addr = entry if peer is None else entry.without("p2p")
    return Candidate(peer or entry, (addr,), peer)


def by_peer(addrs: Iterable[Multiaddr], bound: int = PEERS_OF_ENTRY) -> dict[PeerId, list[Multiaddr]]:
    """Return the addresses that a name stands for, without their peer ids, by peer; the first few peers."""
    peers: dict[PeerId, list[Multiaddr]] = {}
    for addr in addrs:
        peer = addr.peer_id
        if peer is not None and (peer in peers or len(peers) < bound):
            peers.setdefault(peer, []).append(addr.without("p2p"))
    return peers


class Bootstrap:
    """Whom to connect to next; times are seconds of the caller's clock."""

    def __init__(
        self,
        own: PeerId,
        entries: Sequence[Multiaddr],
        stable: Mapping[PeerId, tuple[Multiaddr, ...]] | None = None,
        floor: int = FLOOR,
    ) -> None:
        """`stable`: where peers that have proved stable were reached; they come before the list."""
        self._floor = floor
        self._since: dict[PeerId, float] = {}  # one for each connected peer
        self._backoff = Backoff()
        self._again: dict[Hashable, float] = {}
        candidates: dict[Hashable, Candidate] = {}
        told = [candidate(entry) for entry in entries[:ENTRIES]]
        known = [Candidate(peer, addrs, peer) for peer, addrs in list((stable or {}).items())[:STABLE]]
        for each in (*known, *told):
            if each.peer == own:
                continue
            before = candidates.get(each.key)
            if before is not None:
                each = replace(each, addrs=tuple(dict.fromkeys((*before.addrs, *each.addrs))))
            candidates[each.key] = each
        self._candidates = tuple(candidates.values())

    def due(self, connected: Set[PeerId], now: float) -> list[Candidate]:
        """Return whom to dial now; nobody while there are connections enough."""
        if len(connected) >= self._floor:
            return []
        return [each for each in self._open(connected) if self._at(each, now) <= now]

    def get_timer(self, connected: Set[PeerId], now: float) -> float | None:
        """Return when `due` has more to say, if nothing happens until then; None if never."""
        if len(connected) >= self._floor:
            return None
        return min((self._at(each, now) for each in self._open(connected)), default=None)

    def succeeded(self, candidate: Candidate, now: float) -> None:
        """Note that a candidate led to a connection."""
        self._backoff.succeeded(candidate.key)
        if candidate.peer is None:
            self._again[candidate.key] = now + AGAIN

    def failed(self, candidate: Candidate, now: float) -> None:
        """Note that it did not."""
        self._backoff.failed(candidate.key, now)

    def arrived(self, peer: PeerId, now: float) -> None:
        """Note that a peer is connected."""
        self._since.setdefault(peer, now)

    def left(self, peer: PeerId, now: float) -> None:
        """Note that no connection to a peer is left."""
        if now - self._since.pop(peer, now) < SHORT_LIVED:
            self._backoff.failed(peer, now)
            return
        for each in self._candidates:  # whoever it was may have come by a name
            if each.peer is None:
                self._again.pop(each.key, None)

    def moved(self) -> None:
        """Forget what failed, as we are on another network."""
        self._backoff = Backoff()
        self._again.clear()

    def _open(self, connected: Set[PeerId]) -> list[Candidate]:
        return [each for each in self._candidates if each.peer is None or each.peer not in connected]

    def _at(self, candidate: Candidate, now: float) -> float:
        return max(now + self._backoff.remaining(candidate.key, now), self._again.get(candidate.key, 0.0))
