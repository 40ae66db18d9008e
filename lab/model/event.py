"""What can happen to a network while it runs, as values, and in the words of a shell.

    punchlab event home-a reboot                    await lab.event("home-a", "reboot")
    punchlab event home-a address 11.0.9.2          await lab.event("home-a", ChangeAddress("11.0.9.2"))

An event names what happens and with what; whom it happens to is its target: a router, a peer, or one port of either.
`parse(str(event)) == event`.
"""

from __future__ import annotations

import difflib
import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

from lab.errors import EventError
from lab.model.impairment import Impairment
from lab.model.link_words import read_link

MOST_WORDS: Final = 64
"Arguments of an event that takes a list of them."
MOST_LEFT: Final = 4096
"Further mappings that a NAT can be told to have left; its sets hold no more."


class Target(Enum):
    """What an event can happen to."""

    ROUTER = "a router"
    PEER = "a peer"
    PORT = "a port such as home-a/wan"


@dataclass(frozen=True, slots=True)
class Reboot:
    """A router loses every mapping, permission and flow; allocation begins anew."""

    other_ports: bool = False
    "the external ports that were mapped stay taken for one lifetime, so that even a preserving NAT gives others"

    def __str__(self) -> str:
        return "reboot other-ports" if self.other_ports else "reboot"


@dataclass(frozen=True, slots=True)
class Expire:
    """All mappings of a router, or of one peer at its router, end as if their time were over."""

    def __str__(self) -> str:
        return "expire"


@dataclass(frozen=True, slots=True)
class Rebind:
    """As expiry, and what is mapped anew gets another external port, in the middle of its flows."""

    def __str__(self) -> str:
        return "rebind"


@dataclass(frozen=True, slots=True)
class ChangeAddress:
    """A router gets another address outside, as from a provider every night; all mappings end."""

    address: str
    "IPv4, without prefix length"

    def __post_init__(self) -> None:
        object.__setattr__(self, "address", _ipv4(self.address))

    def __str__(self) -> str:
        return f"address {self.address}"


@dataclass(frozen=True, slots=True)
class Exhaust:
    """A router has this many ports left for new mappings; those that exist live on."""

    left: int = 0

    def __post_init__(self) -> None:
        if self.left not in range(MOST_LEFT + 1):
            raise EventError(f"exhaust {self.left}: 0 to {MOST_LEFT} ports can be left")

    def __str__(self) -> str:
        return f"exhaust {self.left}"


@dataclass(frozen=True, slots=True)
class Replenish:
    """The end of `Exhaust`."""

    def __str__(self) -> str:
        return "replenish"


@dataclass(frozen=True, slots=True)
class LoseLeases:
    """A router's port maps vanish while it goes on answering; whoever renews gets them anew."""

    def __str__(self) -> str:
        return "lose-leases"


@dataclass(frozen=True, slots=True)
class SetLink:
    """The link of a router or a public peer to the internet is another from now on."""

    words: str
    "`wifi`, `latency=80ms loss=2%`; see `lab.model.link_words`"

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", " ".join(self.words.split()))
        read_link(self.words)

    @property
    def ways(self) -> tuple[Impairment, Impairment]:
        """Up and down."""
        return read_link(self.words)

    def __str__(self) -> str:
        return f"link {self.words}"


@dataclass(frozen=True, slots=True)
class LinkDown:
    """A cable is pulled: a peer's own, a router's uplink, or that of the port named. Both ends lose their carrier."""

    def __str__(self) -> str:
        return "down"


@dataclass(frozen=True, slots=True)
class LinkUp:
    """The cable is back."""

    def __str__(self) -> str:
        return "up"


@dataclass(frozen=True, slots=True)
class Partition:
    """The core forwards nothing any more between two places, in either direction."""

    other: str

    def __str__(self) -> str:
        return f"partition {self.other}"


@dataclass(frozen=True, slots=True)
class Heal:
    """The end of a partition; without `other`, of all that the target has."""

    other: str | None = None

    def __str__(self) -> str:
        return f"heal {self.other}" if self.other else "heal"


@dataclass(frozen=True, slots=True)
class Move:
    """A peer leaves its LAN for another router's, as a phone from wifi to a cell: new address, new gateway."""

    router: str
    address: str | None = None
    "on the new LAN; None: the first that is free"

    def __post_init__(self) -> None:
        if self.address is not None:
            object.__setattr__(self, "address", _ipv4(self.address))

    def __str__(self) -> str:
        return f"move {self.router} {self.address}" if self.address else f"move {self.router}"


