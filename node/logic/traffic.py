"""How many bytes pass, of which protocol and peer, how fast they may, and how long a round trip takes.

Rates are token buckets that may fall into debt: who moves bytes first waits until the debt before is paid. Nothing is
dropped. A reader that waits gives no credit, so the peer's window fills and the peer waits too.

Facts: the latency of a peer is a moving average in which each measurement counts a tenth, as in go-libp2p's peerstore.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

IN, OUT = 0, 1
PEERS = 1024
"""Peers whose bytes, debts and latency are remembered; the one that was heard of longest ago goes first."""
PROTOCOLS = 128
"""Protocols with a count of their own; further ones are counted as `other`."""
OTHER = "other"
BURST = 1.0
"""Seconds of a rate that may pass at once after silence."""
PIECE = 65536
"""Bytes that may pass without another look at the debt, which is so bounded for each who moves bytes."""
SMOOTHING = 0.1


@dataclass(frozen=True, slots=True)
class Rates:
    """Bytes per second in and out, of everybody together and of each peer; None: no limit."""

    total: tuple[int | None, int | None] = (None, None)
    peer: tuple[int | None, int | None] = (None, None)


class Bucket:
    """Bytes that may pass now, which grow with time; times are seconds of the caller's clock."""

    __slots__ = ("_at", "_level", "rate")

    def __init__(self, rate: int, now: float) -> None:
        self.rate = rate
        self._level = rate * BURST
        self._at = now

    def spend(self, size: int, now: float) -> None:
        """Let bytes pass, into debt if need be."""
        self._fill(now)
        self._level -= size

    def wait(self, now: float) -> float:
        """Return the seconds until no debt is left."""
        self._fill(now)
        return max(0.0, -self._level / self.rate)

    def _fill(self, now: float) -> None:
        self._level = min(self.rate * BURST, self._level + max(0.0, now - self._at) * self.rate)
        self._at = now


@dataclass(slots=True)
class _Peer:
    counts: list[int]
    buckets: tuple[Bucket | None, Bucket | None]


class Account:
    """What the streams of one protocol with one peer are counted by."""

    __slots__ = ("_buckets", "_counts")

    def __init__(self, counts: tuple[list[int], ...], buckets: tuple[tuple[Bucket, ...], tuple[Bucket, ...]]) -> None:
        self._counts = counts
        self._buckets = buckets

    def passed(self, flow: int, size: int, now: float) -> None:
        """Count bytes that have passed, IN or OUT."""
        for counts in self._counts:
            counts[flow] += size
        for bucket in self._buckets[flow]:
            bucket.spend(size, now)

    def wait(self, flow: int, now: float) -> float:
        """Return the seconds until more may pass."""
        return max((bucket.wait(now) for bucket in self._buckets[flow]), default=0.0)

    def is_limited(self, flow: int) -> bool:
        """Whether there is ever anything to wait for."""
        return bool(self._buckets[flow])


class Traffic:
    """The counts and debts of a node."""

    def __init__(self, rates: Rates | None = None) -> None:
        self._rates = rates or Rates()
        self._total: tuple[Bucket | None, Bucket | None] | None = None
        self._protocols: dict[str, list[int]] = {}
        self._peers: OrderedDict[Hashable, _Peer] = OrderedDict()

    def account(self, peer: Hashable, protocol: str, now: float, *, limited: bool = True) -> Account:
        """Return what to count a stream by; one that travels within another, which is, is not `limited` again."""
        if self._total is None:
            self._total = _buckets(self._rates.total, now)
        known = self._peers.get(peer)
        if known is None:
            known = self._peers[peer] = _Peer([0, 0], _buckets(self._rates.peer, now))
            if len(self._peers) > PEERS:
                self._peers.popitem(last=False)
        self._peers.move_to_end(peer)
        name = protocol if protocol in self._protocols or len(self._protocols) < PROTOCOLS else OTHER
        counts = self._protocols.setdefault(name, [0, 0])
        if not limited:
            return Account((counts,), ((), ()))
        both = (self._total, known.buckets)
        sides = tuple(tuple(bucket for pair in both if (bucket := pair[flow]) is not None) for flow in (IN, OUT))
        return Account((counts, known.counts), (sides[IN], sides[OUT]))

    def by_protocol(self) -> Mapping[str, tuple[int, int]]:
        """Bytes of payload in and out, by protocol."""
        return {protocol: (counts[IN], counts[OUT]) for protocol, counts in self._protocols.items()}

    def of_peer(self, peer: Hashable) -> tuple[int, int]:
        """Bytes of payload in and out of direct connections with one peer, as long as it is remembered."""
        known = self._peers.get(peer)
        return (0, 0) if known is None else (known.counts[IN], known.counts[OUT])


def _buckets(rates: tuple[int | None, int | None], now: float) -> tuple[Bucket | None, Bucket | None]:
    inward, outward = (None if rate is None else Bucket(rate, now) for rate in rates)
    return inward, outward


class Latencies:
    """The latency of peers, and which of them are slow."""

    def __init__(self, threshold: float | None = None) -> None:
        self._threshold = threshold
        self._seconds: OrderedDict[Hashable, float] = OrderedDict()

    def record(self, peer: Hashable, seconds: float) -> bool | None:
        """Take one round trip; True if the peer has become slow by it, False if it is not any more, None otherwise."""
        before = self._seconds.pop(peer, None)
        after = seconds if before is None else before + SMOOTHING * (seconds - before)
        self._seconds[peer] = after
        if len(self._seconds) > PEERS:
            self._seconds.popitem(last=False)
        if self._threshold is None:
            return None
        was, is_ = before is not None and before > self._threshold, after > self._threshold
        return None if was == is_ else is_

    def of(self, peer: Hashable) -> float | None:
        """Seconds, None if nothing was measured."""
        return self._seconds.get(peer)
