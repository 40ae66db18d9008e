"""Bootstrapping: getting into the network by a list of addresses, and back into it by whom we met there.

    start, a connection ends, another network, a backoff is over ─► due ─► resolve, dial side by side ─► Bootstrapped

Whom we met is the peerstore's to remember; it is asked at the start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final

from node.errors import DialError, NodeError
from node.events import Bootstrapped
from node.logic.addressbook import Ttl
from node.logic.bootstrap import FLOOR, STABLE, Bootstrap, Candidate, by_peer
from node.net.rtnetlink import Changes
from node.net.tasks import Tasks

if TYPE_CHECKING:
    from node.names.multiaddr import Multiaddr
    from node.names.peerid import PeerId
    from node.net.connection import Connection
    from node.net.peerstore import Stable
    from node.protocols.api import HostApi, Unsubscribe

AT_ONCE: Final = 8
"""Candidates dialled at a time."""
DIAL: Final = 15.0
"""Seconds for one peer."""
NAMES: Final = 12.0
"""Seconds before that for what a name stands for."""

Memory = Callable[[int], Awaitable[Sequence["Stable"]]]
"""Returns the peers that proved stable, at most so many."""


async def nobody(most: int) -> Sequence[Stable]:
    """Remembers nobody, for a node without a state."""
    return ()


class Bootstrapper:
    """Connects to the network and keeps connected to it."""

    def __init__(
        self, host: HostApi, entries: Sequence[Multiaddr], memory: Memory = nobody, *, floor: int = FLOOR
    ) -> None:
        self._host = host
        self._entries = entries
        self._memory = memory
        self._floor = floor
        self._plan = Bootstrap(host.peer_id, entries, floor=floor)
        self._news = asyncio.Event()
        self._tasks = Tasks()
        self._changes = Changes(self._moved)
        self._unsubscribe: list[Unsubscribe] = []

    async def start(self) -> None:
        """Connect from now on."""
        stable = {each.peer: each.addrs for each in await self._memory(STABLE)}
        self._plan = Bootstrap(self._host.peer_id, self._entries, stable, self._floor)
        swarm = self._host.swarm
        self._unsubscribe = [swarm.on_connected(self._connected), swarm.on_disconnected(self._disconnected)]
        self._changes.start()
        self._tasks.spawn(self._run(), "bootstrapping")

    async def close(self) -> None:
        """Connect no more."""
        self._changes.close()
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        await self._tasks.close()

    async def _run(self) -> None:
        while True:
            due = self._plan.due(self._peers(), self._host.now())
            if due:
                await self._round(due)
            timer = self._plan.get_timer(self._peers(), self._host.now())
            try:
                async with asyncio.timeout(None if timer is None else max(0.0, timer - self._host.now())):
                    await self._news.wait()
            except TimeoutError:
                continue
            self._news.clear()

    async def _round(self, due: Sequence[Candidate]) -> None:
        """Dial all that are due, side by side, and tell what came of it."""
        slots = asyncio.Semaphore(AT_ONCE)
        tasks = {asyncio.create_task(self._try(each, slots), name=f"bootstrap {each}"): each for each in due}
        try:
            await asyncio.wait(tasks)
        finally:
            for task in tasks:
                task.cancel()
        results = {each: task.result() for task, each in tasks.items()}
        peers = tuple(dict.fromkeys(peer for result in results.values() if isinstance(result, list) for peer in result))
        failures = tuple((str(each), result) for each, result in results.items() if isinstance(result, str))
        self._host.emit(Bootstrapped(peers, failures))

    async def _try(self, candidate: Candidate, slots: asyncio.Semaphore) -> list[PeerId] | str:
        """Connect to a candidate; returns the peers that it led to, or why it led to none."""
        try:
            async with slots:
                peers = await self._connect(candidate)
        except (NodeError, OSError) as error:
            self._plan.failed(candidate, self._host.now())
            return str(error)
        if not any(self._host.swarm.connections(peer) for peer in peers):
            self._plan.failed(candidate, self._host.now())
            return "the connection ended at once"
        self._plan.succeeded(candidate, self._host.now())
        return peers

    async def _connect(self, candidate: Candidate) -> list[PeerId]:
        if candidate.peer is not None:
            await self._dial(candidate.peer, candidate.addrs)
            return [candidate.peer]
        resolving = await self._host.resolver.resolve(candidate.addrs, timeout=NAMES)
        named = by_peer(resolving.addrs)
        named.pop(self._host.peer_id, None)
        if not named:
            reasons = "; ".join(str(failure.error) for failure in resolving.failures)
            raise DialError(reasons or f"{candidate} names nobody")
        dials = [self._dial(peer, addrs) for peer, addrs in named.items()]
        results = dict(zip(named, await asyncio.gather(*dials, return_exceptions=True), strict=True))
        for error in results.values():
            if error is not None and not isinstance(error, NodeError | OSError):
                raise error
        if reached := [peer for peer, error in results.items() if error is None]:
            return reached
        raise DialError("; ".join(map(str, results.values())))

    async def _dial(self, peer: PeerId, addrs: Sequence[Multiaddr]) -> None:
        await self._host.swarm.dial(peer, addrs, timeout=DIAL)
        self._host.addressbook.add(peer, addrs, Ttl.TOLD, self._host.now())

    def _peers(self) -> frozenset[PeerId]:
        return frozenset(connection.peer for connection in self._host.swarm.connections())

    def _connected(self, connection: Connection) -> None:
        self._plan.arrived(connection.peer, self._host.now())

    def _disconnected(self, connection: Connection, _why: str) -> None:
        if not self._host.swarm.connections(connection.peer):
            self._plan.left(connection.peer, self._host.now())
            self._news.set()

    def _moved(self) -> None:
        self._plan.moved()
        self._news.set()
