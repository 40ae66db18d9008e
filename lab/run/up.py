"""`punchlab up`: a lab that stays until it is told to go, and `punchlab shell`: a shell in one of its namespaces.

A running lab says in `lab.json` of its run's folder which process it is and which of its file descriptors is which
namespace. Whoever may trace that process (its owner) can enter them: first its user namespace, then the others.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

from lab.errors import LabError, MissingCapability
from lab.kernel import sandbox
from lab.kernel.container import Engine
from lab.kernel.namespace import enter_foreign
from lab.lab import Lab
from lab.model.topology import Topology
from lab.run.events import listening
from lab.run.evidence import Evidence
from lab.run.scenario import laboratory


async def up(
    topology: Topology,
    evidence: Evidence,
    seed: int,
    announce: Callable[[Lab], None],
    engine: Engine | None = None,
) -> None:
    """Build it, start its peers, announce it, and stay until SIGINT or SIGTERM."""
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, over.set)
    async with laboratory(topology, evidence, seed=seed, engine=engine) as lab:
        spaces = {name: space.fd for name, space in lab.network.spaces.items()}
        evidence.write("lab.json", {"pid": sandbox.host_pid(), "spaces": spaces})
        try:
            async with listening(lab, evidence.path):
                announce(lab)
                await over.wait()
        finally:
            (evidence.path / "lab.json").unlink()


def shell(run: Path, space: str, command: list[str]) -> None:
    """Become `command` (or the user's shell) inside a space of a running lab; does not return."""
    pid, fd = _running(run, space)
    try:
        enter_foreign(pid, fd)
    except PermissionError as error:
        raise MissingCapability(f"may not enter the lab of process {pid}: it belongs to another user") from error
    except OSError as error:
        raise LabError(f"cannot enter {space} of process {pid}: {error.strerror}") from error
    argv = command or [os.environ.get("SHELL", "/bin/sh")]
    environment = {**os.environ, "PUNCHLAB_SPACE": space, "PS1": f"[{space}] \\w \\$ "}
    try:
        os.execvpe(argv[0], argv, environment)  # noqa: S606 - the user's own command, as a list
    except OSError as error:
        raise LabError(f"cannot start {argv[0]}: {error.strerror}") from error


def _running(run: Path, space: str) -> tuple[int, int]:
    """The process of a running lab and its descriptor of a namespace."""
    try:
        state = json.loads((run / "lab.json").read_text("utf-8"))
    except FileNotFoundError:
        raise LabError(f"{run.name} is not running; start one with `punchlab up`") from None
    pid, spaces = int(state["pid"]), dict(state["spaces"])
    if not Path(f"/proc/{pid}/fd").exists():
        raise LabError(f"{run.name} is not running any more: its process {pid} has gone")
    if space not in spaces:
        raise LabError(f"no {space!r} in {run.name}; there are: {', '.join(spaces)}")
    return pid, int(spaces[space])
