"""Direct Connection Upgrade through Relay: what each side does next, and which addresses it tries.

Spec: https://github.com/libp2p/specs/blob/master/relay/DCUtR.md

    A dialled B through the relay. B, inbound on the relayed connection, opens the exchange (`Opener`); A answers it
    (`Answerer`). A is the initiator of all handshakes on the direct connection, whoever's SYN came first.

    B: dial A's public addresses plainly, if any is known ── success ─► done
    B ── CONNECT(B's addresses) ─► A          B starts its timer
    B ◄─ CONNECT(A's addresses) ── A          B stops it: rtt
    B ── SYNC ───────────────────► A          B waits rtt/2, A dials the moment it arrives; then both dial
    no hole ─► the whole exchange again on a new stream, three times at most; an exchange that breaks is not repeated
    A's CONNECT has no address at all ─► SYNC all the same, A may get in; and again a while later: nobody may have told
    A yet what it looks like
    A does not serve the protocol ─► B waits a while for A to say, by an identify push, that it does

The machines hold no clock: a method reports what happened, with the time where it matters, and returns what to do
next, to be done in order. An action of the kinds that take time is always the last of its list, and its outcome is
reported by one of the methods named in its docstring.

Facts: 97.6 % of the successes come at the first try (arXiv 2510.27500). go serves the protocol only once it knows a
public address of its own, for which it looks after 250 ms first and every 5 s at last. Only public addresses are
offered and tried, as in go; a list from a peer is a request to send packets to somebody, so it is cut to 20 addresses
of IP versions that we use ourselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from node.errors import LocalProtocolError, RemoteProtocolError
from node.events import PunchStage, PunchStep
from node.logic.addresses import has_hole, is_punchable
from node.logic.transports import Kind, kind_of
from node.wire.dcutr import HolePunch, HolePunchType

if TYPE_CHECKING:
    from node.names.multiaddr import Multiaddr
    from node.names.peerid import PeerId

ADDRESSES = 20
"""Addresses offered and tried at most."""
REFUSALS = 4
"""Streams refused, by a peer that had said that it serves the protocol, before we believe what it does."""
EXCHANGES = 16
"""Exchanges answered on one relayed connection: a peer that wants more wants something else."""

INITIATOR = "initiator"
RESPONDER = "responder"


@dataclass(frozen=True, slots=True)
class PunchPolicy:
    """How hard to try; times in seconds."""

    attempts: int = 3
    direct_dial: float = 3.0
    """For the plain dial of public addresses before the first exchange, 0 to leave it out."""
    punch: float = 5.0
    """For both sides' dialling after one exchange, handshakes included."""
    exchange: float = 60.0
    """For the messages of one exchange."""
    patience: float = 10.0
    """For a peer that does not serve the protocol to begin to: twice what go takes to notice that it can."""
    pause: float = 1.0
    """For a peer that knows no address of its own to learn of one, or to dial us.

    py over QUIC never knows one, and dials. rust tells for ever what it knew when the relayed connection came to be.
    """
    grace: float = 0.5
    """For which the relayed connection is kept after a success."""
    allow_private: bool = False
    """Offer and try private addresses too: for loopback and for networks without a public side."""

    def __post_init__(self) -> None:
        needed, optional = (self.punch, self.exchange), (self.direct_dial, self.patience, self.pause, self.grace)
        if self.attempts < 1 or min(needed) <= 0 or min(optional) < 0:
            raise ValueError(f"no punch can succeed with {self}")


@dataclass(frozen=True, slots=True)
class DialDirect:
    """Dial the peer plainly; outcome: `Opener.dialled`."""

    addrs: tuple[Multiaddr, ...]
    timeout: float


@dataclass(frozen=True, slots=True)
class OpenStream:
    """Open a stream over the relayed connection; outcome: `opened`, `unserved`, `broken`, or `found` if there is a
    direct one already."""


@dataclass(frozen=True, slots=True)
class AwaitService:
    """Wait until the peer says that it serves the protocol; outcome: `Opener.served`, or `broken` at `until`."""

    until: float


@dataclass(frozen=True, slots=True)
class Send:
    """Write a message to the stream."""

    message: HolePunch


@dataclass(frozen=True, slots=True)
class Receive:
    """Read one message from the stream; outcome: `received` or `broken`."""


@dataclass(frozen=True, slots=True)
class CloseStream:
    """The exchange has ended well: close the stream."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing until the clock of the reported times shows `until`; outcome: `Opener.waited`."""

    until: float


