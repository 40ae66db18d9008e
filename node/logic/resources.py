"""Who has how many of the node's connections, streams, file descriptors and bytes: scopes that are counted together.

    connection   system + transient + its networks ─ identity proved ─► system + peer + its networks
    stream       system + peer + transient ─ protocol agreed on ─► system + peer + protocol + service
    memory       what windows may make us keep: system + peer for their first size, the connection's scopes as they grow

Of transient streams, protocols and services each peer has its share. A claim is taken from all of its scopes or from
none, and a scope that holds nothing is forgotten, so memory is bounded by the limits themselves. `node.logic.limits`
has the figures.

Facts: the scopes are those of go-libp2p's resource manager. Outbound connections are not counted for the address that
they lead to: whom we dial is our own choice, and many peers may live behind one address.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterable, Sequence
from enum import IntEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import TYPE_CHECKING

from node.errors import LimitExceeded
from node.logic.limits import SERVICES, STREAM_WINDOW, Limit, Limits, PerNetwork

if TYPE_CHECKING:
    from node.names.peerid import PeerId

IPAddress = IPv4Address | IPv6Address
RATES = 4096
"""Networks whose rate of new connections is remembered; the one that came longest ago goes first."""
SHOWN = 128
"""Scopes that `usage` tells of."""

_SERVICE_OF = {protocol: service for service, protocols in SERVICES.items() for protocol in protocols}


class Kind(IntEnum):
    """What is counted; a pair of directions differs in the last bit."""

    CONNECTIONS_IN = 0
    CONNECTIONS_OUT = 1
    STREAMS_IN = 2
    STREAMS_OUT = 3
    FILES = 4
    MEMORY = 5


_WORDS = ("inbound connections", "outbound connections", "inbound streams", "outbound streams", "files", "bytes")
_PAIRS = ("connections", "streams")


class Scope:
    """What one scope holds, and may."""

    __slots__ = ("bounds", "kind", "name", "totals", "used")

    def __init__(self, kind: str, name: str, limit: Limit) -> None:
        self.kind = kind
        """`system`, `transient`, `peer`, …"""
        self.name = name
        self.used = [0] * len(Kind)
        self.bounds = (
            limit.connections_in,
            limit.connections_out,
            limit.streams_in,
            limit.streams_out,
            limit.files,
            limit.memory,
        )
        self.totals = (limit.connections, limit.streams)

    def refusal(self, kind: int, amount: int) -> str | None:
        """Return why `amount` more is too much, None if it is not."""
        used = self.used
        if used[kind] + amount > self.bounds[kind]:
            return f"{self.name} has {used[kind]} {_WORDS[kind]} of {self.bounds[kind]}"
        if kind < Kind.FILES and used[kind] + used[kind ^ 1] + amount > self.totals[kind >> 1]:
            return f"{self.name} has {used[kind] + used[kind ^ 1]} {_PAIRS[kind >> 1]} of {self.totals[kind >> 1]}"
        return None

    def room(self, kind: int) -> int:
        """How much more there may be of a kind that has no pair."""
        return self.bounds[kind] - self.used[kind]

    @property
    def is_empty(self) -> bool:
        """Whether it holds nothing."""
        return not any(self.used)


class Resources:
    """All scopes of a node; times are seconds of the caller's clock."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.refused: Counter[str] = Counter()
        """How often a limit was hit, by the kind of scope: bounded by their number."""
        self.system = Scope("system", "the node", self.limits.system)
        self.transient = Scope("transient", "those who have not proved or said who they are", self.limits.transient)
        self._scopes: dict[Hashable, Scope] = {}  # those that hold something, so bounded by `system`
        self._rates = _Rates()

    def accept(self, ip: IPAddress | None, now: float) -> ConnectionClaim:
        """Claim a connection that somebody makes to us from `ip`; LimitExceeded if there are or come too many."""
        if ip is not None and (network := self._rates.refusal(self._networks(ip), now)):
            self.refused["rate"] += 1
            raise LimitExceeded(f"new connections come too fast from {network}")
        return self.connection(Kind.CONNECTIONS_IN, ip)

    def connection(self, kind: Kind, ip: IPAddress | None = None, *, files: int = 1) -> ConnectionClaim:
        """Claim a connection whose peer is not known yet; `ip` is where an inbound one comes from."""
        held = []
        if ip is not None and kind is Kind.CONNECTIONS_IN:
            for network, per in self._networks(ip):
                limit = Limit(connections_in=per.connections)
                held.append(self._scope(network, "ip", str(network), limit))
        scopes = [self.system, self.transient, *held]
        self._take(scopes, kind, 1)
        try:
            self._take(scopes, Kind.FILES, files)
        except LimitExceeded:
            self._give(scopes, kind, 1)
            raise
        return ConnectionClaim(self, kind, scopes, files)

    def _networks(self, ip: IPAddress) -> list[tuple[IPv4Network | IPv6Network, PerNetwork]]:
        if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        if any(ip.version == network.version and ip in network for network in self.limits.exempt):
            return []
        each = self.limits.per_ip4 if ip.version == 4 else self.limits.per_ip6
        bits = ip.max_prefixlen
        return [(ip_network((int(ip) >> (bits - per.prefix) << (bits - per.prefix), per.prefix)), per) for per in each]

    def take(self, wanted: int) -> int:
        """Take up to `wanted` bytes for windows of connections that have no claim to charge, as QUIC's endpoints do."""
        taken = max(0, min(wanted, self.system.room(Kind.MEMORY)))
        self.system.used[Kind.MEMORY] += taken
        return taken

    def give(self, size: int) -> None:
        """Return bytes that `take` gave."""
        self._give([self.system], Kind.MEMORY, size)

    def usage(self) -> list[Scope]:
        """Return the scopes that hold something, those of everybody first, at most SHOWN."""
        return [self.system, self.transient, *self._scopes.values()][:SHOWN]

    # ── what claims call ─────────────────────────────────────────────────────────────────────────────────────────────

    def peer_scope(self, peer: PeerId) -> Scope:
        """The scope of one peer."""
        return self._scope(peer, "peer", str(peer), self.limits.peer)

    def transient_scopes(self, peer: PeerId) -> list[Scope]:
        """The scopes of streams without a protocol, for everybody and for one peer."""
        name = f"{peer} without a protocol"
        return [self.transient, self._scope((None, peer), "transient-peer", name, self.limits.transient_peer)]

    def protocol_scopes(self, protocol: str, peer: PeerId) -> list[Scope]:
        """The scopes of a protocol and of the service that it is part of, for everybody and for one peer."""
        limits = self.limits
        scopes = [
            self._scope(protocol, "protocol", protocol, limits.protocol),
            self._scope((protocol, peer), "protocol-peer", f"{protocol} of {peer}", limits.protocol_peer),
        ]
        service = _SERVICE_OF.get(protocol)
        if service is not None:
            all_, each = limits.services.get(service, (limits.service, limits.service_peer))
            scopes.append(self._scope(("", service), "service", service, all_))
            scopes.append(self._scope((service, peer), "service-peer", f"{service} of {peer}", each))
        return scopes

    def _scope(self, key: Hashable, kind: str, name: str, limit: Limit) -> Scope:
        scope = self._scopes.get(key)
        return scope if scope is not None else _Lazy(self, key, kind, name, limit)

    def _take(self, scopes: Sequence[Scope], kind: int, amount: int) -> None:
        for scope in scopes:
            if why := scope.refusal(kind, amount):
                self.refused[scope.kind] += 1
                raise LimitExceeded(why)
        for scope in scopes:
            scope.used[kind] += amount
            if isinstance(scope, _Lazy):
                self._scopes[scope.key] = scope

    def _give(self, scopes: Iterable[Scope], kind: int, amount: int) -> None:
        for scope in scopes:
            if scope.used[kind] < amount:
                raise ValueError(f"{scope.name} returns {amount} {_WORDS[kind]} of {scope.used[kind]}")
            scope.used[kind] -= amount
            if isinstance(scope, _Lazy) and scope.is_empty:
                self._scopes.pop(scope.key, None)


