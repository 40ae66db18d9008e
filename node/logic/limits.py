"""How much of the node everybody together, one peer, one protocol or one address may take: the figures.

Facts: every libp2p implementation had an advisory for unbounded connections or streams (CVE-2022-23492 in go,
CVE-2022-23487 in js). The figures are those of go-libp2p (`limits.go`, `p2p/host/resource-manager/limit_defaults.go`
and `conn_limiter.go`): a base for the smallest machine, and an increase for each GiB that the node may use, an eighth
of the memory and half of the file descriptors if nothing else is said. Its limits of single protocols are left out, as
those of their services allow no more. Who counts what against them is `node.logic.resources`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from ipaddress import IPv4Network, IPv6Network

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
NO_BOUND = 1 << 62
MOST_CONNECTIONS = 1 << 16
"""What a configuration may ask for."""
SMALLEST_MEMORY = 128 * MIB
"""Bytes that a node is given credit for, however small the machine."""


@dataclass(frozen=True, slots=True)
class Limit:
    """What one scope may hold at a time; `memory` in bytes, `files` in file descriptors."""

    connections_in: int = NO_BOUND
    connections_out: int = NO_BOUND
    connections: int = NO_BOUND
    streams_in: int = NO_BOUND
    streams_out: int = NO_BOUND
    streams: int = NO_BOUND
    files: int = NO_BOUND
    memory: int = NO_BOUND

    def __post_init__(self) -> None:
        if any(getattr(self, each.name) < 0 for each in fields(self)):
            raise ValueError(f"a limit must allow nothing at the least: {self}")


def streams(inbound: int, outbound: int, total: int) -> Limit:
    """A limit of what has streams only; the memory of their windows counts for the peer."""
    return Limit(streams_in=inbound, streams_out=outbound, streams=total)


@dataclass(frozen=True, slots=True)
class PerNetwork:
    """Inbound connections of one network of addresses: how many at a time, and how fast they may come."""

    prefix: int
    """Bits of the address that make the network."""
    connections: int
    rate: float
    """New connections per second, once the burst is used up."""
    burst: int


SYSTEM = Limit(64, 128, 128, 1024, 2048, 2048, 256, 128 * MIB)
TRANSIENT = Limit(32, 64, 64, 128, 256, 256, 64, 32 * MIB)
"""Connections whose peer is not known yet, and streams whose protocol is not."""
TRANSIENT_PEER = streams(64, 128, 128)
"""Of those streams one peer's, whatever its connections: go has no such limit, and one peer can take them all there."""
PEER = Limit(8, 8, 8, 256, 512, 512, 4, 64 * MIB)
SERVICE = streams(1024, 4096, 4096)
SERVICE_PEER = streams(128, 256, 256)
PROTOCOL = streams(512, 2048, 2048)
PROTOCOL_PEER = streams(64, 128, 256)
CONNECTION = Limit(memory=32 * MIB)
STREAM_WINDOW = 256 * KIB
"""Bytes that each stream may make us keep from its beginning: yamux' initial window."""

SYSTEM_MORE = Limit(64, 128, 128, 1024, 2048, 2048, 0, GIB)
TRANSIENT_MORE = Limit(16, 32, 32, 128, 256, 256, 0, 128 * MIB)
PEER_MORE = Limit(0, 0, 0, 128, 256, 256, 0, 128 * MIB)
SERVICE_MORE = streams(512, 2048, 2048)
SERVICE_PEER_MORE = streams(4, 8, 8)
PROTOCOL_MORE = streams(256, 512, 512)
PROTOCOL_PEER_MORE = streams(4, 8, 16)

