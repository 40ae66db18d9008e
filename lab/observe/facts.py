"""What the wire shows of a run, asked in the words of a scenario.

facts = gather(plan, capture, events)
facts.direct_flow("alice", "bob", after=echo_began, before=echo_ended)      payload both ways, past no third?
facts.bytes(via="relay", after=echo_began, before=echo_ended)               did the relay's count stand still?
facts.path("alice", "bob", "relay", after=…, before=…)                      both together
facts.punch("alice", "bob")                                                 SYNs, drops and reasons, handshake
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from itertools import product
from math import inf
from pathlib import Path
from typing import Any, Protocol

from lab.errors import LabError
from lab.observe.drops import Drop, find_drops
from lab.observe.flows import Wire
from lab.observe.holepunch import DirectFlow, Pair, Punch, combined, earliest
from lab.observe.packets import Packet, read
from lab.plan.plan import Launch, Plan


class Named(Protocol):
    """Anything that stands for a peer of the plan."""

    @property
    def name(self) -> str: ...


Who = str | Named


class WirePath(Enum):
    """How two peers talked within an interval, by the wire alone."""

    DIRECT = "direct"
    RELAYED = "relayed"
    BOTH = "both"
    "there was a direct flow, and the relay carried payload as well"
    SILENT = "silent"
    "neither"


@dataclass(frozen=True)
class Facts:
    """A run's packets and what follows from them. Intervals are `after <= at < before` in Unix seconds."""

    plan: Plan
    wire: Wire = field(repr=False)
    events: tuple[Mapping[str, Any], ...] = field(repr=False)
    "the peers' events, as in `events.jsonl`"
    drops: tuple[Drop, ...]
    "what the NATs did not let in"
    former: tuple[Plan, ...] = field(default=(), repr=False)
    "the plans that held before events changed them; `plan` is the last one"

    @property
    def packets(self) -> tuple[Packet, ...]:
        """Every packet at every interface, in the order of time."""
        return self.wire.packets

    def bytes(self, via: Who, after: float = -inf, before: float = inf) -> int:
        """Payload bytes on a peer's own interfaces, in and out: what a relay forwards is counted twice."""
        flows = (flow for interface in self._launch(via).captures for flow in self.wire.flows_at(interface))
        return sum(flow.payload(None, after, before) for flow in flows)

    def connections(self, after: float = -inf) -> frozenset[frozenset[str]]:
        """The pairs of peers between whose own interfaces a TCP connection came to be, with no third in between."""
        own = {interface: launch.peer for launch in self.plan.launches for interface in launch.captures}
        found = set()
        for flow in self.wire.flows:
            if flow.interface in own and (handshake := flow.handshake()) and handshake.established >= after:
                found.add(frozenset(own[seen.interface] for seen in self.wire.along(flow) if seen.interface in own))
        return frozenset(pair for pair in found if len(pair) == 2)

    def direct_flow(self, first: Who, second: Who, after: float = -inf, before: float = inf) -> DirectFlow | None:
        """The flow by which the two exchanged payload without a third, if every recorder on its way saw it."""
        return earliest(pair.direct_flow(after, before) for pair in self._pairs(first, second))

    def delivered(self, first: Who, second: Who, count: int, after: float = -inf) -> float | None:
        """Unix seconds at which so many bytes of payload had come from one to the other without a third since then."""
        times = (pair.delivered(count, after) for pair in self._pairs(first, second))
        return min((at for at in times if at is not None), default=None)

    def path(self, first: Who, second: Who, relay: Who, after: float = -inf, before: float = inf) -> WirePath:
        """Direct if there is a direct flow and the relay's byte count stands still."""
        direct = self.direct_flow(first, second, after, before) is not None
        relayed = self.bytes(relay, after, before) > 0
        if direct:
            return WirePath.BOTH if relayed else WirePath.DIRECT
        return WirePath.RELAYED if relayed else WirePath.SILENT

    def punch(self, first: Who, second: Who) -> Punch:
        """The two peers' way to a direct flow, or what was in it."""
        return combined(pair.punch(self.drops) for pair in self._pairs(first, second))

    def _pairs(self, first: Who, second: Who) -> list[Pair]:
        """The two by each of their uplinks; most peers have one."""
        ways = product(self._launch(first).ways, self._launch(second).ways)
        return [Pair(self.plan, self.wire, one, other) for one, other in ways]

    def _launch(self, who: Who) -> Launch:
        name = who if isinstance(who, str) else who.name
        for launch in self.plan.launches:
            if launch.peer == name:
                return launch
        known = ", ".join(launch.peer for launch in self.plan.launches)
        raise LabError(f"no peer {name!r} in {self.plan.topology}; its peers: {known}")


def gather(
    plan: Plan,
    capture: Path,
    events: Iterable[Mapping[str, Any]] = (),
    *,
    growing: bool = False,
    former: Iterable[Plan] = (),
) -> Facts:
    """The facts of a run from its plan, its capture and the peers' events; `LabError` if the capture is not whole.

    `growing` says that the lab is still writing it; `former` are the plans that held before events changed them.
    """
    return judge(plan, read(capture, growing), events, growing=growing, former=former)


def judge(
    plan: Plan,
    packets: Iterable[Packet],
    events: Iterable[Mapping[str, Any]] = (),
    *,
    growing: bool = False,
    former: Iterable[Plan] = (),
) -> Facts:
    """The same from packets that have been read already."""
    wire = Wire(packets)
    # A router drops what is sent to the address that it has, so under each plan it is another set of packets.
    past = tuple(former)
    found = {
        (drop.router, drop.packet.interface, drop.packet.ns): drop
        for each in (*past, plan)
        for drop in find_drops(each, wire, growing=growing)
    }
    drops = tuple(sorted(found.values(), key=lambda drop: drop.packet.ns))
    return Facts(plan, wire, tuple(events), drops, past)
