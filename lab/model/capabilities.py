"""What an implementation can do, as it was seen to do it, and what a setup needs of those who take part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from lab.model.interop import Check, Scene, Setup

RELAY_CLIENT: Final = "relay client"
RELAY_SERVER: Final = "relay server"
AUTONAT_CLIENT: Final = "autonat client"
AUTONAT_SERVER: Final = "autonat server"
MDNS: Final = "mdns"


class Having(Enum):
    """Whether a peer has something."""

    PROVED = "yes"
    BROKEN = "broken"
    "it says that it has, and was seen to fail"
    ABSENT = "no"
    "it says so itself"


@dataclass(frozen=True, slots=True)
class Capability:
    """One thing that a peer was asked to do."""

    name: str
    "`tcp+noise+yamux`, `echo`, `relay server`, …"
    having: Having
    why: str
    "one sentence; empty if proved"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """All that the conformance suite found of one implementation's peer."""

    impl: str
    implementation: str
    "as the peer calls itself; empty if it never said"
    version: str
    digest: str
    "of what was run; whoever has another is examined anew"
    found: tuple[Capability, ...]
    missing: str = ""
    "why there is no peer to ask; empty if there is one"
    unheard: str = ""
    "why one that is there could not be asked: its image does not start, or never says a word; empty if it could"

    def of(self, name: str) -> Capability | None:
        """What was found of one thing; None if it was not asked for."""
        return next((each for each in self.found if each.name == name), None)

    def lacks(self, name: str) -> str | None:
        """Why the peer does not have something, and whose lack it is; None if it has, or claims to."""
        if self.missing:
            return self.missing
        found = self.of(name)
        if found is None or found.having is not Having.ABSENT:
            return None
        return f"{self.impl} has no {name}: {found.why}"


def needs(setup: Setup, check: Check) -> list[tuple[str, str]]:
    """What a check needs of whom: pairs of an implementation and the name of a capability."""
    everybody = [(impl, str(setup.stack)) for impl in setup.implementations]
    both = (setup.dialer, setup.listener)
    match setup.scene:
        case Scene.TALK:
            return [*everybody, *((impl, check.value) for impl in both if check is not Check.CONNECT)]
        case Scene.RELAY | Scene.PUNCH:
            clients = [(impl, RELAY_CLIENT) for impl in both]
            punching = [(impl, punching_by(setup.stack.transport)) for impl in both if setup.scene is Scene.PUNCH]
            return [*everybody, *clients, (setup.relay, RELAY_SERVER), *punching]
        case Scene.AUTONAT:
            return [*everybody, (setup.dialer, AUTONAT_CLIENT), (setup.listener, AUTONAT_SERVER)]
        case Scene.MDNS:
            return [*everybody, *((impl, MDNS) for impl in both)]


def punching_by(transport: str) -> str:
    """The name of the capability to punch holes for a transport."""
    return f"punch {transport}"


def unsupported(setup: Setup, check: Check, known: Mapping[str, Capabilities]) -> str | None:
    """Why a check cannot be made, in the words of the peer that lacks something; None if it can."""
    for impl, name in needs(setup, check):
        if impl in known and (why := known[impl].lacks(name)) is not None:
            return why
    return None


def unheard(setup: Setup, known: Mapping[str, Capabilities]) -> str | None:
    """Why nothing can be said of those who take part; None if all of them could be asked."""
    return next((known[impl].unheard for impl in setup.implementations if impl in known and known[impl].unheard), None)
