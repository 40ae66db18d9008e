"""`results.json` of a matrix of implementations: what became of every check in every setup.

A setup that failed was tried again by itself: its attempts stand one after the other, and the last one counts. One that
failed beside others and passed alone is flaky, and is called so. `load` reads what a run or `punchlab merge` has left.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lab.errors import LabError
from lab.model.interop import Check, Setup
from lab.model.plain import from_plain, to_plain
from lab.model.runner import PROCESS, require_runner
from lab.report.results import RESULTS, Machine, Mark, load_by

FORMAT: Final = 2
"Raised by every change that an older reader would misread."
WITHOUT_RUNNER: Final = 1
"the format in which nobody had a choice: every peer was a process"
KIND: Final = "interop"
"what tells these results from those of the punch matrix"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One check, once."""

    check: Check
    mark: Mark
    why: str
    "one sentence; empty where there is nothing to say"
    seconds: float | None = None
    "how long it took, without the network and the start of the peers"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One lab and what was found in it."""

    outcomes: tuple[Outcome, ...]
    seconds: float
    "the whole of it, from the first namespace to the last process"
    alone: bool = False
    "nothing else ran at that time"
    evidence: str = ""
    "its folder, relative to that of the results; empty if nothing was built"

    def of(self, check: Check) -> Outcome | None:
        """What came of one check; None if it was not made."""
        return next((outcome for outcome in self.outcomes if outcome.check is check), None)

    @property
    def passed(self) -> bool:
        """Whether there is nothing to try again."""
        return all(outcome.mark in (Mark.PASSED, Mark.UNSUPPORTED) for outcome in self.outcomes)


@dataclass(frozen=True, slots=True)
class Known:
    """A failure that was expected."""

    check: Check
    entry: str
    "its name in the file of known failures"
    reason: str
    see: str


@dataclass(frozen=True, slots=True)
class Cell:
    """One setup."""

    setup: Setup
    attempts: tuple[Attempt, ...]
    "at least one; the last one counts"
    known: tuple[Known, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """One check of one setup: what a table, a test report or a list has a line for."""

    setup: Setup
    outcome: Outcome
    "that which counts"
    first: Outcome
    known: Known | None
    evidence: str

    @property
    def flaky(self) -> bool:
        """Whether it did not pass at first and passed alone."""
        return self.outcome.mark is Mark.PASSED and self.first.mark is not Mark.PASSED

    @property
    def failed(self) -> bool:
        """Whether it failed, and nobody expected that."""
        return self.outcome.mark is Mark.FAILED and self.known is None

    @property
    def cured(self) -> bool:
        """Whether it was known to fail, and passed."""
        return self.outcome.mark is Mark.PASSED and self.known is not None


@dataclass(frozen=True, slots=True)
class Implementation:
    """Who took part."""

    impl: str
    "the word for it, `go`"
    implementation: str
    "as the peer calls itself; empty if there is no such peer here"
    version: str


@dataclass(frozen=True, slots=True)
class Results:
    """Everything that a matrix of implementations has to tell."""

    run: str
    started: float
    "Unix seconds"
    seconds: float
    "wall time; of merged runs that in which any of them ran"
    machine: Machine
    seed: int
    mode: str
    "cover, full"
    runner: str
    "how every peer was run: process, container"
    shard: str
    "`2/8`; empty: all of it"
    planned: int
    "setups that were to be tried; more than there are cells if it was interrupted"
    implementations: tuple[Implementation, ...]
    cells: tuple[Cell, ...]

    def __post_init__(self) -> None:
        require_runner(self.runner)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Every check of every cell."""
        return tuple(finding for cell in self.cells for finding in findings_of(cell))

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do."""
        return len(self.cells) >= self.planned

    @property
    def ok(self) -> bool:
        """Whether it was finished, nothing FAILED that was not known to, and the lab can be believed."""
        marks = {finding.outcome.mark for finding in self.findings}
        return self.complete and Mark.INCONCLUSIVE not in marks and not any(each.failed for each in self.findings)


def findings_of(cell: Cell) -> Iterator[Finding]:
    """Every check of one cell."""
    first, last = cell.attempts[0], cell.attempts[-1]
    for outcome in last.outcomes:
        known = next((known for known in cell.known if known.check is outcome.check), None)
        yield Finding(cell.setup, outcome, first.of(outcome.check) or outcome, known, last.evidence)


def results_to_json(results: Results) -> str:
    """The text of `results.json`."""
    return json.dumps({"kind": KIND, "format": FORMAT, **to_plain(results)}, indent=1, ensure_ascii=False) + "\n"


def results_from_json(text: str) -> Results:
    """The results of such a text; `LabError` says where it is none."""
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LabError(f"not JSON: {error}") from None
    if not isinstance(value, dict) or value.pop("kind", None) != KIND:
        raise LabError("not results of a matrix of implementations")
    format = value.pop("format", None)
    if format == WITHOUT_RUNNER:
        value.setdefault("runner", PROCESS)
    elif format != FORMAT:
        raise LabError(f"results of another format; this punchlab reads format {FORMAT}")
    results = from_plain(value, Results, "results")
    if not all(cell.attempts for cell in results.cells):
        raise LabError("a cell without an attempt")
    return results


def is_interop(folder: Path) -> bool:
    """Whether the folder of a run holds such results, and not those of the punch matrix."""
    try:
        with (folder / RESULTS).open(encoding="utf-8", errors="replace") as file:
            return f'"kind": "{KIND}"' in file.read(64)
    except OSError:
        return False


def load(folder: Path) -> Results:
    """The results in the folder of a run; `LabError`."""
    return load_by(results_from_json, folder)
