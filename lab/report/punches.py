"""How well holes were made: of the cells where theory promises a direct path, how many got one, how soon, at which try.

A cell that the lab could not judge (INCONCLUSIVE) says nothing of the peers and counts nowhere but in its own column.
The seconds are from the relayed connection to the direct one, as the dialer saw both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Final

from lab.report.campaigns import load_all, save_all
from lab.report.results import Cell, Machine, Mark, Results, findings

MOST_ATTEMPTS: Final = 8
"Attempts counted apart; whoever says more counts as this many: peers make three."
_TAIL: Final = 20
"The last of twenty parts begins at the 95th percentile."


@dataclass(frozen=True, slots=True)
class Tally:
    """What came of all cells of one transport."""

    transport: str
    cells: int
    inconclusive: int
    as_predicted: int
    "of those that are not inconclusive"
    possible: int
    "predicted direct, and not inconclusive"
    direct: int
    "seen direct, of those"
    attempts: tuple[int, ...]
    "how many of those were direct after no punch at all (a plain dial), after one, after two, …"
    median: float | None
    "seconds to the direct connection; None: there was none"
    p95: float | None

    @property
    def first(self) -> float | None:
        """The share of the direct ones for which no second attempt was needed."""
        known = sum(self.attempts)
        return sum(self.attempts[:2]) / known if known else None


@dataclass(frozen=True, slots=True)
class Campaign:
    """Several rounds of a matrix over one kind of link."""

    link: str
    "what the uplinks of both homes were like; empty: ideal"
    rounds: int
    started: float
    "Unix seconds"
    seconds: float
    "wall time"
    machine: Machine
    tallies: tuple[Tally, ...]
    findings: tuple[str, ...]
    "a line for each cell that did not come out as predicted, inconclusive ones left out"


def tallies(cells: Iterable[Cell]) -> tuple[Tally, ...]:
    """One for each transport, in the order of the cells."""
    by: dict[str, list[Cell]] = {}
    for cell in cells:
        by.setdefault(cell.transport, []).append(cell)
    return tuple(_tally(transport, each) for transport, each in by.items())


def campaign(link: str | None, rounds: Sequence[Results]) -> Campaign:
    """What several rounds over one kind of link came to; there is one at least."""
    cells = [cell for each in rounds for cell in each.cells]
    return Campaign(
        link=link or "",
        rounds=len(rounds),
        started=rounds[0].started,
        seconds=sum(each.seconds for each in rounds),
        machine=rounds[0].machine,
        tallies=tallies(cells),
        findings=tuple(findings(_judged(cells))),
    )


def _tally(transport: str, cells: Sequence[Cell]) -> Tally:
    judged = _judged(cells)
    possible = [cell for cell in judged if cell.predicted == "direct"]
    direct = [cell for cell in possible if cell.seen == "direct"]
    counts = Counter(min(cell.attempts, MOST_ATTEMPTS) for cell in direct if cell.attempts is not None)
    seconds = [cell.seconds.direct for cell in direct if cell.seconds.direct is not None]
    return Tally(
        transport=transport,
        cells=len(cells),
        inconclusive=len(cells) - len(judged),
        as_predicted=sum(cell.as_predicted for cell in judged),
        possible=len(possible),
        direct=len(direct),
        attempts=tuple(counts[number] for number in range(max(counts, default=-1) + 1)),
        median=median(seconds) if seconds else None,
        p95=_p95(seconds),
    )


def _judged(cells: Iterable[Cell]) -> list[Cell]:
    return [cell for cell in cells if cell.verdict is not Mark.INCONCLUSIVE]


def _p95(seconds: Sequence[float]) -> float | None:
    if len(seconds) < 2:
        return seconds[0] if seconds else None
    return quantiles(seconds, n=_TAIL, method="inclusive")[-1]


def tally_line(tally: Tally) -> str:
    """`tcp: 17 of 17 possible direct; attempts 1: 16, 2: 1 (94 % at the first); median 0.24 s, p95 0.61 s`."""
    parts = [f"{tally.transport}: {tally.direct} of {tally.possible} possible direct"]
    if tally.first is not None:
        parts.append(f"attempts {attempts_in_words(tally)} ({_percent(tally.first)} at the first)")
    if tally.median is not None and tally.p95 is not None:
        parts.append(f"median {tally.median:.2f} s, p95 {tally.p95:.2f} s")
    if tally.inconclusive:
        parts.append(f"{tally.inconclusive} of {tally.cells} inconclusive")
    return "; ".join(parts)


def attempts_in_words(tally: Tally) -> str:
    """`1: 16, 2: 1`; attempt 0 is a plain dial."""
    return ", ".join(f"{number}: {count}" for number, count in enumerate(tally.attempts) if count)


def _percent(share: float) -> str:
    return f"{share * 100:.1f} %"


# ── campaigns on disk ────────────────────────────────────────────────────────────────────────────────────────────────


def save(path: Path, campaign: Campaign) -> None:
    """Write a campaign into a file of them, in place of the one over the same link; LabError if it cannot be."""
    kept = [each for each in load(path) if each.link != campaign.link] if path.exists() else []
    save_all(path, (*kept, campaign))


def load(path: Path) -> tuple[Campaign, ...]:
    """The campaigns of such a file; LabError says what is wrong with it."""
    return load_all(path, Campaign, "campaigns of punches")
