"""A network as it was asked for: routers with their NATs, and peers behind them or on the internet.

Values only: no addresses, no seed (`lab.plan` chooses those). `lab.model.reading` makes one of a TOML file; the punch
matrix makes its own (`lab.model.classical`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lab.model.nat import Nat

INTERNET: Final = "internet"
"`at` of a peer that is behind no NAT"


@dataclass(frozen=True, slots=True)
class Router:
    """A NAT between one LAN and the internet."""

    name: str
    nat: Nat
    preset: str | None = None
    "the name its NAT was given by, if it was"
    line: int = 0
    "where in the topology file; 0: it has none"


@dataclass(frozen=True, slots=True)
class Peer:
    """A libp2p node and its place."""

    name: str
    at: str
    "a router's name, or `internet`"
    impl: str = "own"
    role: str = "peer"
    "peer or relay"
    line: int = 0

    @property
    def public(self) -> bool:
        """Whether no NAT is in front of it."""
        return self.at == INTERNET


@dataclass(frozen=True, slots=True)
class Topology:
    """A network. Names of routers and peers are unique among both."""

    name: str
    summary: str
    routers: tuple[Router, ...]
    peers: tuple[Peer, ...]
    path: Path | None = None
    "the file it came from"

    def router(self, name: str) -> Router:
        """The router of that name; KeyError if there is none."""
        for router in self.routers:
            if router.name == name:
                return router
        raise KeyError(name)

    def peer(self, name: str) -> Peer:
        """The peer of that name; KeyError if there is none."""
        for peer in self.peers:
            if peer.name == name:
                return peer
        raise KeyError(name)

    def nat_of(self, peer: str) -> Nat | None:
        """The NAT in front of a peer; None if it is on the internet."""
        at = self.peer(peer).at
        return None if at == INTERNET else self.router(at).nat
