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
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from lab.errors import Inconclusive, KernelError, LabError, MissingCapability, PeerError, PeerUnsupported
from lab.kernel.capture import MARGIN_NS, CaptureSet, CaptureStats
from lab.kernel.changes import Changes
from lab.kernel.conntrack import ConntrackWatch
from lab.kernel.container import Engine
from lab.kernel.hosts import LOOPBACK
from lab.kernel.network import NONE_HELD, Network
from lab.kernel.pods import Pods
from lab.kernel.process import Child, spawn
from lab.life import Happened, Life
from lab.model.event import LifeEvent
from lab.model.impairment import Impairment
from lab.model.runner import CONTAINER
from lab.observe.facts import Facts, Named, gather
from lab.peers.adapter import Adapter, arguments
from lab.peers.answers import Info
from lab.peers.contract import MAX_LINE, Event
from lab.peers.foreign import FOREIGN
from lab.peers.handle import Peer, Running
from lab.peers.images import image_of
from lab.peers.own import OWN
from lab.peers.upstream import REDIS_NAMES, UPSTREAM
from lab.plan.amend import launch_of
from lab.plan.names import DNS
from lab.plan.plan import Launch, Plan, SpaceKind
from lab.services.authority import Reply
from lab.services.running import Services

_ALL: tuple[Adapter, ...] = (OWN, *FOREIGN)
ADAPTERS: Mapping[str, Adapter] = {adapter.name: adapter for adapter in _ALL}
"The implementations that a topology can name."
READY_WITHIN = 30.0
"Seconds from a peer's start to its first line."
CONTAINER_READY_WITHIN = 60.0
"The same in a container, which the engine starts in its own time."
DRAIN_EVERY = 0.2
"Seconds between two looks at the capture rings."
MAX_LIVES = 1000
"Peers that ended and were started again in one lab."
MAX_PLANS = 100
"Plans that held before events changed them; drops of longer ago get no reason."
QUIET_EVERY, QUIET_LOOKS, QUIET_LOOKS_SHAPED = 0.02, 3, 50
"""An interface is quiet when this many looks in a row, so many seconds apart, find the same byte count. Where links are
shaped, TCP takes up to a second to send again what was lost."""


class Record(Protocol):
    """Where a lab writes what happens; `lab.run.evidence.Evidence` is one."""

    @property
    def capture(self) -> Path: ...
    @property
    def run(self) -> str: ...
    def home(self, peer: str) -> Path: ...
    def stderr(self, peer: str) -> Path: ...
    def event(self, event: Event) -> None: ...
    def line(self, peer: str, direction: str, raw: bytes) -> None: ...
    def mapping(self, value: dict[str, Any]) -> None: ...
    def step(self, name: str) -> AbstractContextManager[None]: ...