@dataclass(frozen=True, slots=True)
class Expect:
    """From now on what comes from these addresses belongs to the punch: the peer's SYN may outrun its SYNC or our wait.

    In place of what was expected before.
    """

    addrs: tuple[Multiaddr, ...]
    role: str


@dataclass(frozen=True, slots=True)
class Punch:
    """Dial all addresses at once and again, from the listen port; outcome: `punched`."""

    addrs: tuple[Multiaddr, ...]
    role: str
    timeout: float


@dataclass(frozen=True, slots=True)
class Finish:
    """Nothing is left to do; the connection is direct or stays relayed."""

    succeeded: bool


Action = (
    DialDirect | OpenStream | AwaitService | Send | Receive | CloseStream | Wait | Expect | Punch | PunchStage | Finish
)
"""A PunchStage is to be emitted as it is."""


class _State(Enum):
    NEW = auto()
    DIALLING_DIRECT = auto()
    OPENING = auto()
    AWAITING_SERVICE = auto()
    CONNECT_SENT = auto()
    SYNC_SENT = auto()
    PAUSING = auto()
    AWAITING_CONNECT = auto()
    AWAITING_SYNC = auto()
    PUNCHING = auto()
    FINISHED = auto()


class _Side:
    """What both sides have in common: the peer, the attempt and the state."""

    def __init__(self, peer: PeerId, policy: PunchPolicy, role: str, attempt: int) -> None:
        self._peer = peer
        self._policy = policy
        self._role = role
        self._attempt = attempt
        self._state = _State.NEW
        self._addrs: tuple[Multiaddr, ...] = ()
        self._own: tuple[Multiaddr, ...] = ()

    def _expect(self, *states: _State) -> None:
        if self._state not in states:
            raise LocalProtocolError(f"not to be reported while {self._state.name}")

    def _tell(
        self,
        stage: PunchStep,
        addrs: tuple[Multiaddr, ...] = (),
        rtt: float | None = None,
        why: str | None = None,
    ) -> PunchStage:
        return PunchStage(stage, self._peer, self._attempt, addrs, rtt, self._role, why)

    def _connect(self) -> list[Action]:
        message = HolePunch(HolePunchType.CONNECT, self._own)
        return [Send(message), self._tell(PunchStep.CONNECT_SENT, self._own), Receive()]

    def _punch(self) -> list[Action]:
        self._state = _State.PUNCHING
        return [
            self._tell(PunchStep.DIALLING, self._addrs),
            Punch(self._addrs, self._role, self._policy.punch),
        ]

    def _take_addrs(self, message: HolePunch) -> None:
        """Keep what can be tried of the peer's CONNECT; RemoteProtocolError when it is none or nothing can."""
        if message.type is not HolePunchType.CONNECT:
            raise RemoteProtocolError(f"{self._peer} sent {message.type.name} where CONNECT is due")
        self._addrs = self._of(message)
        if not self._addrs:
            raise RemoteProtocolError(self._unusable)

    @property
    def _unusable(self) -> str:
        return f"{self._peer} offers no address that could be punched"

    def _of(self, message: HolePunch) -> tuple[Multiaddr, ...]:
        """What can be tried of the addresses in a peer's CONNECT."""
        return punchable(message.addrs, self._peer, self._own, self._policy)

    def _finish(self, stage: PunchStep, why: str | None = None) -> list[Action]:
        self._state = _State.FINISHED
        return [self._tell(stage, why=why), Finish(stage is PunchStep.SUCCEEDED)]


