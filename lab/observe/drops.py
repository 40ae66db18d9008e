"""Packets that a NAT did not let in: seen on its WAN, never on its LAN; and why, from its declaration and its past.

    11.0.1.2:4001 ── SYN ──▶ home-b/wan   ✗   home-b/lan
                                          no mapping for TCP port 4001 yet: the first packet from there left 3 ms later

A firewall drops what it does not let out: seen on the LAN, never on the WAN.

A NAT lets a packet in if a mapping owns the port that it was sent to (RFC 4787 §4.1) and if that port has written to
whom the filtering asks for (§5). Both are seen on the wire: what has left the WAN from that port, when, and to whom. A
packet that was dropped although both held is a finding, and the reason says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from typing import Final

from lab.model.nat import Filtering
from lab.observe.endpoint import endpoint_text
from lab.observe.flows import Wire, source_of
from lab.observe.packets import Packet
from lab.plan.plan import GuardPlan, Plan, RouterPlan

SETTLE_NS: Final = 5_000_000
"A packet this close to the end of a growing capture is not judged: its twin on the LAN may still come."


@dataclass(frozen=True, slots=True)
class Drop:
    """A packet that a router kept from its LAN, or its firewall from its WAN."""

    at: float
    "Unix seconds"
    router: str
    packet: Packet
    "as it arrived at the router"
    why: str
    outbound: bool = False
    "it was on its way out"

    @property
    def hairpin(self) -> bool:
        """Whether it came from the router's own LAN, to its outside."""
        return not self.outbound and self.packet.interface != wan_of(self.router)


def wan_of(router: str) -> str:
    """The capture on a router's public side."""
    return f"{router}/wan"


def lan_of(router: str) -> str:
    """The capture on a router's inner side."""
    return f"{router}/lan"


def find_drops(plan: Plan, wire: Wire, *, growing: bool = False) -> tuple[Drop, ...]:
    """All drops at all routers whose two sides were recorded, in the order of time; `growing`: there will be more."""
    recorded = {capture.name for capture in plan.captures}
    end = wire.packets[-1].ns - (SETTLE_NS if growing else 0) if wire.packets else 0
    drops: list[Drop] = []
    for router in (*plan.routers, *plan.routers6):
        if {wan_of(router.name), lan_of(router.name)} <= recorded:
            past = _Past(router, wire.packets)
            drops += [
                Drop(packet.at, router.name, packet, _why(router, packet, past))
                for packet in wire.packets
                if packet.ns <= end and _arrives(router, packet) and not _let_in(router, packet, wire)
            ]
            drops += [
                Drop(packet.at, router.name, packet, f"{router.name} {router.firewall}", outbound=True)
                for packet in wire.packets
                if packet.ns <= end and _stopped(router, packet) and not _let_out(router, packet, wire)
            ]
    for guard in plan.guards:
        if {wan_of(guard.name), lan_of(guard.name)} <= recorded:
            drops += [
                Drop(packet.at, guard.name, packet, _why_guarded(guard))
                for packet in wire.packets
                if packet.ns <= end and _arrives_by_ipv6(guard, packet) and not _went_on(guard, packet, wire)
            ]
    return tuple(sorted(drops, key=lambda drop: drop.packet.ns))


def _arrives(router: RouterPlan, packet: Packet) -> bool:
    """Whether this is a packet to the router's public address, from the internet or from its own LAN."""
    return packet.dst in router.publics and packet.interface in (wan_of(router.name), lan_of(router.name))


def _arrives_by_ipv6(guard: GuardPlan, packet: Packet) -> bool:
    """Whether this is a packet from outside to somebody on the router's LAN."""
    if packet.interface != wan_of(guard.name) or ":" not in packet.dst:
        return False
    return IPv6Address(packet.dst) in IPv6Network(guard.outer)


def _went_on(guard: GuardPlan, packet: Packet, wire: Wire) -> bool:
    return any(seen.interface == lan_of(guard.name) for seen in wire.sightings(packet))


def _why_guarded(guard: GuardPlan) -> str:
    if guard.guard.filtering is None:
        return f"{guard.name} dropped it against its declaration: its IPv6 is open"
    whom = {
        Filtering.ENDPOINT_INDEPENDENT: "to endpoints that have sent something",
        Filtering.ADDRESS_DEPENDENT: "from addresses that the endpoint has written to",
        Filtering.ADDRESS_AND_PORT_DEPENDENT: "from endpoints that the endpoint has written to",
    }[guard.guard.filtering]
    return f"{guard.name} lets in by IPv6 only what comes {whom}"


def _stopped(router: RouterPlan, packet: Packet) -> bool:
    """Whether this is a packet on the LAN that begins something which the firewall does not let out."""
    if router.firewall is None or packet.interface != lan_of(router.name) or packet.dst in router.publics:
        return False
    begins = packet.proto == "udp" or packet.is_syn
    return begins and not router.firewall.lets_out(packet.proto, packet.dport)


