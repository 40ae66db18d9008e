"""The punch matrix: every dialer's NAT against every listener's over each transport, a fresh lab for each cell.

    runs/<id>/results.json  cells/<dialer>--<listener>--<transport>/…

Several cells run at a time. A cell that breaks is one cell; the others go on.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lab.files import write_whole
from lab.kernel.container import Engine
from lab.model.classical import cell_topology
from lab.model.runner import PROCESS, all_run_as
from lab.model.topology import Topology
from lab.model.transport import PUNCHABLE
from lab.report.results import RESULTS, Cell, Results, results_to_json
from lab.run.cell import run_cell
from lab.run.evidence import Evidence, new_run
from lab.run.machine import this_machine

Done = Callable[[Cell], None]


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be run."""

    dialers: tuple[str, ...]
    listeners: tuple[str, ...]
    transports: tuple[str, ...] = PUNCHABLE
    "a matrix for each"
    link: str | None = None
    "what the uplinks of both homes are like; None: ideal"
    jobs: int | None = None
    "cells at a time; None: as many as this machine can carry"
    seed: int = 1
    runner: str = PROCESS
    "how every peer is run"
    engine: Engine | None = None
    "needed for containers"

    @property
    def cells(self) -> list[tuple[str, str, str]]:
        """Each cell's dialer, listener and transport, in the order in which they are shown."""
        return [(one, other, by) for by in self.transports for one in self.dialers for other in self.listeners]

    @property
    def width(self) -> int:
        """How many cells run at a time."""
        # A cell mostly waits: for packets that must not come, for a punch that cannot succeed.
        return self.jobs if self.jobs is not None else 5 * (os.cpu_count() or 1)


async def run_matrix(order: Order, runs: Path, done: Done) -> tuple[Path, Results]:
    """Run every cell, tell `done` of each as it ends, and write the results; returns the run's folder and them."""
    started, began = time.time(), time.monotonic()
    # Which cell runs beside which is left to chance, so that no pair of NATs always meets the same load.
    folder = new_run(runs, "matrix", started, random.SystemRandom())
    shuffled = order.cells
    random.Random(order.seed).shuffle(shuffled)
    slots = asyncio.Semaphore(order.width)
    cells: dict[tuple[str, str, str], Cell] = {}

    async def run(dialer: str, listener: str, transport: str) -> None:
        async with slots:
            topology = all_run_as(cell_topology(dialer, listener, transport, order.link), order.runner)
            place = Path("cells") / topology.name
            evidence = Evidence(folder / place)
            cell = await run_cell(
                topology, evidence, order.seed, str(place / evidence.capture.name), engine=order.engine
            )
            cells[dialer, listener, transport] = cell
            done(cell)

    async with asyncio.TaskGroup() as group:
        for key in shuffled:
            group.create_task(run(*key))
    results = Results(
        run=folder.name,
        started=started,
        seconds=time.monotonic() - began,
        machine=this_machine(),
        cells=tuple(cells[key] for key in order.cells),
    )
    write_results(folder, results)
    return folder, results


async def run_single(topology: Topology, runs: Path, seed: int, engine: Engine | None = None) -> tuple[Path, Results]:
    """One cell: a topology of the user's own."""
    started, began = time.time(), time.monotonic()
    folder = new_run(runs, topology.name, started, random.SystemRandom())
    evidence = Evidence(folder)
    cell = await run_cell(topology, evidence, seed, evidence.capture.name, engine=engine)
    results = Results(folder.name, started, time.monotonic() - began, this_machine(), (cell,))
    write_results(folder, results)
    return folder, results


def write_results(folder: Path, results: Results) -> None:
    """Write `results.json` in one step."""
    write_whole(folder / RESULTS, results_to_json(results))
