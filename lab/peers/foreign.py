"""Other implementations' peers: small programs on their published packages, built by `make peers` (compose/peers/)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lab.errors import PeerUnsupported
from lab.model.topology import NAME
from lab.peers.adapter import arguments
from lab.peers.own import OWN, SOURCE
from lab.plan.plan import Launch

BUILT: Final = "PUNCHLAB_PEERS"
"the environment variable that names another folder of built peers"


def built() -> Path:
    """The folder in which each implementation has one of its own with the program `peer`."""
    return Path(os.environ.get(BUILT) or SOURCE / "build" / "peers")


@dataclass(frozen=True, slots=True)
class Foreign:
    """Starts the program of one implementation, by the flags of the contract."""

    name: str

    @property
    def program(self) -> Path:
        """Where `make peers` leaves it."""
        return built() / self.name / "peer"

    def argv(self, launch: Launch, options: tuple[str, ...]) -> list[str]:
        """Raises `PeerUnsupported` where the program has not been built."""
        if not os.access(self.program, os.X_OK):
            raise PeerUnsupported(f"{launch.peer}: the peer of {self.name} is not built; `make peers` builds it")
        return [str(self.program), *arguments(launch), *options]

    def environment(self, launch: Launch, home: Path) -> Mapping[str, str]:
        return {"HOME": str(home), "PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LANG": "C.UTF-8"}


def strangers() -> tuple[Foreign, ...]:
    """Further peers that somebody has put there, by the names of their folders."""
    known = {each.name for each in FOREIGN}
    programs = sorted(built().glob("*/peer"))
    names = [program.parent.name for program in programs if os.access(program, os.X_OK)]
    return tuple(Foreign(name) for name in names if NAME.fullmatch(name) and name not in (*known, OWN.name))


FOREIGN: Final = tuple(Foreign(name) for name in ("go", "rust", "js", "py"))
