"""Our own node, `python -m node`, by the same contract as everybody else's."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import lab
from lab.plan.plan import Launch

SOURCE = Path(lab.__file__).resolve().parent.parent
"The folder that holds the package `node`: beside `lab` in a checkout as in an installation."


@dataclass(frozen=True, slots=True)
class Own:
    """Starts a node with the interpreter that runs the lab."""

    name: str = "own"

    def argv(self, launch: Launch, options: tuple[str, ...]) -> list[str]:
        wildcards = ["/ip6/::" if ":" in address else "/ip4/0.0.0.0" for address in launch.addresses]
        listen = [word for wildcard in wildcards for word in ("--listen", f"{wildcard}/tcp/{launch.port}")]
        # -P and PYTHONPATH: the package is found by its own place, whatever the folder of the run holds.
        start = [sys.executable, "-P", "-m", "node", "--name", launch.peer, "--role", launch.role]
        # The folder of the peer, where it runs: a peer that is killed and started again is still the same one.
        return [*start, *listen, "--state", ".", *options]

    def environment(self, launch: Launch, home: Path) -> Mapping[str, str]:
        return {"HOME": str(home), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(SOURCE), "LANG": "C.UTF-8"}


OWN = Own()
