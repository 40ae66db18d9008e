"""The connection manager: closes connections when there are too many, by the decisions of `node.logic.trimming`."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from node.events import Direction, Event, PunchStage, PunchStep, ReservationLost, Reserved
from node.logic.trimming import Candidate, Trimmer, Watermarks

if TYPE_CHECKING:
    from collections.abc import Callable

    from node.host import Host
    from node.names.peerid import PeerId
    from node.net.connection import Connection

logger = logging.getLogger(__name__)

RELAY, PUNCH = "relay", "dcutr"
"""Why the node itself protects peers."""


class ConnectionManager:
    """A service of the host; `trimmer` holds tags and protections."""

    def __init__(self, host: Host, marks: Watermarks) -> None:
        self.trimmer = Trimmer(marks)
        self._host = host
        self._since: dict[Connection, float] = {}  # the open ones
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._unsubscribe: Callable[[], None]

    async def start(self) -> None:
        """Watch the connections from now on."""
        self._unsubscribe = self._host.subscribe(self._happened)
        self._host.swarm.on_connected(self._connected)
        self._host.swarm.on_disconnected(self._disconnected)
        self._task = asyncio.create_task(self._run(), name="connection manager")

    async def close(self) -> None:
        """Watch no more."""
        if self._task is not None:
            self._unsubscribe()
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _happened(self, event: Event) -> None:
        """Keep the relays that hold slots for us, and whom we are punching with."""
        match event:
            case Reserved():
                self.trimmer.protect(event.relay, RELAY)
            case ReservationLost():
                self.trimmer.unprotect(event.relay, RELAY)
            case PunchStage(stage=PunchStep.STARTED):
                self.trimmer.protect(event.peer, PUNCH)
            case PunchStage(stage=PunchStep.SUCCEEDED | PunchStep.GAVE_UP):
                self.trimmer.unprotect(event.peer, PUNCH)
            case _:
                return

    def is_wanted(self, peer: PeerId) -> bool:
        """Whether somebody but the node itself protects the peer."""
        return bool(self.trimmer.protections(peer) - {RELAY, PUNCH})

    def _connected(self, connection: Connection) -> None:
        self._since[connection] = self._host.now()
        if len(self._since) > self.trimmer.marks.high:
            self._news.set()

    def _disconnected(self, connection: Connection, why: str) -> None:
        self._since.pop(connection, None)

    async def _run(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            while (timer := self.trimmer.get_timer(len(self._since), self._host.now())) is not None:
                await asyncio.sleep(max(0.0, timer - self._host.now()))
                await self.trim()
                if len(self._since) > self.trimmer.marks.high:
                    await asyncio.sleep(self.trimmer.marks.silence)  # all are protected or young: look again later

    async def trim(self) -> int:
        """Close what is too much now; returns how many connections that were."""
        candidates = [
            Candidate(each, each.peer, since, each.direction is Direction.INBOUND, each.streams)
            for each, since in self._since.items()
        ]
        chosen = self.trimmer.trim(candidates, self._host.now())
        for connection in chosen:
            logger.info("closing %r: %d connections are too many", connection, len(candidates))
        await asyncio.gather(*(connection.close("trimmed: too many connections") for connection in chosen))
        return len(chosen)
