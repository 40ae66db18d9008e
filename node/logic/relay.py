"""Who may keep a slot at our relay, who may open a circuit, for how many bytes; and when our own slot must be renewed.

Spec: https://github.com/libp2p/specs/blob/master/relay/circuit-v2.md

    RESERVE ─► Slots.reserve ─► Slot | Status          CONNECT ─► Slots.connect ─► Circuit | Status
    the peer's last connection ended ─► Slots.leave    splice ended ─► Slots.disconnect

Facts: the figures are go-libp2p's. A peer has one slot: reserving again renews it. Slots are lost when the peer is no
longer connected, since a STOP stream can only be opened on a connection that stands; they expire for the same peer if
it does not renew. Neither RESERVE nor CONNECT is served over a relayed connection: a chain of relays would hide who
pays, and A → R → R could go on for ever. A circuit's limit counts each direction on its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from node.errors import LocalProtocolError
from node.logic.addresses import plausible
from node.logic.observed import IPAddress, observer_group
from node.wire.relay import Limit, Status

if TYPE_CHECKING:
    from node.names.multiaddr import Multiaddr
    from node.names.peerid import PeerId

RENEW_BEFORE = 120.0
"""Seconds before its expiry at which a slot is renewed, as in go."""
RENEW_RETRY = 15.0
"""Seconds after which a renewal that failed is tried again, as long as the slot lasts."""
RESERVATION_ADDRS = 16
"""Addresses taken from a relay's answer."""


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """What one relay gives away: counts, seconds and bytes."""

    slots: int = 128
    slots_per_ip: int = 8
    """Peers with a slot behind one IPv4 address or IPv6 /56."""
    ttl: float = 3600.0
    circuits_per_peer: int = 16
    """Circuits that begin or end at one peer."""
    duration: int = 120
    """Seconds one circuit lasts, 0 for ever."""
    data: int = 128 * 1024
    """Bytes one circuit carries in each direction, 0 without end."""

    @property
    def limit(self) -> Limit | None:
        """The limit as the wire has it, None (no limit) when neither time nor bytes end."""
        if not self.duration and not self.data:
            return None
        return Limit(duration=self.duration or None, data=self.data or None)


@dataclass(frozen=True, slots=True)
class Slot:
    """A reservation: the peer may be reached through us until `expire`."""

    peer: PeerId
    host: str
    """The hosts that share one quota with the peer."""
    expire: float


@dataclass(frozen=True, slots=True)
class CircuitEnds:
    """The two ends of an open circuit."""

    source: PeerId
    target: PeerId


class Slots:
    """The reservations and circuits of a relay; times are seconds of the caller's clock."""

    def __init__(self, limits: RelayLimits) -> None:
        self.limits = limits
        self._slots: dict[PeerId, Slot] = {}  # bounded by limits.slots
        self._circuits: Counter[PeerId] = Counter()  # bounded by limits.circuits_per_peer × peers connected

    def reserve(self, peer: PeerId, ip: IPAddress | None, *, relayed: bool, now: float) -> Slot | Status:
        """Give `peer`, connected from `ip`, a slot or renew its own; the status says why not."""
        if relayed or ip is None:
            return Status.PERMISSION_DENIED
        self._expire(now)
        host = observer_group(ip)
        others = [slot for slot in self._slots.values() if slot.peer != peer]
        if len(others) >= self.limits.slots:
            return Status.RESERVATION_REFUSED
        if sum(slot.host == host for slot in others) >= self.limits.slots_per_ip:
            return Status.RESERVATION_REFUSED
        slot = self._slots[peer] = Slot(peer, host, now + self.limits.ttl)
        return slot

    def connect(self, source: PeerId, target: PeerId, *, relayed: bool, now: float) -> CircuitEnds | Status:
        """Count a circuit from `source` to the slot of `target`; the status says why not."""
        if relayed or source == target:
            return Status.PERMISSION_DENIED
        self._expire(now)
        if target not in self._slots:
            return Status.NO_RESERVATION
        if max(self._circuits[source], self._circuits[target]) >= self.limits.circuits_per_peer:
            self._drop_zeros(source, target)
            return Status.RESOURCE_LIMIT_EXCEEDED
        self._circuits[source] += 1
        self._circuits[target] += 1
        return CircuitEnds(source, target)

    def disconnect(self, circuit: CircuitEnds) -> None:
        """Count a circuit no more."""
        for peer in (circuit.source, circuit.target):
            if self._circuits[peer] < 1:
                raise LocalProtocolError(f"{peer} has no circuit that could end")
            self._circuits[peer] -= 1
        self._drop_zeros(circuit.source, circuit.target)

    def leave(self, peer: PeerId) -> None:
        """Free the slot of a peer that is no longer connected."""
        self._slots.pop(peer, None)

    def peers(self, now: float) -> list[PeerId]:
        """Return who has a slot."""
        self._expire(now)
        return list(self._slots)

    @property
    def circuits(self) -> int:
        """How many circuits are open."""
        return self._circuits.total() // 2

    def _expire(self, now: float) -> None:
        for peer in [peer for peer, slot in self._slots.items() if slot.expire <= now]:
            del self._slots[peer]

    def _drop_zeros(self, *peers: PeerId) -> None:
        for peer in peers:
            if not self._circuits[peer]:
                del self._circuits[peer]


class Meter:
    """Counts the bytes of one direction of a circuit against its limit."""

    def __init__(self, limit: int | None) -> None:
        self.passed = 0
        self._limit = limit

    def take(self, size: int) -> int:
        """Count as many of `size` bytes as may pass and return how many those are."""
        allowed = size if self._limit is None else min(size, self._limit - self.passed)
        self.passed += allowed
        return allowed


def renew_at(expire: float, now: float) -> float:
    """Return when to renew a slot: two minutes before it expires, halfway if it does not last four."""
    return max(expire - RENEW_BEFORE, now + (expire - now) / 2)


def retry_at(expire: float, now: float) -> float | None:
    """Return when to try a failed renewal again, None when the slot will have expired."""
    again = now + RENEW_RETRY
    return again if again < expire else None


def through(relay: PeerId, reserved: Iterable[Multiaddr], remote: Multiaddr) -> tuple[Multiaddr, ...]:
    """Return our addresses `/…/p2p/R/p2p-circuit` at a relay that named `reserved`; `remote` is how we reach it.

    Addresses of other peers or relayed ones are left out, and those that cannot mean the relay from where we see it:
    whoever dials us would dial them. When none remains, the one we used stands in, because a relay that finds none of
    its own public may send none.
    """
    suffix = f"/p2p/{relay}"
    own = [addr for addr in reserved if not addr.is_relayed and addr.peer_id in (relay, None)]
    chosen = plausible(own, remote)[:RESERVATION_ADDRS] or [remote]
    bare = [addr.without("p2p") if addr.peer_id else addr for addr in chosen]
    return tuple(dict.fromkeys(addr / suffix / "/p2p-circuit" for addr in bare))
