"""One list of all that happened in a run: packets that decide, NAT mappings, peers' events and the lab's own steps.

A packet is one entry however many interfaces saw it: when and where it left, what its NAT made of its source, and where
it ended. Only what decides is told: SYN, SYN-ACK, RST, FIN, the first payload and the first datagram of each side of a
flow, every drop, mappings that come and go, and the events that are not mere chatter. With `everything` all is told.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final

from lab.observe.drops import Drop
from lab.observe.facts import Facts
from lab.observe.flows import Endpoint, source_of, target_of
from lab.observe.packets import FIN, RST, SYN, Packet
from lab.plan.plan import Plan
from lab.plan.seen import seen_at

MAX_ENTRIES: Final = 20_000
"A run that is longer ends in an entry that says how much was left out."
MAX_DETAIL: Final = 400
"Characters of one detail: an event may carry as much as its peer likes."

_LONG_WORD: Final = re.compile(r"[A-Za-z0-9]{41,}")
"what only peer ids and hashes are as long as"
_CHATTER: Final = {"stream", "identified", "listening"}
"events that are told only with everything else"
_TOLD: Final = {"event", "at", "who", "name", "stage"}
"fields of an event that are told elsewhere in its entry"
_USUAL: Final = {"transport", "security", "muxer", "agent", "local", "protocols"}
"fields that are the same in every event of a run, mostly"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a timeline."""

    at: float
    "seconds since the run began"
    who: str
    "a peer, a router, or `lab`"
    what: str
    detail: str


class Names:
    """Whom an address or a peer id belongs to."""

    def __init__(self, plan: Plan, events: Iterable[Mapping[str, Any]] = (), former: Iterable[Plan] = ()) -> None:
        self._peers = {
            str(event.get("peer")): str(event.get("who")) for event in events if event.get("event") == "ready"
        }
        self._public: dict[str, str] = {}
        self._lan: dict[tuple[str | None, str], str] = {}
        for each in (*former, plan):
            self._add(each)
        self._routers = {launch.space: [way.router for way in launch.ways] for launch in plan.launches}
        self._above = {router.name: router.above for router in (*plan.routers, *plan.routers6)}

    def _add(self, plan: Plan) -> None:
        ways = [way for launch in plan.launches for way in launch.ways]
        routers = (*plan.routers, *plan.routers6)
        self._public |= {one: router.name for router in routers if not router.above for one in router.publics}
        self._public |= {way.address: way.peer for way in ways if way.router is None}
        seen = [(address, way.peer) for way in ways for addresses in seen_at(plan, way) for address in addresses]
        self._public |= {address: peer for address, peer in seen if address not in self._public}
        self._public |= dict.fromkeys(plan.vantages, "vantage")
        self._lan |= {(way.router, way.address): way.peer for way in ways if way.router is not None}
        self._lan |= {(router.name, router.gateway): router.name for router in routers}
        self._lan |= {(router.above[0], router.wan): router.name for router in routers if router.above}

    def of(self, endpoint: Endpoint, space: str) -> str:
        """`home-b 11.0.2.2:4001`: an endpoint as `space` knows it; LANs overlap, so it matters who asks."""
        lans = self._routers.get(space, [space])
        places = [at for lan in lans for at in (lan, *self._above.get(lan or "", ()))]
        known = (self._lan.get((at, endpoint.address)) for at in places)
        name = self._public.get(endpoint.address) or next(filter(None, known), None)
        return f"{name} {endpoint}" if name else str(endpoint)

    def in_text(self, text: str) -> str:
        """The text in one line, with peers' names for their ids.

        The ids of strangers are cut to what tells them apart, as libp2p nodes do in their logs.
        """
        return _LONG_WORD.sub(lambda word: self._peers.get(word[0]) or f"…{word[0][-6:]}", text.replace("\n", " "))


