"""What a lab costs before anything runs in it, and until its peers do: the topology `two-homes`.

Everything happens in one sandbox, as in a run. A lab only lets go of its network, which takes no time, and the kernel
takes it down in the background; teardown is until that is done.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from lab.errors import LabError
from lab.kernel import sandbox
from lab.kernel.namespace import Namespace
from lab.kernel.network import Network
from lab.kernel.process import spawn
from lab.lab import Lab
from lab.model.topology import load
from lab.peers.own import OWN
from lab.plan.build import build
from lab.plan.plan import Plan
from lab.run.evidence import Evidence
from lab.run.gate import examine
from lab.run.library import locate
from tests.bench.figures import Section, milliseconds
from tests.bench.program import BenchError
from tests.bench.witness import everything_gone

TOPOLOGY: Final = "two-homes"
SEED: Final = 1
Samples = dict[str, list[float]]
"Seconds by name."

PLAN, BUILD, TEARDOWN = "topology file → plan", "plan → network ready", "network → gone"
EXAMINE, PEERS = "NATs certified, leaks looked for", "captures and 3 peers ready"
NODE, BARE = "one peer, spawn → ready line", "python -c pass, spawn → end"
AIMS: Final = {BUILD: "≤ 100 ms"}


def run(builds: int, labs: int) -> Section:
    """Build `builds` networks, and `labs` of them as whole labs with peers."""
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    began = time.perf_counter()
    try:
        empty = sandbox.fork_into_sandbox(lambda: b"")
        sandboxed = time.perf_counter() - began
        samples: Samples = json.loads(sandbox.fork_into_sandbox(lambda: _inside(builds, labs)))
    except LabError as error:
        raise BenchError(str(error)) from None
    assert not empty
    samples["sandbox made and gone"] = [sandboxed]
    figures = tuple(milliseconds(name, values, AIMS.get(name, "")) for name, values in samples.items())
    return Section("lab", f"The lab: {TOPOLOGY}, two NATs, two LANs, a relay, two peers", figures)


def _inside(builds: int, labs: int) -> bytes:
    plan = build(load(locate(TOPOLOGY)), SEED)
    samples: Samples = {name: [] for name in (PLAN, BUILD, TEARDOWN, EXAMINE, PEERS, NODE, BARE)}
    Network.build(plan).close()  # what the first of a process loads is not the rest's cost
    for _ in range(builds):
        _networks(samples)
    asyncio.run(_labs(plan, labs, samples))
    return json.dumps(samples).encode()


def _networks(samples: Samples) -> None:
    began = time.perf_counter()
    plan = build(load(locate(TOPOLOGY)), SEED)
    planned = time.perf_counter()
    network = Network.build(plan)
    samples[PLAN].append(planned - began)
    samples[BUILD].append(time.perf_counter() - planned)
    with everything_gone():
        closing = time.perf_counter()
        network.close()
    samples[TEARDOWN].append(time.perf_counter() - closing)


async def _labs(plan: Plan, count: int, samples: Samples) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            evidence = Evidence(Path(folder, str(number)))
            try:
                await _lab(plan, evidence, samples)
            finally:
                evidence.close()


async def _lab(plan: Plan, evidence: Evidence, samples: Samples) -> None:
    async with Lab.build(plan, evidence) as lab:
        began = time.perf_counter()
        gate = await examine(lab)
        if gate.problems:
            raise LabError("; ".join(gate.problems))
        examined = time.perf_counter()
        await lab.start()
        samples[EXAMINE].append(examined - began)
        samples[PEERS].append(time.perf_counter() - examined)
    async with Lab.build(plan, evidence) as lab:
        launch = plan.launches[0]
        home, space = evidence.home(launch.peer), lab.network.spaces[launch.space]
        environment = dict(OWN.environment(launch, home))
        samples[BARE].append(await _spawn(space, [sys.executable, "-c", "pass"], environment, home))
        samples[NODE].append(await _spawn(space, OWN.argv(launch, ()), environment, home))


async def _spawn(space: Namespace, argv: Sequence[str], environment: dict[str, str], home: Path) -> float:
    """Seconds until its first line, or its end if it says nothing."""
    began = time.perf_counter()
    process = await spawn(space, argv, environment, home, home / "stderr")
    assert process.stdout is not None
    await process.stdout.readline()
    took = time.perf_counter() - began
    process.stdin.close()  # type: ignore[union-attr]
    await process.wait()
    return took
