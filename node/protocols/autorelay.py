"""Keeping slots at relays as long as strangers cannot dial us, and moving them when a relay dies.

    reachability ─► wanted?      connected relays, --relay ─► candidates ─► RelayClient.reserve ─► two slots
                                 a slot is lost, a relay does not answer ─► the next candidate

Facts: a relay whose process ends says so by its host; one whose host or cable is gone says nothing, and TCP would go on
for minutes. So the relays that keep a slot for us are asked for a sign of life, which keeps our NAT's mapping as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from node.errors import NodeError
from node.events import Connected, Disconnected, Identified, Path, ReachabilityChanged, ReservationLost, Reserved
from node.logic.autorelay import RelayChoice
from node.net.tasks import Tasks
from node.wire.relay import HOP_PROTOCOL

if TYPE_CHECKING:
    from node.events import Event
    from node.names.multiaddr import Multiaddr
    from node.names.peerid import PeerId
    from node.net.connection import Connection
    from node.protocols.api import HostApi, Unsubscribe
    from node.protocols.relay_client import RelayClient

logger = logging.getLogger(__name__)

RESERVE_TIMEOUT = 8.0
"""Seconds for a relay to be connected to and to answer."""
CHECK_EVERY = 5.0
"""Seconds after which the relays are asked for a sign of life: with four for the answer, silence shows within nine."""


class AutoRelay:
    """Keeps the slots that are wanted."""

    def __init__(
        self,
        host: HostApi,
        client: RelayClient,
        listed: Sequence[Multiaddr],
        wanted: Callable[[], bool],
        ask: Callable[[Iterable[Connection]], None],
    ) -> None:
        """`listed`: addresses of relays that the user knows; `wanted`: whether slots are wanted now; `ask`: asks for a
        sign of life, and closes what gives none."""
        self._host = host
        self._client = client
        self._wanted = wanted
        self._ask = ask
        self._choice = RelayChoice()
        for relay in listed:
            if relay.peer_id is not None:
                self._choice.offer(relay.peer_id, relay, listed=True)
        self._own: set[PeerId] = set()  # bounded by the slots: those that we keep, not somebody's command
        self._news = asyncio.Event()
        self._tasks = Tasks()
        self._unsubscribe: Unsubscribe | None = None

    async def start(self) -> None:
        """Keep slots from now on."""
        self._unsubscribe = self._host.subscribe(self._event)
        self._tasks.spawn(self._keep(), "autorelay")
        self._tasks.spawn(self._keep_checking(), "signs of life of relays")

    async def close(self) -> None:
        """Keep none any more."""
        if self._unsubscribe is not None:
            self._unsubscribe()
        await self._tasks.close()

    def _event(self, event: Event) -> None:
        match event:
            case Reserved(relay, _, _):
                self._choice.held(relay)
            case ReservationLost(relay, why):
                logger.info("slot at %s: %s", relay, why)
                self._own.discard(relay)
                self._choice.failed(relay, self._host.now())
            case Identified() | Connected() | Disconnected() | ReachabilityChanged():
                pass
            case _:
                return
        self._news.set()

    # ── slots ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _keep(self) -> None:
        while True:
            self._news.clear()
            self._look_around()
            for relay in self._choice.choose(self._host.now()):
                self._tasks.spawn(self._reserve(relay), f"slot at {relay}")
            timer = self._choice.get_timer()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if timer is None else max(0.0, timer - self._host.now())):
                    await self._news.wait()

    def _look_around(self) -> None:
        """Who could be asked, and is anything wanted?"""
        self._choice.wanted = self._wanted()
        direct = {each.peer: each for each in self._host.swarm.connections() if each.path is Path.DIRECT}
        for peer, connection in direct.items():
            if HOP_PROTOCOL in self._host.protocols_of(peer):
                self._choice.offer(peer, connection.remote.with_peer(peer))
        for peer in self._choice.peers():
            if peer not in direct:
                self._choice.withdraw(peer)
        for peer in self._choice.surplus():
            if peer in self._own:
                self._client.release(peer)

    async def _reserve(self, relay: Multiaddr) -> None:
        peer = relay.peer_id
        assert peer is not None
        try:
            await self._client.reserve(relay, timeout=RESERVE_TIMEOUT)
        except (NodeError, OSError) as error:
            logger.info("no slot at %s: %s", relay, error)
            self._choice.failed(peer, self._host.now())
        else:
            self._own.add(peer)
        self._news.set()

    # ── signs of life ────────────────────────────────────────────────────────────────────────────────────────────

    async def _keep_checking(self) -> None:
        while True:
            await asyncio.sleep(CHECK_EVERY)
            self._news.set()  # what is wanted can change by time alone
            relays = [self._host.swarm.direct(held.relay) for held in self._client.held]
            self._ask(each for each in relays if each is not None)
