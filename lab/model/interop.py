"""What can be asked of several implementations at once: checks, and the setups in which they are made.

A setup is one lab: who dials whom, through whose relay, over which stack, behind which NATs. Its scene says what the
network looks like and what the peers do there; the checks of one scene are made in one lab. Values only: which
implementations there are, and what they can do, is found out elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import Enum
from itertools import product
from typing import Final

from lab.model.classical import CLASSICAL
from lab.model.nat import Filtering, Mapping
from lab.model.presets import PRESETS
from lab.model.transport import PUNCHABLE

SECURITIES: Final = ("noise", "tls")
MUXERS: Final = ("yamux", "mplex")
STACKABLE: Final = ("tcp", "ws")
"the transports on which security and muxer are agreed; QUIC brings its own"
RELAYED_NAT: Final = "symmetric-random"
"behind two of these nobody punches, so a relayed connection stays"


class Scene(Enum):
    """A network, and what the peers do in it."""

    TALK = "talk"
    "two public peers: the dialer connects and speaks"
    RELAY = "relay"
    "two homes through which nobody punches: the dialer reaches the listener through the relay"
    PUNCH = "punch"
    "two homes: the relayed connection is to become a direct one, where the NATs let it"
    AUTONAT = "autonat"
    "the dialer, in a home, has the listener, public, find out whether it can be reached"
    MDNS = "mdns"
    "two peers on one LAN find each other"


class Check(Enum):
    """One thing that is found out of a pair of implementations."""

    CONNECT = "connect"
    PING = "ping"
    IDENTIFY = "identify"
    ECHO = "echo"
    RELAY = "relay"
    PUNCH = "punch"
    AUTONAT = "autonat"
    MDNS = "mdns"

    @property
    def scene(self) -> Scene:
        """Where it is made."""
        return Scene(self.value) if self.value in {scene.value for scene in Scene} else Scene.TALK


@dataclass(frozen=True, slots=True)
class Stack:
    """What a connection is made of; `security` and `muxer` are empty where the transport has its own."""

    transport: str
    security: str = ""
    muxer: str = ""

    def __str__(self) -> str:
        return "+".join(filter(None, (self.transport, self.security, self.muxer)))


@dataclass(frozen=True, slots=True)
class Setup:
    """One lab."""

    scene: Scene
    dialer: str
    "an implementation, `go`"
    listener: str
    stack: Stack
    relay: str = ""
    "empty where the scene has none"
    nats: tuple[str, str] = ("", "")
    "presets in front of the dialer and the listener; empty: none"

    @property
    def factors(self) -> tuple[str, ...]:
        """All that may differ between two setups of one scene."""
        stack = (self.stack.transport, self.stack.security, self.stack.muxer)
        return (self.dialer, self.listener, self.relay, *stack, *self.nats)

    @property
    def name(self) -> str:
        """Itself as one word, fit for a folder; no two setups share it."""
        return ".".join(filter(None, (self.scene.value, *self.factors)))

    @property
    def implementations(self) -> tuple[str, ...]:
        """Whoever takes part, each once."""
        return tuple(dict.fromkeys(filter(None, (self.dialer, self.listener, self.relay))))

    def __str__(self) -> str:
        by = f" by {self.relay}" if self.relay else ""
        nats = f", {' → '.join(filter(None, self.nats))}" if any(self.nats) else ""
        return f"{self.dialer} → {self.listener}{by} over {self.stack}{nats}"


@dataclass(frozen=True, slots=True)
class Selection:
    """Which setups are wanted: every combination of these that makes sense."""

    dialers: tuple[str, ...]
    listeners: tuple[str, ...]
    relays: tuple[str, ...]
    checks: tuple[Check, ...] = tuple(Check)
    transports: tuple[str, ...] = ("tcp", "quic", "ws")
    securities: tuple[str, ...] = SECURITIES
    muxers: tuple[str, ...] = ("yamux",)
    nats: tuple[tuple[str, str], ...] = tuple(product(CLASSICAL, CLASSICAL))

    def checks_of(self, scene: Scene) -> tuple[Check, ...]:
        """Those that are made there."""
        return tuple(check for check in self.checks if check.scene is scene)

    @property
    def scenes(self) -> tuple[Scene, ...]:
        """Those that its checks need."""
        return tuple(scene for scene in Scene if self.checks_of(scene))

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """Every stack; QUIC once, whatever securities and muxers there are."""
        own = [Stack(name) for name in self.transports if name not in STACKABLE]
        agreed = product((name for name in self.transports if name in STACKABLE), self.securities, self.muxers)
        return (*(Stack(*each) for each in agreed), *own)

    @property
    def implementations(self) -> tuple[str, ...]:
        """Whoever takes part in a setup of any scene, each once; nobody if there is no setup."""
        setups = (setup for scene in self.scenes for setup in self.setups(scene))
        return tuple(dict.fromkeys(impl for setup in setups for impl in setup.implementations))

    def setups(self, scene: Scene) -> tuple[Setup, ...]:
        """Every setup of a scene."""
        pairs = list(product(self.dialers, self.listeners))
        stacks = self.stacks
        if scene is Scene.TALK:
            return tuple(Setup(scene, *pair, stack) for pair, stack in product(pairs, stacks))
        if scene is Scene.RELAY:
            both = (RELAYED_NAT, RELAYED_NAT)
            return tuple(
                Setup(scene, *pair, stack, relay, both) for pair, relay, stack in product(pairs, self.relays, stacks)
            )
        if scene is Scene.PUNCH:
            punchable = [stack for stack in stacks if stack.transport in PUNCHABLE]
            every = product(pairs, self.relays, punchable, self.nats)
            return tuple(Setup(scene, *pair, stack, relay, nats) for pair, relay, stack, nats in every)
        # What security and muxer carry these makes no difference to them.
        plain = tuple({stack.transport: stack for stack in reversed(stacks)}.values())[::-1]
        if scene is Scene.AUTONAT:
            return tuple(
                Setup(scene, *pair, stack, nats=(nat, "")) for pair, stack, nat in product(pairs, plain, self._tellable)
            )
        return tuple(Setup(scene, *pair, stack) for pair, stack in product(pairs, plain[:1]))

    @property
    def _tellable(self) -> tuple[str, ...]:
        """NATs of dialers whose reachability does not depend on which port of the server dials back."""
        nats = {name: PRESETS[name].nat for name in dict.fromkeys(one for one, _ in self.nats)}
        return tuple(
            name
            for name, nat in nats.items()
            if nat.mapping is Mapping.ENDPOINT_INDEPENDENT and nat.filtering is not Filtering.ADDRESS_DEPENDENT
        )


def is_reachable(setup: Setup) -> bool:
    """What AutoNAT ought to find of the dialer."""
    return PRESETS[setup.nats[0]].nat.filtering is Filtering.ENDPOINT_INDEPENDENT


def arguments_for(setup: Setup, check: Check | None = None) -> list[str]:
    """The options of `punchlab matrix` that make one setup, with one check or all of its scene's."""
    checks = [each for each in Check if each.scene is setup.scene] if check is None else [check]
    words = ["--check", ",".join(each.value for each in checks)]
    words += ["--dialer", setup.dialer, "--listener", setup.listener]
    words += ["--relay", setup.relay] if setup.relay else []
    for field in fields(Stack):
        value = getattr(setup.stack, field.name)
        words += [f"--{field.name}", value] if value else []
    if setup.scene is Scene.PUNCH:
        words += ["--nat", "/".join(setup.nats)]
    if setup.scene is Scene.AUTONAT:
        words += ["--nat", setup.nats[0]]
    return words
