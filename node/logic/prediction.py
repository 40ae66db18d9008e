"""Port prediction: who writes from where to where, if a NAT gives each destination a port of its own.

Plain hole punching needs a port that is known. Where a NAT has none (RFC 4787 §4.1, address- and port-dependent
mapping), two things are left, and both look alike on the wire:

    fan      many fresh sockets, one datagram each, all to one endpoint: each socket has one external port
    sweep    one socket, one datagram to each of many endpoints, until one of them is a port of the fan

    fan's NAT               sweep's port                   way
    counts                  known                          predicted: 16 ports swept, those that come next
    counts                  counts, too                    predicted: the fan aims at the middle of the sweep's next 16
    keeps a fresh port      known, or counts               predicted: the fan's own ports are swept
    draws                   known                          spray: 256 sockets, 1024 ports at random (birthday paradox)
    draws from a block      known                          spray: 64 sockets, ports around those seen
    draws                   counts or draws                none: a hit in a thousand datagrams is one chance in sixty

Why the middle: a sweep's i-th datagram goes to the i-th port that is foretold of the fan and leaves by the i-th of its
own. Somebody else's flows move either sequence on by a few; with an aim of m, the fan's datagram m - i hits as long as
both have moved on by less than m.

A sweep is a scan of a host that a stranger has named. So it goes to public addresses alone, with the peer's consent
and ours, to at most as many ports as DCUtR may have us write to; and beyond that, for either part of a spray, only
where the relay says that it sees the peer at that address, and rarely.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address
from itertools import pairwise
from typing import NamedTuple

from node.logic.nat import SEQUENCE, Filtering, Mapping, NatKind
from node.wire.predict import WINDOW, Allocation, Offer

PORTS = range(1024, 65536)
"""Where a NAT that draws draws from: all but the well-known ones (RFC 4787 REQ-3 b)."""
SOCKETS = 256
"""Of the fan of a spray: descriptors are what limits it."""
BLOCK = 512
"""Ports of a subscriber's block, where a carrier's or a cloud's NAT has such (RFC 7422); drawn ports that are no
further apart are from one, but for one case in 5000."""
BLOCK_SOCKETS = 64
"""Of the fan of a spray within a block: others want ports of it, too."""
PROBES = 1024
"""Ports that a spray sweeps; with 256 sockets one of them is hit in 98 of 100 cases."""
ROUNDS = 4
"""Times that the few datagrams of a prediction are sent: one that comes before the other side's is lost."""
PAUSE = 0.4
"""Seconds from one round to the next."""
FAN_RATE = 512.0
SWEEP_RATE = 256.0
"""Datagrams a second, of less than 100 bytes each: below 200 kbit/s."""
SETTLE = 3.0
"""Seconds after the last datagram in which a hit may become a connection."""
ATTEMPTS = 3
"""Exchanges with a peer on one relayed connection. Each measures anew."""
SPRAYS_PER_HOST = 4
SPRAY_WINDOW = 3600.0
"""So many sprays go to one address in so many seconds."""
HOSTS = 256
"""Addresses whose sprays are remembered; no spray goes to a further one while all of these are fresh."""
FRESH_SOCKETS = 3
"""Fresh sockets that are looked at: two ports may be neighbours by chance, three hardly."""

_DEPENDENT = (Mapping.ADDRESS_DEPENDENT, Mapping.ADDRESS_AND_PORT_DEPENDENT, Mapping.ENDPOINT_DEPENDENT)
_FORETOLD = (Allocation.SEQUENTIAL, Allocation.FRESH)
_RANK = {Allocation.KNOWN: 0, Allocation.SEQUENTIAL: 1, Allocation.FRESH: 2, Allocation.RANDOM: 3}
"""The higher one fans: it cannot foretell from where a sweep would leave."""


class Ways(Enum):
    """What a node is willing to do."""

    OFF = "off"
    SEQUENTIAL = "sequential"
    """Write to a few ports that are foretold."""
    SPRAY = "spray"
    """And to many at random."""


class Way(Enum):
    """How a hole is looked for."""

    PREDICTED = "predicted"
    SPRAY = "spray"


