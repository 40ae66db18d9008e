"""What happens in the node, as values: the host emits them, the control channel prints them.

Each is frozen and holds names, addresses and numbers only, never a live connection, so that an event can be kept,
compared and written down. `Host.subscribe` delivers them in the order they happened.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
    CONNECT_SENT = "connect-sent"
    CONNECT_RECEIVED = "connect-received"
    SYNC_SENT = "sync-sent"
    SYNC_RECEIVED = "sync-received"
    DIALLING = "dialling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    GAVE_UP = "gave-up"


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
class Circuit:
    """Our relay opened or closed a circuit; bytes count what was spliced from source to target (up) and back."""

    stage: CircuitStep
    source: PeerId
    target: PeerId
    bytes_up: int = 0
    bytes_down: int = 0
    why: str | None = None


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """A stream has its protocol, chosen by us (outbound) or served by us (inbound)."""

    protocol: str
    peer: PeerId
    path: Path
    direction: Direction


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
    | Circuit
    | StreamOpened
    | Complaint
)
