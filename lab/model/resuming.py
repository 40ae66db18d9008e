"""What may happen to two peers in the middle of their talk, and the networks in which it does.

    alice ── home-a ──┐                         alice ── home-a ──┐
    bob ──── home-b ──┼── relay                 bob, late ────────┘
    neighbour ─ home-c ─┘

On the left they meet at the relay and make a hole, as DCUtR has it: over QUIC alice dials and bob is dialled. On the
right alice's router counts its ports and maps one on request, at which bob reaches her.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from lab.model.topology import Topology, parse
from lab.model.transport import TRANSPORTS


class Way(Enum):
    """How the two have become directly connected."""

    PUNCH = "a hole"
    PORT_MAP = "a port map"


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that happens."""

    name: str
    "of the cell's folder; alike in all transports"
    what: str
    "in words, for the page"
    target: str
    event: str
    "in the words of a shell (`lab.model.event`)"
    way: Way = Way.PUNCH
    anew: bool = False
    "whose traffic is waited for: False: of those who are connected, True: of one who comes after it has happened"


CASES: Final = (
    Case("reboot-a", "the NAT of the one that sends restarts, and gives other ports", "home-a", "reboot other-ports"),
    Case(
        "reboot-b", "the NAT of the one that receives restarts, and gives other ports", "home-b", "reboot other-ports"
    ),
    Case("reboot-same-a", "the NAT of the one that sends restarts, and gives the same ports", "home-a", "reboot"),
    Case("reboot-same-b", "the NAT of the one that receives restarts, and gives the same ports", "home-b", "reboot"),
    Case("address-a", "the NAT of the one that sends gets another address", "home-a", "address 11.0.9.1"),
    Case("address-b", "the NAT of the one that receives gets another address", "home-b", "address 11.0.9.2"),
    Case("move", "the one that sends moves to another router", "alice", "move home-c"),
    Case("lease", "a port map is lost, for who has come in by it", "home-a", "lose-leases", Way.PORT_MAP),
    Case(
        "lease-anew", "a port map is lost, for who comes by it anew", "home-a", "lose-leases", Way.PORT_MAP, anew=True
    ),
)


def case_topology(case: Case, transport: str) -> Topology:
    """The network in which it happens to two that speak that transport alone; KeyError if there is none."""
    by = TRANSPORTS[transport].name
    if case.way is Way.PORT_MAP:
        routers = 'router.home-a]\nnat = "symmetric-sequential"\nport-mapping = "pcp"'
        tables = (routers, *(f'peer.{name}]\nat = "internet"' for name in ("bob", "late")))
    else:
        homes = [f'router.home-{letter}]\nnat = "home"' for letter in "abc"]
        tables = (
            *homes,
            'peer.neighbour]\nat = "home-c"',
            'peer.relay]\nat = "internet"\nrole = "relay"',
            'peer.bob]\nat = "home-b"',
        )
    tables = (*tables, 'peer.alice]\nat = "home-a"')
    name = f"{case.name}-{transport}"
    lines = [f'name = "{name}"', f'summary = "{case.what[0].upper()}{case.what[1:]}."']
    for table in tables:
        lines += [f"[{table}", *([f'transports = ["{by}"]'] if table.startswith("peer.") else [])]
    return parse("\n".join(lines) + "\n", name)
