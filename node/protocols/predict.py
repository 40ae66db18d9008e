"""Port prediction over a relayed connection: measures, agrees with the peer, writes, and dials where something came in.

What each side does is decided by `node.logic.prediction`; the messages are in `node.wire.predict`. The side that was
dialled through the relay begins, before DCUtR does, and only if the peer's identify lists the protocol. Whatever comes
of it, DCUtR goes on: it finds the connection direct, or tries its own way.

Facts: a NAT that counts does so for all its hosts, so what was measured is old after a moment: sockets are opened
before, and nothing but one message each way lies between the answers of the STUN server and the first datagram. The
side that fans dials, since the peer cannot tell which socket it hit; so a sweep needs nothing but the listen socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

from node.errors import ConfigError, LimitExceeded, NodeError, RemoteProtocolError, StreamClosed
from node.events import Direction, Path, Prediction, PredictionStep
from node.logic.addresses import is_public_ip
from node.logic.nat import Mapping, NatKind
from node.logic.prediction import (
    ATTEMPTS,
    FRESH_SOCKETS,
    PAUSE,
    Budget,
    NoPlan,
    Part,
    Plan,
    Sample,
    Way,
    Ways,
    allocation_of,
    due,
    is_open,
    plan,
)
from node.logic.transports import QUIC, kind_of
from node.names.multiaddr import Multiaddr
from node.net.quic.fan import Fan, probe
from node.net.quic.transport import QuicTransport
from node.net.stream import read_frame, write_frame
from node.protocols.stun import fresh_mappings
from node.protocols.witness import seen_by_relay
from node.wire.predict import MAX_MESSAGE, PROTOCOL, TOKEN_SIZE, WINDOW, Allocation, Go, Offer, decode

if TYPE_CHECKING:
    from node.logic.gating import Gater
    from node.net.connection import Connection, Stream
    from node.protocols.api import HostApi, Unsubscribe
    from node.wire.stun import Endpoint

logger = logging.getLogger(__name__)

EXCHANGE = 10.0
"""Seconds for the messages of one exchange, measuring included."""
MEASURE = 3.0
"""Seconds for the STUN server's answers."""
AT_ONCE = 4
"""Predictions under way at a time; a further one is not begun."""
TICK = 0.01
"""Seconds between two looks at what is due."""
BURST = 16
"""Datagrams at once, however late we are."""
NOWHERE = IPv4Address(0)
_ENDS = (PredictionStep.SUCCEEDED, PredictionStep.FAILED)

Kind = Callable[[], Awaitable[NatKind]]
"""Tells what our NAT is like, after measuring if that was not done yet."""
Send = Callable[[int, bytes], None]
"""Sends the datagram of that number."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What is done, and with whose help."""

    ways: Ways
    stun: tuple[Endpoint, ...] = ()
    """Servers whose answers show which ports come next."""
    allow_private: bool = False
    """Write to private addresses too: for networks without a public side."""