@dataclass(frozen=True, slots=True)
class Kill:
    """A peer's program ends at once, as by `kill -9`; its sockets are the kernel's to close."""

    def __str__(self) -> str:
        return "kill"


@dataclass(frozen=True, slots=True)
class Start:
    """A peer that has ended is started again, with the same identity if its implementation keeps one."""

    def __str__(self) -> str:
        return "start"


LifeEvent: TypeAlias = (
    Reboot
    | Expire
    | Rebind
    | ChangeAddress
    | Exhaust
    | Replenish
    | LoseLeases
    | SetLink
    | LinkDown
    | LinkUp
    | Partition
    | Heal
    | Move
    | Kill
    | Start
)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of event: how it is written and what it can happen to."""

    usage: str
    "its word and its arguments, those in brackets optional"
    kind: type[LifeEvent]
    targets: frozenset[Target]
    summary: str
    read: Callable[..., LifeEvent]
    "the event of its arguments as text; EventError where one is wrong"

    @property
    def word(self) -> str:
        """The first word of its usage."""
        return self.usage.partition(" ")[0]

    def takes(self, count: int) -> bool:
        """Whether it can be written with so many arguments."""
        arguments = self.usage.split()[1:]
        most = MOST_WORDS if self.usage.endswith("…") else len(arguments)
        return sum(not argument.startswith("[") for argument in arguments) <= count <= most


def parse(text: str) -> LifeEvent:
    """The event that a user's words mean; EventError says what there is."""
    word, *arguments = text.split() or [""]
    kind = KINDS.get(word)
    if kind is None:
        close = difflib.get_close_matches(word, KINDS, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise EventError(f"no event {word!r}; {hint}there are: {', '.join(KINDS)}")
    if not kind.takes(len(arguments)):
        raise EventError(f"{text!r} is not how it is written: {kind.usage}")
    return kind.read(*arguments)


def kind_of(event: LifeEvent) -> Kind:
    """What the table says of an event."""
    return next(kind for kind in KINDS.values() if kind.kind is type(event))


def _ipv4(text: str) -> str:
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        raise EventError(f"{text!r} is no IPv4 address") from None


def _reboot(ports: str = "") -> Reboot:
    if ports not in ("", "other-ports"):
        raise EventError(f"'reboot {ports}' is not how it is written: reboot [other-ports]")
    return Reboot(other_ports=bool(ports))


def _exhaust(left: str = "0") -> Exhaust:
    if not (left.isascii() and left.isdigit() and len(left) <= len(str(MOST_LEFT))):
        raise EventError(f"'exhaust {left}': 0 to {MOST_LEFT} ports can be left")
    return Exhaust(int(left))


def _link(*words: str) -> SetLink:
    return SetLink(" ".join(words))


def _kinds() -> tuple[Kind, ...]:
    router, peer, port = (frozenset({target}) for target in (Target.ROUTER, Target.PEER, Target.PORT))
    place = router | peer
    return (
        Kind("reboot [other-ports]", Reboot, router, "all mappings gone, allocation begins anew", _reboot),
        Kind("expire", Expire, place, "all mappings of a router, or of one peer, gone", Expire),
        Kind("rebind", Rebind, place, "the same, and other external ports afterwards", Rebind),
        Kind("address ADDRESS", ChangeAddress, router, "another address outside", ChangeAddress),
        Kind("exhaust [LEFT]", Exhaust, router, "no ports, or so many, left for new mappings", _exhaust),
        Kind("replenish", Replenish, router, "ports for all again", Replenish),
        Kind("lose-leases", LoseLeases, router, "its port maps vanish, and it goes on answering", LoseLeases),
        Kind("link VALUES…", SetLink, place, "wifi, latency=80ms loss=2%, up.rate=1Mbit, ideal", _link),
        Kind("down", LinkDown, place | port, "the cable is pulled", LinkDown),
        Kind("up", LinkUp, place | port, "the cable is back", LinkUp),
        Kind("partition PLACE", Partition, place | port, "nothing passes between the two", Partition),
        Kind("heal [PLACE]", Heal, place | port, "the end of one partition, or of all", Heal),
        Kind("move ROUTER [ADDRESS]", Move, peer, "to another router's LAN", Move),
        Kind("kill", Kill, peer, "kill -9", Kill),
        Kind("start", Start, peer, "run again what has ended", Start),
    )


KINDS: Final[Mapping[str, Kind]] = {kind.word: kind for kind in _kinds()}
"Every kind of event, by its word."
