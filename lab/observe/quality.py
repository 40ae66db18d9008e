"""What a link did to a train of probes, as numbers, and how far that is from what was asked. Pure.

A probe is a datagram with its number and the time it was sent; the kernel stamps its arrival. Loss is RFC 7680's,
one-way delay RFC 7679's, a duplicate RFC 5560's. A probe *overtakes* if one that was sent before it arrives after it
(the complement of RFC 4737's reordered packet, and what netem's `reorder` asks for).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from statistics import fmean
from typing import Final

from lab.model.impairment import Impairment, gilbert

DELAY_WITHIN: Final = 0.0005
"seconds that a median delay may be off; or"
DELAY_SHARE: Final = 0.02
RATE_SHARE: Final = 0.03
STANDARD_ERRORS: Final = 3.0
"that a share may be off"
UDP_HEADERS: Final = 28
"bytes of IPv4 and UDP"


@dataclass(frozen=True, slots=True)
class Arrival:
    """One datagram that came."""

    number: int
    "of the probe; -1 where it was not to be read any more"
    sent: float
    "Unix seconds"
    at: float
    length: int
    "bytes of the IP packet"


@dataclass(frozen=True, slots=True)
class Train:
    """Probes, and what came of them."""

    sent: int
    arrivals: tuple[Arrival, ...]
    "in order of arrival"
    missed: int = 0
    "that came and found no room where they are read: it says nothing of the link"


@dataclass(frozen=True, slots=True)
class Row:
    """One quantity, asked and measured."""

    link: str
    quantity: str
    asked: float
    measured: float
    tolerance: float
    unit: str
    "s, share, bit/s, packets, B"

    @property
    def ok(self) -> bool:
        """Whether it is within its tolerance."""
        return abs(self.measured - self.asked) <= self.tolerance


@dataclass(frozen=True, slots=True)
class Load:
    """How a link bore a number of packets a second."""

    offered: float
    "packets a second, sent"
    seconds: float
    sent: int
    arrived: int
    delay: float
    "median, seconds"
    late: float
    "99 of 100 took no longer than that, seconds"


@dataclass(frozen=True, slots=True)
class LinkReport:
    """What `punchlab links` found."""

    backend: str
    machine: str
    "in words, if there is more to say of it than what follows"
    kernel: str
    python: str
    processors: int
    rows: tuple[Row, ...]
    left_out: tuple[str, ...]
    "what could not be measured, and why"
    loads: tuple[Load, ...]
    load_latency: float
    "seconds that were asked for while under load"

    @property
    def capacity(self) -> float:
        """The most packets a second, of those tried in rising order, before the first was lost."""
        return self._most(lambda load: True)

    @property
    def on_time(self) -> float:
        """The same, before the median delay was out of tolerance."""
        return self._most(lambda load: self._in_time(load.delay))

    @property
    def all_on_time(self) -> float:
        """The same, before more than one of a hundred delays were out of tolerance."""
        return self._most(lambda load: self._in_time(load.delay) and self._in_time(load.late))

    def _most(self, bearable: Callable[[Load], bool]) -> float:
        best = 0.0
        for load in self.loads:
            if load.arrived < load.sent or not bearable(load):
                break
            best = load.sent / load.seconds
        return best

    def _in_time(self, seconds: float) -> bool:
        return abs(seconds - self.load_latency) <= _delay_tolerance(self.load_latency)


def compare(name: str, asked: Impairment, train: Train) -> tuple[Row, ...]:
    """A row for everything that was asked for."""
    rows: list[Row] = []
    if asked.loss:
        rows.append(Row(name, "loss", asked.loss, loss(train), loss_tolerance(asked, train.sent), "share"))
    if asked.loss_burst:
        bursts = lost_runs(train)
        measured = fmean(bursts) if bursts else 0.0
        rows.append(Row(name, "loss burst", asked.loss_burst, measured, _burst_tolerance(asked, train.sent), "packets"))
    for quantity, share, measured in (
        ("duplicate", asked.duplicate, duplicated(train)),
        ("reorder", asked.reorder, overtaking(train)),
        ("corrupt", asked.corrupt, corrupted(train)),
    ):
        if share:
            rows.append(Row(name, quantity, share, measured, _share_tolerance(share, train.sent), "share"))
    if asked.rate:
        rows.append(Row(name, "rate", asked.rate, rate(train, asked.latency), asked.rate * RATE_SHARE, "bit/s"))
        longest = asked.latency + asked.queue * 8 / asked.rate
        # One packet more or less fits.
        packet = train.arrivals[0].length * 8 / asked.rate if train.arrivals else 0.0
        rows.append(Row(name, "full buffer", longest, delay(train, 0.5), _delay_tolerance(longest) + packet, "s"))
    elif asked.latency and not asked.reorder:
        rows.append(Row(name, "delay", asked.latency, delay(train, 0.5), _delay_tolerance(asked.latency), "s"))
    if asked.jitter:
        rows.append(Row(name, "jitter", asked.jitter, _spread(train), _delay_tolerance(asked.jitter), "s"))
    return tuple(rows)


def loss(train: Train) -> float:
    """Share of the probes that never came."""
    return 1.0 - len({arrival.number for arrival in train.arrivals}) / train.sent


def lost_runs(train: Train) -> list[int]:
    """How many probes were lost in a row, each time that any were."""
    came = {arrival.number for arrival in train.arrivals}
    runs: list[int] = []
    inside = False
    for number in range(train.sent):
        if number in came:
            inside = False
        elif inside:
            runs[-1] += 1
        else:
            runs.append(1)
            inside = True
    return runs


def duplicated(train: Train) -> float:
    """Share of the probes that came more than once."""
    readable = [arrival.number for arrival in train.arrivals if arrival.number >= 0]
    return (len(readable) - len(set(readable))) / train.sent


def corrupted(train: Train) -> float:
    """Share of the probes that came spoilt."""
    return sum(arrival.number < 0 for arrival in train.arrivals) / train.sent


def overtaking(train: Train) -> float:
    """Share of the probes that came before one that had been sent before them."""
    lowest_after = train.sent
    count = 0
    for arrival in reversed(train.arrivals):
        count += arrival.number > lowest_after
        lowest_after = min(lowest_after, arrival.number)
    return count / train.sent


def delay(train: Train, share: float) -> float:
    """The one-way delay that this share of the arrivals did not exceed, seconds."""
    delays = sorted(arrival.at - arrival.sent for arrival in train.arrivals)
    return delays[min(int(len(delays) * share), len(delays) - 1)] if delays else 0.0


def sent_at(train: Train) -> float:
    """Probes a second as they were sent, by those that came."""
    came = [arrival for arrival in train.arrivals if arrival.number >= 0]
    first, last = (min(came, key=_number), max(came, key=_number)) if came else (None, None)
    if first is None or last is None or last.sent <= first.sent:
        return 0.0
    return (last.number - first.number) / (last.sent - first.sent)


def rate(train: Train, latency: float = 0.0) -> float:
    """Bit/s of IP packets while any waited to be sent; the link adds `latency` behind that.

    A sender that gets no processor for longer than a buffer lasts leaves the link idle: such times do not count.
    """
    length, seconds = 0, 0.0
    for before, arrival in pairwise(train.arrivals):
        if arrival.sent <= before.at - latency:
            length += arrival.length
            seconds += arrival.at - before.at
    return length * 8 / seconds if seconds else 0.0


def loss_tolerance(asked: Impairment, sent: int) -> float:
    """Three standard errors of the share lost; losses in bursts say less than as many by themselves."""
    if asked.loss_burst is None:
        return _share_tolerance(asked.loss, sent)
    out, back = gilbert(asked.loss, asked.loss_burst)
    # Variance of the mean of a two-state Markov chain (Gilbert's).
    correlation = 1.0 - out - back
    inflation = (1.0 + correlation) / (1.0 - correlation)
    return _share_tolerance(asked.loss, sent) * sqrt(inflation)


def _number(arrival: Arrival) -> int:
    return arrival.number


def _share_tolerance(share: float, sent: int) -> float:
    return STANDARD_ERRORS * sqrt(share * (1 - share) / sent)


def _burst_tolerance(asked: Impairment, sent: int) -> float:
    """Three standard errors of the mean of a geometric distribution, of as many bursts as there should be."""
    assert asked.loss_burst is not None
    deviation = sqrt(asked.loss_burst * (asked.loss_burst - 1))
    return STANDARD_ERRORS * deviation / sqrt(max(sent * asked.loss / asked.loss_burst, 1.0))


def _delay_tolerance(seconds: float) -> float:
    return max(DELAY_WITHIN, seconds * DELAY_SHARE)


def _spread(train: Train) -> float:
    """Half of what lies between the shortest and the longest delay, by the middle 90 % of an even distribution."""
    return (delay(train, 0.95) - delay(train, 0.05)) / 0.9 / 2