class Predictor:
    """Begins and answers predictions on the relayed connections of a host."""

    def __init__(self, host: HostApi, kind: Kind, gater: Gater, policy: Policy) -> None:
        self._host = host
        self._kind = kind
        self._gater = gater
        self._policy = policy
        self._budget = Budget()
        self._under_way = 0
        self._answered: dict[Connection, int] = {}  # bounded by the relayed connections that are open
        self._unsubscribe: Unsubscribe | None = None

    async def start(self) -> None:
        """Answer from now on; `ahead` begins."""
        self._unsubscribe = self._host.swarm.on_disconnected(self._disconnected)
        self._host.handle(PROTOCOL, self._serve, limited=True)

    async def close(self) -> None:
        """Answer no more."""
        self._host.unhandle(PROTOCOL)
        if self._unsubscribe is not None:
            self._unsubscribe()

    def _disconnected(self, connection: Connection, _why: str) -> None:
        self._answered.pop(connection, None)

    # ── the side that begins ─────────────────────────────────────────────────────────────────────────────────────

    async def ahead(self, connection: Connection) -> None:
        """Try what DCUtR cannot, if the peer does so too; afterwards there may be a direct connection."""
        if PROTOCOL not in self._host.protocols_of(connection.peer):
            return
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with self._room():
                    ended = await self._open(_Trial(self._host, connection, attempt, opens=True))
            except (NodeError, TimeoutError) as error:
                logger.info("no prediction with %s: %r", connection.peer, error)
                return
            if ended:
                return

    async def _open(self, trial: _Trial) -> bool:
        """One exchange and what follows from it; whether another one would be in vain."""
        async with self._prepared(trial):
            async with asyncio.timeout(EXCHANGE):
                stream = await trial.connection.new_stream([PROTOCOL], limited=True)
                try:
                    await write_frame(stream, trial.own.to_bytes())
                    theirs = await _read_offer(stream)
                    agreed = await self._agree(trial, theirs)
                    if isinstance(agreed, Plan):
                        await write_frame(stream, Go().to_bytes())
                    await stream.close()
                except BaseException:
                    stream.reset()
                    raise
            if isinstance(agreed, NoPlan):
                trial.tell(PredictionStep.SKIPPED, why=agreed.why)
                return True
            return await trial.run(agreed, theirs.token)

    # ── the side that answers ────────────────────────────────────────────────────────────────────────────────────

    async def _serve(self, stream: Stream) -> None:
        connection = stream.connection
        if connection.path is not Path.RELAYED or connection.direction is not Direction.OUTBOUND:
            raise RemoteProtocolError(f"{stream.peer} must not begin a prediction on {connection!r}")
        attempt = self._answered.get(connection, 0) + 1
        if attempt > ATTEMPTS:
            raise RemoteProtocolError(f"{stream.peer} wants a prediction for the {attempt}th time")
        self._answered[connection] = attempt
        with self._room():
            await self._answer(_Trial(self._host, connection, attempt, opens=False), stream)

    async def _answer(self, trial: _Trial, stream: Stream) -> None:
        async with asyncio.timeout(EXCHANGE):
            theirs = await _read_offer(stream)
        async with self._prepared(trial):
            async with asyncio.timeout(EXCHANGE):
                agreed = await self._agree(trial, theirs)
                if isinstance(agreed, NoPlan):
                    trial.refuse()
                await write_frame(stream, trial.own.to_bytes())
                if isinstance(agreed, NoPlan):
                    trial.tell(PredictionStep.SKIPPED, why=agreed.why)
                    return
                try:
                    message = decode(await read_frame(stream, MAX_MESSAGE))
                except StreamClosed:
                    trial.tell(PredictionStep.SKIPPED, why="the peer does not go on")
                    return
                if not isinstance(message, Go):
                    raise RemoteProtocolError(f"{stream.peer} offers a second time")
                await stream.close()
            await trial.run(agreed, theirs.token)

    # ── both ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @contextlib.contextmanager
    def _room(self) -> Iterator[None]:
        if self._under_way >= AT_ONCE:
            raise LimitExceeded(f"{AT_ONCE} predictions are under way already")
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    async def _agree(self, trial: _Trial, theirs: Offer) -> Plan | NoPlan:
        """What we do, if the peer's address is one that we may write to so often."""
        chance = random.SystemRandom()
        agreed = plan(trial.own, theirs, opens=trial.opens, draw=chance.sample)
        if isinstance(agreed, NoPlan):
            return agreed
        if not (self._policy.allow_private or is_public_ip(agreed.ip)):
            return NoPlan(f"{agreed.ip} is not public")
        if not self._gater.allows(Multiaddr.quic(agreed.ip, agreed.ports[0]), inbound=False):
            return NoPlan(f"{agreed.ip} is denied by the address filter")
        if agreed.way is Way.SPRAY:
            if not await seen_by_relay(self._host, trial.connection, agreed.ip):
                return NoPlan(f"no relay says that it sees the peer at {agreed.ip}")
            if not self._budget.take(agreed.ip, self._host.now()):
                return NoPlan(f"enough has been sent to {agreed.ip} lately")
        return agreed

    @contextlib.asynccontextmanager
    async def _prepared(self, trial: _Trial) -> AsyncIterator[None]:
        """Within the block the trial knows what we offer, and the sockets for it are open."""
        trial.tell(PredictionStep.STARTED)
        try:
            await self._offer(trial)
            yield
        except (NodeError, TimeoutError) as error:  # of the exchange: what comes after it is told by `run`
            trial.tell(PredictionStep.SKIPPED, why=str(error) or f"no answer in {EXCHANGE:g} s")
            raise
        finally:
            if trial.fan is not None:
                trial.fan.close()

    async def _offer(self, trial: _Trial) -> None:
        """Measure and fill in what the trial offers."""
        spray, token = self._policy.ways is Ways.SPRAY, secrets.token_bytes(TOKEN_SIZE)
        trial.own = Offer(Allocation.UNKNOWN, NOWHERE, spray=spray, token=token)
        listening = trial.source
        if listening is None:
            return
        kind = await self._kind()
        seen = next((addr for addr in self._host.observed_addrs() if _like(addr, listening)), None)
        if kind.mapping in (Mapping.NONE, Mapping.ENDPOINT_INDEPENDENT):
            if seen is not None and isinstance(seen.ip, IPv4Address) and seen.port:
                trial.own = Offer(Allocation.KNOWN, seen.ip, (seen.port,), is_open(kind), spray, token)
            return
        trial.fan = Fan(WINDOW, token)
        fresh = await self._fresh()
        samples = [Sample(local.port, external.port) for local, external in fresh]
        allocation, ports = allocation_of(kind, samples, trial.fan.ports)
        ip = fresh[0][1].ip if fresh else None if seen is None else seen.ip
        if isinstance(ip, IPv4Address):
            trial.own = Offer(allocation, ip, ports, spray=spray, token=token)

    async def _fresh(self) -> list[tuple[Endpoint, Endpoint]]:
        for server in self._policy.stun:
            try:
                return await fresh_mappings(server, FRESH_SOCKETS, self._host.now, timeout=MEASURE)
            except NodeError as error:
                logger.info("which ports come next: %s", error)
        return []


