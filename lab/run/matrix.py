"""The punch matrix: every dialer's NAT against every listener's, a fresh lab for each cell, several at a time.

    runs/<id>/results.json  cells/<dialer>--<listener>/…

A cell that breaks is one cell; the others go on.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lab.model.classical import cell_topology
from lab.model.topology import Topology
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
    jobs: int | None = None
    "cells at a time; None: as many as this machine can carry"
    seed: int = 1

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Each cell's dialer and listener."""
        return [(dialer, listener) for dialer in self.dialers for listener in self.listeners]

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
    pairs = order.pairs
    random.Random(order.seed).shuffle(pairs)
    slots = asyncio.Semaphore(order.width)
    cells: dict[tuple[str, str], Cell] = {}

    async def run(dialer: str, listener: str) -> None:
        async with slots:
            topology = cell_topology(dialer, listener)
            place = Path("cells") / topology.name
            evidence = Evidence(folder / place)
            cell = await run_cell(topology, evidence, order.seed, str(place / evidence.capture.name))
            cells[dialer, listener] = cell
            done(cell)

    async with asyncio.TaskGroup() as group:
        for dialer, listener in pairs:
            group.create_task(run(dialer, listener))
    results = Results(
        run=folder.name,
        started=started,
        seconds=time.monotonic() - began,
        machine=this_machine(),
        cells=tuple(cells[pair] for pair in order.pairs),
    )
    write_results(folder, results)
    return folder, results


async def run_single(topology: Topology, runs: Path, seed: int) -> tuple[Path, Results]:
    """One cell: a topology of the user's own."""
    started, began = time.time(), time.monotonic()
    folder = new_run(runs, topology.name, started, random.SystemRandom())
    evidence = Evidence(folder)
    cell = await run_cell(topology, evidence, seed, evidence.capture.name)
    results = Results(folder.name, started, time.monotonic() - began, this_machine(), (cell,))
    write_results(folder, results)
    return folder, results


def write_results(folder: Path, results: Results) -> None:
    """Write `results.json` in one step."""
    fresh = folder / f".{RESULTS}"
    fresh.write_text(results_to_json(results), "utf-8")
    fresh.replace(folder / RESULTS)