class Part(Enum):
    """What one side does."""

    FAN = "fan"
    SWEEP = "sweep"


class Sample(NamedTuple):
    """Two ports of a fresh socket: its own, and the external one by which it wrote to somebody first."""

    local: int
    external: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What one side is to do; `ports` are the other's at `ip`, in the order in which they are written to."""

    way: Way
    part: Part
    ip: IPv4Address
    ports: tuple[int, ...]
    sockets: int
    """How many datagrams leave in a round from different sockets; 1 for a sweep."""
    expected: float | None = None
    """The chance of a hit, where it is known."""

    @property
    def rounds(self) -> int:
        """How often they are sent."""
        return ROUNDS if self.way is Way.PREDICTED else 1

    @property
    def delay(self) -> float:
        """Seconds by which a sweep lets the fan go first: a port that is not open yet cannot be hit."""
        return SOCKETS / FAN_RATE if (self.way, self.part) == (Way.SPRAY, Part.SWEEP) else 0.0

    @property
    def rate(self) -> float:
        """Datagrams a second, at most."""
        return FAN_RATE if self.part is Part.FAN else SWEEP_RATE

    @property
    def seconds(self) -> float:
        """How long all of it may take, the handshake over the hole included."""
        if self.way is Way.PREDICTED:
            return ROUNDS * PAUSE + SETTLE
        return SOCKETS / FAN_RATE + PROBES / SWEEP_RATE + SETTLE


@dataclass(frozen=True, slots=True)
class NoPlan:
    """Nothing is to be done, and why."""

    why: str


def plan(own: Offer, theirs: Offer, *, opens: bool, draw: Callable[[range, int], Sequence[int]]) -> Plan | NoPlan:
    """Return what we do; the peer, given the same offers, comes to the other part of it.

    `opens`: whether it was we who began the exchange. `draw` picks so many different numbers of a range.
    """
    if (needless := _needless(own, theirs)) is not None:
        return NoPlan(needless)
    kinds = {own.allocation, theirs.allocation}
    spray = Allocation.RANDOM in kinds
    if spray and kinds != {Allocation.RANDOM, Allocation.KNOWN}:
        return NoPlan("one side draws its ports, and the other has a new one for each destination")
    if spray and not (own.spray and theirs.spray):
        return NoPlan("one side draws its ports, and not both spray")
    if kinds == {Allocation.FRESH}:
        return NoPlan("neither side can tell from where it writes to a second destination")
    way = Way.SPRAY if spray else Way.PREDICTED
    mine, other = _RANK[own.allocation], _RANK[theirs.allocation]
    if mine > other or (mine == other and not opens):
        return _fan(way, own, theirs)
    return _sweep(way, theirs, draw)