class Opener(_Side):
    """The side that is inbound on the relayed connection (B): opens up to `policy.attempts` exchanges."""

    def __init__(self, peer: PeerId, policy: PunchPolicy) -> None:
        super().__init__(peer, policy, RESPONDER, 0)
        self._sent_at = 0.0
        self._until: float | None = None
        self._refusals = 0

    @property
    def is_unserved(self) -> bool:
        """Whether the last that we know is that the peer does not serve the protocol."""
        return self._refusals > 0 and not self._own

    def begin(self, known: Iterable[Multiaddr]) -> list[Action]:
        """Start; `known` are all addresses known of the peer."""
        self._expect(_State.NEW)
        actions: list[Action] = [self._tell(PunchStep.STARTED)]
        addrs = dialable(known, self._peer, self._policy)
        if not addrs or not self._policy.direct_dial:
            return actions + self._next_exchange()
        self._state = _State.DIALLING_DIRECT
        return [*actions, self._tell(PunchStep.DIRECT_DIAL, addrs), DialDirect(addrs, self._policy.direct_dial)]

    def dialled(self, why: str | None) -> list[Action]:
        """The plain dial succeeded (None) or failed."""
        self._expect(_State.DIALLING_DIRECT)
        if why is None:
            return self._finish(PunchStep.SUCCEEDED)
        return self._next_exchange()

    def opened(self, own: Sequence[Multiaddr], now: float) -> list[Action]:
        """The stream is open; `own` are our addresses as others see them, CONNECT leaves at `now`."""
        self._expect(_State.OPENING)
        self._own = offered(own, self._policy)
        if not self._own:
            return self.broken("no public address of ours has been observed")
        self._state = _State.CONNECT_SENT
        self._sent_at = now
        return self._connect()

    def unserved(self, why: str, now: float) -> list[Action]:
        """The peer refused the protocol at `now`."""
        self._expect(_State.OPENING)
        self._refusals += 1
        self._until = now + self._policy.patience if self._until is None else self._until
        if now >= self._until or self._refusals >= REFUSALS:
            return self.broken(why)
        self._state = _State.AWAITING_SERVICE
        return [self._tell(PunchStep.UNSERVED, why=why), AwaitService(self._until)]

    def served(self) -> list[Action]:
        """The peer says that it serves the protocol now, or needs not to: there is a direct connection."""
        self._expect(_State.AWAITING_SERVICE)
        self._state = _State.OPENING
        return [OpenStream()]

    def received(self, message: HolePunch, now: float) -> list[Action]:
        """The peer's answer arrived at `now`; RemoteProtocolError when it is not one, to be reported as `broken`."""
        self._expect(_State.CONNECT_SENT)
        if message.type is HolePunchType.CONNECT and self._attempt < self._policy.attempts and not self._of(message):
            # It may dial us all the same, as we do where we answer: behind a NAT that lets in anybody it gets in.
            self._state = _State.PAUSING
            why = f"{self._peer} {'offers' if message.addrs else 'knows'} no address that could be punched"
            return [
                Send(HolePunch(HolePunchType.SYNC)),
                self._tell(PunchStep.SYNC_SENT),
                self._tell(PunchStep.FAILED, why=why),
                CloseStream(),
                Wait(now + self._policy.pause),
            ]
        self._take_addrs(message)
        rtt = now - self._sent_at
        self._state = _State.SYNC_SENT
        return [
            self._tell(PunchStep.CONNECT_RECEIVED, self._addrs, rtt=rtt),
            # What arrives before we have waited is the punch's already: the peer dials the moment SYNC is there.
            Expect(self._addrs, self._role),
            Send(HolePunch(HolePunchType.SYNC)),
            self._tell(PunchStep.SYNC_SENT, rtt=rtt),
            CloseStream(),
            Wait(now + rtt / 2),
        ]

    def waited(self) -> list[Action]:
        """Half a round trip has passed: SYNC has arrived. Or the pause before the next exchange has."""
        self._expect(_State.SYNC_SENT, _State.PAUSING)
        return self._next_exchange() if self._state is _State.PAUSING else self._punch()

    def punched(self, why: str | None) -> list[Action]:
        """The punch succeeded (None) or failed."""
        self._expect(_State.PUNCHING)
        if why is None:
            return self._finish(PunchStep.SUCCEEDED)
        failed = self._tell(PunchStep.FAILED, why=why)
        if self._attempt >= self._policy.attempts:
            return [failed, *self._finish(PunchStep.GAVE_UP, f"no hole in {self._attempt} attempts")]
        return [failed, *self._next_exchange()]

    def found(self) -> list[Action]:
        """A direct connection came about by other means before the stream was opened."""
        self._expect(_State.OPENING)
        return self._finish(PunchStep.SUCCEEDED)

    def broken(self, why: str) -> list[Action]:
        """The exchange cannot go on: a stream refused or reset, a message malformed or late."""
        exchanging = (_State.CONNECT_SENT, _State.SYNC_SENT, _State.PAUSING)
        self._expect(_State.OPENING, _State.AWAITING_SERVICE, *exchanging)
        return self._finish(PunchStep.GAVE_UP, why)

    def _next_exchange(self) -> list[Action]:
        self._attempt += 1
        self._state = _State.OPENING
        return [OpenStream()]


