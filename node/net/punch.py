"""Punching a TCP hole: both sides dial each other from their listen ports at the same time, again and again.

Facts, measured on Linux namespaces:

* On a simultaneous open both ends see their `connect` succeed and nobody accepts; when the peer's SYN reaches our
  listener first, it is an accept. So the role in the handshakes is DCUtR's, never that of the socket.
* A second dial on a 4-tuple in use gives EADDRNOTAVAIL: the other one is on its way, the accept is to be awaited.
* The peer may be told to dial sooner than we are: its SYN then reaches our listener before our own dial. So what comes
  from the peer's addresses is taken up from the moment they are known, not from our first SYN on.
* A NAT or host that answers an unexpected SYN with RST gives ECONNREFUSED to both until they are nearly simultaneous:
  dialling again every 20 ms or so has found the moment at the 18th try.

Both sides may see several connections. They must not keep different ones: so the initiator chooses, by closing all but
the first that is upgraded, and the responder lets the others live or die by the initiator's will.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from node.errors import DialError, LimitExceeded, NodeError
from node.logic.dialling import Failure
from node.net.upgrade import Role

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

    from node.names.multiaddr import Multiaddr
    from node.names.peerid import PeerId
    from node.net.connection import Connection
    from node.net.stream import RawConnection
    from node.net.tasks import Tasks

logger = logging.getLogger(__name__)

RETRY = 0.02
"""Seconds to the next dial of an address that refused, give or take half: in step, two sides would miss each other."""
TRIES = 100
"""Dials of one address in one punch: two seconds of refusals, and no flood for whoever lives there."""
ADDRESSES = 20
"""Addresses of one punch: what a peer lists must not make us a port scanner."""
ARRIVALS = 8
"""Inbound connections one punch takes up."""
PUNCHES = 32
"""Punches under way at a time."""

DialRaw = Callable[["Multiaddr"], Awaitable["RawConnection"]]
UpgradePunched = Callable[["RawConnection", "PeerId", Role], Awaitable["Connection"]]


class Punch:
    """One punch under way."""

    def __init__(
        self,
        peer: PeerId,
        addrs: Sequence[Multiaddr],
        role: Role,
        dial: DialRaw,
        upgrade: UpgradePunched,
        tasks: Tasks,
    ) -> None:
        self._peer = peer
        self._addrs = list(dict.fromkeys(addrs))[:ADDRESSES]
        self._role = role
        self._dial = dial
        self._upgrade = upgrade
        self._tasks = tasks
        self._won: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        self._last: dict[Multiaddr, Exception] = {}
        self._dials: set[asyncio.Task[None]] = set()
        self._upgrades: set[asyncio.Task[None]] = set()
        self._arrivals = 0
        self._running = False

    @property
    def ips(self) -> frozenset[IPv4Address | IPv6Address]:
        """Where an inbound connection of this punch may come from."""
        return frozenset(addr.ip for addr in self._addrs if addr.ip is not None)

    def offer(self, raw: RawConnection) -> bool:
        """Take up an inbound connection; False when the punch has enough of them."""
        if self._won.done() or self._arrivals >= ARRIVALS:
            return False
        self._arrivals += 1
        self._begin_upgrade(raw)
        return True

    def waits_for(self, peer: PeerId, role: Role) -> bool:
        """Whether this is the punch with `peer`, made but not run."""
        return not self._running and self._peer == peer and self._role is role

    async def run(self, deadline: float) -> Connection:
        """Dial until one connection is upgraded; DialError at the deadline (of the loop's clock)."""
        self._running = True
        self._dials = {asyncio.create_task(self._pursue(addr), name=f"punch to {addr}") for addr in self._addrs}
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.shield(self._won)
        except TimeoutError:
            raise DialError(f"no hole to {self._peer} in time{self._reasons()}") from None
        finally:
            await self.end()

    async def _pursue(self, addr: Multiaddr) -> None:
        for _ in range(TRIES):
            try:
                upgraded = self._begin_upgrade(await self._dial(addr))
                await asyncio.wait({upgraded})
            except (NodeError, OSError) as error:
                self._last[addr] = error
                logger.debug("punch to %s: %s", addr, error)
            await asyncio.sleep(random.uniform(0.5, 1.5) * RETRY)

    def _begin_upgrade(self, raw: RawConnection) -> asyncio.Task[None]:
        task = self._tasks.spawn(self._prove(raw), f"upgrade of a punched {raw.remote}")
        self._upgrades.add(task)
        task.add_done_callback(self._upgrades.discard)
        # A task that is cancelled before its first step runs nothing that could close the connection.
        task.add_done_callback(lambda done: raw.abort() if done.cancelled() else None)
        return task

    async def _prove(self, raw: RawConnection) -> None:
        try:
            connection = await self._upgrade(raw, self._peer, self._role)
        except (NodeError, OSError) as error:
            self._last[raw.remote] = error
            logger.debug("punched %s is of no use: %s", raw.remote, error)
            return
        if connection.peer == self._peer and not self._won.done():
            self._won.set_result(connection)

    def _reasons(self) -> str:
        return "".join(f"; {Failure(addr, error)}" for addr, error in self._last.items())

    async def end(self) -> None:
        """Stop dialling; the initiator drops the upgrades that lost, the responder waits for them to end by it."""
        losers = set(self._dials)
        if self._role is Role.INITIATOR or not self._won.done():
            losers |= self._upgrades
        for task in losers:
            task.cancel()
        await asyncio.gather(*losers, return_exceptions=True)
        self._won.cancel()


class Punches:
    """The punches under way or expected, by the IP addresses they expect."""

    def __init__(self) -> None:
        self._expected: dict[IPv4Address | IPv6Address, list[Punch]] = {}
        self._count = 0

    def offer(self, raw: RawConnection) -> bool:
        """Give an inbound connection to the punch that expects its IP address; False when there is none."""
        ip = raw.remote.ip
        return ip is not None and any(punch.offer(raw) for punch in self._expected.get(ip, ()))

    def held(self, peer: PeerId, role: Role) -> Punch | None:
        """The punch with `peer` that is expected and has not been run."""
        every = (punch for punches in self._expected.values() for punch in punches)
        return next((punch for punch in every if punch.waits_for(peer, role)), None)

    @asynccontextmanager
    async def expecting(self, punch: Punch) -> AsyncIterator[None]:
        """Offer a punch what arrives within the block, before it is run as while it runs."""
        if self._count >= PUNCHES:
            raise LimitExceeded(f"{PUNCHES} punches are under way already")
        self._count += 1
        for ip in punch.ips:
            self._expected.setdefault(ip, []).append(punch)
        try:
            yield
        finally:
            self._count -= 1
            for ip in punch.ips:
                self._expected[ip].remove(punch)
                if not self._expected[ip]:
                    del self._expected[ip]
            await punch.end()
