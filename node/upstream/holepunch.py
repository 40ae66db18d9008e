"""Two behind NATs and a relay: hole-punch-interop and hole-punch.

relay     says where it is
listener  reserves a slot there, says who it is, punches when it is dialled
dialer    dials it through the relay, waits for the direct connection, pings over that
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from node.errors import NodeError
from node.events import Connected, Disconnected, Event, Path, PunchStage, PunchStep
from node.host import Host
from node.names.multiaddr import Multiaddr
from node.names.peerid import PeerId
from node.net.connection import Connection
from node.upstream.board import Board
from node.upstream.contract import Suite, Task, result
from node.upstream.making import config, reachable

_PEER = "LISTEN_CLIENT_PEER_ID"
MAX_EVENTS = 10_000
"""Events that wait to be looked at."""


class PunchFailed(NodeError):
    """There is no direct connection, and there will be none."""


async def relay(task: Task, board: Board) -> None:
    """Relay for others, and stay."""
    async with Host(config(task, listen=True, relay=True)) as host:
        for addr in reachable(host):
            if task.suite is Suite.HOLE_PUNCH:
                await board.put(task.name("relay_multiaddr"), str(addr))
            else:
                # Twice: dialer and listener each take one.
                key = f"RELAY_{'QUIC' if 'quic-v1' in addr else 'TCP'}_ADDRESS"
                await board.push(key, str(addr), str(addr))
        await asyncio.Event().wait()


async def listen(task: Task, board: Board) -> None:
    """Be dialled through the relay and punch, and stay; PunchFailed when that has been given up."""
    where = Multiaddr(await _relay_address(task, board))
    async with _punching(task) as (host, events):
        assert host.relay_client is not None
        await host.relay_client.reserve(where, timeout=task.timeout)
        if task.suite is Suite.HOLE_PUNCH:
            await board.put(task.name("listener_peer_id"), str(host.peer_id))
        else:
            await board.push(_PEER, str(host.peer_id))
        while True:
            event = await events.get()
            if isinstance(event, PunchStage) and event.stage is PunchStep.GAVE_UP:
                raise PunchFailed(f"no hole to {event.peer}: {event.why or 'given up'}")


async def dial(task: Task, board: Board) -> str:
    """Dial the listener through the relay, wait until it is reached directly, and return the result."""
    where = Multiaddr(await _relay_address(task, board))
    async with _punching(task) as (host, events):
        modern = task.suite is Suite.HOLE_PUNCH
        peer = PeerId.parse(await (board.read(task.name("listener_peer_id")) if modern else board.take(_PEER)))
        began = time.perf_counter()
        await host.connect(where / f"/p2p-circuit/p2p/{peer}", timeout=task.timeout)
        connection = await _direct(host, peer, events)
        rtt = await host.ping.ping(connection, timeout=task.timeout)
        return result(task.suite, time.perf_counter() - began, rtt)


async def _relay_address(task: Task, board: Board) -> str:
    if task.suite is Suite.HOLE_PUNCH:
        return await board.read(task.name("relay_multiaddr"))
    return await board.take(task.relay_keys[0])


@asynccontextmanager
async def _punching(task: Task) -> AsyncIterator[tuple[Host, asyncio.Queue[Event]]]:
    """A host that punches, and what happens in it."""
    events: asyncio.Queue[Event] = asyncio.Queue()  # at most MAX_EVENTS

    def hear(event: Event) -> None:
        if isinstance(event, PunchStage | Connected | Disconnected) and events.qsize() < MAX_EVENTS:
            events.put_nowait(event)

    host = Host(config(task, listen=True, punch=True))
    host.subscribe(hear)
    async with host:
        yield host, events


async def _direct(host: Host, peer: PeerId, events: asyncio.Queue[Event]) -> Connection:
    """The direct connection, when it is there; PunchFailed when all attempts have failed."""
    failures = 0
    while True:
        best = host.swarm.best(peer)
        if best is not None and best.path is Path.DIRECT:
            return best
        if best is None:
            raise PunchFailed(f"the relayed connection to {peer} ended before there was a direct one")
        event = await events.get()
        if isinstance(event, PunchStage) and (event.peer, event.stage) == (peer, PunchStep.FAILED):
            failures += 1
            if failures == host.config.punch_attempts:
                raise PunchFailed(f"{failures} attempts to punch a hole to {peer} have failed: {event.why}")
