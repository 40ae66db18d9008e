"""Whom mDNS has told us of: what is news, and how much of it is believed.

A LAN is not to be trusted: anybody on it can announce as many peers as it likes. So the peers that are remembered have
a bound, the strangers of one interval too, and what is announced again is news only when it has other addresses.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from node.names.multiaddr import Multiaddr
    from node.names.peerid import PeerId

PEERS: Final = 256
"""Peers remembered; the one heard of longest ago goes first."""
STRANGERS: Final = 64
"""Peers that may be new within one INTERVAL; a LAN of libp2p nodes that all start at once is smaller than that."""
INTERVAL: Final = 10.0
"""Seconds."""
ADDRESSES: Final = 16
"""Addresses of one peer."""
LEFT_TO_OTHER: Final = 1.0
"""Seconds in which the peer with the smaller id is expected to have dialled."""


class Neighbours:
    """The peers heard of on the LAN; times are seconds of the caller's clock."""

    def __init__(self, own: PeerId, peers: int = PEERS, strangers: int = STRANGERS) -> None:
        self._own = own
        self._bound = peers
        self._allowance = strangers
        self._known: OrderedDict[PeerId, tuple[Multiaddr, ...]] = OrderedDict()
        self._interval = float("-inf")
        self._new = 0
        self.ignored = 0
        """Announcements of strangers beyond the allowance."""

    def heard(self, told: Mapping[PeerId, Sequence[Multiaddr]], now: float) -> dict[PeerId, tuple[Multiaddr, ...]]:
        """Take an announcement and return what is new in it: peers, each with all the addresses told of it."""
        news: dict[PeerId, tuple[Multiaddr, ...]] = {}
        for peer, addrs in told.items():
            some = tuple(dict.fromkeys(addrs))[:ADDRESSES]
            if peer == self._own or not some:
                continue
            before = self._known.get(peer)
            if before is None and not self._admit(now):
                self.ignored += 1
                continue
            self._known[peer] = some
            self._known.move_to_end(peer)
            if before is None or not set(some) <= set(before):
                news[peer] = some
        while len(self._known) > self._bound:
            self._known.popitem(last=False)
        return news

    def addrs(self, peer: PeerId) -> tuple[Multiaddr, ...]:
        """Return the addresses that a peer was last told with; none if it has not been heard of."""
        return self._known.get(peer, ())

    def left(self, peers: Iterable[PeerId]) -> None:
        """Forget peers that said goodbye: they are news when they come back."""
        for peer in peers:
            self._known.pop(peer, None)

    def moved(self) -> None:
        """Forget all, as we are on another network."""
        self._known.clear()

    def _admit(self, now: float) -> bool:
        if now - self._interval >= INTERVAL:
            self._interval, self._new = now, 0
        self._new += 1
        return self._new <= self._allowance

    def __len__(self) -> int:
        return len(self._known)


def delay(own: PeerId, other: PeerId) -> float:
    """Seconds to leave the dial to the other side: it hears of us at the same time, and one connection is enough."""
    return 0.0 if own.to_bytes() < other.to_bytes() else LEFT_TO_OTHER