class _Trial:
    """One exchange with one peer: what we offer, our sockets, and what is written and comes of it."""

    def __init__(self, host: HostApi, connection: Connection, attempt: int, *, opens: bool) -> None:
        self._host = host
        self.connection = connection
        self.opens = opens
        self.own: Offer
        """What we offer, once it is measured."""
        self.fan: Fan | None = None
        self.source = next(filter(_is_quic, self._host.swarm.listen_addrs()), None)
        self._attempt = attempt
        self._sent = 0
        self._began = self._host.now()

    def refuse(self) -> None:
        """Offer nothing, so that the peer comes to the same end."""
        self.own = Offer(Allocation.UNKNOWN, NOWHERE, token=self.own.token)

    def tell(self, stage: PredictionStep, agreed: Plan | None = None, why: str | None = None) -> None:
        """Emit an event."""
        ended = stage in _ENDS
        self._host.emit(
            Prediction(
                stage,
                self.connection.peer,
                self._attempt,
                None if agreed is None else agreed.way.value,
                None if agreed is None else agreed.part.value,
                None if agreed is None or agreed.part is Part.SWEEP else agreed.sockets,
                None if agreed is None or agreed.part is Part.FAN else len(agreed.ports),
                None if agreed is None else agreed.expected,
                self._sent if ended else None,
                self._host.now() - self._began if ended else None,
                why,
            )
        )

    async def run(self, agreed: Plan, token: bytes) -> bool:
        """Write as planned until there is a direct connection or no time left; return whether there is one."""
        self.tell(PredictionStep.WRITING, agreed)
        direct: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        unsubscribe = self._host.swarm.on_connected(lambda made: _note(direct, made, self.connection))
        try:
            if self._host.swarm.direct(self.connection.peer) is not None:
                direct.set_result(None)
            send, count = self._by_fan(agreed) if agreed.part is Part.FAN else self._by_listener(agreed)
            async with asyncio.timeout(agreed.seconds):
                await self._until(direct, agreed, self._write(agreed, send, count, token))
        except (TimeoutError, ConfigError) as error:
            why = "no hole in time" if isinstance(error, TimeoutError) else str(error)
            self.tell(PredictionStep.FAILED, agreed, why)
            return False
        finally:
            unsubscribe()
        self.tell(PredictionStep.SUCCEEDED, agreed)
        return True

    async def _until(self, direct: asyncio.Future[None], agreed: Plan, writing: Coroutine[Any, Any, None]) -> None:
        """Do our part beside waiting for the connection, whichever way it comes about."""
        work = [asyncio.create_task(writing, name=f"prediction for {self.connection.peer}")]
        if agreed.part is Part.FAN:
            work.append(asyncio.create_task(self._dial_hits(agreed), name=f"dials to {self.connection.peer}"))
        try:
            while not direct.done():
                done, _ = await asyncio.wait([direct, *work], return_when=asyncio.FIRST_COMPLETED)
                for task in done & set(work):
                    work.remove(task)  # type: ignore[arg-type]
                    task.result()
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)

    async def _write(self, agreed: Plan, send: Send, count: int, token: bytes) -> None:
        await asyncio.sleep(agreed.delay)
        for _ in range(agreed.rounds):
            began, out = self._host.now(), 0
            while out < count:
                until = due(self._host.now() - began, agreed.rate, count)
                for index in range(out, min(until, out + BURST)):
                    send(index, probe(token))
                    self._sent += 1
                    out = index + 1
                await asyncio.sleep(TICK)
            await asyncio.sleep(max(0.0, PAUSE - (self._host.now() - began)))

    def _by_fan(self, agreed: Plan) -> tuple[Send, int]:
        """What sends from each socket, and how many there are."""
        if agreed.way is Way.SPRAY:
            self.fan, narrow = Fan(agreed.sockets, self.own.token), self.fan
            if narrow is not None:
                narrow.close()
        fan, to = self.fan, (str(agreed.ip), agreed.ports[0])
        assert fan is not None
        return lambda index, data: fan.send(index, data, to), len(fan)

    def _by_listener(self, agreed: Plan) -> tuple[Send, int]:
        """What sends to each port, and how many there are."""
        source = self.source
        assert source is not None
        transport = self._transport(source)
        addrs = [Multiaddr.quic(agreed.ip, port) for port in agreed.ports]
        return lambda index, data: transport.knock(addrs[index], source, data), len(addrs)

    async def _dial_hits(self, agreed: Plan) -> None:
        """Dial from each socket that is hit; the first connection that proves to be the peer's ends the trial."""
        assert self.source is not None
        assert self.fan is not None
        transport = self._transport(self.source)
        while True:
            socket, sender = await self.fan.hit()
            if sender[0] != str(agreed.ip):
                socket.close()
                continue
            carried = transport.dial_from(socket, sender)
            try:
                await self._host.swarm.add_outbound(carried, expected=self.connection.peer, path=Path.DIRECT)
            except NodeError as error:
                logger.info("what %s hit is of no use: %s", self.connection.peer, error)

    def _transport(self, source: Multiaddr) -> QuicTransport:
        transport = self._host.swarm.transport(source)
        assert isinstance(transport, QuicTransport)
        return transport


def _is_quic(addr: Multiaddr) -> bool:
    return kind_of(addr) is QUIC and isinstance(addr.ip, IPv4Address)


def _like(addr: Multiaddr, listening: Multiaddr) -> bool:
    return addr.names == listening.names


def _note(direct: asyncio.Future[None], made: Connection, relayed: Connection) -> None:
    if made.peer == relayed.peer and made.path is Path.DIRECT and not direct.done():
        direct.set_result(None)


async def _read_offer(stream: Stream) -> Offer:
    message = decode(await read_frame(stream, MAX_MESSAGE))
    if not isinstance(message, Offer):
        raise RemoteProtocolError(f"{stream.peer} says go before it has offered anything")
    return message
