"""Circuit relay v2, the two peers: keeping a slot at relays, being reached through them, and reaching others.

Spec: https://github.com/libp2p/specs/blob/master/relay/circuit-v2.md

    B ── HOP RESERVE ─► R            B is reachable as /…/p2p/R/p2p-circuit/p2p/B until the slot expires
    A ── HOP CONNECT(B) ─► R ── STOP CONNECT(A) ─► B
    A ◄═ multistream-select, noise, yamux over the spliced streams ═► B       A initiates, B responds

Facts: what follows the status message on a stream is the other peer's first negotiation, so messages are read exactly.
A connection whose relay named a limit is `limited`: streams run over it only if their protocol opted in. Vouchers are
checked where there is one; rust's relays send none. Who answers at the far end is proven by the handshake, never
believed of the relay.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from node.errors import (
    DeadlineExceeded,
    LimitExceeded,
    NodeError,
    PeerIdMismatch,
    RelayError,
    RemoteProtocolError,
    SecurityError,
)
from node.events import Path, ReservationLost, Reserved
from node.logic.addressbook import Ttl
from node.logic.relay import renew_at, retry_at, through
from node.names.multiaddr import Multiaddr
from node.net.drive import RelayedRaw
from node.net.stream import read_frame, write_frame
from node.net.tasks import Tasks
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
    from node.names.peerid import PeerId
    from node.net.connection import Connection, Stream
    from node.net.swarm import TransportDial
    from node.protocols.api import HostApi, Unsubscribe

logger = logging.getLogger(__name__)

RELAYS = 16
"""Relays at which we keep a slot."""
REQUEST_TIMEOUT = 30.0
"""Seconds for a relay to answer RESERVE, and for the request on an inbound STOP stream to come."""


@dataclass(frozen=True, slots=True)
class Held:
    """A slot that a relay keeps for us."""

    relay: PeerId
    expire: float
    """Unix seconds."""
    addrs: tuple[Multiaddr, ...]
    """`/…/p2p/<relay>/p2p-circuit`, to be followed by our own id."""
    limit: Limit | None
    voucher: Voucher | None


@dataclass(slots=True)
class _Keeping:
    """The work of keeping one slot."""

    held: Held
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when no connection to the relay is left."""
    task: asyncio.Task[None] | None = None