SERVICES: dict[str, tuple[str, ...]] = {
    "identify": ("/ipfs/id/1.0.0", "/ipfs/id/push/1.0.0"),
    "ping": ("/ipfs/ping/1.0.0",),
    "autonat": ("/libp2p/autonat/1.0.0",),
    "autonat-v2": ("/libp2p/autonat/2/dial-request", "/libp2p/autonat/2/dial-back"),
    "holepunch": ("/libp2p/dcutr",),
    "relay": ("/libp2p/circuit/relay/0.2.0/hop", "/libp2p/circuit/relay/0.2.0/stop"),
}
"""The protocols of each; go's relay service does not count what a client does, ours does."""
SERVICE_LIMITS: dict[str, tuple[Limit, Limit]] = {
    "identify": (streams(64, 64, 128), streams(16, 16, 32)),
    "ping": (streams(64, 64, 64), streams(2, 3, 4)),
    "autonat": (streams(64, 64, 64), streams(2, 2, 2)),
    "autonat-v2": (streams(64, 64, 64), streams(4, 4, 4)),
    "holepunch": (streams(32, 32, 64), streams(2, 2, 2)),
    "relay": (streams(256, 256, 256), streams(64, 64, 64)),
}
"""Of a service, and of one peer in it, which does not grow. Those of autonat-v2 are ours: go has none, but serves two
requests of a peer at a time, each of which has a stream either way."""
SERVICE_LIMITS_MORE: dict[str, Limit] = {
    "identify": streams(64, 64, 128),
    "ping": streams(64, 64, 64),
    "autonat": streams(4, 4, 4),
    "autonat-v2": streams(4, 4, 4),
    "holepunch": streams(8, 8, 16),
    "relay": streams(256, 256, 256),
}
PER_IP4 = (PerNetwork(32, 8, 0.2, 16),)
PER_IP6 = (PerNetwork(56, 8, 0.2, 16), PerNetwork(48, 64, 0.5, 80))
LOOPBACK: tuple[IPv4Network | IPv6Network, ...] = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of all scopes."""

    system: Limit = SYSTEM
    transient: Limit = TRANSIENT
    transient_peer: Limit = TRANSIENT_PEER
    peer: Limit = PEER
    service: Limit = SERVICE
    service_peer: Limit = SERVICE_PEER
    protocol: Limit = PROTOCOL
    protocol_peer: Limit = PROTOCOL_PEER
    connection: Limit = CONNECTION
    services: dict[str, tuple[Limit, Limit]] = field(default_factory=lambda: SERVICE_LIMITS)
    per_ip4: tuple[PerNetwork, ...] = PER_IP4
    per_ip6: tuple[PerNetwork, ...] = PER_IP6
    exempt: tuple[IPv4Network | IPv6Network, ...] = LOOPBACK
    """Networks whose addresses have no limits of their own."""


def scaled(memory: int, files: int) -> Limits:
    """Return the limits of a node that may use that many bytes and file descriptors.

    Up to SMALLEST_MEMORY that is the base; beyond it every MiB counts, the first ones too.
    """
    mebibytes = memory // MIB if memory > SMALLEST_MEMORY else 0
    services = {
        name: (_more(all_, SERVICE_LIMITS_MORE[name], mebibytes), each) for name, (all_, each) in SERVICE_LIMITS.items()
    }
    return Limits(
        system=_more(SYSTEM, SYSTEM_MORE, mebibytes, max(SYSTEM.files, files)),
        transient=_more(TRANSIENT, TRANSIENT_MORE, mebibytes, max(TRANSIENT.files, files // 4)),
        peer=_more(PEER, PEER_MORE, mebibytes, max(PEER.files, files // 64)),
        service=_more(SERVICE, SERVICE_MORE, mebibytes),
        service_peer=_more(SERVICE_PEER, SERVICE_PEER_MORE, mebibytes),
        protocol=_more(PROTOCOL, PROTOCOL_MORE, mebibytes),
        protocol_peer=_more(PROTOCOL_PEER, PROTOCOL_PEER_MORE, mebibytes),
        services=services,
    )


def _more(base: Limit, increase: Limit, mebibytes: int, files: int | None = None) -> Limit:
    grown = {}
    for each in fields(base):
        value, more = getattr(base, each.name), getattr(increase, each.name)
        grown[each.name] = value if NO_BOUND in (value, more) else value + more * mebibytes // 1024
    return Limit(**grown | ({} if files is None else {"files": files}))
