"""The matrix of implementations: which setups there are to try, trying them, and the results.

    runs/<id>/  order.json    what was asked, so that the run can be resumed
                cells.jsonl   each setup as it ended, so that nothing is lost whatever happens
                results.json  cells/<setup>/…

What a peer says itself that it has not is UNSUPPORTED before anything is built; where an image never said a word,
all that it takes part in is INCONCLUSIVE likewise. A setup that fails beside others is tried again when all are done
and nothing else runs. All peers of a run are run one way, as processes or in containers.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from lab.errors import LabError
from lab.kernel.container import Engine
from lab.lab import ADAPTERS
from lab.model.capabilities import Capabilities, unheard, unsupported
from lab.model.cover import cover, pairs_in
from lab.model.interop import Check, Selection, Setup
from lab.model.known import KnownFailure
from lab.model.plain import from_plain, to_plain
from lab.model.runner import PROCESS, require_runner
from lab.peers.adapter import Adapter
from lab.report.badge import badge_json, badge_svg
from lab.report.interop import Attempt, Cell, Implementation, Known, Outcome, Results, findings_of, results_to_json
from lab.report.interop_text import markdown
from lab.report.junit import junit
from lab.report.results import RESULTS, Mark
from lab.run.checks import try_setup
from lab.run.evidence import ORDER, Evidence, new_run
from lab.run.machine import this_machine

JOURNAL: Final = "cells.jsonl"
WIDTH_PER_CPU: Final = 3
"Setups at a time: most of them wait, but starting other implementations' peers costs a processor a second each."
MAX_AGAIN: Final = 60
"Setups that are tried again; where more than that fail, something else is wrong."


@dataclass(frozen=True, slots=True)
class Shard:
    """One part of several: the `number`-th of `count`, from 1."""

    number: int = 1
    count: int = 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}" if self.count > 1 else ""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be run; all that a resumed run needs to go on."""

    selection: Selection
    full: bool = False
    "every setup; otherwise as few as hold every pair of values"
    seed: int = 1
    shard: Shard = Shard()
    keep: bool = False
    "keep the captures of what passed, too"
    jobs: int | None = None
    runner: str = PROCESS
    "how every peer is run"

    def __post_init__(self) -> None:
        require_runner(self.runner)

    @property
    def mode(self) -> str:
        return "full" if self.full else "cover"

    @property
    def width(self) -> int:
        """How many setups are tried at a time."""
        return self.jobs if self.jobs is not None else WIDTH_PER_CPU * (os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class Planned:
    """One setup with what is to be found out in it, and what is known beforehand not to be there."""

    setup: Setup
    checks: tuple[Check, ...]
    absent: tuple[Outcome, ...]


def plan(order: Order, known: Mapping[str, Capabilities]) -> list[Planned]:
    """Every setup to try, and those that stand for what nobody can try, in the order in which they are shown.

    In cover mode the setups of a scene hold every pair of values that some setup holds. Pairs that occur only where
    somebody cannot take part are in setups that are UNSUPPORTED as a whole.
    """
    chance, planned = random.Random(order.seed), []
    for scene in order.selection.scenes:
        every = [_planned(setup, order.selection, known) for setup in order.selection.setups(scene)]
        planned += every if order.full else _covered(every, chance)
    return planned[order.shard.number - 1 :: order.shard.count]


def _planned(setup: Setup, selection: Selection, known: Mapping[str, Capabilities]) -> Planned:
    checks = selection.checks_of(setup.scene)
    absent = {check: outcome for check in checks if (outcome := _beforehand(setup, check, known)) is not None}
    return Planned(setup, tuple(check for check in checks if check not in absent), tuple(absent.values()))


def _beforehand(setup: Setup, check: Check, known: Mapping[str, Capabilities]) -> Outcome | None:
    """What is to be said of a check without making it; None if it can be made."""
    if (lack := unsupported(setup, check, known)) is not None:
        return Outcome(check, Mark.UNSUPPORTED, lack)
    if (silence := unheard(setup, known)) is not None:
        return Outcome(check, Mark.INCONCLUSIVE, silence)
    return None


def _covered(every: Sequence[Planned], chance: random.Random) -> list[Planned]:
    chosen: list[Planned] = []
    for group in ([each for each in every if each.checks], [each for each in every if not each.checks]):
        rows = [each.setup.factors for each in group]
        wanted = pairs_in(rows) - pairs_in(each.setup.factors for each in chosen)
        chosen += [group[number] for number in cover(rows, chance, wanted)]
    return chosen


@dataclass
class Run:
    """A matrix while it runs."""

    folder: Path
    order: Order
    planned: Sequence[Planned]
    capabilities: Mapping[str, Capabilities]
    known: Sequence[KnownFailure] = ()
    adapters: Mapping[str, Adapter] = field(default_factory=lambda: ADAPTERS)
    engine: Engine | None = None
    "needed for containers"
    cells: dict[str, Cell] = field(default_factory=dict)
    "those that are done, by name of the setup"
    started: float = field(default_factory=time.time)
    spent: float = 0.0
    "seconds that it has taken before it was interrupted"
    versions: dict[str, tuple[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # A resumed run may know of failures that it did not know of when it began.
        for each in self.planned:
            if cell := self.cells.get(each.setup.name):
                self.cells[each.setup.name] = replace(cell, known=self._known(each, cell.attempts[-1]))

    async def play(self, done: Callable[[Cell], None]) -> Results:
        """Try all that is not done, tell `done` of each cell as it is settled; what there is is saved in any case."""
        began = time.monotonic()
        try:
            await self._all_at_once(done)
            await self._failed_alone(done)
        finally:
            results = self.results(self.spent + time.monotonic() - began)
            write_results(self.folder, results)
        return results

    async def _all_at_once(self, done: Callable[[Cell], None]) -> None:
        slots = asyncio.Semaphore(self.order.width)
        shuffled = [each for each in self.planned if each.setup.name not in self.cells]
        # Which runs beside which is left to chance, so that no setup always meets the same load.
        random.Random(self.order.seed).shuffle(shuffled)

        async def one(planned: Planned) -> None:
            async with slots:
                attempt = await self._try(planned)
                cell = Cell(planned.setup, (attempt,), self._known(planned, attempt))
            self._keep(cell)
            if not self._wants_again(cell):
                done(cell)

        async with asyncio.TaskGroup() as group:
            for each in shuffled:
                if each.checks:
                    group.create_task(one(each))
                else:
                    cell = Cell(each.setup, (Attempt(each.absent, 0.0),))
                    self._keep(cell)
                    done(cell)

    async def _failed_alone(self, done: Callable[[Cell], None]) -> None:
        again = [each for each in self.planned if each.checks and self._wants_again(self.cells[each.setup.name])]
        for number, planned in enumerate(again):
            cell = self.cells[planned.setup.name]
            if number < MAX_AGAIN:
                cell = replace(cell, attempts=(*cell.attempts, await self._try(planned, alone=True)))
                self._keep(cell)
            done(cell)

    async def _try(self, planned: Planned, *, alone: bool = False) -> Attempt:
        setup, began = planned.setup, time.monotonic()
        place = Path("cells") / (f"{setup.name}.alone" if alone else setup.name)
        # What an interrupted run has left there would be mixed with what comes now.
        if (self.folder / place).exists():
            shutil.rmtree(self.folder / place)
        evidence = Evidence(self.folder / place)
        order = self.order
        tried = await try_setup(setup, planned.checks, evidence, order.seed, self.adapters, order.runner, self.engine)
        self.versions |= tried.versions
        attempt = Attempt((*tried.outcomes, *planned.absent), time.monotonic() - began, alone, str(place))
        if attempt.passed and not self.order.keep:
            evidence.capture.unlink(missing_ok=True)
        return attempt

    def _known(self, planned: Planned, last: Attempt) -> tuple[Known, ...]:
        """What was to be expected; of what fails only sometimes nothing, unless it did."""
        failed = {outcome.check for outcome in last.outcomes if outcome.mark is Mark.FAILED}
        return tuple(
            Known(check, entry.name, entry.reason, entry.see)
            for check in planned.checks
            for entry in self.known
            if entry.fits(planned.setup, check) and (check in failed or not entry.sometimes)
        )

    @staticmethod
    def _wants_again(cell: Cell) -> bool:
        """Whether it is to be tried by itself: something did not pass that nobody expected to fail."""
        last = cell.attempts[-1]
        surprising = any(each.failed or each.outcome.mark is Mark.INCONCLUSIVE for each in findings_of(cell))
        return surprising and not last.alone

    def _keep(self, cell: Cell) -> None:
        self.cells[cell.setup.name] = cell
        with (self.folder / JOURNAL).open("a", encoding="utf-8") as file:
            file.write(json.dumps(to_plain(cell), ensure_ascii=False) + "\n")

    def results(self, seconds: float) -> Results:
        """What has come of it up to now."""
        return Results(
            run=self.folder.name,
            started=self.started,
            seconds=seconds,
            machine=this_machine(),
            seed=self.order.seed,
            mode=self.order.mode,
            runner=self.order.runner,
            shard=str(self.order.shard),
            planned=len(self.planned),
            implementations=tuple(self._implementations()),
            cells=tuple(self.cells[each.setup.name] for each in self.planned if each.setup.name in self.cells),
        )

    def _implementations(self) -> Iterable[Implementation]:
        for impl in dict.fromkeys(impl for each in self.planned for impl in each.setup.implementations):
            found = self.capabilities.get(impl)
            said = (found.implementation, found.version) if found is not None else ("", "")
            yield Implementation(impl, *self.versions.get(impl, said))


def write_results(folder: Path, results: Results) -> None:
    """Write the results in all their forms, each in one step."""
    evidence = Evidence(folder)
    evidence.write_text(RESULTS, results_to_json(results))
    evidence.write_text("junit.xml", junit(results))
    evidence.write_text("summary.md", markdown(results))
    evidence.write_text("badge.svg", badge_svg(results))
    evidence.write_text("badge.json", badge_json(results))


def begin(order: Order, runs: Path, label: str = "interop") -> Path:
    """Make the folder of a new run and write what it is for."""
    folder = new_run(runs, label, time.time(), random.SystemRandom())
    (folder / ORDER).write_text(json.dumps(to_plain(order), indent=1) + "\n", "utf-8")
    return folder


def order_of(folder: Path) -> Order:
    """What a run that is to be resumed was for; LabError."""
    path = folder / ORDER
    try:
        value = json.loads(path.read_text("utf-8"))
        if isinstance(value, dict):
            value.setdefault("runner", PROCESS)  # begun when there was no other
        return from_plain(value, Order, "order")
    except OSError:
        raise LabError(f"{folder} is not the run of a matrix of implementations: it has no {ORDER}") from None
    except ValueError as error:
        raise LabError(f"{path}: not JSON: {error}") from None
    except LabError as error:
        raise LabError(f"{path}: {error}") from None


def resume(folder: Path) -> dict[str, Cell]:
    """The cells that an interrupted run has done, by name of their setup; its journal is made whole. LabError.

    Those for which nothing was built are not among them: who is there by now may be somebody else.
    """
    cells = {name: cell for name, cell in _cells_of(folder).items() if cell.attempts[-1].evidence}
    lines = [json.dumps(to_plain(cell), ensure_ascii=False) + "\n" for cell in cells.values()]
    Evidence(folder).write_text(JOURNAL, "".join(lines))
    return cells


def _cells_of(folder: Path) -> dict[str, Cell]:
    """A last line that was cut off is left out."""
    cells: dict[str, Cell] = {}
    path = folder / JOURNAL
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            cell = from_plain(json.loads(line), Cell, "cell")
        except ValueError as error:
            if number == len(lines):
                break
            raise LabError(f"{path}:{number}: not JSON: {error}") from None
        cells[cell.setup.name] = cell
    return cells
