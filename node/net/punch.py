"""Punching a hole: how two sides behind NATs get a connection from one listen port to the other.

TCP: both dial each other at the same time, again and again. QUIC: the initiator dials, and the responder sends
datagrams that mean nothing until the dial has come through its NAT, or dials itself where none comes. Both go on beside
each other; the first wins.

Facts, measured on Linux namespaces:

* On a simultaneous open both ends see their `connect` succeed and nobody accepts; when the peer's SYN reaches our
  listener first, it is an accept. So the role in the handshakes is DCUtR's, never that of the socket.
* Where the responder's SYN reaches a listener of go or rust, it is no part of the punch there: both sides respond, and
  wait for each other for ever. So a responder that has dialled and is left without a proposal makes one itself.
* js as responder dials from any port and proposes: two initiators would take each other's proposals for consent. So an
  initiator that accepts from an address that it was not told lets the other side speak first, for a moment.
* A second dial on a 4-tuple in use gives EADDRNOTAVAIL: the other one is on its way, the accept is to be awaited.
* The peer may be told to dial sooner than we are: its SYN then reaches our listener before our own dial. So what comes
  from the peer's addresses is taken up from the moment they are known, not from our first SYN on.
* QUIC repeats its first packet after 0.2 s, 0.6 s, 1.4 s …; one of them meets an open NAT however early the first was.
* A NAT that maps by destination shows the responder at a port that nobody has told the initiator: it is the one its
  datagrams come from. If ours lets them in, the dial has to go there (what ICE calls a peer-reflexive candidate).
* In QUIC the roles need no agreement: who dialled is the client. go, on its last attempt, has both sides dial: so a
  connection that arrives while we dial ourselves is as good.
* go and rust do not look where knocks come from: behind a NAT that maps by destination, a responder that only knocks is
  never found by them, though their NAT may let it in. So it dials too, once knocking has had its time.
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
from node.net.stream import Unreadable
from node.net.transport import Handshake
from node.net.upgrade import Role
from node.wire import multistream
from node.wire.framing import encode_frame

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

    from node.names.multiaddr import Multiaddr
    from node.names.peerid import PeerId
    from node.net.connection import Connection
    from node.net.tasks import Tasks
    from node.net.transport import Carried

logger = logging.getLogger(__name__)

RETRY = 0.02
"""Seconds to the next dial of an address that refused, give or take half: in step, two sides would miss each other."""
TRIES = 100
"""Dials of one address in one punch: two seconds of refusals, and no flood for whoever lives there."""
ADDRESSES = 20
"""Addresses of one punch: what a peer lists must not make us a port scanner."""
REFLEXIVE = 4
"""Addresses that a punch takes up because datagrams come from there."""
ARRIVALS = 8
"""Inbound connections one punch takes up."""
KNOCKS = (0.01, 0.2)
"""Seconds between two datagrams of a responder, from and to, as the specification has it."""
KNOCK_SIZES = (32, 96)
"""Their bytes, from and to."""
KNOCKS_FOR = 1.5
"""Seconds after which a responder dials instead: by then the third packet of a dial that knocks let in has come."""
PUNCHES = 32
"""Punches under way at a time."""
FIRST_WORD = 0.2
"""Seconds that an initiator gives a stranger's port to propose: who begins does so as soon as it is connected."""
PATIENCE = 1.0 + FIRST_WORD
"""Seconds that a responder gives the other side to propose: its first bytes are under way a round trip, and may be late
by as long as it was unsure itself."""
GREETING = len(encode_frame(multistream.PROTOCOL.encode() + b"\n"))
"""Bytes that a side which responds may send unasked."""

DialOnce = Callable[["Multiaddr"], Awaitable["Carried"]]
Knock = Callable[["Multiaddr", bytes], bool]
"""Sends a datagram from the listen port; False where the transport of the address is none for that."""
UpgradePunched = Callable[["Carried", "PeerId", Role, bool], Awaitable["Connection"]]
"""With our role in the punch, and whether the other side may think that it has the same."""


