"""Our own node, `python -m node`, by the same contract as everybody else's."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import lab
from lab.peers.adapter import arguments
from lab.plan.plan import Launch

SOURCE = Path(lab.__file__).resolve().parent.parent
"The folder that holds the package `node`: beside `lab` in a checkout as in an installation."


@dataclass(frozen=True, slots=True)
class Own:
    """Starts a node with the interpreter that runs the lab."""

    name: str = "own"

    def argv(self, launch: Launch, options: tuple[str, ...]) -> list[str]:
        # -P and PYTHONPATH: the package is found by its own place, whatever the folder of the run holds.
        return [sys.executable, "-P", "-m", "node", *arguments(launch), *options]

    def environment(self, launch: Launch, home: Path) -> Mapping[str, str]:
        return {"HOME": str(home), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(SOURCE), "LANG": "C.UTF-8"}


OWN = Own()
