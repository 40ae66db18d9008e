"""How a peer of one implementation is started: all that differs between them, since all speak one contract."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from lab.model.transport import TRANSPORTS
from lab.plan.plan import Launch


def arguments(launch: Launch) -> list[str]:
    """The flags that every peer has (docs/contract.md)."""
    # Once each, however many uplinks have such an address: one listener serves them all.
    wildcards = dict.fromkeys("/ip6/::" if ":" in address else "/ip4/0.0.0.0" for address in launch.addresses)
    tails = [TRANSPORTS[name].listen(launch.port) for name in launch.transports]
    listen = [word for wildcard in wildcards for tail in tails for word in ("--listen", f"{wildcard}{tail}")]
    # The state is kept in the folder where it runs: a peer that is killed and started again is still the same one.
    return ["--name", launch.peer, "--role", launch.role, *listen, "--state", "."]


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
