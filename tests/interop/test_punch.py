"""Other implementations behind the lab's NATs, with ours and among themselves: the same scenario, the same verdict."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest

from lab.kernel import sandbox
from lab.model.classical import cell_topology
from lab.model.writing import to_toml
from lab.peers.foreign import FOREIGN, Foreign
from lab.report.results import Mark
from lab.run.cell import run_cell
from lab.run.evidence import Evidence

PAIRS = [
    ("home", "home", "direct"),
    ("symmetric-random", "home", "relayed"),
]


def built(impl: str) -> Foreign:
    foreign = next(each for each in FOREIGN if each.name == impl)
    if not os.access(foreign.program, os.X_OK):
        pytest.skip(f"the peer of {impl} is not built; `make peers` builds it")
    return foreign


@pytest.mark.parametrize(
    ("dialer", "listener", "relay"),
    [("go", "own", "own"), ("own", "go", "go"), ("rust", "own", "own"), ("own", "rust", "rust")],
)
@pytest.mark.parametrize(("dialer_nat", "listener_nat", "path"), PAIRS)
def test_two_implementations_end_on_the_predicted_path(
    tmp_path: Path, dialer: str, listener: str, relay: str, dialer_nat: str, listener_nat: str, path: str
) -> None:
    for impl in {dialer, listener, relay} - {"own"}:
        built(impl)
    if reason := sandbox.problem():
        pytest.skip(reason)
    impls = {"alice": dialer, "bob": listener, "relay": relay}
    plain = cell_topology(dialer_nat, listener_nat)
    topology = replace(plain, peers=tuple(replace(peer, impl=impls[peer.name]) for peer in plain.peers))
    topology = replace(topology, text=to_toml(topology))

    def main() -> bytes:
        cell = asyncio.run(run_cell(topology, Evidence(tmp_path / "run"), 1, "capture.pcapng"))
        return f"{cell.verdict.value} {cell.seen} {cell.why}".encode()

    verdict = sandbox.fork_into_sandbox(main, 180.0).decode()
    assert verdict.startswith(f"{Mark.PASSED.value} {path}"), verdict
