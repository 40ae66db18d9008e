"""The punch matrix as a user runs it: wall seconds of 25 cells, seconds of a cell alone, agreement with the oracle."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lab.errors import LabError
from lab.report.results import Cell, Mark, load
from tests.bench.figures import Figure, Section
from tests.bench.program import ROOT, BenchError

ALONE: Final = ("port-restricted", "symmetric-random")
"The NATs whose four pairs are run one at a time: some that end direct, and some where every punch is tried in vain."
MATRIX_WITHIN: Final = 900.0
"Seconds of one matrix; it takes less than twenty here."


@dataclass(frozen=True, slots=True)
class Outcome:
    """One matrix: seconds by the clock on the wall, from the command to its end, and its cells."""

    seconds: float
    cells: tuple[Cell, ...]

    def count(self, mark: Mark) -> int:
        """Cells with that verdict."""
        return sum(cell.verdict is mark for cell in self.cells)


def run(repeat: int) -> Section:
    """Run the whole matrix `repeat` times, and four cells one at a time."""
    whole = [_matrix(["--transport", "tcp"]) for _ in range(repeat)]
    pairs = ",".join(ALONE)
    alone = _matrix(["--transport", "tcp", "--jobs", "1", "--dialers", pairs, "--listeners", pairs])
    agreed = [sum(cell.as_predicted for cell in outcome.cells) for outcome in whole]
    figures = (
        Figure("25 cells, default jobs", "s", tuple(outcome.seconds for outcome in whole), "≤ 60 s"),
        *_by_path(alone),
        Figure("cells as the oracle predicted, of 25", "cells", tuple(map(float, agreed)), "25"),
        Figure("inconclusive", "cells", tuple(float(outcome.count(Mark.INCONCLUSIVE)) for outcome in whole), "0"),
    )
    return Section("matrix", "The punch matrix, 5 × 5 classical NATs over TCP", figures, _surprises([*whole, alone]))


def _by_path(outcome: Outcome) -> Iterator[Figure]:
    for path in ("direct", "relayed"):
        seconds = tuple(cell.seconds.total or 0.0 for cell in outcome.cells if cell.seen == path)
        if seconds:
            yield Figure(f"a cell alone, ends {path}", "s", seconds)


def _surprises(outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    return tuple(
        f"{cell.dialer.nat_name} → {cell.listener.nat_name}: {cell.verdict.value}: {cell.why}"
        for outcome in outcomes
        for cell in outcome.cells
        if not cell.as_predicted
    )


def _matrix(arguments: Sequence[str]) -> Outcome:
    """Run the command; its evidence is thrown away."""
    with tempfile.TemporaryDirectory() as runs:
        began = time.perf_counter()
        try:
            done = subprocess.run(
                [sys.executable, "-m", "lab", "matrix", "--runs", runs, *arguments],
                cwd=ROOT, capture_output=True, text=True, timeout=MATRIX_WITHIN, check=False,
            )  # fmt: skip
            seconds = time.perf_counter() - began
            return Outcome(seconds, load(Path(runs, "latest").resolve()).cells)
        except subprocess.TimeoutExpired:
            raise BenchError(f"a matrix was not done within {MATRIX_WITHIN:g} s") from None
        except LabError:
            # An exception group's traceback is framed.
            said = [text for line in done.stderr.splitlines() if (text := line.strip(" |+-"))]
            raise BenchError(said[-1] if said else "the matrix left no results") from None
