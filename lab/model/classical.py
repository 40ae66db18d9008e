"""The five classical NATs and the topologies that the punch matrix and the NAT check make of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from lab.model.nat import Nat
from lab.model.presets import PRESETS
from lab.model.topology import INTERNET, Peer, Router, Topology
from lab.model.writing import to_toml

CLASSICAL: Final = (
    "full-cone",
    "address-restricted",
    "port-restricted",
    "symmetric-sequential",
    "symmetric-random",
)


def cell_topology(dialer_nat: str, listener_nat: str) -> Topology:
    """Alice behind `home-a` dials bob behind `home-b`; the relay is public; KeyError if not presets."""
    return _with_text(
        Topology(
            name=f"{dialer_nat}--{listener_nat}",
            summary=f"A dialer behind {dialer_nat}, a listener behind {listener_nat}, a public relay.",
            routers=(
                Router("home-a", PRESETS[dialer_nat].nat, dialer_nat),
                Router("home-b", PRESETS[listener_nat].nat, listener_nat),
            ),
            peers=(Peer("relay", INTERNET, role="relay"), Peer("alice", "home-a"), Peer("bob", "home-b")),
        )
    )


def probe_topology(nat: Nat, name: str = "probe") -> Topology:
    """One NAT called `router` with `host-a` and `host-b` behind it: what measuring it with all its traps needs."""
    return _with_text(
        Topology(
            name=name,
            summary="One NAT with two hosts behind it.",
            routers=(Router("router", nat),),
            peers=(Peer("host-a", "router"), Peer("host-b", "router")),
        )
    )


def _with_text(topology: Topology) -> Topology:
    return replace(topology, text=to_toml(topology))
