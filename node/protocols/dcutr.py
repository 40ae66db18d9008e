"""DCUtR: makes a relayed connection direct, by doing what the machines of `node.logic.dcutr` say.

Spec: https://github.com/libp2p/specs/blob/master/relay/DCUtR.md

The side that was dialled through a relay begins, once identify has ended; the other side serves /libp2p/dcutr, or will
when it knows where it can be reached: its identify push then has us begin, or begin again. After a success new streams
prefer the direct connection by themselves, and the relayed one is closed after a grace, by whichever side comes first.

Facts: a stream on a connection that is not relayed, or from the side that dialled, is reset (go does the same): a
peer must not make us punch for a connection it already has, nor both sides take the same role. An opener that lost
patience sooner than we may begin the next exchange while we still dial; the new one then ends the old.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, TypeVar

from node.errors import LocalProtocolError, NegotiationError, NodeError, RemoteProtocolError
from node.events import Direction, Identified, Path, PunchStage
from node.logic.dcutr import (
    EXCHANGES,
    INITIATOR,
    Action,
    Answerer,
    AwaitService,
    CloseStream,
    DialDirect,
    Expect,
    Finish,
    Opener,
    OpenStream,
    Punch,
    PunchPolicy,
    Receive,
    Send,
    Wait,
    offered,
)
from node.net.stream import read_frame, write_frame
from node.net.tasks import Tasks
from node.net.upgrade import Role
from node.protocols.ping import PROTOCOL as PING
from node.wire.dcutr import MAX_MESSAGE, PROTOCOL, HolePunch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from node.events import Event
    from node.names.multiaddr import Multiaddr
    from node.names.peerid import PeerId
    from node.net.connection import Connection, Stream
    from node.protocols.api import HostApi, Unsubscribe

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")

UPGRADES = 64
"""Relayed connections that we work on at a time; others stay relayed."""
BEGINNINGS = 3
"""Times that we begin on one relayed connection, if its peer comes to serve the protocol only after we gave up."""
RETIRING = 30.0
"""Seconds that streams on a relayed connection may outlast the grace: a stream that nobody ends must not keep it."""
RETIRING_LOOK = 0.1


class Dcutr:
    """Begins and answers hole punching for the relayed connections of a host."""

    def __init__(self, host: HostApi, policy: PunchPolicy | None = None) -> None:
        self._host = host
        self._policy = policy or PunchPolicy()
        self.ahead: Callable[[Connection], Awaitable[None]] | None = None
        """Awaited before the first exchange that we begin: other ways to a direct connection."""
        self._tasks = Tasks()
        self._opening: set[PeerId] = set()  # bounded by UPGRADES
        self._unserved: dict[Connection, int] = {}  # given up how often; bounded as `_answered`
        self._answered: dict[Connection, int] = {}  # bounded by the relayed connections that are open
        self._answering: dict[Connection, _Exchange] = {}
        self._unsubscribe: list[Unsubscribe] = []

    async def start(self) -> None:
        """Work on relayed connections from now on."""
        swarm = self._host.swarm
        self._unsubscribe = [
            swarm.on_connected(self._connected),
            swarm.on_disconnected(self._disconnected),
            self._host.subscribe(self._event),
        ]
        self._host.handle(PROTOCOL, self._serve, limited=True)

    async def close(self) -> None:
        """Stop; what is under way is given up."""
        self._host.unhandle(PROTOCOL)
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        await self._tasks.close()

    def _connected(self, connection: Connection) -> None:
        if connection.path is not Path.RELAYED or connection.direction is not Direction.INBOUND:
            return
        self._begin(connection)

    def _event(self, event: Event) -> None:
        """Begin again where we gave up on a peer that has begun to serve the protocol."""
        if isinstance(event, Identified) and PROTOCOL in event.protocols and self._unserved:
            for connection in self._host.swarm.connections(event.peer):
                if self._unserved.get(connection, BEGINNINGS) < BEGINNINGS:
                    self._begin(connection)

    def _begin(self, connection: Connection) -> None:
        if connection.peer in self._opening or len(self._opening) >= UPGRADES:
            return
        self._opening.add(connection.peer)
        self._tasks.spawn(self._open(connection), f"hole punching with {connection.peer}")

    def _disconnected(self, connection: Connection, _why: str) -> None:
        self._answered.pop(connection, None)
        self._unserved.pop(connection, None)

    # ── the side that begins ─────────────────────────────────────────────────────────────────────────────────────

    async def _open(self, connection: Connection) -> None:
        peer = connection.peer
        try:
            await self._host.identified(connection)
            if is_direct(self._host, peer):
                return
            if self.ahead is not None:
                await self.ahead(connection)
            opener = Opener(peer, self._policy)
            known = self._host.addressbook.addrs(peer, self._host.now())
            succeeded = await _Opening(self._host, self._policy, connection, opener).run(opener.begin(known))
            if opener.is_unserved and not connection.is_closed:
                self._unserved[connection] = self._unserved.get(connection, 0) + 1
        finally:
            self._opening.discard(peer)
        if succeeded:
            await self._retire(connection)

    # ── the side that answers ────────────────────────────────────────────────────────────────────────────────────

    async def _serve(self, stream: Stream) -> None:
        connection = stream.connection
        if connection.path is not Path.RELAYED or connection.direction is not Direction.OUTBOUND:
            raise RemoteProtocolError(f"{stream.peer} must not begin hole punching on {connection!r}")
        attempt = self._answered.get(connection, 0) + 1
        if attempt > EXCHANGES:
            raise RemoteProtocolError(f"{stream.peer} wants hole punching for the {attempt}th time")
        self._answered[connection] = attempt
        answerer = Answerer(stream.peer, self._policy, attempt)
        exchange = _Exchange(self._host, self._policy, connection, answerer, stream)
        if (older := self._answering.get(connection)) is not None:
            older.supersede()
        self._answering[connection] = exchange
        try:
            succeeded = await exchange.run(answerer.begin(await own_addrs(self._host, self._policy)))
        finally:
            if self._answering.get(connection) is exchange:
                del self._answering[connection]
        if succeeded:
            self._tasks.spawn(self._retire(connection), f"retiring of {connection!r}")

    async def _retire(self, relayed: Connection) -> None:
        """Close the relayed connection after the grace, or later if streams still use it, but not much later."""
        await asyncio.sleep(self._policy.grace)
        latest = self._host.now() + RETIRING
        # The muxer does not tell when its last stream ends, and nothing depends on the moment. A stream of pings, which
        # rust keeps on each connection, is no use of it.
        while relayed.streams > relayed.serving(PING) and not relayed.is_closed and self._host.now() < latest:  # noqa: ASYNC110
            await asyncio.sleep(RETIRING_LOOK)
        if not relayed.is_closed and is_direct(self._host, relayed.peer):
            await relayed.close("replaced by a direct connection")


class _Exchange:
    """Does what a machine says on one relayed connection and reports what came of it."""

    def __init__(
        self,
        host: HostApi,
        policy: PunchPolicy,
        connection: Connection,
        side: Opener | Answerer,
        stream: Stream | None = None,
    ) -> None:
        self._host = host
        self._policy = policy
        self._connection = connection
        self._side = side
        self._stream = stream
        self._clock = asyncio.get_running_loop().time
        self._deadline = self._clock() + policy.exchange
        self._punching: asyncio.Timeout | None = None
        self._expecting = AsyncExitStack()

    async def run(self, actions: Iterable[Action]) -> bool:
        """Do the actions and those that follow from them; return whether the connection is direct now."""
        async with self._expecting:
            return await self._run(actions)

    async def _run(self, actions: Iterable[Action]) -> bool:
        todo = deque(actions)
        while todo:
            action = todo.popleft()
            if isinstance(action, Finish):
                return action.succeeded
            try:
                todo.extend(await self._do(action))
            except (NodeError, TimeoutError) as error:
                todo.clear()
                todo.extend(self._broken(error))
        return False

    def supersede(self) -> None:
        """The peer has begun another exchange: give this one up."""
        if self._punching is not None:
            self._punching.reschedule(self._clock())
        elif self._stream is not None:
            self._stream.reset()

    async def _do(self, action: Action) -> Iterable[Action]:
        match action:
            case PunchStage():
                self._host.emit(action)
            case Send(message):
                await self._in_time(write_frame(self._open_stream, message.to_bytes()))
            case Receive():
                data = await self._in_time(read_frame(self._open_stream, MAX_MESSAGE))
                return self._side.received(HolePunch.from_bytes(data), self._host.now())
            case CloseStream():
                await self._in_time(self._open_stream.close())
            case Expect(addrs, role):
                await self._expecting.aclose()
                expected = self._host.swarm.expect_punch(self._connection.peer, addrs, _role(role))
                await self._expecting.enter_async_context(expected)
            case Punch():
                return self._side.punched(await self._punch(action))
            case _:
                raise LocalProtocolError(f"{action} is not for this side")
        return ()

    @property
    def _open_stream(self) -> Stream:
        if self._stream is None:
            raise LocalProtocolError("the exchange has no stream yet")
        return self._stream

    async def _in_time(self, work: Awaitable[_Result]) -> _Result:
        async with asyncio.timeout_at(self._deadline):
            return await work

    async def _punch(self, punch: Punch) -> str | None:
        """Dial as told; return why there is no direct connection, None if there is one."""
        peer = self._connection.peer
        try:
            async with asyncio.timeout(None) as self._punching:
                await self._host.swarm.dial_punch(peer, punch.addrs, _role(punch.role), self._clock() + punch.timeout)
        except NodeError as error:
            return None if is_direct(self._host, peer) else str(error)
        except TimeoutError:
            return None if is_direct(self._host, peer) else "the peer began the next exchange"
        finally:
            self._punching = None
        return None

    def _broken(self, error: Exception) -> list[Action]:
        if self._stream is not None:
            self._stream.reset()
        return self._side.broken(str(error) or f"no answer in {self._policy.exchange:g} s")


class _Opening(_Exchange):
    """The exchanges of the side that begins."""

    def __init__(self, host: HostApi, policy: PunchPolicy, connection: Connection, opener: Opener) -> None:
        super().__init__(host, policy, connection, opener)
        self._opener = opener
        self._served = asyncio.Event()

    async def run(self, actions: Iterable[Action]) -> bool:
        """Do the actions, and hear meanwhile whether the peer serves the protocol."""
        unsubscribe = self._host.subscribe(self._event)
        try:
            return await super().run(actions)
        finally:
            unsubscribe()

    def _event(self, event: Event) -> None:
        if isinstance(event, Identified) and event.peer == self._connection.peer and PROTOCOL in event.protocols:
            self._served.set()

    async def _do(self, action: Action) -> Iterable[Action]:
        match action:
            case DialDirect(addrs, timeout):
                return self._opener.dialled(await self._dial(addrs, timeout))
            case OpenStream():
                return await self._open()
            case AwaitService(until):
                return await self._await_service(until)
            case Wait(until):
                await asyncio.sleep(until - self._host.now())
                return self._opener.waited()
            case _:
                return await super()._do(action)

    async def _dial(self, addrs: tuple[Multiaddr, ...], timeout: float) -> str | None:
        try:
            await self._host.swarm.dial(self._connection.peer, addrs, timeout=timeout, force_direct=True)
        except NodeError as error:
            logger.debug("no plain dial of %s: %s", self._connection.peer, error)
            return str(error)
        return None

    async def _open(self) -> Iterable[Action]:
        if is_direct(self._host, self._connection.peer):
            return self._opener.found()
        self._deadline = self._clock() + self._policy.exchange
        own = await own_addrs(self._host, self._policy)
        self._stream = None
        self._served.clear()
        try:
            self._stream = await self._in_time(self._connection.new_stream([PROTOCOL], limited=True))
        except NegotiationError as error:
            return self._opener.unserved(str(error), self._host.now())
        return self._opener.opened(own, self._host.now())

    async def _await_service(self, until: float) -> Iterable[Action]:
        try:
            async with asyncio.timeout(until - self._host.now()):
                await self._served.wait()
        except TimeoutError:
            if not is_direct(self._host, self._connection.peer):
                return self._opener.broken(f"the peer did not come to serve {PROTOCOL}")
        return self._opener.served()


def _role(name: str) -> Role:
    return Role.INITIATOR if name == INITIATOR else Role.RESPONDER


def is_direct(host: HostApi, peer: PeerId) -> bool:
    """Return whether new streams to `peer` go over a direct connection."""
    best = host.swarm.best(peer)
    return best is not None and best.path is Path.DIRECT


async def own_addrs(host: HostApi, policy: PunchPolicy) -> list[Multiaddr]:
    """Return our addresses, those that others observed first; waits for who might yet tell one that can be offered."""
    if not offered(host.observed_addrs() + host.addrs(), policy):
        direct = [connection for connection in host.swarm.connections() if connection.path is Path.DIRECT]
        await asyncio.gather(*(host.identified(connection) for connection in direct))
    return host.observed_addrs() + host.addrs()