class _Lazy(Scope):
    """A scope that is known to `Resources` only while it holds something."""

    __slots__ = ("key",)

    def __init__(self, owner: Resources, key: Hashable, kind: str, name: str, limit: Limit) -> None:
        super().__init__(kind, name, limit)
        self.key = key


class ConnectionClaim:
    """What one connection holds; the pool (`take`, `give`) by which the windows of its streams grow."""

    __slots__ = ("_files", "_kind", "_memory", "_owner", "_peer", "_peer_scope", "_scopes", "_streams")

    def __init__(self, owner: Resources, kind: Kind, scopes: list[Scope], files: int) -> None:
        self._owner = owner
        self._kind = kind
        self._scopes = scopes
        self._files = files
        self._memory = 0
        self._peer: PeerId | None = None
        self._peer_scope: Scope | None = None
        self._streams: set[StreamClaim] = set()  # bounded by the limit of the peer

    def known(self, peer: PeerId) -> None:
        """The peer has proved who it is: count the connection for it; LimitExceeded if it has too many."""
        owner, scope = self._owner, self._owner.peer_scope(peer)
        owner._take([scope], self._kind, 1)
        try:
            owner._take([scope], Kind.FILES, self._files)
        except LimitExceeded:
            owner._give([scope], self._kind, 1)
            raise
        scope.used[Kind.MEMORY] += self._memory
        left = [owner.transient]
        owner._give(left, Kind.MEMORY, self._memory)
        owner._give(left, Kind.FILES, self._files)
        owner._give(left, self._kind, 1)
        self._scopes = [scope, *(each for each in self._scopes if each is not owner.transient)]
        self._peer, self._peer_scope = peer, scope

    def stream(self, kind: Kind) -> StreamClaim:
        """Claim a stream whose protocol is not agreed on yet; LimitExceeded if the peer, or all, have too many."""
        if self._peer is None or self._peer_scope is None:
            raise ValueError("a connection has streams once its peer is known")
        owner = self._owner
        scopes = [owner.system, self._peer_scope, *owner.transient_scopes(self._peer)]
        owner._take(scopes, kind, 1)
        try:
            owner._take(scopes[:2], Kind.MEMORY, STREAM_WINDOW)
        except LimitExceeded:
            owner._give(scopes, kind, 1)
            raise
        claim = StreamClaim(owner, kind, scopes, self._peer, self._streams)
        self._streams.add(claim)
        return claim

    def take(self, wanted: int) -> int:
        """Take up to `wanted` bytes for windows, and return how many that were."""
        room = self._owner.limits.connection.memory - self._memory
        taken = max(0, min(wanted, room, *(scope.room(Kind.MEMORY) for scope in self._scopes)))
        if taken < wanted:
            self._owner.refused["window"] += 1
        self._owner._take(self._scopes, Kind.MEMORY, taken)
        self._memory += taken
        return taken

    def give(self, size: int) -> None:
        """Return bytes that were taken; what the claim returned already by `release` is not counted twice."""
        size = min(size, self._memory)
        self._owner._give(self._scopes, Kind.MEMORY, size)
        self._memory -= size

    def release(self) -> None:
        """Return all, also what its streams hold; once is enough."""
        for stream in list(self._streams):
            stream.release()
        self.give(self._memory)
        self._owner._give(self._scopes, Kind.FILES, self._files)
        self._owner._give(self._scopes, self._kind, 1)
        self._scopes = []


