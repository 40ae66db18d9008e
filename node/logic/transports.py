"""Which transport an address is for, by its protocols alone.

    /ip4/11.0.0.7/tcp/4001                  tcp
    /ip4/11.0.0.7/tcp/80/ws                 ws
    /ip4/11.0.0.7/tcp/443/tls/ws            wss, as are /tls/sni/<name>/ws and /wss
    /ip4/11.0.0.7/udp/4001/quic-v1          quic

The names are those of the contract (docs/contract.md). Addresses with host names are of no kind: they are resolved
before anything is dialled. A new transport adds its row here and says in `node.net.transports` how it is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from node.names.multiaddr import Multiaddr


@dataclass(frozen=True, slots=True)
class Kind:
    """One transport, as far as addresses tell."""

    name: str
    tails: tuple[tuple[str, ...], ...]
    """The protocols that may follow the IP address."""
    punchable: bool = False
    """Whether DCUtR can make a hole for it."""


TCP = Kind("tcp", (("tcp",),), punchable=True)
WS = Kind("ws", (("tcp", "ws"),))
WSS = Kind("wss", (("tcp", "tls", "ws"), ("tcp", "tls", "sni", "ws"), ("tcp", "wss")))
QUIC = Kind("quic", (("udp", "quic-v1"),), punchable=True)
KINDS = (
    TCP,
    QUIC,
    WS,
    WSS,
)


def kind_of(addr: Multiaddr) -> Kind | None:
    """Return what `addr` is dialled or listened on by, a trailing `/p2p` apart; None for relayed addresses as well."""
    if addr.ip is None:
        return None
    names = addr.names[2:] if addr.names[0] == "ip6zone" else addr.names[1:]
    tail = names[:-1] if names[-1:] == ("p2p",) else names
    return next((kind for kind in KINDS if tail in kind.tails), None)


def examples() -> str:
    """Return what addresses look like, for people who gave another: `/ip4|ip6/…/tcp/…`."""
    return " or ".join(f"/ip4|ip6/…{_example(tail)}" for kind in KINDS for tail in kind.tails)


def _example(tail: tuple[str, ...]) -> str:
    return "".join(f"/{name}/…" if name in ("tcp", "udp", "sni") else f"/{name}" for name in tail)