class Answerer(_Side):
    """The side that dialled through the relay (A): answers one exchange."""

    def __init__(self, peer: PeerId, policy: PunchPolicy, attempt: int = 1) -> None:
        super().__init__(peer, policy, INITIATOR, attempt)

    def begin(self, own: Sequence[Multiaddr]) -> list[Action]:
        """The peer opened a stream; `own` are our addresses as others see them."""
        self._expect(_State.NEW)
        self._own = offered(own, self._policy)
        self._state = _State.AWAITING_CONNECT
        return [self._tell(PunchStep.STARTED), Receive()]

    def received(self, message: HolePunch, now: float) -> list[Action]:
        """The next message arrived at `now`; RemoteProtocolError when it is not due, to be reported as `broken`."""
        self._expect(_State.AWAITING_CONNECT, _State.AWAITING_SYNC)
        if self._state is _State.AWAITING_CONNECT:
            return self._answer(message)
        if message.type is not HolePunchType.SYNC:
            raise RemoteProtocolError(f"{self._peer} sent {message.type.name} where SYNC is due")
        rest = self._punch() if self._addrs else self._finish(PunchStep.FAILED, self._unusable)
        return [self._tell(PunchStep.SYNC_RECEIVED), CloseStream(), *rest]

    def punched(self, why: str | None) -> list[Action]:
        """The punch succeeded (None) or failed; the opener decides whether there is another."""
        self._expect(_State.PUNCHING)
        return self._finish(PunchStep.SUCCEEDED if why is None else PunchStep.FAILED, why)

    def broken(self, why: str) -> list[Action]:
        """The exchange cannot go on: a stream reset, a message malformed or late."""
        self._expect(_State.AWAITING_CONNECT, _State.AWAITING_SYNC, _State.PUNCHING)
        return self._finish(PunchStep.FAILED, why)

    def _answer(self, message: HolePunch) -> list[Action]:
        if not self._own:
            return self.broken("no public address of ours has been observed")
        if message.type is HolePunchType.CONNECT and not self._of(message):
            # It may dial us all the same: py over QUIC knows no address of its own, and behind open NATs it gets in.
            self._state = _State.AWAITING_SYNC
            return [self._tell(PunchStep.CONNECT_RECEIVED), *self._connect()]
        self._take_addrs(message)
        self._state = _State.AWAITING_SYNC
        expect = Expect(self._addrs, self._role)
        return [self._tell(PunchStep.CONNECT_RECEIVED, self._addrs), expect, *self._connect()]


def offered(own: Iterable[Multiaddr], policy: PunchPolicy) -> tuple[Multiaddr, ...]:
    """Return those of our addresses that a peer may punch to: public, not relayed, at most 20."""
    return _first(addr.without("p2p") for addr in own if _may_punch(addr, policy))


def dialable(known: Iterable[Multiaddr], peer: PeerId, policy: PunchPolicy) -> tuple[Multiaddr, ...]:
    """Return those addresses of `peer` that are worth a plain dial: as for punching, of any IP version."""
    return _first(_candidates(known, peer, policy))


def punchable(
    theirs: Iterable[Multiaddr], peer: PeerId, own: Sequence[Multiaddr], policy: PunchPolicy
) -> tuple[Multiaddr, ...]:
    """Return what to try of a peer's list: as `dialable`, of our IP versions and transports, and none that are ours.

    `own` are the addresses that we offer: a hole is made from where they lead to.
    """
    ours = {_family(addr) for addr in own}
    return _first(addr for addr in _candidates(theirs, peer, policy) if _family(addr) in ours and addr not in own)


def _family(addr: Multiaddr) -> tuple[int | None, Kind | None]:
    return None if addr.ip is None else addr.ip.version, kind_of(addr)


def _candidates(addrs: Iterable[Multiaddr], peer: PeerId, policy: PunchPolicy) -> Iterator[Multiaddr]:
    for addr in addrs:
        if addr.peer_id in (peer, None) and _may_punch(addr, policy):
            yield addr.without("p2p")


def _may_punch(addr: Multiaddr, policy: PunchPolicy) -> bool:
    ip = addr.ip
    if ip is None or ip.is_unspecified or ip.is_multicast or not addr.port:
        return False
    return has_hole(addr) if policy.allow_private else is_punchable(addr)


def _first(addrs: Iterable[Multiaddr]) -> tuple[Multiaddr, ...]:
    return tuple(dict.fromkeys(addrs))[:ADDRESSES]