def _let_out(router: RouterPlan, packet: Packet, wire: Wire) -> bool:
    """Whether it went on, or had come from outside."""
    return any(seen.interface == wan_of(router.name) for seen in wire.sightings(packet))


def _let_in(router: RouterPlan, packet: Packet, wire: Wire) -> bool:
    lan = lan_of(router.name)
    return any(seen.interface == lan and seen.dst not in router.publics for seen in wire.sightings(packet))


class _Past:
    """What has left a router's public side, by the port it left from."""

    def __init__(self, router: RouterPlan, packets: Iterable[Packet]) -> None:
        wan = wan_of(router.name)
        self.packets = [packet for packet in packets if packet.interface == wan and packet.src in router.publics]
        self._by_port: dict[tuple[str, int], list[Packet]] = {}
        for packet in self.packets:
            self._by_port.setdefault((packet.proto, packet.sport), []).append(packet)

    def port(self, proto: str, port: int) -> list[Packet]:
        """What has left from one external port."""
        return self._by_port.get((proto, port), [])


def _why(router: RouterPlan, packet: Packet, past: _Past) -> str:
    if packet.interface == lan_of(router.name) and not router.nat.hairpin:
        return f"{router.name} does not hairpin: packets from its LAN to its own public address go nowhere"
    if packet.proto == "tcp" and not packet.is_syn:
        return f"{router.name}: begins no connection and belongs to none that {router.name} has translated"
    sent = past.port(packet.proto, packet.dport)
    before = [one for one in sent if one.ns < packet.ns]
    if not before:
        return _no_mapping(router, packet, sent)
    lifetime = router.nat.tcp_timeout if packet.proto == "tcp" else router.nat.udp_timeout
    if (idle := packet.at - before[-1].at) > lifetime:
        return (
            f"{router.name}: the mapping for {_port(packet)} had expired, "
            f"{idle:.1f} s after its last packet (lifetime {lifetime:g} s)"
        )
    if packet.interface == lan_of(router.name):
        return f"{router.name} hairpins, but {_port(packet)} is not open to the sender's external port"
    return _filtered(router, packet, past)


def _no_mapping(router: RouterPlan, packet: Packet, sent: list[Packet]) -> str:
    if sent:
        delay = _ms(sent[0].ns - packet.ns)
        return (
            f"{router.name}: no mapping for {_port(packet)} yet: the first packet from that port left {delay} ms later"
        )
    return f"{router.name}: no mapping for {_port(packet)}: no packet ever left from that port"


def _filtered(router: RouterPlan, packet: Packet, past: _Past) -> str:
    """The port is mapped: whom has it written to, and whom would it have had to?"""
    source, sent = source_of(packet), past.port(packet.proto, packet.dport)
    match router.nat.filtering:
        case Filtering.ENDPOINT_INDEPENDENT:
            return _against_declaration(router, packet)
        case Filtering.ADDRESS_DEPENDENT:
            whom, kind = source.address, "addresses"
            written = [one for one in sent if one.dst == packet.src]
        case Filtering.ADDRESS_AND_PORT_DEPENDENT:
            whom, kind = str(source), "endpoints"
            written = [one for one in sent if (one.dst, one.dport) == source]
    if any(one.ns < packet.ns for one in written):
        return _against_declaration(router, packet)
    rule = f"{router.name} lets in only {kind} that {_port(packet)} has written to; {whom} was not one of them"
    if written:
        return f"{rule} yet: the first packet there left {_ms(written[0].ns - packet.ns)} ms later"
    return rule + _near_miss(packet, past)


def _near_miss(packet: Packet, past: _Past) -> str:
    """What tells a symmetric NAT on either side: the right address, but another port than the peer could know."""
    written = [one for one in past.packets if one.dst == packet.src and one.proto == packet.proto]
    theirs = sorted({one.dport for one in written if one.sport == packet.dport})
    if theirs:
        return f" (it writes to {endpoint_text(packet.src, _some(theirs))})"
    ours = sorted({one.sport for one in written})
    return f" (what is written to {packet.src} leaves from port {_some(ours)})" if ours else ""


def _against_declaration(router: RouterPlan, packet: Packet) -> str:
    return (
        f"{router.name} dropped it against its declaration: {_port(packet)} is mapped and open to {source_of(packet)}"
    )


def _port(packet: Packet) -> str:
    return f"{packet.proto.upper()} port {packet.dport}"


def _some(ports: list[int]) -> str:
    return ", ".join(map(str, ports[:3])) + (", …" if len(ports) > 3 else "")


def _ms(ns: int) -> str:
    return f"{ns / 1e6:.1f}"