class Lab:
    """One network and what runs in it. Made by `build`."""

    def __init__(self, network: Network, record: Record, adapters: Mapping[str, Adapter], pods: Pods | None) -> None:
        self.network = network
        self._pods = pods
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
    async def build(
        cls, plan: Plan, record: Record, adapters: Mapping[str, Adapter] = ADAPTERS, engine: Engine | None = None
    ) -> AsyncIterator[Lab]:
        """Make the plan's network; nothing runs in it yet but the lab's own services.

        Only peers in containers need an `engine`; MissingCapability where there is none for them.
        """
        async with _pods(plan, record, engine) as pods:
            network = await asyncio.to_thread(Network.build, plan, pods.spaces if pods else NONE_HELD)
            lab = cls(network, record, adapters, pods)
            try:
                lab._services = await Services.start(network, lab._asked)
                yield lab
            finally:
                await lab._close()

    @property
    def pods(self) -> Pods | None:
        """The containers of this lab; None if the topology has none."""
        return self._pods

    @property
    def plan(self) -> Plan:
        """What exists; events change it."""
        return self.network.plan

    @property
    def all_peers(self) -> tuple[Peer, ...]:
        """Every peer, in the order of the topology."""
        names = (launch.peer for launch in self.plan.launches)
        return tuple(self._peers[name] for name in names if name in self._peers)

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
        """Have the links be what they are asked to be, begin recording, start every peer, wait until all are ready,
        and have each dial those that it is to be connected to at first. Those that names stand for start before others.

        `options` are further arguments for a peer's program, by peer.
        """
        self._options = options or {}
        await self.record()
        with self._record.step("peers start"):
            named = () if self.plan.dns is None else self.plan.dns.named
            for first in (True, False):
                names = [launch.peer for launch in self.plan.launches if (launch.peer in named) is first]
                await at_once(self.start_peer(name) for name in names)
        await self._connect()

    async def record(self) -> None:
        """Have the links be what they are asked to be and begin recording; all that `start` does without peers."""
        await asyncio.to_thread(self.network.shape)
        await self._start_recording()

    async def _connect(self) -> None:
        """Have every peer dial those that the topology has it connected to at first."""
        pairs = [self.peers(launch.peer, other) for launch in self.plan.launches for other in launch.dials]
        if pairs:
            with self._record.step("peers connect"):
                await at_once(peer.dial(other.address_for(peer)) for peer, other in pairs)

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
        looks = QUIET_LOOKS if self.network.links is None else QUIET_LOOKS_SHAPED
        try:
            async with asyncio.timeout(within):
                last, still = space.traffic(), 0
                while still < looks:
                    await asyncio.sleep(QUIET_EVERY)
                    now = space.traffic()
                    last, still = now, still + 1 if now == last else 0
        except TimeoutError:
            raise PeerError(f"{peer.name} did not stop talking within {within:g} s") from None

    async def facts(self) -> Facts:
        """What the wire and the peers have shown up to now."""
        if self._captures is not None:
            await asyncio.sleep(MARGIN_NS / 1e9)  # what has been seen by now is handed over only then
            self._captures.drain()
        events = [event.to_json() for peer in (*self._past, *self._peers.values()) for event in peer.events]
        return await asyncio.to_thread(
            gather, self.plan, self._record.capture, events, growing=True, former=tuple(self._former)
        )

    async def stop_peers(self) -> None:
        """End all peers and wait for them."""
        await at_once(peer.stop() for peer in self._peers.values())

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
        adapter = UPSTREAM if launch.impl == UPSTREAM.name else self._adapters.get(launch.impl)
        if adapter is None:
            known = ", ".join(self._adapters)
            raise LabError(f"peer {launch.peer}: no implementation {launch.impl!r} here; there are: {known}")
        stderr = self._record.stderr(launch.peer)
        process = await self._run(launch, adapter, options)

        def said(direction: str, raw: bytes) -> None:
            self._record.line(launch.peer, direction, raw)

        peer = self._peers[launch.peer] = Peer(launch, process, stderr, said, self._record.event)
        info = await self._ready(peer)
        if self._services is not None:
            self._services.announce(launch.peer, info.peer)

    async def _run(self, launch: Launch, adapter: Adapter, options: tuple[str, ...]) -> Running:
        """Start a peer's program, in its network."""
        home, stderr = self._record.home(launch.peer), self._record.stderr(launch.peer)
        if launch.run == CONTAINER:
            assert self._pods is not None
            flags = [*arguments(launch), *options]
            return await self._pods.run(launch.space, image_of(launch), flags, home, stderr, limit=MAX_LINE)
        process = await spawn(
            self.network.spaces[launch.space],
            adapter.argv(launch, options),
            env=adapter.environment(launch, home),
            cwd=home,
            stderr_path=stderr,
            limit=MAX_LINE,
        )
        return Child(process)

    async def _ready(self, peer: Peer) -> Info:
        """Wait until a peer is. An image that runs and does not say so is no peer, which tells nothing of any peer."""
        if peer.launch.run != CONTAINER:
            return await peer.ready(READY_WITHIN)
        try:
            return await peer.ready(CONTAINER_READY_WITHIN)
        except PeerUnsupported:
            raise
        except PeerError as error:
            if not peer.running:
                raise
            said = f"; what it says is not of the contract: {peer.nonsense[0].line!r}" if peer.nonsense else ""
            raise Inconclusive(f"{error}{said}") from error

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


@asynccontextmanager
async def _pods(plan: Plan, record: Record, engine: Engine | None) -> AsyncIterator[Pods | None]:
    """The networks of those peers that run in containers, made in them; None if there are no such peers."""
    spaces = [launch.space for launch in plan.launches if launch.run == CONTAINER]
    if not spaces:
        yield None
        return
    if engine is None:
        raise MissingCapability(f"{spaces[0]} runs in a container, and this lab was started without Docker's engine")
    pods = Pods(engine, record.run)
    try:
        is_theirs = any(launch.impl == UPSTREAM.name for launch in plan.launches)
        names = dict.fromkeys(REDIS_NAMES, LOOPBACK) if is_theirs else {}
        await pods.hold(spaces, plan.dns.addresses if plan.dns is not None else (), names)
        yield pods
    finally:
        await pods.close()


async def at_once(work: Iterable[Coroutine[Any, Any, object]]) -> None:
    """Await all of it together. The first `LabError` ends the rest and is raised by itself, for people to read."""
    failures: list[LabError] = []
    try:
        async with asyncio.TaskGroup() as group:
            for each in work:
                group.create_task(each)
    except* LabError as failed:
        failures += [error for error in failed.exceptions if isinstance(error, LabError)]
    if failures:
        raise failures[0]
