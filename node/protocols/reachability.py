"""Whether strangers can dial us: keeps asking AutoNAT servers about each of our addresses until it is known.

    identified, observed, addresses changed ─► candidates ─► one request at a time, servers in turn ─► verdicts ─► event

An address that others observed and that a server has dialled is advertised, however few have observed it: that it works
is more than that four agree on it.

Facts: who connects to us may be a server, so any peer that serves the protocol is asked. A server refuses more than
twelve requests a minute of one client, hence the pace. Where there are only servers of the first version, the verdict
is on us as a whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from node.errors import NodeError
from node.events import (
    AddressesChanged,
    Direction,
    Disconnected,
    Identified,
    Observed,
    Path,
    PortMapped,
    ReachabilityChanged,
)
from node.logic.addresses import is_public, unique
from node.logic.autonat import Reachability, V1Belief, Verdicts
from node.net.tasks import Tasks
from node.wire import autonat_v1
from node.wire.autonat import PROTOCOL

if TYPE_CHECKING:
    from node.events import Event
    from node.logic.addresses import IPAddress
    from node.names.multiaddr import Multiaddr
    from node.names.peerid import PeerId
    from node.net.connection import Connection
    from node.protocols.api import HostApi, Unsubscribe
    from node.protocols.autonat_client import AutonatClient, Tested

logger = logging.getLogger(__name__)

SETTLE = 0.5
"""Seconds to wait after news: a new connection brings several."""
PACE = 5.5
"""Seconds between two requests to one server."""
SERVERS = 128
"""Servers whose last request is remembered."""
ADDRESSES = 8
"""Addresses in one request."""
V1_REFRESH = 900.0
"""Seconds between two requests of the first version once its answer is believed, as in go."""


class ReachabilityService:
    """Knows the verdict on us and on each of our addresses."""

    def __init__(
        self,
        host: HostApi,
        client: AutonatClient,
        *,
        private: bool = False,
        filters_by_address: Callable[[], bool] = lambda: False,
    ) -> None:
        """`private`: ask about private addresses too. `filters_by_address`: whether the NAT in front of us is known to
        let in whom we have written to, so that a dial from there proves nothing."""
        self._host = host
        self._client = client
        self._private = private
        self._filters_by_address = filters_by_address
        self._verdicts = Verdicts()
        self._v1 = V1Belief()
        self._asked: OrderedDict[PeerId, float] = OrderedDict()  # bounded by SERVERS
        self._advertised: set[Multiaddr] = set()  # bounded by the addresses that are followed
        self._last = ReachabilityChanged(Reachability.UNKNOWN, ())
        self._listening: list[Multiaddr] = []
        self._news = asyncio.Event()
        self._tasks = Tasks()
        self._unsubscribe: Unsubscribe | None = None

    async def start(self) -> None:
        """Ask from now on."""
        self._unsubscribe = self._host.subscribe(self._event)
        self._tasks.spawn(self._keep_asking(), "reachability")

    async def close(self) -> None:
        """Ask no more."""
        if self._unsubscribe is not None:
            self._unsubscribe()
        await self._tasks.close()

    @property
    def reachability(self) -> Reachability:
        """The verdict on us: that of the addresses, or that of the first version where nothing is known of them."""
        overall = self._verdicts.overall()
        return self._v1.reachability if overall is Reachability.UNKNOWN else overall

    def verdicts(self) -> dict[Multiaddr, Reachability]:
        """The verdict on each address that is asked about."""
        return self._verdicts.all()

    # ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _event(self, event: Event) -> None:
        if isinstance(event, PortMapped):
            self._verdicts.forget(event.addrs)
        if isinstance(event, Identified | Observed | AddressesChanged | Disconnected | PortMapped):
            self._news.set()

    async def _keep_asking(self) -> None:
        while True:
            self._follow()
            server, addrs, wait = self._next()
            if server is None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._news.wait()
                self._news.clear()
                await asyncio.sleep(SETTLE)
                continue
            self._asked[server.peer] = self._host.now()
            self._asked.move_to_end(server.peer)
            if len(self._asked) > SERVERS:
                self._asked.popitem(last=False)
            try:
                await self._ask(server, addrs)
            except (NodeError, OSError) as error:
                logger.info("reachability of %s: %s", ", ".join(map(str, addrs)) or "this node", error)
                self._verdicts.unanswered(addrs[0], self._host.now())
            self._tell()

    def _follow(self) -> None:
        listening = self._host.listen_addrs()
        if listening != self._listening:  # another network, perhaps: what was true of the old one may not be here
            self._listening = listening
            self._verdicts.doubt()
        self._verdicts.follow(self._candidates())
        self._tell()

    def _candidates(self) -> list[Multiaddr]:
        """Our addresses as far as strangers could mean us by them, those that we advertise for our own verdict not."""
        claimed = [addr for addr in self._host.addrs() if addr not in self._advertised]
        every = unique([*self._host.observed_addrs(), *claimed])
        return [addr for addr in every if not addr.is_relayed and (self._private or is_public(addr))]

    def _next(self) -> tuple[Connection | None, list[Multiaddr], float | None]:
        """The server to ask now and the addresses to ask about, or None and how long to wait (None: for news)."""
        now = self._host.now()
        due = self._verdicts.due(now)[:ADDRESSES]
        timer = self._verdicts.get_timer()
        if timer is None:
            return None, [], None
        if not due:
            return None, [], max(0.0, timer - now)
        servers = self._servers()
        if not servers:
            return None, [], None
        waits = [
            (self._asked.get(each.peer, -PACE) + self._pace(each) - now, index) for index, each in enumerate(servers)
        ]
        wait, index = min(waits)
        return (servers[index], due, None) if wait <= 0 else (None, [], wait)

    def _servers(self) -> list[Connection]:
        """The direct connections to peers that serve AutoNAT, of the second version if any does."""
        direct = [each for each in self._host.swarm.connections() if each.path is Path.DIRECT and not each.is_leaving]
        for protocol in (PROTOCOL, autonat_v1.PROTOCOL):
            if serving := [each for each in direct if protocol in self._host.protocols_of(each.peer)]:
                return serving
        return []

    def _pace(self, server: Connection) -> float:
        believed = self._v1.reachability is not Reachability.UNKNOWN
        return PACE if self._is_v2(server) or not believed else V1_REFRESH

    def _is_v2(self, server: Connection) -> bool:
        return PROTOCOL in self._host.protocols_of(server.peer)

    async def _ask(self, server: Connection, addrs: list[Multiaddr]) -> None:
        now = self._host.now()
        if not self._is_v2(server):
            response = await self._client.ask_v1(server, addrs)
            self._v1.record(response.status is autonat_v1.Status.OK)
            return
        tested = await self._client.ask(server, addrs)
        if tested.reachable and not self._proves(tested):
            self._verdicts.unanswered(tested.addr, now)
            return
        self._verdicts.record(tested.addr, tested.reachable, self._host.now())

    def _proves(self, tested: Tested) -> bool:
        """Whether a stranger could have done what the server did."""
        if not self._filters_by_address() or tested.addr in self._listening:
            return True
        return tested.source not in self._written_to()

    def _written_to(self) -> set[IPAddress | None]:
        direct = [each for each in self._host.swarm.connections() if each.path is Path.DIRECT]
        return {each.remote.ip for each in direct if each.direction is Direction.OUTBOUND}

    # ── telling ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _tell(self) -> None:
        verdicts = self._verdicts.all()
        self._advertise({addr for addr, verdict in verdicts.items() if verdict is Reachability.PUBLIC})
        event = ReachabilityChanged(self.reachability, tuple(verdicts.items()))
        if event != self._last:
            self._last = event
            self._host.emit(event)

    def _advertise(self, public: set[Multiaddr]) -> None:
        for addr in self._advertised - public:
            self._host.remove_advertised(addr)
        for addr in sorted(public - self._advertised - set(self._host.addrs())):
            self._host.add_advertised(addr)
            self._advertised.add(addr)
        self._advertised &= public
