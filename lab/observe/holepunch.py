"""What the wire says of one pair of peers: is there a direct flow between them, how did it begin, what was in its way?

A flow is direct if every recorder between the two peers saw it carry payload both ways: their own interfaces and the
outer side of each NAT. A relayed connection ends at the relay and another one begins there, so it never passes.

    alice/eth0 ── home-a/lan ── home-a/wan ──(core)── home-b/wan ── home-b/lan ── bob/eth0        over the internet
    alice/eth0 ── bob/eth0                                                                        on one LAN
    alice/eth0 ── home-a/lan ── (home-a) ── home-a/lan ── bob/eth0                                hairpin (RFC 4787 §6)
    alice/eth0 ── home-a/wan ── isp/lan ── (isp) ── isp/lan ── home-b/wan ── bob/eth0             the same, at a CGN
    alice/eth0 ── home-a/wan ── carol/eth0                                                        carol is on isp's LAN
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from math import inf

from lab.observe.drops import Drop, lan_of, wan_of
from lab.observe.flows import Endpoint, Flow, Handshake, Wire
from lab.observe.packets import Packet
from lab.plan.names import capture
from lab.plan.plan import Launch, Plan
from lab.plan.seen import seen_at


class Way(Enum):
    """Where a direct flow runs."""

    INTERNET = "over the internet"
    LAN = "on their LAN"
    HAIRPIN = "through their own NAT and back"
    WITHIN = "within the network of a router that both are behind"


class Opening(Enum):
    """How a direct TCP connection began, judged by which SYNs arrived."""

    SIMULTANEOUS = "simultaneous open"
    "both SYNs arrived, each at a host that had sent its own (RFC 9293 §3.5)"
    MET = "one SYN met a waiting one"
    "one SYN arrived, at a host that had sent its own on the same flow; that one was lost on its way"
    ACCEPTED = "accepted"
    "one SYN arrived, at a host that had sent none on this flow"


@dataclass(frozen=True, slots=True)
class Began:
    """The beginning of a direct TCP connection; times are Unix seconds."""

    how: Opening
    opener: str
    "the peer whose SYN was granted; of a simultaneous open the one whose SYN was the first"
    syn: float
    "the first SYN of this connection leaves its host"
    established: float
    "both hosts have the connection"


@dataclass(frozen=True, slots=True)
class DirectFlow:
    """Payload that went both ways between two peers without a third."""

    way: Way
    proto: str
    ends: tuple[Endpoint, Endpoint]
    "each peer's endpoint as the other one knows it: outside its NAT, where there is one"
    began: Began | None
    "None for UDP, and where the capture does not hold the beginning"
    first_byte: float
    "Unix seconds of the first payload within the interval asked for"
    payload: tuple[int, int]
    "bytes from the first to the second peer within that interval, and back"


@dataclass(frozen=True, slots=True)
class Punch:
    """One pair's way to a direct flow, or what was in it."""

    peers: tuple[str, str]
    first_syns: tuple[float | None, float | None]
    "Unix seconds at which each peer's first SYN to the other left its host"
    direct: DirectFlow | None
    drops: tuple[Drop, ...]
    "SYNs and datagrams of one to the other that a NAT dropped"


def earliest(found: Iterable[DirectFlow | None]) -> DirectFlow | None:
    """The one that carried payload first."""
    return min(filter(None, found), key=lambda direct: direct.first_byte, default=None)


def combined(punches: Iterable[Punch]) -> Punch:
    """What several uplinks saw of the same two peers, as one."""
    each = list(punches)
    syns = [[punch.first_syns[side] for punch in each] for side in (0, 1)]
    first, second = (min((at for at in times if at is not None), default=None) for times in syns)
    drops = {drop.packet: drop for punch in each for drop in punch.drops}
    return Punch(each[0].peers, (first, second), earliest(punch.direct for punch in each), tuple(drops.values()))


