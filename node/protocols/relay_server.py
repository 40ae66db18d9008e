"""Circuit relay v2, the relay: gives slots to peers behind NATs and splices the streams of those who dial them.

Spec: https://github.com/libp2p/specs/blob/master/relay/circuit-v2.md

    A ── HOP CONNECT(B) ─► R                      B has a slot at R (HOP RESERVE)
                           R ── STOP CONNECT(A, limit) ─► B
                           R ◄─ STOP STATUS OK ────────── B
    A ◄─ HOP STATUS OK(limit) ── R
    A ◄════════ bytes, counted each way, both streams reset at the limit ════════► B

Facts: a status is answered wherever the message could be read at all, so that the other side knows why; both protocols
are served on relayed connections too, only to refuse there. Who may, and how much, is `node.logic.relay`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from node.errors import NodeError, RelayError, RemoteProtocolError
from node.events import Circuit, CircuitStep, Path
from node.logic.addresses import is_public
from node.logic.relay import CircuitEnds, Meter, RelayLimits, Slots
from node.net.stream import read_frame, write_frame
from node.wire.relay import (
    HOP_PROTOCOL,
    MAX_MESSAGE,
    STOP_PROTOCOL,
    HopMessage,
    HopType,
    Limit,
    RelayPeer,
    Reservation,
    Status,
    StopMessage,
    StopType,
    Voucher,
)

if TYPE_CHECKING:
    from node.names.multiaddr import Multiaddr
    from node.names.peerid import PeerId
    from node.net.connection import Connection, Stream
    from node.protocols.api import HostApi, Unsubscribe

logger = logging.getLogger(__name__)

_CHUNK = 64 * 1024


@dataclass(frozen=True, slots=True)
class RelayTimeouts:
    """Seconds a relay waits for others, as in go."""

    message: float = 60.0
    """For the first message on a HOP stream."""
    connect: float = 30.0
    """For the target to accept a circuit."""


class RelayServer:
    """Serves HOP; slots are freed when their peer disconnects."""

    def __init__(
        self,
        host: HostApi,
        limits: RelayLimits | None = None,
        timeouts: RelayTimeouts | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._host = host
        self._wall = wall
        self._timeouts = timeouts or RelayTimeouts()
        self._unsubscribe: list[Unsubscribe] = []
        self._asking: dict[asyncio.Event, PeerId] = {}  # whom we ask to take a circuit; bounded by the circuits
        self.slots = Slots(limits or RelayLimits())

    async def start(self) -> None:
        """Serve HOP from now on."""
        swarm = self._host.swarm
        self._unsubscribe = [swarm.on_connected(self._connected), swarm.on_disconnected(self._disconnected)]
        self._host.handle(HOP_PROTOCOL, self._serve, limited=True)

    async def close(self) -> None:
        """Serve it no more; circuits end with their connections."""
        self._host.unhandle(HOP_PROTOCOL)
        for unsubscribe in self._unsubscribe:
            unsubscribe()

    def _connected(self, connection: Connection) -> None:
        if connection.path is Path.DIRECT:
            for came, target in self._asking.items():
                if target == connection.peer:
                    came.set()

    def _disconnected(self, connection: Connection, _why: str) -> None:
        if self._host.swarm.direct(connection.peer) is None:
            self.slots.leave(connection.peer)

    def _newest_direct(self, peer: PeerId) -> Connection | None:
        """By the newest a target is reached that has changed its network; the older ones may not have noticed yet."""
        direct = [each for each in self._host.swarm.by_preference(peer) if each.path is Path.DIRECT]
        return max(direct, key=lambda each: each.opened_at, default=None)

    async def _serve(self, stream: Stream) -> None:
        try:
            async with asyncio.timeout(self._timeouts.message):
                message = HopMessage.from_bytes(await read_frame(stream, MAX_MESSAGE))
        except RemoteProtocolError as error:
            logger.info("%s sent a malformed HOP message: %s", stream.peer, error)
            await _answer(stream, Status.MALFORMED_MESSAGE)
            return
        match message.type:
            case HopType.RESERVE:
                await self._reserve(stream)
            case HopType.CONNECT:
                await self._connect(stream, message)
            case HopType.STATUS:
                await _answer(stream, Status.UNEXPECTED_MESSAGE)

    async def _reserve(self, stream: Stream) -> None:
        connection = stream.connection
        relayed = connection.path is Path.RELAYED
        slot = self.slots.reserve(stream.peer, connection.remote.ip, relayed=relayed, now=self._host.now())
        if isinstance(slot, Status):
            await _answer(stream, slot)
            return
        if connection.is_closed:
            self.slots.leave(stream.peer)
            return
        expire = int(self._wall() + self.slots.limits.ttl)
        voucher = Voucher(relay=self._host.peer_id, peer=stream.peer, expiration=expire)
        reservation = Reservation(expire=expire, addrs=self._addrs(), voucher=voucher.seal(self._host.key))
        await _answer(stream, Status.OK, reservation=reservation, limit=self.slots.limits.limit)

    def _addrs(self) -> tuple[Multiaddr, ...]:
        """What a peer may put before `/p2p-circuit`; without a public address all, for networks that have none."""
        own = [addr for addr in self._host.addrs() if not addr.is_relayed]
        public = [addr for addr in own if is_public(addr)]
        return tuple(addr.with_peer(self._host.peer_id) for addr in public or own)

    async def _connect(self, stream: Stream, message: HopMessage) -> None:
        if message.peer is None:
            await _answer(stream, Status.MALFORMED_MESSAGE)
            return
        target = message.peer.peer_id
        relayed = stream.connection.path is Path.RELAYED
        circuit = self.slots.connect(stream.peer, target, relayed=relayed, now=self._host.now())
        if isinstance(circuit, Status):
            await _answer(stream, circuit)
            return
        try:
            await self._open(stream, circuit)
        finally:
            self.slots.disconnect(circuit)

    async def _open(self, stream: Stream, circuit: CircuitEnds) -> None:
        limit = self.slots.limits.limit
        try:
            async with asyncio.timeout(self._timeouts.connect):
                onward = await self._stop(circuit, limit)
        except (NodeError, TimeoutError) as error:
            logger.info("no circuit from %s to %s: %r", circuit.source, circuit.target, error)
            await _answer(stream, Status.CONNECTION_FAILED)
            return
        splice = Splice(stream, onward, limit)
        self._host.emit(Circuit(CircuitStep.OPENED, circuit.source, circuit.target))
        try:
            await _answer(stream, Status.OK, limit=limit)
            await splice.run()
            await onward.close()
        except BaseException:
            onward.reset()
            raise
        finally:
            why = splice.why or "ended with the relay's connection"
            up, down = splice.up.passed, splice.down.passed
            self._host.emit(Circuit(CircuitStep.CLOSED, circuit.source, circuit.target, up, down, why))

    async def _stop(self, circuit: CircuitEnds, limit: Limit | None) -> Stream:
        """Ask the target to take the circuit; RelayError when it does not.

        If it comes by another connection before it has answered, it is asked by that one: it may have lost the other.
        """
        came = asyncio.Event()
        self._asking[came] = circuit.target
        try:
            while (connection := self._newest_direct(circuit.target)) is not None:
                came.clear()
                if (stream := await self._ask_until(came, connection, circuit, limit)) is not None:
                    return stream
        finally:
            del self._asking[came]
        raise RelayError(Status.CONNECTION_FAILED.name, f"no connection to {circuit.target}")

    async def _ask_until(
        self, came: asyncio.Event, connection: Connection, circuit: CircuitEnds, limit: Limit | None
    ) -> Stream | None:
        """None: the target came by another connection meanwhile."""
        asking = asyncio.create_task(self._ask(connection, circuit, limit), name=f"circuit to {circuit.target}")
        coming = asyncio.create_task(came.wait(), name=f"{circuit.target} comes again")
        stream: Stream | None = None
        try:
            await asyncio.wait({asking, coming}, return_when=asyncio.FIRST_COMPLETED)
            if asking.done():
                stream = asking.result()
            return stream
        finally:
            coming.cancel()
            asking.cancel()
            _, left = await asyncio.gather(coming, asking, return_exceptions=True)
            if stream is None and not isinstance(left, BaseException):
                left.reset()

    async def _ask(self, connection: Connection, circuit: CircuitEnds, limit: Limit | None) -> Stream:
        stream = await connection.new_stream([STOP_PROTOCOL])
        try:
            request = StopMessage(StopType.CONNECT, peer=RelayPeer(circuit.source), limit=limit)
            await write_frame(stream, request.to_bytes())
            answer = StopMessage.from_bytes(await read_frame(stream, MAX_MESSAGE))
            if answer.type is not StopType.STATUS or answer.status is not Status.OK:
                status = answer.status or Status.UNEXPECTED_MESSAGE
                raise RelayError(status.name, f"{circuit.target} does not take the circuit")
        except BaseException:
            stream.reset()
            raise
        return stream


class Splice:
    """Two streams made one: what comes in at either side goes out at the other, until both end or the limit does."""

    def __init__(self, source: Stream, target: Stream, limit: Limit | None) -> None:
        data = limit.data if limit is not None else None
        self._source = source
        self._target = target
        self._duration = limit.duration if limit is not None else None
        self.up = Meter(data)
        self.down = Meter(data)
        self.why: str | None = None
        """Why it ended, None as long as it has not."""

    async def run(self) -> None:
        """Carry bytes; returns when both directions ended or both streams were reset."""
        try:
            async with asyncio.timeout(self._duration), asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(self._source, self._target, self.up))
                pumps.create_task(self._pump(self._target, self._source, self.down))
        except TimeoutError:
            self._break(f"limit of {self._duration} s reached")
        if self.why is None:
            self.why = "closed by its ends"

    async def _pump(self, source: Stream, target: Stream, meter: Meter) -> None:
        try:
            while data := await source.read(_CHUNK):
                allowed = meter.take(len(data))
                await target.write(memoryview(data)[:allowed])
                if allowed < len(data):
                    self._break(f"limit of {meter.passed} bytes reached")
                    return
            await target.close_write()
        except NodeError as error:
            self._break(str(error))

    def _break(self, why: str) -> None:
        """Reset both streams; the first reason is the one that counts."""
        if self.why is None:
            self.why = why
        self._source.reset()
        self._target.reset()


async def _answer(
    stream: Stream, status: Status, reservation: Reservation | None = None, limit: Limit | None = None
) -> None:
    answer = HopMessage(HopType.STATUS, reservation=reservation, limit=limit, status=status)
    await write_frame(stream, answer.to_bytes())
