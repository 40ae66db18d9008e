"""A topology, made real and examined, for as long as a scenario runs in it.

async with laboratory(topology, evidence, seed=1) as lab:
    relay, alice, bob = lab.peers("relay", "alice", "bob")
    …
"""

from __future__ import annotations

import platform
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from lab.errors import Inconclusive
from lab.kernel.container import Engine
from lab.lab import ADAPTERS, Lab
from lab.model.plain import to_plain
from lab.model.topology import Topology
from lab.observe.certificate import certificate_to_json
from lab.peers.adapter import Adapter
from lab.plan.build import build
from lab.run.evidence import Evidence
from lab.run.gate import Gate, examine
from lab.run.machine import lab_version

Options = Mapping[str, tuple[str, ...]]
"Further arguments for peers' programs, by peer."


@asynccontextmanager
async def laboratory(
    topology: Topology,
    evidence: Evidence,
    *,
    seed: int = 1,
    options: Options | None = None,
    adapters: Mapping[str, Adapter] = ADAPTERS,
    peers: bool = True,
    engine: Engine | None = None,
) -> AsyncIterator[Lab]:
    """Build the topology, certify its NATs, start its peers, and leave the evidence complete when the block ends.

    Without `peers` all is ready for somebody else to start programs in it.
    Raises `Inconclusive` where a NAT does not measure as declared or something leaks; `KernelError` and `PeerError`
    where a part cannot be built or a peer cannot be started. Peers in containers need an `engine`.
    """
    plan = build(topology, seed)
    about = _about(topology, seed)
    evidence.write("run.json", about)
    evidence.write("plan.json", to_plain(plan))
    if topology.text:
        evidence.write_text("topology.toml", topology.text)
    try:
        async with Lab.build(plan, evidence, adapters, engine) as lab:
            with evidence.step("the lab examines itself"):
                gate = await examine(lab)
            _admit(evidence, gate)
            await (lab.start(options) if peers else lab.record())
            yield lab
        if lab.captured is not None:
            about["capture"] = {"packets": lab.captured.packets, "dropped": dict(lab.captured.dropped)}
    finally:
        evidence.write("run.json", {**about, "finished": time.time()})
        evidence.close()


def _admit(evidence: Evidence, gate: Gate) -> None:
    evidence.write("certificates.json", [certificate_to_json(certificate) for certificate in gate.certificates])
    if gate.lans:
        evidence.write("lans.json", [to_plain(certificate) for certificate in gate.lans])
    if gate.walls:
        evidence.write("walls.json", [wall.to_json() for wall in gate.walls])
    if gate.guards:
        evidence.write("guards.json", [guard.to_json() for guard in gate.guards])
    if gate.problems:
        raise Inconclusive("; ".join(gate.problems))


def _about(topology: Topology, seed: int) -> dict[str, Any]:
    return {
        "format": 1,
        "topology": topology.name,
        "summary": topology.summary,
        "seed": seed,
        "started": time.time(),
        "punchlab": lab_version(),
        "python": platform.python_version(),
        "kernel": platform.release(),
    }
