"""What happens to a lab while it runs: events, one at a time, on the timeline, and believed when they are read back.

    asked ─▶ does it make sense for this target? ─▶ Changes (the kernel) or the peer's handle ─▶ recorded ─▶ Happened
                        │ no: EventError                        │ no: Inconclusive
                        └──────────────── recorded all the same ┘

The line in `events.jsonl` is the lab's `event`, with `target`, `what`, `seconds`, and `detail` or `error`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from lab.errors import EventError, Inconclusive, LabError
from lab.kernel.changes import Changes
from lab.model import event as events
from lab.model.event import KINDS, LifeEvent, Target, kind_of, parse
from lab.peers.contract import Event
from lab.peers.handle import Peer
from lab.plan.amend import cable_of, core_port, launch_of
from lab.plan.plan import Plan, SpaceKind

WHO = "lab"
"Whose events these are in `events.jsonl`."
EVENT = "event"


@dataclass(frozen=True, slots=True)
class Happened:
    """An event that has taken place."""

    target: str
    what: LifeEvent
    at: float
    "Unix seconds at which it began"
    seconds: float
    "until it was complete and read back"
    detail: str = ""

    @property
    def done(self) -> float:
        """Unix seconds at which it was complete."""
        return self.at + self.seconds

    def __str__(self) -> str:
        detail = f": {self.detail}" if self.detail else ""
        return f"{self.target} {self.what}{detail} ({self.seconds * 1000:.0f} ms)"


class Peers(Protocol):
    """Whoever runs the peers; `lab.lab.Lab` does."""

    def peer(self, name: str) -> Peer: ...
    async def start_peer(self, name: str) -> None: ...
    def follow_plan(self) -> None: ...


class Life:
    """Makes events happen in one lab."""

    def __init__(self, changes: Changes, peers: Peers, record: Callable[[Event], None]) -> None:
        self._changes = changes
        self._peers = peers
        self._record = record
        self._turn = asyncio.Lock()

    async def happen(self, target: str, what: str | LifeEvent) -> Happened:
        """Make one event happen. Raises `EventError` where it makes no sense, `Inconclusive` where it fails."""
        async with self._turn:
            began, started = time.time(), time.monotonic()
            try:
                event = parse(what) if isinstance(what, str) else what
                check(self._changes.plan, target, event)
                detail = await self._make(target, event)
                self._peers.follow_plan()
            except LabError as error:
                self._tell(began, target, str(what), started, error=str(error))
                if isinstance(error, EventError):
                    raise
                raise Inconclusive(f"{target} {what}: {error}") from error
            seconds = self._tell(began, target, str(event), started, detail=detail)
            return Happened(target, event, began, seconds, detail)

    def _tell(self, at: float, target: str, what: str, started: float, **more: str) -> float:
        seconds = time.monotonic() - started
        told = {key: value for key, value in more.items() if value}
        self._record(Event(WHO, EVENT, at, {"target": target, "what": what, "seconds": seconds, **told}))
        return seconds

    async def _make(self, target: str, event: LifeEvent) -> str:
        match event:
            case events.Kill():
                return await self._kill(target)
            case events.Start():
                return await self._start(target)
            case _:
                return await asyncio.to_thread(self._change, target, event)

    def _change(self, target: str, event: LifeEvent) -> str:
        """Whatever the kernel does."""
        changes = self._changes
        match event:
            case events.Reboot(other_ports):
                return changes.reboot(target, other_ports=other_ports)
            case events.Expire():
                return changes.expire(*_mapped(changes.plan, target))
            case events.Rebind():
                return changes.rebind(*_mapped(changes.plan, target))
            case events.ChangeAddress(address):
                return changes.change_address(target, address)
            case events.Exhaust(left):
                return changes.exhaust(target, left)
            case events.Replenish():
                return changes.replenish(target)
            case events.LoseLeases():
                return changes.lose_leases(target)
            case events.SetLink():
                return changes.set_link(target, *event.ways)
            case events.LinkDown():
                return changes.pull(target)
            case events.LinkUp():
                return changes.put_back(target)
            case events.Partition(other):
                return changes.part(_apart(changes.plan, target, other))
            case events.Heal(other):
                return self._heal(target, other)
            case events.Move(router, address):
                return changes.move(target, router, address)
            case _:
                raise EventError(f"nothing in the network does {event}")

    def _heal(self, target: str, other: str | None) -> str:
        plan = self._changes.plan
        healed = self._changes.heal(core_port(plan, target), core_port(plan, other) if other else None)
        if not healed:
            raise EventError(f"nothing parts {target} from {other or 'anybody'}")
        return ""

    async def _kill(self, target: str) -> str:
        peer = self._peers.peer(target)
        if not peer.running:
            raise EventError(f"{target} has ended already; `start` runs it again")
        await peer.kill()
        return ""

    async def _start(self, target: str) -> str:
        if self._peers.peer(target).running:
            raise EventError(f"{target} is running; `kill` ends it")
        await self._peers.start_peer(target)
        return self._peers.peer(target).peer_id


def check(plan: Plan, target: str, event: LifeEvent) -> None:
    """Refuse an event that cannot happen to that target, with an EventError that names what exists."""
    kind, found = kind_of(event), _kind_of_target(plan, target)
    if found not in kind.targets:
        can = ", ".join(each.word for each in KINDS.values() if found in each.targets)
        raise EventError(f"{kind.word} does not happen to {found.value} like {target}; what does: {can}")
    match event:
        case events.Partition(other) | events.Heal(str() as other):
            _kind_of_target(plan, other)
        case events.Rebind() | events.Exhaust() | events.Reboot(other_ports=True):
            _check_ports(plan, target)
        case _:
            pass


def _check_ports(plan: Plan, target: str) -> None:
    """Refuse what is about the ports of a NAT where nobody allocates any, or it would seem to have succeeded."""
    name = _mapped(plan, target)[0]
    if not any(router.name == name and not router.nat.one_to_one for router in (*plan.routers, *plan.routers6)):
        raise EventError(f"{name} allocates no ports: it has an address for each host, or does not translate")


def _kind_of_target(plan: Plan, target: str) -> Target:
    routers = [space.name for space in plan.spaces if space.kind is SpaceKind.ROUTER]
    peers = [launch.peer for launch in plan.launches]
    if target in routers:
        return Target.ROUTER
    if target in peers:
        return Target.PEER
    if "/" in target:
        cable_of(plan, target)
        return Target.PORT
    raise EventError(f"no {target!r} in {plan.topology}; routers: {', '.join(routers)}; peers: {', '.join(peers)}")


def _mapped(plan: Plan, target: str) -> tuple[str, tuple[str, ...]]:
    """The router, and the inner addresses of the one peer that is meant, if it is one."""
    if _kind_of_target(plan, target) is Target.ROUTER:
        return target, ()
    launch = launch_of(plan, target)
    if launch.router is None:
        raise EventError(f"{target} is behind no router, so nobody maps it")
    if any(router.name == launch.router and router.nat.one_to_one for router in plan.routers):
        raise EventError(f"{target} has a public address at {launch.router}, with all its ports: nothing is mapped")
    return launch.router, launch.ways[0].addresses


def _apart(plan: Plan, one: str, other: str) -> tuple[str, str]:
    ports = core_port(plan, one), core_port(plan, other)
    if ports[0] == ports[1]:
        raise EventError(f"{one} and {other} are both behind {ports[0]}: the internet is not between them")
    return ports
