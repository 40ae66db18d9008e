"""What the node remembers of others: addresses with a time to live, protocols, agent, the newest signed record.

Facts: an address that a peer merely claims (identify's listen addresses without a valid signed record) may be
somebody else's, so it lives two minutes; what its key signed lives an hour; what a connection proved lives as long as
the connection and fifteen minutes after (go's peerstore). A signed record replaces those before it, and one that is not
newer is ignored (RFC 0003: `seq` only grows).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from node.names.envelope import PeerRecord
    from node.names.multiaddr import Multiaddr
    from node.names.peerid import PeerId

PEERS = 1024
"""Peers remembered; the one heard of longest ago goes first."""
ADDRESSES_PER_PEER = 64
"""The addresses that would be forgotten first go first."""
PROTOCOLS_PER_PEER = 128


class Ttl(Enum):
    """Seconds for which an address is believed, by where it comes from."""

    CLAIMED = 120.0
    DISCONNECTED = 900.0
    NEARBY = 4500.0
    """Heard on the local network: as long as RFC 6762 §10 has such records live."""
    TOLD = 3600.0
    """By our user, or in a record that the peer signed."""
    CONNECTED = float("inf")


@dataclass(frozen=True, slots=True)
class Remembered:
    """All that is known of one peer; when each address expires is in seconds of somebody's clock."""

    expiry: Mapping[Multiaddr, float]
    certified: frozenset[Multiaddr]
    seq: int
    protocols: frozenset[str]
    agent: str

    def shifted(self, seconds: float) -> Remembered:
        """The same by a clock that is ahead by `seconds`."""
        return replace(self, expiry={addr: expiry + seconds for addr, expiry in self.expiry.items()})


@dataclass(slots=True)
class _Peer:
    expiry: dict[Multiaddr, float] = field(default_factory=dict)
    certified: set[Multiaddr] = field(default_factory=set)
    seq: int = -1
    protocols: frozenset[str] = frozenset()
    agent: str = ""


class AddressBook:
    """The memory of other peers; times are seconds of the caller's clock."""

    def __init__(self, peers: int = PEERS, addresses_per_peer: int = ADDRESSES_PER_PEER) -> None:
        self._bound = peers
        self._addresses = addresses_per_peer
        self._peers: OrderedDict[PeerId, _Peer] = OrderedDict()
        self._changed: dict[PeerId, None] = {}  # since `changes` was asked; at most as many as there are peers

    def add(self, peer: PeerId, addrs: Iterable[Multiaddr], ttl: Ttl, now: float) -> None:
        """Believe `addrs` for `ttl` from now, or longer where they are already believed longer."""
        known = self._touch(peer)
        for addr in addrs:
            known.expiry[addr] = max(known.expiry.get(addr, 0.0), now + ttl.value)
        self._trim(known)

    def remember(self, peer: PeerId, remembered: Remembered) -> None:
        """Take up what was known of a peer earlier; what is known by now holds where the two differ."""
        known = self._touch(peer)
        for addr, expiry in remembered.expiry.items():
            known.expiry[addr] = max(known.expiry.get(addr, 0.0), expiry)
        if remembered.seq > known.seq:
            known.seq, known.certified = remembered.seq, set(remembered.certified)
        known.protocols = known.protocols or remembered.protocols
        known.agent = known.agent or remembered.agent
        self._trim(known)

    def changes(self, now: float) -> list[tuple[PeerId, Remembered]]:
        """Return the peers of whom something was learnt since the last time; a connection counts as ending now."""
        changed, self._changed = self._changed, {}
        return [(peer, self._remembered(peer, now)) for peer in changed if peer in self._peers]

    def _remembered(self, peer: PeerId, now: float) -> Remembered:
        known = self._peers[peer]
        ending = now + Ttl.DISCONNECTED.value
        expiry = {addr: ending if at == Ttl.CONNECTED.value else at for addr, at in known.expiry.items() if at > now}
        return Remembered(expiry, frozenset(known.certified), known.seq, known.protocols, known.agent)

    def consume_record(self, record: PeerRecord, now: float) -> bool:
        """Take a verified record's addresses instead of those of the one before; False when it is not newer."""
        known = self._touch(record.peer_id)
        if record.seq <= known.seq:
            return False
        known.seq = record.seq
        for addr in known.certified.difference(record.addrs):
            if known.expiry.get(addr) != Ttl.CONNECTED.value:
                known.expiry.pop(addr, None)
        known.certified = set(record.addrs[: self._addresses])
        self.add(record.peer_id, record.addrs[: self._addresses], Ttl.TOLD, now)
        return True

    def connected(self, peer: PeerId, addr: Multiaddr) -> None:
        """Keep an address by which a connection stands."""
        self._touch(peer).expiry[addr] = Ttl.CONNECTED.value

    def disconnected(self, peer: PeerId, now: float) -> None:
        """Let the addresses of the peer's connections expire: it has none any more."""
        known = self._peers.get(peer)
        if known is None:
            return
        for addr, expiry in known.expiry.items():
            if expiry == Ttl.CONNECTED.value:
                known.expiry[addr] = now + Ttl.DISCONNECTED.value
                self._changed[peer] = None

    def addrs(self, peer: PeerId, now: float) -> list[Multiaddr]:
        """Return the addresses still believed, those believed longest first."""
        known = self._peers.get(peer)
        if known is None:
            return []
        for addr in [addr for addr, expiry in known.expiry.items() if expiry <= now]:
            del known.expiry[addr]
            known.certified.discard(addr)
        return sorted(known.expiry, key=known.expiry.__getitem__, reverse=True)

    def describe(self, peer: PeerId, protocols: Iterable[str] | None, agent: str | None) -> None:
        """Note what the peer said it serves and is; None leaves what was said before."""
        known = self._touch(peer)
        if protocols is not None:
            known.protocols = frozenset(list(protocols)[:PROTOCOLS_PER_PEER])
        if agent is not None:
            known.agent = agent

    def protocols(self, peer: PeerId) -> frozenset[str]:
        """Return what the peer said it serves; empty when it has not said."""
        known = self._peers.get(peer)
        return frozenset() if known is None else known.protocols

    def agent(self, peer: PeerId) -> str:
        """Return the peer's agent version; empty when it has not said."""
        known = self._peers.get(peer)
        return "" if known is None else known.agent

    def __len__(self) -> int:
        return len(self._peers)

    def _touch(self, peer: PeerId) -> _Peer:
        known = self._peers.get(peer)
        if known is None:
            known = self._peers[peer] = _Peer()
            if len(self._peers) > self._bound:
                forgotten, _ = self._peers.popitem(last=False)
                self._changed.pop(forgotten, None)
        self._peers.move_to_end(peer)
        self._changed[peer] = None
        return known

    def _trim(self, known: _Peer) -> None:
        while len(known.expiry) > self._addresses:
            soonest = min(known.expiry, key=known.expiry.__getitem__)
            del known.expiry[soonest]
            known.certified.discard(soonest)
