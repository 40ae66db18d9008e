"""What the wire has to show where peers claim something; each raises `PeerError` with what it shows instead.

An encrypted stream keeps its meaning to itself. That it ran, between whom, by which transport and past whom is in the
packets, and how much of it in the counters of the interfaces.
"""

from __future__ import annotations

from math import inf
from typing import Final

from lab.errors import PeerError
from lab.observe.facts import Facts
from lab.plan.plan import Launch

MDNS: Final = ("224.0.0.251", 5353)
"to which questions and answers go (RFC 6762 §3)"


def is_direct(facts: Facts, one: Launch, other: Launch, transport: str, after: float = -inf) -> None:
    """Since `after`, in Unix seconds, payload went both ways between the two, past no third, by that transport."""
    wanted = "udp" if transport == "quic" else "tcp"
    direct = facts.direct_flow(one.peer, other.peer, after)
    if direct is None:
        raise PeerError(f"the peers say direct, the wire shows no payload both ways between {_both(one, other)}")
    if direct.proto != wanted:
        raise PeerError(f"the peers say {transport}, the wire shows {direct.proto} between {_both(one, other)}")


def is_relayed(facts: Facts, one: Launch, other: Launch, relay: Launch, after: float, size: int) -> None:
    """No payload ever went between the two without the relay, and since `after` it carried `size` bytes four times.

    Four: in and out, there and back.
    """
    carried = facts.bytes(relay.peer, after)
    if carried < 4 * size:
        raise PeerError(f"the peers say relayed, the wire shows {carried} B at the relay during the echo")
    if facts.direct_flow(one.peer, other.peer) is not None:
        raise PeerError(f"the peers say relayed, the wire shows a direct flow between {_both(one, other)}")


def has_carried(one: Launch, before: int, after: int, size: int) -> None:
    """Between two counts of bytes at a peer's interfaces, `size` bytes went out and came back."""
    if after - before < 2 * size:
        raise PeerError(f"{one.peer} says {size} B each way, its interface has carried {after - before} B in all")


def found_each_other(facts: Facts, one: Launch, other: Launch) -> None:
    """Multicast DNS of each was seen at the other's interface."""
    for source, target in ((one, other), (other, one)):
        heard = (
            (packet.src, (packet.dst, packet.dport)) for packet in facts.packets if packet.interface in target.captures
        )
        if not any(src in source.addresses and to == MDNS for src, to in heard):
            raise PeerError(f"the peers say found, the wire shows no mDNS of {source.peer} at {target.peer}")


def _both(one: Launch, other: Launch) -> str:
    return f"{one.peer} and {other.peer}"