class Pair:
    """Two peers of a plan, by one uplink each, and how to find on the wire what is between them."""

    def __init__(self, plan: Plan, wire: Wire, first: Launch, second: Launch) -> None:
        self._wire = wire
        self._first, self._second = first, second
        self._recorded = frozenset(capture.name for capture in plan.captures)
        self._publics = {router.name: router.publics for router in plan.routers}
        self._seen = {launch.peer: seen_at(plan, launch) for launch in (first, second)}

    def direct_flow(self, after: float = -inf, before: float = inf) -> DirectFlow | None:
        """The flow that carried payload both ways within `after <= at < before`; the earliest of several."""
        return earliest(self._judge(flow, after, before) for flow in self._wire.flows_at(_eth(self._first)))

    def delivered(self, count: int, after: float = -inf) -> float | None:
        """When so many bytes of the first peer's payload had reached the second directly since then; None: never."""
        arrived = sorted(
            (packet.ns, packet.at, packet.payload)
            for near in self._wire.flows_at(_eth(self._first))
            if self._judge(near, after, inf) is not None
            for far in self._wire.along(near)
            if far.interface == _eth(self._second)
            for packet in far.packets
            if packet.at >= after and packet.src not in self._second.addresses
        )
        for _, at, payload in arrived:
            count -= payload
            if count <= 0:
                return at
        return None

    def punch(self, drops: tuple[Drop, ...]) -> Punch:
        """All that the wire says of the two, given all drops."""
        first, second = self._first, self._second
        return Punch(
            peers=(first.peer, second.peer),
            first_syns=(self._first_syn(first, second), self._first_syn(second, first)),
            direct=self.direct_flow(),
            drops=tuple(drop for drop in drops if self._concerns(drop.packet)),
        )

    def _judge(self, near: Flow, after: float, before: float) -> DirectFlow | None:
        """A flow at the first peer's interface, if it is direct."""
        ours, theirs = (near.a, near.b) if near.a.address in self._first.addresses else (near.b, near.a)
        reachable = self._reachable(self._second, self._first)
        if ours.address not in self._first.addresses or theirs.address not in reachable:
            return None
        way, needed = self._way(theirs)
        along = self._wire.along(near)
        if not needed <= {flow.interface for flow in along if flow.both_ways(after, before)}:
            return None
        first_byte = near.first_payload(after, before)
        far = next((flow for flow in along if flow.interface == _eth(self._second)), None)
        return DirectFlow(
            way=way,
            proto=near.proto,
            ends=(self._as_seen_by_second(far) or ours, theirs),
            began=self._began(near, far),
            first_byte=first_byte.at if first_byte else after,
            payload=(near.payload(ours, after, before), near.payload(theirs, after, before)),
        )

    def _way(self, theirs: Endpoint) -> tuple[Way, frozenset[str]]:
        """Where a flow to that endpoint runs, and which recorders must have seen it."""
        hosts = {_eth(self._first), _eth(self._second)}
        turn = self._reachable(self._second, self._first)[theirs.address]
        common = turn if turn is not None else _outermost_common(self._first, self._second)
        nats = {wan_of(router) for peer in (self._first, self._second) for router in _below(peer, common)}
        if common is None:
            return Way.INTERNET, self._recorded & (hosts | nats)
        if turn is None:
            return Way.HAIRPIN, self._recorded & (hosts | nats | {lan_of(common)})
        return (Way.WITHIN if nats else Way.LAN), self._recorded & (hosts | nats)

    def _as_seen_by_second(self, far: Flow | None) -> Endpoint | None:
        if far is None:
            return None
        return far.b if far.a.address in self._second.addresses else far.a

    def _began(self, near: Flow, far: Flow | None) -> Began | None:
        """Compare what the two hosts saw of the handshake: a SYN that only its sender saw did not arrive."""
        here, there = near.handshake(), far.handshake() if far else None
        if here is None:
            return None
        ends = [end for end in (here, there) if end is not None]
        arrived_here = here.both_opened or here.opener.address not in self._first.addresses
        arrived_there = there is not None and (there.both_opened or there.opener.address not in self._second.addresses)
        if there is not None and arrived_here and arrived_there:
            how, opener = Opening.SIMULTANEOUS, self._earlier(here, there)
        else:
            how = Opening.MET if any(end.both_opened for end in ends) else Opening.ACCEPTED
            opener = self._second if arrived_here else self._first
        return Began(how, opener.peer, min(end.syn for end in ends), max(end.established for end in ends))

    def _earlier(self, here: Handshake, there: Handshake) -> Launch:
        """Who sent the first of two SYNs that arrived; each host may have seen its own leave before the other came."""
        if here.opener.address not in self._first.addresses:
            return self._second
        second_unaware = there.opener.address in self._second.addresses
        return self._second if second_unaware and there.syn < here.syn else self._first

    def _first_syn(self, source: Launch, target: Launch) -> float | None:
        targets = self._reachable(target, source)
        return next(
            (
                packet.at
                for packet in self._wire.packets
                if packet.is_syn and packet.interface == _eth(source)
                if packet.src in source.addresses and packet.dst in targets
            ),
            None,
        )

    def _concerns(self, packet: Packet) -> bool:
        """Whether a packet that did not arrive was one peer's to the other's NAT, and not merely an answer."""
        if packet.proto == "tcp" and not packet.is_syn:
            return False
        senders = {seen.space for seen in self._wire.sightings(packet)}
        pairs = ((self._first, self._second), (self._second, self._first))
        return any(source.space in senders and packet.dst in self._outsides(target) for source, target in pairs)

    def _reachable(self, peer: Launch, seen_from: Launch) -> dict[str, str | None]:
        """Where a peer can be reached without a relay, and on whose LAN that address is; None: on the internet."""
        held = ((peer.address,), *(self._publics[router] for router in peer.routers if router in self._publics))
        places = (*peer.routers, None)
        pairs = zip(held, places, strict=False)  # in a network of IPv6 alone there is only the peer's own
        seen = ((addresses, place) for addresses, place in pairs if place is None or place in seen_from.routers)
        reachable = {address: place for addresses, place in seen for address in addresses}
        for addresses, place in zip(self._seen[peer.peer], places, strict=False):
            for address in addresses if place is None or place in seen_from.routers else ():
                # The first that fits: what nobody translates turns around at the nearest router that both are behind.
                reachable.setdefault(address, place)
        return reachable

    def _outsides(self, peer: Launch) -> set[str]:
        """The addresses that stand for a peer outside its NATs, each at one of them."""
        outsides = {one for router in peer.routers for one in self._publics.get(router, ())} or {peer.address}
        return outsides.union(*self._seen[peer.peer])


def _outermost_common(first: Launch, second: Launch) -> str | None:
    """The router at which a packet turns around that one sends to the address that the internet knows the other by."""
    if first.routers and second.routers and first.routers[-1] == second.routers[-1]:
        return first.routers[-1]
    return None


def _below(peer: Launch, router: str | None) -> tuple[str, ...]:
    """The routers between a peer and one that it is behind, or the internet."""
    return peer.routers if router is None else peer.routers[: peer.routers.index(router)]


def _eth(peer: Launch) -> str:
    return capture(peer.space, peer.interface)