def timeline(
    facts: Facts,
    mappings: Iterable[Mapping[str, Any]] = (),
    lab_events: Iterable[Mapping[str, Any]] = (),
    *,
    began: float,
    everything: bool = False,
) -> list[Entry]:
    """All entries in the order of time.

    `mappings` are the lines of `conntrack.jsonl`; `lab_events` the lab's own of `events.jsonl`; the peers' are in the
    facts. `began` is the zero, in Unix seconds.
    """
    names = Names(facts.plan, facts.events, facts.former)
    entries = [
        *_packet_entries(facts, names, everything),
        *_handshake_entries(facts, names),
        *_drop_entries(facts.drops, names),
        *_mapping_entries(mappings, names, everything),
        *_event_entries((*facts.events, *lab_events), names, everything),
    ]
    entries = [entry for entry in entries if isfinite(entry.at)]
    entries.sort(key=lambda entry: entry.at)
    shown = entries[:MAX_ENTRIES]
    if len(entries) > MAX_ENTRIES:
        shown.append(Entry(shown[-1].at, "lab", "cut", f"{len(entries) - MAX_ENTRIES} further entries are not shown"))
    return [Entry(entry.at - began, entry.who, entry.what, entry.detail[:MAX_DETAIL]) for entry in shown]


def _packet_entries(facts: Facts, names: Names, everything: bool) -> Iterator[Entry]:
    dropped = {drop.packet.identity: drop for drop in facts.drops}
    told: set[tuple[str, Endpoint, Endpoint]] = set()
    for journey in facts.wire.journeys():
        first = journey[0]
        what = _what(first, told)
        if what or everything:
            drop = dropped.get(first.identity)
            yield Entry(first.at, first.space, what or first.kind, _travel(journey, drop, names))


def _handshake_entries(facts: Facts, names: Names) -> Iterator[Entry]:
    for launch in facts.plan.launches:
        for flow in (flow for interface in launch.captures for flow in facts.wire.flows_at(interface)):
            handshake = flow.handshake()
            if handshake is not None:
                remote = flow.b if flow.a.address in launch.addresses else flow.a
                took = (handshake.established - handshake.syn) * 1000
                detail = f"with {names.of(remote, launch.space)}, {took:.2f} ms after the first SYN"
                if handshake.both_opened:
                    detail += "; both sides' SYNs were here"
                yield Entry(handshake.established, launch.peer, "established", detail)


def _what(packet: Packet, told: set[tuple[str, Endpoint, Endpoint]]) -> str | None:
    """What makes a packet worth an entry; None if nothing does. `told` are the sides of flows already heard of."""
    if packet.flags & (SYN | RST | FIN):
        if packet.flags & SYN:
            told.discard((packet.proto, source_of(packet), target_of(packet)))
        return packet.kind
    side = (packet.proto, source_of(packet), target_of(packet))
    if not packet.payload or side in told:
        return None
    told.add(side)
    return "first datagram" if packet.proto == "udp" else "first byte"


def _travel(journey: tuple[Packet, ...], drop: Drop | None, names: Names) -> str:
    """`to home-b 11.0.2.2:4001 from 192.168.1.10:4001 as 11.0.1.2:4001; reaches bob after 0.41 ms`."""
    first, last = journey[0], journey[-1]
    text = f"to {names.of(target_of(first), first.space)} from {source_of(first)}"
    masked = next((source_of(seen) for seen in journey if seen.src != first.src), None)
    if masked is not None:
        text += f" as {masked}"
    if first.payload:
        text += f", {first.payload} B"
    if drop is not None:
        return f"{text}; dropped at {drop.router}"
    if last.space != first.space:
        text += f"; reaches {last.space} after {(last.ns - first.ns) / 1e6:.2f} ms"
    return text


