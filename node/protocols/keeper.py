"""Keeping what the user wants kept: protected peers are connected to again, slots at relays are asked for anew.

    the last connection to a protected peer ends ─► who else is gone? ─► dial by all addresses known ─► wait, again
    a slot that was asked for is lost            ─► the same, then reserve

Facts: what takes one connection takes others, the one to the relay above all. So before anything is dialled, everybody
who is connected is asked for a sign of life; a dial through a relay that is gone would be 15 s of silence. The address
by the relay leads to the peer whatever has become of our NATs, and a hole is then made as the first time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

from node.errors import NodeError
from node.events import ReservationLost, Reserved
from node.logic.keeping import Keeping
from node.net.rtnetlink import Changes
from node.net.tasks import Tasks

if TYPE_CHECKING:
    from node.events import Event
    from node.names.multiaddr import Multiaddr
    from node.names.peerid import PeerId
    from node.net.connection import Connection
    from node.protocols.api import HostApi, Unsubscribe
    from node.protocols.liveness import Liveness
    from node.protocols.relay_client import RelayClient

logger = logging.getLogger(__name__)

DIAL = 15.0
"""Seconds for one attempt to connect to a peer."""
RESERVE = 10.0
"""Seconds for one attempt to get a slot."""
AT_ONCE = 8
"""Attempts at a time."""
SLOTS = 16
"""Slots that are kept, as many as can be held."""


class Keeper:
    """Connects again and reserves again."""

    def __init__(self, host: HostApi, liveness: Liveness, is_kept: Callable[[PeerId], bool]) -> None:
        """`is_kept`: which peers are to be connected to again."""
        self._host = host
        self._liveness = liveness
        self._is_kept = is_kept
        self._slots: dict[PeerId, tuple[Multiaddr, RelayClient]] = {}  # at most SLOTS
        self._let_go: set[PeerId] = set()  # bounded by the commands that are carried out at a time
        self._peers: Keeping[PeerId] = Keeping()
        self._lost_slots: Keeping[PeerId] = Keeping()
        self._room = asyncio.Semaphore(AT_ONCE)
        self._news = asyncio.Event()
        self._changes = Changes(self._moved)
        self._tasks = Tasks()
        self._unsubscribe: list[Unsubscribe] = []

    async def start(self) -> None:
        """Keep from now on."""
        swarm = self._host.swarm
        self._unsubscribe = [
            swarm.on_connected(self._connected),
            swarm.on_disconnected(self._disconnected),
            self._host.subscribe(self._event),
        ]
        with contextlib.suppress(OSError):  # which `Liveness` has told of
            self._changes.start()
        self._tasks.spawn(self._keep(), "keeping")

    async def close(self) -> None:
        """Keep nothing any more."""
        self._changes.close()
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        await self._tasks.close()

    def keep_slot(self, relay: Multiaddr, client: RelayClient) -> None:
        """Ask for the slot at `relay`, which ends in its peer id, again whenever it is lost."""
        peer = relay.peer_id
        if peer is not None and (peer in self._slots or len(self._slots) < SLOTS):
            self._slots[peer] = relay, client

    async def disconnect(self, peer: PeerId) -> int:
        """Close all connections to `peer` and return how many there were; none is made and no slot asked for again."""
        self._slots.pop(peer, None)
        self._peers.drop(peer)
        self._lost_slots.drop(peer)
        self._let_go.add(peer)
        try:
            return await self._host.swarm.disconnect(peer)
        finally:
            self._let_go.discard(peer)

    # ── what happens ─────────────────────────────────────────────────────────────────────────────────────────────

    def _connected(self, connection: Connection) -> None:
        self._peers.found(connection.peer, self._host.now())

    def _disconnected(self, connection: Connection, why: str) -> None:
        peer = connection.peer
        if self._is_kept(peer) and peer not in self._let_go and not self._host.swarm.connections(peer):
            logger.info("lost %s: %s", peer, why)
            self._peers.lost(peer, self._host.now())
            self._news.set()

    def _event(self, event: Event) -> None:
        match event:
            case Reserved(relay):
                self._lost_slots.found(relay, self._host.now())
            case ReservationLost(relay) if relay in self._slots:
                self._lost_slots.lost(relay, self._host.now())
                self._news.set()

    def _moved(self) -> None:
        self._peers.moved()
        self._lost_slots.moved()
        self._news.set()

    # ── what is done ─────────────────────────────────────────────────────────────────────────────────────────────

    async def _keep(self) -> None:
        while True:
            self._news.clear()
            now = self._host.now()
            for relay in self._lost_slots.due(now):
                addr, client = self._slots[relay]
                reserve = partial(client.reserve, addr, timeout=RESERVE)
                self._tasks.spawn(self._try(self._lost_slots, relay, reserve), f"slot at {relay} again")
            for peer in self._peers.due(now):
                if self._is_kept(peer):
                    self._tasks.spawn(self._try(self._peers, peer, partial(self._dial, peer)), f"{peer} again")
                else:
                    self._peers.drop(peer)
            timers = (self._peers.get_timer(now), self._lost_slots.get_timer(now))
            timer = min((each for each in timers if each is not None), default=None)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if timer is None else max(0.0, timer - now)):
                    await self._news.wait()

    async def _dial(self, peer: PeerId) -> None:
        addrs = self._host.addressbook.addrs(peer, self._host.now())
        await self._host.swarm.dial(peer, addrs, timeout=DIAL)

    async def _try(self, keeping: Keeping[PeerId], peer: PeerId, attempt: Callable[[], Awaitable[object]]) -> None:
        """Make one attempt; that it succeeded is heard as from any other."""
        try:
            async with self._room:
                await self._liveness.settle()
                if peer in keeping:  # neither found nor let go meanwhile
                    await attempt()
        except (NodeError, OSError) as error:
            logger.info("not yet at %s again: %s", peer, error)
            keeping.failed(peer, self._host.now())
            self._news.set()
