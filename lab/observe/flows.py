"""Flows: what two endpoints say to each other, as one interface sees it; and what several interfaces see of a packet.

A connection that crosses two NATs is a different flow at each interface, because the NATs rewrite its endpoints. Its
packets are the same ones, though, and `Wire` finds them again by what no NAT rewrites (`Packet.identity`).

A TCP connection is established when each side's initial sequence number has been acknowledged by the other
(RFC 9293 §3.5). Counted so, an ordinary handshake and a simultaneous open need no cases:

    alice ── SYN x ──────────▶ bob          alice ── SYN x ──▶ ◀── SYN y ── bob
    alice ◀── SYN y, ACK x+1 ── bob         alice ── SYN x, ACK y+1 ──────▶ bob
    alice ── ACK y+1 ────────▶ bob          alice ◀── SYN y, ACK x+1 ────── bob
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

from lab.observe.endpoint import endpoint_text
from lab.observe.packets import ACK, RST, SYN, Identity, Packet

_SEQUENCE = 1 << 32


class Endpoint(NamedTuple):
    """An address and a port."""

    address: str
    port: int

    def __str__(self) -> str:
        return endpoint_text(self.address, self.port)


@dataclass(frozen=True, slots=True)
class Handshake:
    """How and when a connection came to be, as one interface saw it; Unix seconds."""

    opener: Endpoint
    "who sent the first SYN"
    syn: float
    established: float
    both_opened: bool
    "each side sent a SYN without ACK that this interface saw: a simultaneous open, if both arrived"


@dataclass(frozen=True, slots=True)
class Flow:
    """All packets between two endpoints at one interface, in the order of time."""

    interface: str
    proto: str
    a: Endpoint
    "who sent the first packet"
    b: Endpoint
    packets: tuple[Packet, ...]

    def payload(self, sender: Endpoint | None = None, after: float = -inf, before: float = inf) -> int:
        """Bytes of payload within `after <= at < before`, of one sender or of both."""
        return sum(
            packet.payload
            for packet in self.packets
            if after <= packet.at < before and sender in (None, (packet.src, packet.sport))
        )

    def both_ways(self, after: float = -inf, before: float = inf) -> bool:
        """Whether both ends sent payload within that interval."""
        return all(self.payload(end, after, before) for end in (self.a, self.b))

    def first_payload(self, after: float = -inf, before: float = inf) -> Packet | None:
        """The packet with the first payload within that interval."""
        return next((one for one in self.packets if one.payload and after <= one.at < before), None)

    def handshake(self) -> Handshake | None:
        """The first handshake that was completed; None for UDP, and where there was none."""
        begun: dict[Endpoint, Packet] = {}
        "the packet that last gave each side's initial sequence number"
        syns: dict[Endpoint, Packet] = {}
        acked: set[Endpoint] = set()
        for packet in self.packets:
            source, target = source_of(packet), target_of(packet)
            if packet.flags & RST:
                continue  # its ACK grants nothing
            if packet.flags & SYN:
                if source not in begun or begun[source].seq != packet.seq:
                    begun[source] = packet
                    acked.discard(source)
                    syns.pop(source, None)
                if packet.is_syn:
                    syns.setdefault(source, packet)
            if packet.flags & ACK and target in begun and packet.ack == (begun[target].seq + 1) % _SEQUENCE:
                acked.add(target)
            if len(acked) == 2:
                return self._handshake(packet, syns)
        return None

    def _handshake(self, last: Packet, syns: Mapping[Endpoint, Packet]) -> Handshake | None:
        if not syns:
            return None
        first = min(syns.values(), key=lambda packet: packet.ns)
        return Handshake(source_of(first), first.at, last.at, len(syns) == 2)


def source_of(packet: Packet) -> Endpoint:
    """The endpoint that a packet comes from."""
    return Endpoint(packet.src, packet.sport)


def target_of(packet: Packet) -> Endpoint:
    """The endpoint that a packet goes to."""
    return Endpoint(packet.dst, packet.dport)


class Wire:
    """All packets of a capture, found by interface, by flow, and again on other interfaces."""

    def __init__(self, packets: Iterable[Packet]) -> None:
        self.packets = tuple(packets)
        self._seen: dict[Identity, list[Packet]] = {}
        members: dict[_Key, list[Packet]] = {}
        for packet in self.packets:
            self._seen.setdefault(packet.identity, []).append(packet)
            members.setdefault(_key(packet), []).append(packet)
        self._flows = {key: _flow(packets) for key, packets in members.items()}

    @property
    def flows(self) -> tuple[Flow, ...]:
        """Every flow at every interface, ordered by their first packets."""
        return tuple(self._flows.values())

    def flows_at(self, interface: str) -> tuple[Flow, ...]:
        """The flows at one interface, ordered by their first packets."""
        return tuple(flow for flow in self._flows.values() if flow.interface == interface)

    def sightings(self, packet: Packet) -> tuple[Packet, ...]:
        """The same packet wherever it was seen, in the order of time."""
        return tuple(self._seen.get(packet.identity, ()))

    def journeys(self) -> tuple[tuple[Packet, ...], ...]:
        """Each packet once, as the tuple of its sightings in the order of time."""
        return tuple(tuple(sightings) for sightings in self._seen.values())

    def along(self, flow: Flow) -> tuple[Flow, ...]:
        """The same conversation at every interface that it passes: the flows that share a packet with it."""
        keys = {_key(seen): None for packet in flow.packets for seen in self.sightings(packet)}
        return tuple(self._flows[key] for key in keys)


_Key = tuple[str, str, tuple[str, int], tuple[str, int]]


def _key(packet: Packet) -> _Key:
    low, high = sorted(((packet.src, packet.sport), (packet.dst, packet.dport)))
    return packet.interface, packet.proto, low, high


def _flow(packets: list[Packet]) -> Flow:
    first = packets[0]
    return Flow(first.interface, first.proto, source_of(first), target_of(first), tuple(packets))
