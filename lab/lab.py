"""A running lab: the network of a plan, its captures and its peers.

    async with Lab.build(plan, record) as lab:      # namespaces, cables, NATs
        …                                           # whoever wants to certify the NATs does it here
        await lab.start()                           # captures, conntrack, then the peers
        relay, alice, bob = lab.peers("relay", "alice", "bob")

Everything it makes ends with the block: peers first, so that the captures see how they went.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from lab.errors import KernelError, LabError, PeerError
from lab.kernel.capture import CaptureSet, CaptureStats
from lab.kernel.changes import Changes
from lab.kernel.conntrack import ConntrackWatch
from lab.kernel.network import Network
from lab.kernel.process import spawn
from lab.life import Happened, Life
from lab.model.event import LifeEvent
from lab.model.impairment import Impairment
from lab.observe.facts import Facts, Named, gather
from lab.peers.adapter import Adapter
from lab.peers.contract import MAX_LINE, Event
from lab.peers.handle import Peer
from lab.peers.own import OWN
from lab.plan.amend import launch_of
from lab.plan.names import DNS
from lab.plan.plan import Launch, Plan, SpaceKind
from lab.services.authority import Reply
from lab.services.running import Services

ADAPTERS: Mapping[str, Adapter] = {adapter.name: adapter for adapter in (OWN,)}
"The implementations that a topology can name."
READY_WITHIN = 30.0
"Seconds from a peer's start to its first line."
DRAIN_EVERY = 0.2
"Seconds between two looks at the capture rings."
MAX_LIVES = 1000
"Peers that ended and were started again in one lab."
MAX_PLANS = 100
"Plans that held before events changed them; drops of longer ago get no reason."
QUIET_EVERY, QUIET_LOOKS = 0.02, 3
"An interface is quiet when this many looks in a row, so many seconds apart, find the same byte count."


class Record(Protocol):
    """Where a lab writes what happens; `lab.run.evidence.Evidence` is one."""

    @property
    def capture(self) -> Path: ...
    def home(self, peer: str) -> Path: ...
    def stderr(self, peer: str) -> Path: ...
    def event(self, event: Event) -> None: ...
    def line(self, peer: str, direction: str, raw: bytes) -> None: ...
    def mapping(self, value: dict[str, Any]) -> None: ...
    def step(self, name: str) -> AbstractContextManager[None]: ...


class Lab:
    """One network and what runs in it. Made by `build`."""

    def __init__(self, network: Network, record: Record, adapters: Mapping[str, Adapter]) -> None:
        self.network = network
        self.captured: CaptureStats | None = None
        self._record = record
        self._adapters = adapters
        self._peers: dict[str, Peer] = {}
        self._past: list[Peer] = []
        self._former: deque[Plan] = deque(maxlen=MAX_PLANS)
        self._latest = network.plan
        self._options: Mapping[str, tuple[str, ...]] = {}
        self._life = Life(Changes(network), self, record.event)
        self._captures: CaptureSet | None = None
        self._watches: list[ConntrackWatch] = []
        self._drainer: asyncio.Task[None] | None = None
        self._services: Services | None = None

    @classmethod
    @asynccontextmanager
    async def build(cls, plan: Plan, record: Record, adapters: Mapping[str, Adapter] = ADAPTERS) -> AsyncIterator[Lab]:
        """Make the plan's network; nothing runs in it yet but the lab's own services."""
        network = await asyncio.to_thread(Network.build, plan)
        lab = cls(network, record, adapters)
        try:
            lab._services = await Services.start(network, lab._asked)
            yield lab
        finally:
            await lab._close()

    @property
    def plan(self) -> Plan:
        """What exists; events change it."""
        return self.network.plan

    @property
    def all_peers(self) -> tuple[Peer, ...]:
        """Every peer, in the order of the topology."""
        return tuple(self._peers.values())

    def peer(self, name: str) -> Peer:
        """One peer by its name in the topology."""
        try:
            return self._peers[name]
        except KeyError:
            known = ", ".join(self._peers) or "none has been started"
            raise LabError(f"no peer {name!r} in {self.plan.topology}; its peers: {known}") from None

    def peers(self, *names: str) -> tuple[Peer, ...]:
        """Several peers by name, in the order asked for."""
        return tuple(self.peer(name) for name in names)

    @asynccontextmanager
    async def step(self, name: str) -> AsyncIterator[None]:
        """A named part of a scenario: on the timeline, and timed."""
        with self._record.step(name):
            yield

    async def event(self, target: str | Named, what: str | LifeEvent) -> Happened:
        """Have something happen to a router, a peer or a port: `"reboot"`, `ChangeAddress("11.0.9.2")`.

        Returns when it has happened, as the kernel itself says. Raises `EventError` where it cannot happen, and
        `Inconclusive` where it should have and did not.
        """
        return await self._life.happen(target if isinstance(target, str) else target.name, what)

    async def start(self, options: Mapping[str, tuple[str, ...]] | None = None) -> None:
        """Have the links be what they are asked to be, begin recording, start every peer and wait until all are ready.

        `options` are further arguments for a peer's program, by peer.
        """
        await asyncio.to_thread(self.network.shape)
        self._options = options or {}
        await self._start_recording()
        with self._record.step("peers start"):
            async with asyncio.TaskGroup() as group:
                for launch in self.plan.launches:
                    group.create_task(self.start_peer(launch.peer))

    async def start_peer(self, name: str) -> None:
        """Start a peer, for the first time or after its end; who holds its former handle asks `peer` for the new one.

        Raises `PeerError`.
        """
        former = self._peers.get(name)
        if former is not None:
            if len(self._past) >= MAX_LIVES:
                raise LabError(f"{name}: more than {MAX_LIVES} peers have been started again")
            self._past.append(former)
        await self._start_peer(launch_of(self.plan, name), self._options.get(name, ()))

    def follow_plan(self) -> None:
        """Let peers' handles know where their peers are now."""
        if self.plan != self._latest:
            self._former.append(self._latest)
            self._latest = self.plan
        for peer in self._peers.values():
            peer.launch = launch_of(self.plan, peer.name)

    async def set_link(self, name: str, up: Impairment, down: Impairment | None = None) -> None:
        """Change the link of a router or public peer from now on, both ways alike without `down`; a step of its own."""
        with self._record.step(f"the link of {name} changes"):
            await asyncio.to_thread(self.network.set_link, name, up, down)

    async def quiet(self, peer: Peer, within: float = 5.0) -> None:
        """Wait until nothing has crossed a peer's interface for a while; raises `PeerError` if it never rests."""
        space = self.network.spaces[peer.launch.space]
        try:
            async with asyncio.timeout(within):
                last, still = space.traffic(), 0
                while still < QUIET_LOOKS:
                    await asyncio.sleep(QUIET_EVERY)
                    now = space.traffic()
                    last, still = now, still + 1 if now == last else 0
        except TimeoutError:
            raise PeerError(f"{peer.name} did not stop talking within {within:g} s") from None

    async def facts(self) -> Facts:
        """What the wire and the peers have shown up to now."""
        if self._captures is not None:
            self._captures.drain()
        events = [event.to_json() for peer in (*self._past, *self._peers.values()) for event in peer.events]
        return await asyncio.to_thread(
            gather, self.plan, self._record.capture, events, growing=True, former=tuple(self._former)
        )

    async def stop_peers(self) -> None:
        """End all peers and wait for them."""
        async with asyncio.TaskGroup() as group:
            for peer in self._peers.values():
                group.create_task(peer.stop())

    async def _start_recording(self) -> None:
        captures = CaptureSet(self.plan.captures, self.network.spaces, self._record.capture)
        await asyncio.to_thread(captures.start)
        self._captures = captures
        routers = [space.name for space in self.plan.spaces if space.kind is SpaceKind.ROUTER]
        self._watches = [ConntrackWatch(self.network.spaces[name], name) for name in routers]
        self._drainer = asyncio.create_task(self._drain(), name="drain the captures")

    async def _drain(self) -> None:
        while True:
            self._take()
            await asyncio.sleep(DRAIN_EVERY)

    def _take(self) -> None:
        if self._captures is not None:
            self._captures.drain()
        for watch in self._watches:
            for event in watch.drain():
                self._record.mapping(event.to_json())

    async def _start_peer(self, launch: Launch, options: tuple[str, ...]) -> None:
        adapter = self._adapters.get(launch.impl)
        if adapter is None:
            known = ", ".join(self._adapters)
            raise LabError(f"peer {launch.peer}: no implementation {launch.impl!r} here; there are: {known}")
        home = self._record.home(launch.peer)
        stderr = self._record.stderr(launch.peer)
        process = await spawn(
            self.network.spaces[launch.space],
            adapter.argv(launch, options),
            env=adapter.environment(launch, home),
            cwd=home,
            stderr_path=stderr,
            limit=MAX_LINE,
        )

        def said(direction: str, raw: bytes) -> None:
            self._record.line(launch.peer, direction, raw)

        peer = self._peers[launch.peer] = Peer(launch, process, stderr, said, self._record.event)
        info = await peer.ready(READY_WITHIN)
        if self._services is not None:
            self._services.announce(launch.peer, info.peer)

    def _asked(self, reply: Reply) -> None:
        """A question to the name server is an event of its own."""
        told = {"name": reply.name, "type": reply.kind, "outcome": reply.outcome, "delay": reply.delay}
        self._record.event(Event(DNS, "asked", time.time(), told))

    async def _close(self) -> None:
        try:
            await self.stop_peers()
        finally:
            if self._drainer is not None:
                self._drainer.cancel()
                await asyncio.gather(self._drainer, return_exceptions=True)
            self._take()
            for watch in self._watches:
                watch.close()
            if self._services is not None:
                await self._services.close()
            if self._captures is not None:
                self.captured = await asyncio.to_thread(self._captures.stop)
            links = self.network.links
            problems = () if links is None else await asyncio.to_thread(links.problems)
            await asyncio.to_thread(self.network.close)
            if problems:
                raise KernelError("; ".join(problems))
