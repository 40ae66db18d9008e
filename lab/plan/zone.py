"""The lab's name server as part of a plan: a host on the internet, and all that it knows.

    core ── 11.0.N.0/24 ──── dns     lo 11.53.0.53, the address that every resolv.conf in the lab has
         ── 2a11:0:N::/64 ──            2a11:53::53, which it has too where there is IPv6

The addresses are the same in every network, so one resolv.conf serves all networks of a sandbox.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from lab.model.dns import Mode

NAME_SERVER: Final = "11.53.0.53"
NAME_SERVER6: Final = "2a11:53::53"
ZONE: Final = "lab"


@dataclass(frozen=True, slots=True)
class Entry:
    """What one name stands for."""

    name: str
    "in full, without a dot at its end: `alice.lab`"
    address: str | None
    "public, of IPv4, without prefix length"
    address6: str | None
    "the same of IPv6"
    dnsaddr: tuple[str, ...]
    "multiaddrs, and names of peers, whose addresses are complete only once they are ready"
    mode: Mode
    delay: float
    "seconds, if it is slow"


@dataclass(frozen=True, slots=True)
class Listener:
    """Where the internet sees a peer, whether or not it lets anybody in there."""

    peer: str
    multiaddr: str
    "without the peer's id"


@dataclass(frozen=True, slots=True)
class DnsPlan:
    """The server."""

    space: str
    addresses: tuple[str, ...]
    "of every version of IP that there is, IPv4 first"
    mode: Mode
    "for names that it does not know"
    delay: float
    entries: tuple[Entry, ...]
    listeners: tuple[Listener, ...]
    prefix64: str | None = None
    "by which who asks by IPv6 is told IPv4 addresses (DNS64); None: it is not"

    @property
    def named(self) -> frozenset[str]:
        """The peers that other names than their own stand for, which are complete only once these are ready."""
        return frozenset(
            peer
            for entry in self.entries
            for peer in entry.dnsaddr
            if not peer.startswith("/") and entry.name != f"{peer}.{ZONE}"
        )
