"""One dials, one listens: transport-interop and transport."""

from __future__ import annotations

import asyncio
import time

from node.errors import NodeError
from node.host import Host
from node.names.multiaddr import Multiaddr
from node.upstream.board import Board
from node.upstream.contract import Suite, Task, result
from node.upstream.making import config, reachable


def _key(task: Task) -> str:
    return "listenerAddr" if task.suite is Suite.TRANSPORT_INTEROP else task.name("listener_multiaddr")


async def listen(task: Task, board: Board) -> None:
    """Listen, say where, and stay; only the deadline of the caller, or its end, ends it."""
    async with Host(config(task, listen=True)) as host:
        where = reachable(host)
        await board.push(_key(task), str(where[0]))
        await asyncio.Event().wait()


async def dial(task: Task, board: Board) -> str:
    """Connect to who listens, ping, and return the result."""
    async with Host(config(task, listen=False)) as host:
        addr = Multiaddr(await board.take(_key(task)))
        began = time.perf_counter()
        connection = await host.connect(addr, timeout=task.timeout)
        rtt = await host.ping.ping(connection, timeout=task.timeout)
        took = time.perf_counter() - began
        _check(task, connection.security, connection.muxer)
        return result(task.suite, took, rtt)


def _check(task: Task, security: str, muxer: str) -> None:
    """The one way to secure and mux that was offered is the one that was taken; else we would report another's."""
    for wanted, taken in ((task.security, security), (task.muxer, muxer)):
        if wanted is not None and wanted not in taken:
            raise NodeError(f"asked for {wanted}, connected by {taken}")
