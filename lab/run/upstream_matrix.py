"""Many tests of one of libp2p's own suites, each in a lab of its own, and their results in upstream's formats.

runs/<id>/results.csv or results.yaml, results.md, upstream.json   cells/<test>/…
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lab.kernel.container import Engine
from lab.model.upstream import Case, Suite
from lab.report.upstream import Outcome, to_csv, to_json, to_markdown, to_yaml
from lab.run.evidence import Evidence, new_run
from lab.run.machine import lab_version
from lab.run.upstream import run_case

Done = Callable[[Outcome], None]


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be run, and how."""

    suite: Suite
    cases: tuple[Case, ...]
    link: str | None = None
    "what both homes' uplinks are like; None: as upstream has them"
    within: float | None = None
    "seconds for a test; None: as upstream has it"
    jobs: int | None = None
    "tests at a time; None: as many as this machine has processors"
    seed: int = 1
    engine: Engine | None = None
    "needed where versions are images"

    @property
    def width(self) -> int:
        """How many tests run at a time."""
        return self.jobs or os.cpu_count() or 1


async def run_all(order: Order, runs: Path, done: Done) -> tuple[Path, tuple[Outcome, ...]]:
    """Run every test, tell `done` of each as it ends, and write the results; the run's folder and them.

    Results are written anew after each test, so that a run that is stopped leaves those that it has.
    """
    started = time.time()
    folder = new_run(runs, order.suite.value, started, random.SystemRandom())
    slots = asyncio.Semaphore(order.width)
    found: dict[int, Outcome] = {}

    def so_far() -> tuple[Outcome, ...]:
        return tuple(found[number] for number in sorted(found))

    async def run(number: int, case: Case) -> None:
        async with slots:
            evidence = Evidence(folder / "cells" / case.slug)
            found[number] = await run_case(
                case, evidence, order.seed, link=order.link, within=order.within, engine=order.engine
            )
            _write(folder, order, so_far(), started)
            done(found[number])

    about = {"format": 1, "suite": order.suite.value, "started": started, "punchlab": lab_version(), "seed": order.seed}
    Evidence(folder).write("run.json", about)
    async with asyncio.TaskGroup() as group:
        for number, case in enumerate(order.cases):
            group.create_task(run(number, case))
    return folder, so_far()


def _write(folder: Path, order: Order, tests: tuple[Outcome, ...], started: float) -> None:
    evidence = Evidence(folder)
    if order.suite.unified:
        evidence.write_text("results.yaml", to_yaml(tests, folder.name, started, time.time(), order.width))
    else:
        evidence.write_text("results.csv", to_csv(tests))
    evidence.write_text("results.md", to_markdown(tests))
    evidence.write_text("upstream.json", to_json(tests, order.suite.value))
