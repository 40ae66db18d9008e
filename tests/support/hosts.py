"""Real hosts on loopback, for tests of protocols: their events to wait for, their addresses, a deadline for all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from node.events import Event, PunchStage, PunchStep
from node.host import Host
from node.names.multiaddr import Multiaddr

E = TypeVar("E")

LOOPBACK = Multiaddr("/ip4/127.0.0.1/tcp/0")
DEADLINE = 120.0
"""Seconds one test may take on a busy machine."""


@dataclass
class Seen:
    """The events of one host, past ones and those to come."""

    events: list[Event] = field(default_factory=list)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, event: Event) -> None:
        """Take an event; to be given to `Host.subscribe`."""
        self.events.append(event)
        self._news.set()

    async def wait(self, kind: type[E], where: Callable[[E], bool] = lambda event: True) -> E:
        """Return the first event of a kind that fits, however long ago it was."""
        while True:
            for event in self.events:
                if isinstance(event, kind) and where(event):
                    return event
            self._news.clear()
            await self._news.wait()

    def punches(self) -> list[PunchStage]:
        """The steps of hole punching so far."""
        return [event for event in self.events if isinstance(event, PunchStage)]

    async def punch(self, stage: PunchStep) -> PunchStage:
        """Return the first of these steps."""
        return await self.wait(PunchStage, lambda event: event.stage is stage)


def watch(host: Host) -> Seen:
    """Note the events of a host from now on."""
    seen = Seen()
    host.subscribe(seen.add)
    return seen


def addr_of(host: Host) -> Multiaddr:
    """Return the address of the host's first listener, ending in its peer id."""
    return host.listen_addrs()[0].with_peer(host.peer_id)


def run(main: Callable[[], Awaitable[None]], deadline: float = DEADLINE) -> None:
    """Run one test, but not for ever."""

    async def bounded() -> None:
        async with asyncio.timeout(deadline):
            await main()

    asyncio.run(bounded())