def _fan(way: Way, own: Offer, theirs: Offer) -> Plan:
    aim = theirs.ports[len(theirs.ports) // 2]
    if way is Way.PREDICTED:
        return Plan(way, Part.FAN, theirs.ip, (aim,), WINDOW)
    sockets, among = _drawn(own)
    return Plan(way, Part.FAN, theirs.ip, (aim,), sockets, chance_of_a_hit(sockets, PROBES, len(among)))


def _sweep(way: Way, theirs: Offer, draw: Callable[[range, int], Sequence[int]]) -> Plan:
    if way is Way.PREDICTED:
        return Plan(way, Part.SWEEP, theirs.ip, theirs.ports, 1)
    sockets, among = _drawn(theirs)
    ports = tuple(draw(among, min(PROBES, len(among))))
    return Plan(way, Part.SWEEP, theirs.ip, ports, 1, chance_of_a_hit(sockets, PROBES, len(among)))


def _drawn(offer: Offer) -> tuple[int, range]:
    """How many sockets such a fan has, and among which ports theirs will be."""
    first, last = min(offer.ports, default=PORTS.start), max(offer.ports, default=PORTS.stop)
    if len(offer.ports) < FRESH_SOCKETS or last - first >= BLOCK:
        return SOCKETS, PORTS
    return BLOCK_SOCKETS, range(max(PORTS.start, last - BLOCK + 1), min(PORTS.stop, first + BLOCK))


def _needless(own: Offer, theirs: Offer) -> str | None:
    """Why plain punching is as good, or nothing can be tried."""
    pair = (own, theirs)
    if any(each.allocation is Allocation.UNKNOWN for each in pair):
        return "the NAT of one side is not known"
    if own.ip == theirs.ip:
        return "both are behind one address"
    known = [each for each in pair if each.allocation is Allocation.KNOWN]
    if len(known) == 2:
        return "both sides have a port for all destinations"
    if any(each.open for each in known):
        return "one side lets in every port of an address that it has written to"
    if any(port < PORTS.start for each in pair for port in each.ports if each.allocation in _FORETOLD):
        return "one side foretells ports that no NAT gives"
    if not all(each.ports for each in pair if each.allocation is not Allocation.RANDOM):
        return "one side does not say which ports are to be expected"
    return None


def chance_of_a_hit(sockets: int, probes: int, ports: int = len(PORTS)) -> float:
    """The probability that so many different ports, probed at random, hit one of so many others."""
    miss = 1.0
    for probed in range(min(probes, ports - sockets + 1)):
        miss *= (ports - sockets - probed) / (ports - probed)
    return 1.0 - miss


# ── what we offer ────────────────────────────────────────────────────────────────────────────────────────────────────


def allocation_of(kind: NatKind, samples: Sequence[Sample], fan: Sequence[int]) -> tuple[Allocation, tuple[int, ...]]:
    """Return how our NAT gives ports and, except where it is KNOWN, which our next sockets will have; of RANDOM ones,
    which they have had.

    `samples` are those of fresh sockets, in the order in which they wrote; `fan` are the ports of sockets that have not
    written yet.
    """
    if kind.mapping is Mapping.UNKNOWN:
        return Allocation.UNKNOWN, ()
    if kind.mapping not in _DEPENDENT:
        return Allocation.KNOWN, ()
    if len(samples) < FRESH_SOCKETS:
        return Allocation.RANDOM, ()
    if all(sample.local == sample.external for sample in samples):
        return Allocation.FRESH, tuple(fan[:WINDOW])
    steps = [after.external - before.external for before, after in pairwise(samples)]
    if not all(1 <= step <= SEQUENCE for step in steps):
        return Allocation.RANDOM, tuple(sample.external for sample in samples)
    last, step = samples[-1].external, min(steps)  # a larger one is somebody else's flow in between
    following = tuple(port for number in range(1, WINDOW + 1) if (port := last + step * number) < PORTS.stop)
    # By address alone, one socket has one port at the peer's: that is no sweep.
    sweeps = kind.mapping is not Mapping.ADDRESS_DEPENDENT
    return (Allocation.SEQUENTIAL if sweeps else Allocation.FRESH), following


def is_open(kind: NatKind) -> bool:
    """Whether the NAT lets in every port of an address that was written to."""
    return kind.filtering in (Filtering.ENDPOINT_INDEPENDENT, Filtering.ADDRESS_DEPENDENT)


# ── how often ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Budget:
    """How many sprays may still go to an address, whoever asks for them."""

    def __init__(self) -> None:
        self._sprays: OrderedDict[IPv4Address, list[float]] = OrderedDict()  # at most HOSTS, SPRAYS_PER_HOST each

    def take(self, ip: IPv4Address, now: float) -> bool:
        """Return whether a spray may go to `ip` at `now`, and count it if so."""
        for known in list(self._sprays):
            recent = [at for at in self._sprays[known] if at > now - SPRAY_WINDOW]
            if recent:
                self._sprays[known] = recent
            else:
                del self._sprays[known]
        sprays = self._sprays.get(ip, [])
        if len(sprays) >= SPRAYS_PER_HOST or (not sprays and len(self._sprays) >= HOSTS):
            return False
        self._sprays[ip] = [*sprays, now]
        return True


def due(elapsed: float, rate: float, total: int) -> int:
    """How many datagrams of a round are to be out after so many seconds."""
    return min(total, 1 + int(elapsed * rate))