class Punch:
    """One punch under way."""

    def __init__(
        self,
        peer: PeerId,
        addrs: Sequence[Multiaddr],
        role: Role,
        dial: DialOnce,
        knock: Knock,
        upgrade: UpgradePunched,
        tasks: Tasks,
    ) -> None:
        self._peer = peer
        self._addrs = list(dict.fromkeys(addrs))[:ADDRESSES]
        self._role = role
        self._dial = dial
        self._knock = knock
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

    def offer(self, carried: Carried) -> bool:
        """Take up an inbound connection; False when the punch has enough of them."""
        if self._won.done() or self._arrivals >= ARRIVALS:
            return False
        self._arrivals += 1
        self._begin_upgrade(carried, dialled=False)
        return True

    def knocked(self, addr: Multiaddr) -> None:
        """A datagram that means nothing came from `addr`, whose IP address is one of ours: the peer may be there."""
        reflexive = self._running and self._role is Role.INITIATOR and not self._won.done()
        if reflexive and addr not in self._addrs and len(self._addrs) < ADDRESSES + REFLEXIVE:
            self._addrs.append(addr)
            self._dials.add(asyncio.create_task(self._pursue(addr), name=f"punch to {addr}"))

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
        if self._role is Role.RESPONDER and self._knock(addr, _nothing()):
            await self._keep_knocking(addr)
        for _ in range(TRIES):
            try:
                upgraded = self._begin_upgrade(await self._dial(addr), dialled=True)
                await asyncio.wait({upgraded})
            except (NodeError, OSError) as error:
                self._last[addr] = error
                logger.debug("punch to %s: %s", addr, error)
            await asyncio.sleep(random.uniform(0.5, 1.5) * RETRY)

    async def _keep_knocking(self, addr: Multiaddr) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + KNOCKS_FOR
        while loop.time() < until:
            await asyncio.sleep(random.uniform(*KNOCKS))
            self._knock(addr, _nothing())

    def _begin_upgrade(self, carried: Carried, *, dialled: bool) -> asyncio.Task[None]:
        task = self._tasks.spawn(self._prove(carried, dialled), f"upgrade of a punched {carried.remote}")
        self._upgrades.add(task)
        task.add_done_callback(self._upgrades.discard)
        # A task that is cancelled before its first step runs nothing that could close the connection.
        task.add_done_callback(lambda done: carried.abort() if done.cancelled() else None)
        return task

    async def _prove(self, carried: Carried, dialled: bool) -> None:
        # Each side knows of the punch, unless we have reached a plain listener, or a plain dial has reached ours.
        unsure = dialled if self._role is Role.RESPONDER else not (dialled or carried.remote in self._addrs)
        try:
            connection = await self._upgrade(carried, self._peer, self._role, unsure)
        except (NodeError, OSError) as error:
            carried.abort()
            self._last[carried.remote] = error
            logger.debug("punched %s is of no use: %s", carried.remote, error)
            return
        if connection.peer != self._peer:
            return
        if not self._won.done():
            self._won.set_result(connection)
        elif self._role is Role.INITIATOR and self._won.result() is not connection:
            await connection.close("another hole was the first")

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


async def begins(carried: Carried, role: Role, *, unsure: bool, private: bool) -> bool:
    """Whether the handshakes of a punched connection are ours to begin; `private`: in a private network.

    Where we are unsure whether the other side has the other role, it is whoever proposes first; reads nothing for good.
    Raises ConnectionClosed.
    """
    if isinstance(carried, Handshake):
        return carried.dialled
    if not unsure or not isinstance(carried, Unreadable):
        return role is Role.INITIATOR
    unasked, said = GREETING, b""
    if private:
        from node.wire.psk import NONCE

        unasked += NONCE
    try:
        async with asyncio.timeout(PATIENCE if role is Role.RESPONDER else FIRST_WORD):
            while len(said) <= unasked and (data := await carried.read()):
                said += data
    except TimeoutError:
        return True
    finally:
        carried.unread(said)
    return False


def _nothing() -> bytes:
    """Bytes that no QUIC packet begins with: the fixed bit is not set, RFC 9000 §17."""
    data = random.randbytes(random.randint(*KNOCK_SIZES))
    return bytes((data[0] & 0x3F,)) + data[1:]


class Punches:
    """The punches under way or expected, by the IP addresses they expect."""

    def __init__(self) -> None:
        self._expected: dict[IPv4Address | IPv6Address, list[Punch]] = {}
        self._count = 0

    def offer(self, carried: Carried) -> bool:
        """Give an inbound connection to the punch that expects its IP address; False when there is none."""
        ip = carried.remote.ip
        return ip is not None and any(punch.offer(carried) for punch in self._expected.get(ip, ()))

    def knocked(self, ip: IPv4Address | IPv6Address, addr: Callable[[], Multiaddr]) -> None:
        """Tell the punches that expect it of a datagram that means nothing."""
        for punch in self._expected.get(ip, ()):
            punch.knocked(addr())

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
