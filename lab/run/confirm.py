"""What the wire has to show where peers claim something; each raises `PeerError` with what it shows instead.

An encrypted stream keeps its meaning to itself. That it ran, between whom, by which transport and past whom is in the
packets, and how much of it in the counters of the interfaces.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from math import inf
from typing import Final

from lab.errors import PeerError
from lab.observe.facts import Facts
from lab.observe.flows import Endpoint, Flow
from lab.plan.plan import Launch

MDNS: Final = ("224.0.0.251", 5353)
"to which questions and answers go (RFC 6762 §3)"


class DialBack(Enum):
    """How far an AutoNAT server's dial of an address came."""

    NEVER = "none"
    "nothing was sent to that address on a flow of its own"
    LOST = "one that did not arrive"
    REFUSED = "one that arrived and was not answered with payload"
    TAKEN = "one that payload went over both ways"


def is_direct(facts: Facts, one: Launch, other: Launch, transport: str, after: float = -inf) -> None:
    """Since `after`, in Unix seconds, payload went both ways between the two, past no third, by that transport."""
    wanted = "udp" if transport == "quic" else "tcp"
    direct = facts.direct_flow(one.peer, other.peer, after)
    if direct is None:
        raise PeerError(f"the peers say direct, the wire shows no payload both ways between {_both(one, other)}")
    if direct.proto != wanted:
        raise PeerError(f"the peers say {transport}, the wire shows {direct.proto} between {_both(one, other)}")


def has_told(facts: Facts, teller: Launch, hearer: Launch, transport: str, size: int, by: float) -> None:
    """Until `by`, in Unix seconds, `size` bytes had come from one to the other directly, and some had gone back."""
    wanted = "udp" if transport == "quic" else "tcp"
    direct = facts.direct_flow(teller.peer, hearer.peer, before=by)
    if direct is None:
        raise PeerError(f"{hearer.peer} says identified, no payload had gone both ways between {_both(teller, hearer)}")
    if direct.proto != wanted:
        raise PeerError(f"the peers say {transport}, the wire shows {direct.proto} between {_both(teller, hearer)}")
    arrived = facts.delivered(teller.peer, hearer.peer, size)
    if arrived is None or arrived >= by:
        raise PeerError(f"{hearer.peer} says {size} B of {teller.peer}, the wire shows less to have come until then")


def dial_back(facts: Facts, client: Launch, server: Launch, asked: str, after: float) -> DialBack:
    """What the wire shows of the server's dial of the address `asked` (a multiaddr) since then; the best of several."""
    found = [
        _arrival(facts, client, flow)
        for flow in _dials(facts, server, after)
        if (flow.proto, flow.b) == _endpoint(client, asked)
    ]
    return max(found, key=list(DialBack).index, default=DialBack.NEVER)


def dialled_no_other(facts: Facts, client: Launch, server: Launch, asked: str, after: float) -> None:
    """Since then the server has begun no flow but to the address `asked`."""
    for flow in _dials(facts, server, after):
        if (flow.proto, flow.b) != _endpoint(client, asked):
            raise PeerError(f"asked about was {asked}, the wire shows {server.peer} dialling {flow.proto} {flow.b}")


def _dials(facts: Facts, peer: Launch, after: float) -> Iterator[Flow]:
    """The flows that a peer has begun since then, as seen at its own interfaces."""
    ports = (port for cable in facts.plan.cables for port in (cable.a, cable.b) if port.space == peer.space)
    own = {address.partition("/")[0] for port in ports for address in port.addresses}
    for interface in peer.captures:
        for flow in facts.wire.flows_at(interface):
            first = flow.packets[0]
            if first.at >= after and flow.a.address in own and (first.is_syn or flow.proto == "udp"):
                yield flow


def _arrival(facts: Facts, client: Launch, dial: Flow) -> DialBack:
    there = [flow for flow in facts.wire.along(dial) if flow.interface in client.captures]
    if not there:
        return DialBack.LOST
    return DialBack.TAKEN if dial.both_ways() and any(flow.both_ways() for flow in there) else DialBack.REFUSED


def _endpoint(who: Launch, multiaddr: str) -> tuple[str, Endpoint]:
    """`tcp` or `udp`, and where."""
    match multiaddr.split("/"):
        case ["", "ip4" | "ip6", host, "tcp" | "udp" as proto, port, *_] if port.isdecimal():
            return proto, Endpoint(host, int(port))
    raise PeerError(f"{who.peer} gives {multiaddr!r} for an address of its own")


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
