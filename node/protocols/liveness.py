"""Signs of life: connections that lead nowhere any more are found and closed, before anybody waits for them in vain.

    a kept peer is silent ─► ask ─► answer: go on
                                └► none for 1 s: ask everybody else too ─► none in 4 s: close
    a peer comes by a new connection, our network changes ─► ask by those that stand

Facts: a NAT that has restarted, and an address that has changed, tell nobody. TCP goes on sending for a quarter of an
hour, QUIC waits for 30 s, yamux asks every 30 s. The reason is most often our own network, so when one is silent the
others are asked at once. A peer that comes again has lost the connection we still have: until that has answered, new
streams use the newer one. QUIC connections of ours live on where our NAT has given us another port or address, but what
peers observed of us is of before, so they are asked for that, too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

from node.errors import NodeError
from node.events import Direction, Path
from node.logic.liveness import ANSWER, DOUBT, LOOKS, SILENCE
from node.logic.liveness import Liveness as Plan
from node.net.rtnetlink import Changes
from node.net.tasks import Tasks

if TYPE_CHECKING:
    from node.names.peerid import PeerId
    from node.net.connection import Connection
    from node.protocols.api import HostApi, Unsubscribe

logger = logging.getLogger(__name__)

SILENT = "no sign of life"
"""Why such a connection ended."""


class Liveness:
    """Watches the connections of a host."""

    def __init__(
        self,
        host: HostApi,
        is_kept: Callable[[PeerId], bool],
        observe: Callable[[Connection], Awaitable[None]],
        silence: float = SILENCE,
    ) -> None:
        """`is_kept`: whose silence matters; `observe`: has a peer say where it sees us; `silence`: in seconds."""
        self._host = host
        self._is_kept = is_kept
        self._observe = observe
        self._silence = silence
        self._plan: Plan[Connection] = Plan(silence)
        self._asking: dict[Connection, asyncio.Task[None]] = {}  # bounded by the open connections
        self._tasks = Tasks()
        self._settling: asyncio.Task[None] | None = None
        self._changes = Changes(self._settle_soon)
        self._unsubscribe: list[Unsubscribe] = []

    async def start(self) -> None:
        """Watch from now on."""
        swarm = self._host.swarm
        self._unsubscribe = [swarm.on_connected(self._connected), swarm.on_disconnected(self._disconnected)]
        try:
            self._changes.start()
        except OSError as error:
            logger.warning("changes of the network will show by silence alone: %s", error)
        self._tasks.spawn(self._watch(), "signs of life")

    async def close(self) -> None:
        """Watch no more."""
        self._changes.close()
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        await self._tasks.close()

    async def settle(self) -> None:
        """Ask everybody, and wait until we know who is gone, and where the others see us."""
        await asyncio.shield(self._settle_soon())

    def _settle_soon(self) -> asyncio.Task[None]:
        if self._settling is None or self._settling.done():
            self._settling = self._tasks.spawn(self._settle(), "who is still there")
        return self._settling

    async def _settle(self) -> None:
        self._ask_all()
        if self._asking:
            await asyncio.wait(self._asking.values())
        direct = [each for each in self._host.swarm.connections() if each.path is Path.DIRECT]
        await asyncio.gather(*map(self._observe, direct))

    # ── whom to ask ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._silence / LOOKS)
            now = self._host.now()
            every = self._host.swarm.connections()
            for connection in every:
                self._plan.look(connection, connection.bytes_in, now)
            self._ask(self._plan.due((each for each in every if self._is_kept(each.peer)), now))

    def ask(self, connections: Iterable[Connection]) -> None:
        """Ask now; those that are asked already are not asked twice."""
        self._ask(self._plan.ask(connections))

    def _ask_all(self) -> None:
        self.ask(self._host.swarm.connections())

    def _connected(self, connection: Connection) -> None:
        now = self._host.now()
        self._plan.look(connection, connection.bytes_in, now)
        if connection.path is Path.RELAYED and connection.direction is Direction.OUTBOUND:
            return  # our own doing: it says nothing of those that we have
        others = [each for each in self._host.swarm.connections(connection.peer) if each is not connection]
        if connection.path is Path.DIRECT:
            others = [each for each in others if each.path is Path.DIRECT]
        for other in others:
            # One that began just now is another hole of the same punch, or the nearer way.
            other.is_doubted = other.is_doubted or not self._plan.is_fresh(other, now)
        self.ask(others)

    def _disconnected(self, connection: Connection, _why: str) -> None:
        self._plan.forget(connection)

    # ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _ask(self, connections: Iterable[Connection]) -> None:
        for connection in connections:
            task = self._tasks.spawn(self._await_answer(connection), f"sign of life of {connection.peer}")
            self._asking[connection] = task
            task.add_done_callback(lambda _, connection=connection: self._asking.pop(connection, None))  # type: ignore[misc]

    async def _await_answer(self, connection: Connection) -> None:
        asked = asyncio.create_task(self._is_alive(connection), name=f"ping of {connection.peer}")
        try:
            await asyncio.wait({asked}, timeout=DOUBT)
            if not asked.done():
                connection.is_doubted = True
                self._ask_all()
            alive = await asked
        finally:
            asked.cancel()
        if alive:
            connection.is_doubted = False
            self._plan.answered(connection, self._host.now())
        elif not connection.is_closed:
            logger.info("%r gives no sign of life", connection)
            await connection.abandon(SILENT)
            self._settle_soon()

    async def _is_alive(self, connection: Connection) -> bool:
        """Whether the peer answers, or anything else comes of it, or it takes what our question waits behind."""
        heard = connection.bytes_in
        try:
            async with asyncio.timeout(ANSWER):
                await connection.ping()
        except (NodeError, TimeoutError):
            return not connection.is_closed and (connection.bytes_in != heard or connection.is_taking(ANSWER))
        return True
