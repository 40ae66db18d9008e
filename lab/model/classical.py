"""The five classical NATs and the topologies that the punch matrix and the NAT check make of them."""

from __future__ import annotations

from typing import Final

from lab.model.nat import Nat
from lab.model.presets import PRESETS
from lab.model.topology import INTERNET, Peer, Router, Topology

CLASSICAL: Final = (
    "full-cone",
    "address-restricted",
    "port-restricted",
    "symmetric-sequential",
    "symmetric-random",
)


def cell_topology(dialer_nat: str, listener_nat: str) -> Topology:
    """Alice behind `home-a` dials bob behind `home-b`, the relay is public; KeyError if not presets."""
    return Topology(
        name=f"{dialer_nat}--{listener_nat}",
        summary=f"A dialer behind {dialer_nat}, a listener behind {listener_nat}, a public relay.",
        routers=(
            Router("home-a", PRESETS[dialer_nat].nat, dialer_nat),
            Router("home-b", PRESETS[listener_nat].nat, listener_nat),
        ),
        peers=(
            Peer("relay", INTERNET, role="relay"),
            Peer("alice", "home-a"),
            Peer("bob", "home-b"),
        ),
    )


def probe_topology(name: str, nat: Nat) -> Topology:
    """One router called `name` with two hosts on its LAN: what measuring a NAT with all its traps needs."""
    return Topology(
        name=f"probe-{name}",
        summary=f"{name} alone, with two hosts on its LAN.",
        routers=(Router(name[:15], nat, name if name in PRESETS else None),),
        peers=(Peer("host-a", name[:15]), Peer("host-b", name[:15])),
    )