class StreamClaim:
    """What one stream holds."""

    __slots__ = ("_kind", "_owner", "_peer", "_scopes", "_siblings")

    def __init__(
        self, owner: Resources, kind: Kind, scopes: list[Scope], peer: PeerId, siblings: set[StreamClaim]
    ) -> None:
        self._owner = owner
        self._kind = kind
        self._scopes = scopes  # the first two, of the node and the peer, hold its memory
        self._peer = peer
        self._siblings = siblings

    def agreed(self, protocol: str) -> None:
        """Count the stream for its protocol; LimitExceeded if that has too many, of this peer or of all."""
        if not self._scopes:
            return  # the connection ended meanwhile
        owner = self._owner
        more = owner.protocol_scopes(protocol, self._peer)
        owner._take(more, self._kind, 1)
        owner._give(self._scopes[2:], self._kind, 1)
        self._scopes = [*self._scopes[:2], *more]

    def release(self) -> None:
        """Return all; once is enough."""
        self._owner._give(self._scopes[:2], Kind.MEMORY, STREAM_WINDOW)
        self._owner._give(self._scopes, self._kind, 1)
        self._scopes = []
        self._siblings.discard(self)


class _Rates:
    """A token bucket for each network that connections came from lately."""

    def __init__(self) -> None:
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()  # tokens left, and when

    def refusal(self, networks: Sequence[tuple[Hashable, PerNetwork]], now: float) -> Hashable | None:
        """Take a token of each network; return one that has none left, and then take none."""
        left = []
        for network, per in networks:
            tokens, at = self._buckets.get(network, (float(per.burst), now))
            tokens = min(float(per.burst), tokens + max(0.0, now - at) * per.rate)
            if tokens < 1.0:
                return network
            left.append((network, tokens - 1.0))
        for network, tokens in left:
            self._buckets[network] = (tokens, now)
            self._buckets.move_to_end(network)
        while len(self._buckets) > RATES:
            self._buckets.popitem(last=False)
        return None
