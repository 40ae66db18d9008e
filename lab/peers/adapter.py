"""How a peer of one implementation is started: all that differs between them, since all speak one contract."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from lab.plan.plan import Launch


class Adapter(Protocol):
    """One implementation of libp2p."""

    @property
    def name(self) -> str:
        """The word for it in a topology: `impl = "own"`."""
        ...

    def argv(self, launch: Launch, options: tuple[str, ...]) -> list[str]:
        """The program and its arguments; `options` are the scenario's own, passed on as they are."""
        ...

    def environment(self, launch: Launch, home: Path) -> Mapping[str, str]:
        """The whole environment of the process; `home` is a folder of its own that exists."""
        ...