class RelayClient:
    """Reserves, renews, dials through relays and answers those who dial us through one."""

    def __init__(self, host: HostApi, wall: Callable[[], float] = time.time) -> None:
        self._host = host
        self._wall = wall
        self._keeping: dict[PeerId, _Keeping] = {}  # bounded by RELAYS
        self._tasks = Tasks()
        self._unsubscribe: Unsubscribe | None = None

    async def start(self) -> None:
        """Serve STOP and dial addresses with `/p2p-circuit` from now on."""
        self._unsubscribe = self._host.swarm.on_disconnected(self._disconnected)
        self._host.swarm.add_transport(lambda addr: addr.is_relayed, self._dial)
        self._host.handle(STOP_PROTOCOL, self._serve)

    async def close(self) -> None:
        """Renew no more; relayed connections end with the connections to their relays."""
        self._host.unhandle(STOP_PROTOCOL)
        if self._unsubscribe is not None:
            self._unsubscribe()
        await self._tasks.close()

    # ── a slot at a relay ────────────────────────────────────────────────────────────────────────────────────────

    async def reserve(self, relay: Multiaddr, *, timeout: float = REQUEST_TIMEOUT) -> Held:
        """Get a slot at the relay named by the last `/p2p` of `relay` and keep it until the relay is lost.

        Raises RelayError (its status is the relay's answer), SecurityError for a voucher that is not what it should
        be, or what connecting raises.
        """
        peer = relay.peer_id
        if peer is None or relay.is_relayed:
            raise RemoteProtocolError(f"{relay} does not name a relay that can be reached directly")
        if peer not in self._keeping and len(self._keeping) >= RELAYS:
            raise LimitExceeded(f"slots at {RELAYS} relays are held already")
        try:
            async with asyncio.timeout(timeout):
                connection = await self._connect_relay(relay, peer, timeout)
                held = await self._ask(connection)
        except TimeoutError:
            raise DeadlineExceeded(f"{peer} did not answer RESERVE in {timeout:g} s") from None
        self._keep(held)
        return held

    def release(self, relay: PeerId) -> None:
        """Keep the slot at `relay` no more: it is advertised and renewed no longer, and expires there in its time."""
        keeping = self._keeping.get(relay)
        if keeping is not None and keeping.task is not None:
            keeping.task.cancel()

    @property
    def held(self) -> tuple[Held, ...]:
        """The slots that we hold."""
        return tuple(keeping.held for keeping in self._keeping.values())

    async def _connect_relay(self, relay: Multiaddr, peer: PeerId, timeout: float) -> Connection:
        """Whatever failed before: who wants a slot has a backoff of his own, or was asked by somebody."""
        if (connection := self._host.swarm.direct(peer)) is not None:
            return connection
        address = relay.without("p2p")
        connection = await self._host.swarm.dial(peer, [address], timeout=timeout, force_direct=True)
        if connection.path is not Path.DIRECT:  # as a name may turn out to stand for
            raise RelayError(Status.PERMISSION_DENIED.name, f"{peer} is reached through a relay itself")
        self._host.addressbook.add(peer, [address], Ttl.TOLD, self._host.now())
        return connection

    async def _ask(self, connection: Connection) -> Held:
        stream = await connection.new_stream([HOP_PROTOCOL])
        try:
            answer = await _request(stream, HopMessage(HopType.RESERVE))
            await stream.close()
        except BaseException:
            stream.reset()
            raise
        reservation = answer.reservation
        if reservation is None:
            raise RemoteProtocolError(f"{connection.peer} accepted a reservation without giving one")
        if reservation.expire <= self._wall():
            raise RemoteProtocolError(f"{connection.peer} gave a reservation that has expired")
        addrs = through(connection.peer, reservation.addrs, connection.remote)
        voucher = self._voucher(connection.peer, reservation)
        return Held(connection.peer, float(reservation.expire), addrs, answer.limit, voucher)

    def _voucher(self, relay: PeerId, reservation: Reservation) -> Voucher | None:
        if not reservation.voucher:
            return None
        voucher = Voucher.open(reservation.voucher)
        if (voucher.relay, voucher.peer) != (relay, self._host.peer_id):
            raise SecurityError(f"{relay} sent a voucher of {voucher.relay} for {voucher.peer}")
        return voucher

    def _keep(self, held: Held) -> None:
        """Advertise a new or renewed slot; a new one is kept by a task of its own."""
        keeping = self._keeping.get(held.relay)
        before = keeping.held.addrs if keeping is not None else ()
        if keeping is None:
            keeping = self._keeping[held.relay] = _Keeping(held)
            keeping.task = self._tasks.spawn(self._renew(keeping), f"slot at {held.relay}")
        keeping.held = held
        keeping.lost.clear()
        self._advertise(before, held.addrs)
        self._host.emit(Reserved(held.relay, held.expire, held.addrs))

    def _advertise(self, before: tuple[Multiaddr, ...], after: tuple[Multiaddr, ...]) -> None:
        for addr in set(after).difference(before):
            self._host.add_advertised(addr)
        for addr in set(before).difference(after):
            self._host.remove_advertised(addr)

    async def _renew(self, keeping: _Keeping) -> None:
        why = "not wanted any more"
        try:
            why = await self._renew_until_lost(keeping)
        finally:
            relay = keeping.held.relay
            del self._keeping[relay]
            self._advertise(keeping.held.addrs, ())
            self._host.emit(ReservationLost(relay, why))

    async def _renew_until_lost(self, keeping: _Keeping) -> str:
        at: float | None = renew_at(keeping.held.expire, self._wall())
        why = "expired"
        while at is not None:
            expire = keeping.held.expire
            if await self._is_lost(keeping, at - self._wall()):
                return "the connection to the relay ended"
            if keeping.held.expire == expire:  # else somebody called `reserve` meanwhile
                try:
                    await self._renew_once(keeping)
                except (NodeError, TimeoutError) as error:
                    why = f"not renewed: {str(error) or 'too slow'}"
                    logger.info("slot at %s: %s", keeping.held.relay, why)
                    at = retry_at(expire, self._wall())
                    continue
            at = renew_at(keeping.held.expire, self._wall())
        await self._is_lost(keeping, keeping.held.expire - self._wall())
        return why

    async def _renew_once(self, keeping: _Keeping) -> None:
        connection = self._host.swarm.direct(keeping.held.relay)
        if connection is None:
            raise RelayError(Status.CONNECTION_FAILED.name, "no connection to the relay")
        async with asyncio.timeout(REQUEST_TIMEOUT):
            self._keep(await self._ask(connection))

    async def _is_lost(self, keeping: _Keeping, within: float) -> bool:
        try:
            async with asyncio.timeout(max(0.0, within)):
                await keeping.lost.wait()
        except TimeoutError:
            return False
        return self._host.swarm.direct(keeping.held.relay) is None  # else reserved anew over another connection

    def _disconnected(self, connection: Connection, _why: str) -> None:
        keeping = self._keeping.get(connection.peer)
        if keeping is not None and self._host.swarm.direct(connection.peer) is None:
            keeping.lost.set()

    # ── dialling through a relay ─────────────────────────────────────────────────────────────────────────────────

    async def _dial(self, dial: TransportDial) -> Connection:
        """The transport of the addresses with `/p2p-circuit`."""
        relay = dial.addr.relay_part()
        peer = relay.peer_id
        if peer is None or peer in (self._host.peer_id, dial.peer) or _circuits(dial.addr) > 1:
            raise RelayError(Status.PERMISSION_DENIED.name, f"{dial.addr} is not a path through one other relay")
        try:
            async with asyncio.timeout(dial.timeout):
                connection = await self._connect_relay(relay, peer, dial.timeout)
                return await self._dial_through(connection, dial.peer)
        except TimeoutError:
            raise DeadlineExceeded(f"{peer} did not connect us to {dial.peer} in {dial.timeout:g} s") from None

    async def _dial_through(self, relay: Connection, target: PeerId) -> Connection:
        stream = await relay.new_stream([HOP_PROTOCOL])
        try:
            answer = await _request(stream, HopMessage(HopType.CONNECT, peer=RelayPeer(target)))
            here = _circuit_at(relay)
            raw = RelayedRaw(stream, here, here / f"/p2p/{target}")
            return await self._host.swarm.add_outbound(
                raw, expected=target, path=Path.RELAYED, limited=answer.limit is not None
            )
        except BaseException:
            stream.reset()
            raise

    # ── being dialled through a relay ────────────────────────────────────────────────────────────────────────────

    async def _serve(self, stream: Stream) -> None:
        """Answer STOP CONNECT and hold the stream until the connection over it ends."""
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT):
                request = StopMessage.from_bytes(await read_frame(stream, MAX_MESSAGE))
        except RemoteProtocolError as error:
            logger.info("%s sent a malformed STOP message: %s", stream.peer, error)
            await _answer(stream, Status.MALFORMED_MESSAGE)
            return
        status = self._judge(stream, request)
        await _answer(stream, status)
        if status is Status.OK and request.peer is not None:
            await self._accept(stream, request.peer.peer_id, request.limit)

    def _judge(self, stream: Stream, request: StopMessage) -> Status:
        if request.type is not StopType.CONNECT:
            return Status.UNEXPECTED_MESSAGE
        if request.peer is None:
            return Status.MALFORMED_MESSAGE
        is_ours = stream.peer in self._keeping and stream.connection.path is Path.DIRECT
        if not is_ours or request.peer.peer_id in (self._host.peer_id, stream.peer):
            return Status.PERMISSION_DENIED
        return Status.OK

    async def _accept(self, stream: Stream, source: PeerId, limit: Limit | None) -> None:
        here = _circuit_at(stream.connection)
        swarm = self._host.swarm
        ended = asyncio.Event()
        raw = RelayedRaw(stream, here, here)
        connection = await swarm.add_inbound(raw, path=Path.RELAYED, limited=limit is not None)
        unsubscribe = swarm.on_disconnected(lambda gone, _why: ended.set() if gone is connection else None)
        try:
            if connection.peer != source:
                await connection.close("the relay named somebody else")
                raise PeerIdMismatch(f"{stream.peer} announced {source} and brought {connection.peer}")
            if not connection.is_closed:
                await ended.wait()
        finally:
            unsubscribe()


def _circuit_at(relay: Connection) -> Multiaddr:
    """Return `/…/p2p/R/p2p-circuit` for the connection to a relay."""
    return relay.remote.with_peer(relay.peer) / "/p2p-circuit"


def _circuits(addr: Multiaddr) -> int:
    return addr.names.count("p2p-circuit")


async def _request(stream: Stream, request: HopMessage) -> HopMessage:
    """Send a HOP request and return the answer; RelayError when its status is not OK."""
    await write_frame(stream, request.to_bytes())
    answer = HopMessage.from_bytes(await read_frame(stream, MAX_MESSAGE))
    if answer.type is not HopType.STATUS or answer.status is None:
        raise RemoteProtocolError(f"{stream.peer} answered {request.type.name} with {answer.type.name}")
    if answer.status is not Status.OK:
        raise RelayError(answer.status.name, f"{stream.peer} refused {request.type.name}")
    return answer


async def _answer(stream: Stream, status: Status) -> None:
    await write_frame(stream, StopMessage(StopType.STATUS, status=status).to_bytes())