def _drop_entries(drops: Iterable[Drop], names: Names) -> Iterator[Entry]:
    """Each drop; a reason that was given for the same flow already is not repeated, as a SYN is fifteen times."""
    told: set[tuple[Endpoint, Endpoint, str]] = set()
    for drop in drops:
        packet = drop.packet
        source, target = source_of(packet), target_of(packet)
        why = "as before" if (source, target, drop.why) in told else drop.why
        told.add((source, target, drop.why))
        ends = f"{names.of(source, drop.router)} → {names.of(target, drop.router)}"
        yield Entry(drop.at, drop.router, f"drops {packet.kind}", f"{ends}: {why}")


def _mapping_entries(lines: Iterable[Mapping[str, Any]], names: Names, everything: bool) -> Iterator[Entry]:
    for line in lines:
        match line:
            case {
                "at": int() | float() as at,
                "router": str() as router,
                "kind": str() as kind,
                "proto": str() as proto,
                "orig": [str() as src, int() as sport, str() as dst, int() as dport],
                "reply": [str() as back_src, int() as back_sport, str() as back_dst, int() as back_dport],
            }:
                what = {"new": "maps", "destroy": "forgets", "update": "sees"}.get(kind, kind)
                if what != "sees" or everything:
                    flow = (Endpoint(src, sport), Endpoint(dst, dport))
                    back = (Endpoint(back_src, back_sport), Endpoint(back_dst, back_dport))
                    state = f", {str(line.get('tcp_state') or 'changed').lower()}" if what == "sees" else ""
                    yield Entry(at, router, what, f"{proto} {_mapping(router, flow, back, names)}{state}")
            case _:
                continue  # a line of another version of the lab; the packets tell what it would have told


def _mapping(router: str, flow: tuple[Endpoint, Endpoint], back: tuple[Endpoint, Endpoint], names: Names) -> str:
    """`alice 192.168.1.10:4001 as 11.0.1.2:4001 for relay 11.0.3.2:4001`, whichever side began."""
    if back[1] != flow[0]:
        inner, outer, remote = flow[0], back[1], flow[1]
    else:
        inner, outer, remote = back[0], flow[1], flow[0]
    return f"{names.of(inner, router)} as {outer} for {names.of(remote, router)}"


def _event_entries(events: Iterable[Mapping[str, Any]], names: Names, everything: bool) -> Iterator[Entry]:
    for event in events:
        at = event.get("at")
        who, name, stage = (str(event.get(key, "")) for key in ("who", "event", "stage"))
        if not isinstance(at, int | float) or (name in _CHATTER and not everything):
            continue
        if name == "step":
            yield Entry(float(at), who, "begins" if stage == "begin" else "ends", _step(event, names))
        elif name == "event" and who == "lab":
            yield Entry(float(at), who, "event", _happening(event, names))
        else:
            silent = _TOLD if everything else _TOLD | _USUAL
            fields = (f"{key} {_value(value, names)}" for key, value in event.items() if key not in silent and value)
            yield Entry(float(at), who, f"{name} {stage}".strip(), ", ".join(fields))


def _step(event: Mapping[str, Any], names: Names) -> str:
    text = _value(event.get("name", ""), names)
    if "seconds" in event:
        text += f" ({_value(event['seconds'], names)} s)"
    return f"{text}: {_value(event['error'], names)}" if event.get("error") else text


def _happening(event: Mapping[str, Any], names: Names) -> str:
    """`home-a address 11.0.9.2: was 11.0.1.2 (0.041 s)`, or why it did not come to that."""
    text = _value(f"{event.get('target', '')} {event.get('what', '')}", names)
    if event.get("error"):
        text += f" FAILED: {_value(event['error'], names)}"
    elif event.get("detail"):
        text += f": {_value(event['detail'], names)}"
    return f"{text} ({_value(event.get('seconds', 0.0), names)} s)"


def _value(value: object, names: Names) -> str:
    match value:
        case float():
            return f"{value:.3f}"
        case str():
            return names.in_text(value)
        case list():
            return " ".join(_value(item, names) for item in value)
        case dict():
            return " ".join(f"{key}={_value(item, names)}" for key, item in value.items())
        case _:
            return str(value)
