"""How soon traffic flows again after something has happened to it: tries, what they come to, and campaigns on disk.

Seconds are from the moment at which the event began to that at which a certain amount of payload had crossed directly
since, by the wire. A try that the lab could not judge (INCONCLUSIVE) counts nowhere but in its own column.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from lab.report.campaigns import load_all, save_all
from lab.report.results import Machine, Mark


@dataclass(frozen=True, slots=True)
class Try:
    """One case, tried once."""

    case: str
    transport: str
    mark: Mark
    why: str
    "one sentence where it is not PASSED"
    seconds: float | None = None
    "without direct traffic; None: it did not come to that"
    lived_on: bool = False
    "whether the connection itself outlived what happened"
    capture: str = ""
    "relative to the folder of the run"


@dataclass(frozen=True, slots=True)
class Row:
    """What came of all tries of one case over one transport."""

    case: str
    what: str
    transport: str
    tries: int
    inconclusive: int
    resumed: int
    lived_on: int
    "connections, of those"
    median: float | None
    most: float | None


@dataclass(frozen=True, slots=True)
class Campaign:
    """Several rounds of all cases by nodes of one configuration."""

    silence: float
    "seconds after which a silent peer is asked for a sign of life"
    rounds: int
    started: float
    "Unix seconds"
    seconds: float
    "wall time"
    loads: tuple[float, ...]
    "of the machine, averages over a minute: when it began, and after each round"
    machine: Machine
    rows: tuple[Row, ...]
    findings: tuple[str, ...]
    "a line for each try that did not come to direct traffic"


def rows(whats: Sequence[tuple[str, str]], tries: Iterable[Try]) -> tuple[Row, ...]:
    """One for each case, given with what it is, and transport, in that order; those without tries are left out."""
    every = list(tries)
    transports = dict.fromkeys(each.transport for each in every)
    asked = [(case, what, transport) for case, what in whats for transport in transports]
    found = [_row(*key, [each for each in every if (each.case, each.transport) == (key[0], key[2])]) for key in asked]
    return tuple(row for row in found if row.tries)


def _row(case: str, what: str, transport: str, tries: Sequence[Try]) -> Row:
    resumed = [each for each in tries if each.mark is Mark.PASSED]
    seconds = [each.seconds for each in resumed if each.seconds is not None]
    return Row(
        case=case,
        what=what,
        transport=transport,
        tries=len(tries),
        inconclusive=sum(each.mark is Mark.INCONCLUSIVE for each in tries),
        resumed=len(resumed),
        lived_on=sum(each.lived_on for each in resumed),
        median=median(seconds) if seconds else None,
        most=max(seconds, default=None),
    )


def findings(tries: Iterable[Try]) -> tuple[str, ...]:
    """A line for each that did not come to direct traffic, with where its packets are."""
    return tuple(
        f"{each.case} over {each.transport}: {each.mark.value}: {each.why} ({each.capture})"
        for each in tries
        if each.mark is not Mark.PASSED
    )


def save(path: Path, campaign: Campaign) -> None:
    """Write a campaign into a file of them, in place of the one of that configuration; LabError if it cannot be."""
    kept = [each for each in load(path) if each.silence != campaign.silence] if path.exists() else []
    every = sorted((*kept, campaign), key=lambda each: -each.silence)
    save_all(path, every)


def load(path: Path) -> tuple[Campaign, ...]:
    """The campaigns of such a file; LabError says what is wrong with it."""
    return load_all(path, Campaign, "seconds of resuming")
