"""Our own addresses as others see them, and what they tell about the NAT in front of us.

Identify carries `observedAddr`: the address of our end of the connection as the peer's socket has it. Behind a NAT that
is the external side of a mapping, and when the connection left from the port we listen on, others can use the mapping
too. Facts (go-libp2p, `observedaddrs/manager.go`):

* An observation counts only if its connection is not relayed (the relay's address would be taken for ours, go#3043),
  our end is an address we listen on (else the port is an ephemeral one), and both are the same thin waist: IP version,
  TCP or UDP. Loopback and NAT64 addresses tell nothing.
* An observer is an IPv4 address or an IPv6 /56: many connections to one host are one opinion.
* Four observers confirm an address, so that three liars cannot make us advertise theirs. Punching is content with
  one: the address is used once, with a peer that tries it anyway.
* An observation lives as long as its connection, since nobody else keeps the mapping open.

RFC 4787 §4.1 names the mapping: the same external endpoint for all destinations is endpoint-independent.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Hashable
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from node.names.multiaddr import Multiaddr

CONFIRMED = 4
"""Observers that make an address one to advertise, as in go."""
EXTERNALS_PER_LOCAL = 3
OBSERVATIONS = 1024
"""Connections whose observation is kept; the oldest goes first."""
THIN_WAIST = 2
"""Components of `/ip4/…/tcp/…`."""
_ENOUGH_TO_COMPARE = 2  # observers without whom a mapping cannot be told
_NAT64 = IPv6Network("64:ff9b::/96")

IPAddress = IPv4Address | IPv6Address


class Mapping(Enum):
    """What the observers say about the NAT in front of one listen address."""

    UNKNOWN = "unknown"
    NONE = "none"
    """Seen as we see ourselves: no translation."""
    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ENDPOINT_DEPENDENT = "endpoint-dependent"


@dataclass(frozen=True, slots=True)
class Observation:
    """What one peer saw over one connection."""

    observer: str
    """The group of hosts that counts as one opinion."""
    local: Multiaddr
    observed: Multiaddr


class ObservedAddresses:
    """The observations of the open connections and what follows from them."""

    def __init__(self, confirmed: int = CONFIRMED, bound: int = OBSERVATIONS) -> None:
        self._confirmed = confirmed
        self._bound = bound
        self._observations: OrderedDict[Hashable, Observation] = OrderedDict()

    def record(
        self,
        connection: Hashable,
        *,
        observer: IPAddress,
        local: Multiaddr,
        observed: Multiaddr,
        listening: Collection[Multiaddr],
    ) -> bool:
        """Note what the peer at `observer` saw over a direct connection; True when that observer had not said so yet.

        `local` is our end of the socket, `listening` our listen addresses with wildcards resolved.
        """
        if not _is_telling(local, observed, listening):
            return False
        observation = Observation(observer_group(observer), local, _as_listened(observed, local))
        is_new = observation not in self._observations.values()
        self._observations[connection] = observation
        if len(self._observations) > self._bound:
            self._observations.popitem(last=False)
        return is_new

    def forget(self, connection: Hashable) -> None:
        """Forget what was seen over a connection that ended."""
        self._observations.pop(connection, None)

    def addrs(self, observers: int | None = None) -> list[Multiaddr]:
        """Return the addresses that so many observers agree on (those that confirm if None), most agreed on first.

        Not more than three for each listen address.
        """
        least = self._confirmed if observers is None else observers
        votes: dict[Multiaddr, dict[Multiaddr, set[str]]] = {}
        for (local, observer), observed in self._opinions().items():
            votes.setdefault(local, {}).setdefault(observed, set()).add(observer)
        chosen = [
            (len(by), observed)
            for externals in votes.values()
            for observed, by in sorted(externals.items(), key=lambda item: -len(item[1]))[:EXTERNALS_PER_LOCAL]
            if len(by) >= least
        ]
        chosen.sort(key=lambda item: -item[0])
        return list(dict.fromkeys(observed for _, observed in chosen))

    def mapping(self, local: Multiaddr) -> Mapping:
        """Return what the NAT in front of a listen address does, as far as two or more observers tell."""
        votes = self._votes(local)
        as_we_are = votes.pop(local, set())
        outside = set[str]().union(*votes.values())
        if len(outside) < _ENOUGH_TO_COMPARE:
            return Mapping.NONE if not outside and len(as_we_are) >= _ENOUGH_TO_COMPARE else Mapping.UNKNOWN
        most = max(len(by) for by in votes.values())
        return Mapping.ENDPOINT_INDEPENDENT if 2 * most > len(outside) else Mapping.ENDPOINT_DEPENDENT

    def __len__(self) -> int:
        return len(self._observations)

    def _opinions(self) -> dict[tuple[Multiaddr, str], Multiaddr]:
        """What each observer says of each listen address: one thing, the newest, else one liar could say three."""
        return {(each.local, each.observer): each.observed for each in self._observations.values()}

    def _votes(self, local: Multiaddr) -> dict[Multiaddr, set[str]]:
        votes: dict[Multiaddr, set[str]] = {}
        for observation in self._observations.values():
            if observation.local == local:
                votes.setdefault(observation.observed, set()).add(observation.observer)
        return votes


def observer_group(ip: IPAddress) -> str:
    """Return the name of the hosts that share one opinion with `ip`: itself, or its IPv6 /56."""
    if isinstance(ip, IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        return str(IPv6Network((int(ip), 56), strict=False))
    return str(ip)


def _is_telling(local: Multiaddr, observed: Multiaddr, listening: Collection[Multiaddr]) -> bool:
    ip = observed.ip
    if ip is None or ip.is_loopback or ip.is_unspecified or ip.is_multicast or not observed.port:
        return False
    if isinstance(ip, IPv6Address) and ip in _NAT64:
        return False
    if observed.is_relayed or _thin_waist(observed).names != _thin_waist(local).names:
        return False
    return _thin_waist(local) in map(_thin_waist, listening)


def _thin_waist(addr: Multiaddr) -> Multiaddr:
    """The IP address and port, which one socket has whatever is spoken over it."""
    while len(addr) > THIN_WAIST:
        addr = addr.without(addr.names[-1])
    return addr


def _as_listened(observed: Multiaddr, local: Multiaddr) -> Multiaddr:
    """The observed endpoint with what is spoken at ours: peers need not say, nor say it as we do."""
    rest = local.to_bytes()[len(_thin_waist(local).to_bytes()) :]
    return type(observed).from_bytes(_thin_waist(observed).to_bytes() + rest)
