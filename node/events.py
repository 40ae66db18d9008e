"""What happens in the node, as values: the host emits them, the control channel prints them.

Each is frozen and holds names, addresses and numbers only, never a live connection, so that an event can be kept,
compared and written down. `Host.subscribe` delivers them in the order they happened.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from node.logic.autonat import Reachability
    from node.logic.nat import NatKind
    from node.names.multiaddr import Multiaddr
    from node.names.peerid import PeerId


class Path(Enum):
    """How the bytes of a connection travel."""

    DIRECT = "direct"
    RELAYED = "relayed"


class Direction(Enum):
    """Who asked for the connection or stream: they (inbound) or we (outbound)."""

    INBOUND = "inbound"
    OUTBOUND = "outbound"


class PunchStep(Enum):
    """The steps of one DCUtR exchange, as either side sees them."""

    STARTED = "started"
    DIRECT_DIAL = "direct-dial"
    UNSERVED = "unserved"
    CONNECT_SENT = "connect-sent"
    CONNECT_RECEIVED = "connect-received"
    SYNC_SENT = "sync-sent"
    SYNC_RECEIVED = "sync-received"
    DIALLING = "dialling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    GAVE_UP = "gave-up"


class PredictionStep(Enum):
    """The steps of one attempt to predict ports, as either side sees them."""

    STARTED = "started"
    SKIPPED = "skipped"
    WRITING = "writing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class CircuitStep(Enum):
    """The life of one circuit through our relay."""

    OPENED = "opened"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Listening:
    """A listener is open; `addr` holds the port that the system chose where 0 was asked for."""

    addr: Multiaddr


@dataclass(frozen=True, slots=True)
class Connected:
    """A connection is secured, muxed and open for streams."""

    peer: PeerId
    path: Path
    direction: Direction
    local: Multiaddr
    remote: Multiaddr
    transport: str
    security: str
    muxer: str


@dataclass(frozen=True, slots=True)
class Disconnected:
    """A connection has ended; others to the same peer may still be open."""

    peer: PeerId
    path: Path
    remote: Multiaddr
    why: str


@dataclass(frozen=True, slots=True)
class Identified:
    """The peer told who it is, over one connection (`path`) or by a push."""

    peer: PeerId
    path: Path
    agent: str
    protocols: tuple[str, ...]
    addrs: tuple[Multiaddr, ...]
    observed: Multiaddr | None
    """Our address as the peer sees it."""


@dataclass(frozen=True, slots=True)
class Observed:
    """A peer reached directly saw us at an address which we had not seen reported by it before."""

    addr: Multiaddr
    by: PeerId


@dataclass(frozen=True, slots=True)
class AddressesChanged:
    """What we advertise has changed."""

    addrs: tuple[Multiaddr, ...]


@dataclass(frozen=True, slots=True)
class ProtocolsChanged:
    """What we serve has changed."""

    protocols: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reserved:
    """A relay keeps a slot for us until `expire` (Unix seconds); made or refreshed."""

    relay: PeerId
    expire: float
    addrs: tuple[Multiaddr, ...]


@dataclass(frozen=True, slots=True)
class ReservationLost:
    """The slot at the relay is gone: expired, refused on refresh, or the relay's connection ended."""

    relay: PeerId
    why: str


@dataclass(frozen=True, slots=True)
class PunchStage:
    """One step of hole punching with a peer; `attempt` counts from 1 and is 0 before the first; `rtt` is in seconds."""

    stage: PunchStep
    peer: PeerId
    attempt: int
    addrs: tuple[Multiaddr, ...] = ()
    rtt: float | None = None
    role: str | None = None
    why: str | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """One step of a port prediction with a peer; what belongs to a later step is None before."""

    stage: PredictionStep
    peer: PeerId
    attempt: int
    way: str | None = None
    """predicted or spray."""
    part: str | None = None
    """fan or sweep."""
    sockets: int | None = None
    """Of the fan."""
    ports: int | None = None
    """Of the sweep."""
    expected: float | None = None
    """The chance of a hit, where it can be told."""
    sent: int | None = None
    """Datagrams of ours."""
    seconds: float | None = None
    """Since the start, measuring included."""
    why: str | None = None


@dataclass(frozen=True, slots=True)
class Circuit:
    """Our relay opened or closed a circuit; bytes count what was spliced from source to target (up) and back."""

    stage: CircuitStep
    source: PeerId
    target: PeerId
    bytes_up: int = 0
    bytes_down: int = 0
    why: str | None = None


@dataclass(frozen=True, slots=True)
class ReachabilityChanged:
    """What is known of whether strangers can dial us has changed: as a whole, and address by address."""

    reachability: Reachability
    addrs: tuple[tuple[Multiaddr, Reachability], ...]


@dataclass(frozen=True, slots=True)
class NatLearnt:
    """A STUN server's answers tell something else of the NAT in front of us than before."""

    kind: NatKind


@dataclass(frozen=True, slots=True)
class DialledBack:
    """Our AutoNAT server has dialled one of a peer's addresses for it; `paid`: for dial data, as the IP was another."""

    peer: PeerId
    addr: Multiaddr
    reachable: bool
    paid: bool


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """A stream has its protocol, chosen by us (outbound) or served by us (inbound)."""

    protocol: str
    peer: PeerId
    path: Path
    direction: Direction


@dataclass(frozen=True, slots=True)
class Discovered:
    """A peer was heard of, or heard of with other addresses than before; `by`: what told us, `mdns`."""

    peer: PeerId
    addrs: tuple[Multiaddr, ...]
    by: str


@dataclass(frozen=True, slots=True)
class PortMapped:
    """The router opened a port: `addrs` is where the internet has our listeners at our port `internal`."""

    addrs: tuple[Multiaddr, ...]
    transport: str
    internal: int
    by: str
    """pcp, nat-pmp or upnp."""
    lifetime: float
    """Seconds until it has to be renewed."""
    public: bool
    """Whether the outer address is: otherwise the router is behind another, and the address is not advertised."""


@dataclass(frozen=True, slots=True)
class PortMappingLost:
    """The router no longer has the port open, strangers do not get in by it, or we no longer want it."""

    addrs: tuple[Multiaddr, ...]
    transport: str
    internal: int
    why: str


@dataclass(frozen=True, slots=True)
class Bootstrapped:
    """All entries of the bootstrap list that were due have been tried: whom they led to, and which failed and why."""

    peers: tuple[PeerId, ...]
    failures: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class LatencyCrossed:
    """The round trip to a peer, in seconds and on average, has become longer than the threshold, or shorter again."""

    peer: PeerId
    rtt: float
    slow: bool


@dataclass(frozen=True, slots=True)
class Complaint:
    """Something that should not have happened, from whatever side, that the node survives."""

    why: str


Event = (
    Listening
    | Connected
    | Disconnected
    | Identified
    | Observed
    | AddressesChanged
    | ProtocolsChanged
    | Reserved
    | ReservationLost
    | PunchStage
    | Prediction
    | Circuit
    | ReachabilityChanged
    | NatLearnt
    | DialledBack
    | StreamOpened
    | Discovered
    | Bootstrapped
    | PortMapped
    | PortMappingLost
    | LatencyCrossed
    | Complaint
)
