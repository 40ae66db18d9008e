"""One QUIC connection: its handshake, then its streams.

    endpoint ─► datagrams ─► Machine ─► certificate ─► MuxedStream buffers ─► read()
    write() ─► pieces of a stream ─► Machine ─► datagrams ─► endpoint

The peer's certificate is checked in the event that ends the handshake, before any event of a stream is looked at. What
is written stays with its writer until the machine has sent most of what it has: its buffer holds what is under way and
a little more, however much there is to write and however slow the peer is.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING

from node.errors import (
    ConnectionClosed,
    DeadlineExceeded,
    NodeError,
    PeerIdMismatch,
    RemoteProtocolError,
    SecurityError,
    StreamClosed,
    StreamReset,
)
from node.net.credentials import verify_now
from node.net.muxed_stream import MuxedStream
from node.net.quic.machine import (
    BAD_CERTIFICATE,
    CERTIFICATE_REQUIRED,
    Machine,
    events,
)
from node.net.quic.udp import multiaddr_of
from node.wire.tls_certificate import PROTOCOL

if TYPE_CHECKING:
    from node.names.keys import PublicKey
    from node.names.multiaddr import Multiaddr
    from node.names.peerid import PeerId
    from node.net.quic.endpoint import Endpoint
    from node.net.quic.udp import SockAddr
    from node.net.quic.windows import ReceiveWindow
    from node.net.transport import OnClosed, OnStream

logger = logging.getLogger(__name__)

KEEP_ALIVE = 15.0
"""Seconds of silence after which we ask for a sign of life, as in go: NATs forget UDP mappings after 30."""
UNSENT = 128 * 1024
"""Bytes of one stream that the machine has and has not sent; more stay with the writer."""
GIVEN_UP = 0x1001
"""The application's code for a connection that exceeds a limit, as in go."""
TICK = 0.001
"""Seconds: the resolution of the loop's timer."""
ROUNDS = 64
"""Times that the machine is filled and emptied in one turn of the loop."""
EARLY_STREAMS = 256
"""Streams of a peer that came before `start`."""

LIBRARY_ERRORS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What aioquic raises where it did not foresee a peer's input: the end of that connection and of nothing else."""


class _Flow:
    """What the connection knows of one stream, until both directions have ended and everything was read."""

    __slots__ = (
        "consumed",
        "delivered",
        "discarding",
        "fin",
        "pending",
        "received_all",
        "sent_all",
        "stream",
        "window",
    )

    def __init__(self, stream: MuxedStream, window: ReceiveWindow) -> None:
        self.stream = stream
        self.window = window
        self.pending: deque[memoryview] = deque()  # as many as writers wait
        self.fin = False  # to be sent once `pending` is
        self.sent_all = False  # our direction has ended, as far as we are concerned
        self.received_all = False  # the peer's has
        self.discarding = False  # what still comes goes to nobody
        self.delivered = 0
        self.consumed = 0


class QuicConnection:
    """Implements `node.net.transport.Handshake`, `MuxedConnection` and `node.net.muxed_stream.Streams`."""

    security = PROTOCOL
    muxer = "quic"
    remote_peer: PeerId
    remote_key: PublicKey

    def __init__(self, endpoint: Endpoint, local: Multiaddr, peer: SockAddr, source: bytes | None) -> None:
        self.local = local
        self.remote: Multiaddr = multiaddr_of(peer)
        """Where the peer is; it may move."""
        self._peer = peer
        self.bytes_in = self.bytes_out = 0
        self.dialled = False
        self.source = source
        """Our address that the peer writes to, packed; None: as routing says."""
        self.timer: float | None = None
        """When the endpoint is to call `handle_timer`."""
        self.scheduled: float | None = None
        """When the endpoint looks at `timer`, at the latest."""
        self._machine: Machine | None = None
        self._endpoint = endpoint
        self._loop = asyncio.get_running_loop()
        self._expected: PeerId | None = None
        self._proven: asyncio.Future[None] = self._loop.create_future()
        self._flows: dict[int, _Flow] = {}  # bounded by STREAMS of the peer's, and by what it allows of ours
        self._writing: dict[int, _Flow] = {}  # those that have something for the machine
        self._openers: list[asyncio.Future[None]] = []  # as many as `open_stream` calls are waiting
        self._pongs: dict[int, asyncio.Future[None]] = {}  # as many as `ping` calls are waiting
        self._pings = 0
        self._heard = self._loop.time()
        self._early: list[MuxedStream] = []  # at most EARLY_STREAMS
        self._on_stream: OnStream | None = None
        self._on_closed: OnClosed | None = None
        self._why: NodeError | None = None
        self._flush_due = False
        self._closed = False

    def __repr__(self) -> str:
        return f"<QuicConnection {self.local} to {self.remote}>"

    # --- handshake

    def begin(self, machine: Machine, to: SockAddr | None = None) -> None:
        """Go on with `machine` from now on; `to`: whom to dial."""
        self._machine = machine
        if to is not None:
            self.dialled = True
            machine.connect(to, self._loop.time())
            self.flush()

    @property
    def machine(self) -> Machine:
        """The machine, once there is one."""
        assert self._machine is not None
        return self._machine

    @property
    def is_refused(self) -> bool:
        """Whether `abort` was called before the handshake began."""
        return self._closed

    async def complete(self, expected: PeerId | None) -> QuicConnection:
        """Wait for the handshake to end; raises PeerIdMismatch, SecurityError or ConnectionClosed."""
        self._expected = expected
        try:
            await asyncio.shield(self._proven)
        except asyncio.CancelledError:
            self.abort()
            raise
        if expected is not None and self.remote_peer != expected:  # proven before `complete` was called
            self.abort()
            raise PeerIdMismatch(f"the peer is {self.remote_peer}, not {expected}")
        return self

    def _prove(self) -> None:
        chain = self.machine.peer_chain()
        try:
            proven = verify_now(chain, self._expected)
        except SecurityError as error:
            code = BAD_CERTIFICATE if chain else CERTIFICATE_REQUIRED
            self._end(error, code, "bad certificate" if chain else "certificate required")
            return
        self.remote_peer, self.remote_key = proven.peer, proven.key
        self._endpoint.proven(self)
        if not self._proven.done():
            self._proven.set_result(None)

    # --- what the owner calls

    def start(self, on_stream: OnStream, on_closed: OnClosed) -> None:
        """Begin: `on_stream` gets each stream the peer opens, `on_closed` once why it ended, None if wanted."""
        self._on_stream, self._on_closed = on_stream, on_closed
        early, self._early = self._early, []
        for stream in early:
            on_stream(stream)
        if self._closed:
            on_closed(self._why)

    @property
    def is_closed(self) -> bool:
        """True from the moment no stream can be used any more."""
        return self._closed

    @property
    def is_leaving(self) -> bool:
        """The same: QUIC has no word for leaving."""
        return self._closed

    @property
    def streams(self) -> int:
        """How many streams have not ended in both directions."""
        return sum(not (flow.sent_all and flow.received_all) for flow in self._flows.values())

    async def open_stream(self) -> MuxedStream:
        """Open a stream, waiting while the peer allows no more; raises ConnectionClosed."""
        while not self._closed and not self.machine.may_open():
            waiter = self.create_future()
            self._openers.append(waiter)
            try:
                await waiter
            finally:
                if waiter in self._openers:
                    self._openers.remove(waiter)
        self._check_open()
        stream_id = self.machine.get_next_available_stream_id()
        self.machine.send_stream_data(stream_id, b"")  # reserves the id
        return self._add_flow(stream_id).stream

    async def ping(self, timeout: float = 10.0) -> float:
        """Return the round trip in seconds; raises DeadlineExceeded or ConnectionClosed."""
        self._check_open()
        self._pings += 1
        uid, pong = self._pings, self.create_future()
        self._pongs[uid] = pong
        begin = self._loop.time()
        self.machine.send_ping(uid)
        self.flush()
        try:
            async with asyncio.timeout(timeout):
                await pong
        except TimeoutError as error:
            raise DeadlineExceeded(f"no pong of {self.remote_peer} within {timeout} s") from error
        finally:
            self._pongs.pop(uid, None)
        return self._loop.time() - begin

    async def close(self) -> None:
        """Send what fits in the network's window, tell the peer, end all streams and close the connection."""
        if not self._closed:
            self.flush()
            self._end(None, 0, "")

    def abort(self) -> None:
        """Close at once; the peer is told if there is one that we talk to."""
        self._end(ConnectionClosed(f"connection to {self.remote} was given up"), GIVEN_UP, "given up")

    # --- what streams call

    def create_future(self) -> asyncio.Future[None]:
        """A future of the connection's loop."""
        return self._loop.create_future()

    def send(self, stream_id: int, data: memoryview) -> bool:
        """Send or queue bytes; true if none of them waits."""
        flow = self._flows.get(stream_id)
        if flow is None or flow.sent_all or flow.fin:
            raise StreamClosed(f"stream {stream_id} is closed for writing")
        flow.pending.append(data if data.format == "B" and data.ndim == 1 else data.cast("B"))
        self._writing[stream_id] = flow
        self._feed(stream_id, flow)
        self._flush_soon()
        return not flow.pending

    def consume(self, stream_id: int, size: int) -> None:
        """Give credit for bytes that were read."""
        flow = self._flows.get(stream_id)
        if flow is None or self._closed:
            return
        flow.consumed += size
        now = self._loop.time()
        told = self.machine.consume(size, now)
        if flow.received_all:
            self._forget_if_done(stream_id, flow)
        elif flow.window.consume(size, now, self.machine.rtt):
            self.machine.raise_limit(stream_id, flow.window.limit)
            told = True
        if told:
            self._flush_soon()

    def close_write(self, stream_id: int) -> None:
        """End our direction of a stream."""
        flow = self._flows.get(stream_id)
        if flow is None or flow.sent_all or flow.fin or self._closed:
            return
        flow.fin = True
        self._writing[stream_id] = flow
        self._feed(stream_id, flow)
        self._flush_soon()

    def close_stream(self, stream_id: int, unread: int) -> None:
        """End our direction of a stream and refuse the rest of the peer's."""
        self.close_write(stream_id)
        flow = self._flows.get(stream_id)
        if flow is None or self._closed:
            return
        self._refuse_rest(stream_id, flow, 0)
        self._flush_soon()

    def reset_stream(self, stream_id: int, code: int) -> None:
        """End both directions of a stream."""
        flow = self._flows.get(stream_id)
        if flow is None or self._closed:
            return
        self._stop_sending(stream_id, flow)
        self.machine.reset_stream(stream_id, code)
        self._refuse_rest(stream_id, flow, code)
        self._flush_soon()

    def _refuse_rest(self, stream_id: int, flow: _Flow, code: int) -> None:
        flow.discarding = True
        self._settle(flow, flow.delivered)
        if not flow.received_all:
            self.machine.stop_stream(stream_id, code)
        self._forget_if_done(stream_id, flow)

    def _stop_sending(self, stream_id: int, flow: _Flow) -> None:
        flow.pending.clear()
        flow.fin, flow.sent_all = False, True
        self._writing.pop(stream_id, None)

    # --- what the endpoint calls

    def receive(self, data: bytes, sender: SockAddr, source: bytes | None, now: float) -> None:
        """Take a datagram; what follows from it is done in `advance`."""
        self.bytes_in += len(data)
        self._heard = now
        if source is not None:
            self.source = source
        try:
            self.machine.receive_datagram(data, sender, now)
        except LIBRARY_ERRORS as error:
            logger.warning("%s sent what aioquic cannot take: %r", self.remote, error)
            self._end(RemoteProtocolError(f"{self.remote} sent a packet that cannot be processed"), 1, "internal error")
        if not self.machine.has_begun and not self.machine.configuration.is_client:
            self._shut_down(RemoteProtocolError(f"{self.remote} began with a packet that is none"))
        elif sender != self._peer and sender == self.machine.get_peer_address():  # its NAT has made another mapping
            logger.info("%s has moved to %s", self.remote, multiaddr_of(sender))
            self._peer, self.remote = sender, multiaddr_of(sender)

    def advance(self) -> None:
        """Do what follows from the datagrams received or the time that has passed, and send."""
        self._dispatch_all()
        if self._closed:
            return
        if self.machine.goodbye is not None:
            self._over(self.machine.goodbye)
            return
        if self._openers and self.machine.may_open():
            self._wake_openers()
        self.flush()

    def handle_timer(self, now: float) -> None:
        """The time in `timer` has come."""
        machine_timer = self.machine.get_timer()
        if machine_timer is not None and machine_timer <= now:
            self.machine.handle_timer(now)
        if self._heard + KEEP_ALIVE <= now and self._proven.done():
            self._heard = now
            self.machine.send_ping(0)
        self.advance()

    def flush(self) -> None:
        """Give the machine what it has room for and send what it makes of it."""
        if self._closed:
            return
        now = self._loop.time()
        for _ in range(ROUNDS):
            for stream_id, flow in list(self._writing.items()):
                self._feed(stream_id, flow)
            datagrams = self.machine.datagrams_to_send(now)
            for data, to in datagrams:
                self.bytes_out += len(data)
                self._endpoint.send(data, to, self.source)
            if not datagrams or not self._writing:
                break
        self._dispatch_all()  # ids that were issued by what was sent
        timer = self.machine.get_timer()
        alive = self._heard + KEEP_ALIVE
        when = alive if timer is None else min(timer, alive)
        self._endpoint.set_timer(self, max(when, now + TICK))  # what could not be done now will not be for a moment

    # --- inside

    def _check_open(self) -> None:
        if self._closed:
            raise ConnectionClosed(f"connection to {self.remote_peer} is closed")

    def _dispatch_all(self) -> None:
        while not self._closed and (event := self.machine.next_event()) is not None:
            self._dispatch(event)

    def _dispatch(self, event: events.QuicEvent) -> None:
        match event:
            case events.StreamDataReceived():
                self._receive_data(event)
            case events.HandshakeCompleted():
                self._prove()
            case events.StreamReset():
                self._receive_reset(event)
            case events.StopSendingReceived():
                flow = self._flow_of(event.stream_id)
                if flow is not None:
                    self._stop_sending(event.stream_id, flow)
                    flow.stream.refuse(StreamReset(f"the peer wants no more of stream {event.stream_id}"))
                    self._forget_if_done(event.stream_id, flow)
            case events.PingAcknowledged():
                if (pong := self._pongs.get(event.uid)) is not None and not pong.done():
                    pong.set_result(None)
            case events.ConnectionIdIssued():
                self._endpoint.add_cid(event.connection_id, self)
            case events.ConnectionIdRetired():
                self._endpoint.remove_cid(event.connection_id)

    def _over(self, goodbye: events.ConnectionTerminated) -> None:
        """The peer has taken leave, nothing was heard of it for too long, or it broke the protocol and we tell it."""
        self._endpoint.say_farewell(self, self.machine.datagrams_to_send(self._loop.time()))
        code, reason = goodbye.error_code, goodbye.reason_phrase or f"code {goodbye.error_code:#x}"
        if code == 0 and goodbye.frame_type is None:
            self._shut_down(None)
        elif code in (BAD_CERTIFICATE, CERTIFICATE_REQUIRED):
            self._shut_down(SecurityError(f"{self.remote} refused our certificate: {reason}"))
        else:
            self._shut_down(ConnectionClosed(f"{self.remote}: {reason}"))

    def _flow_of(self, stream_id: int) -> _Flow | None:
        """The stream an event is about; a new one is handed on, one that is over is None."""
        flow = self._flows.get(stream_id)
        if flow is not None or self.machine.is_own(stream_id):
            return flow
        flow = self._add_flow(stream_id)
        if self._on_stream is not None:
            self._on_stream(flow.stream)
        elif len(self._early) < EARLY_STREAMS:
            self._early.append(flow.stream)
        return flow

    def _add_flow(self, stream_id: int) -> _Flow:
        window = self.machine.new_window(self._loop.time())
        flow = self._flows[stream_id] = _Flow(MuxedStream(self, stream_id), window)
        return flow

    def _receive_data(self, event: events.StreamDataReceived) -> None:
        flow = self._flow_of(event.stream_id)
        if flow is None:
            return
        size = len(event.data)
        flow.delivered += size
        if flow.discarding:
            self._settle(flow, flow.delivered)
        elif size:
            flow.stream.receive(memoryview(event.data))
        if event.end_stream:
            flow.received_all = True
            flow.stream.end()
            self._forget_if_done(event.stream_id, flow)

    def _receive_reset(self, event: events.StreamReset) -> None:
        flow = self._flow_of(event.stream_id)
        if flow is None:
            return
        flow.received_all = flow.discarding = True
        self._settle(flow, self.machine.received(event.stream_id))
        flow.stream.fail(StreamReset(f"stream {event.stream_id} was reset by the peer"), keep_buffered=True)
        if not flow.sent_all:
            self._stop_sending(event.stream_id, flow)
            self.machine.reset_stream(event.stream_id, event.error_code)
        self._forget_if_done(event.stream_id, flow)

    def _settle(self, flow: _Flow, received: int) -> None:
        """Give the connection credit for all bytes of a stream that nobody will ask for."""
        if received > flow.consumed:
            self.machine.consume(received - flow.consumed, self._loop.time())
        flow.consumed = max(flow.consumed, received)
        flow.delivered = max(flow.delivered, received)

    def _forget_if_done(self, stream_id: int, flow: _Flow) -> None:
        if flow.sent_all and flow.received_all and flow.consumed >= flow.delivered and stream_id in self._flows:
            flow.window.close()
            del self._flows[stream_id]

    def _feed(self, stream_id: int, flow: _Flow) -> None:
        """Move what there is room for from the writers to the machine."""
        if not self._proven.done():
            return
        room = UNSENT - self.machine.unsent(stream_id)
        while flow.pending and room > 0:
            piece = flow.pending.popleft()
            if len(piece) > room:
                flow.pending.appendleft(piece[room:])
                piece = piece[:room]
            room -= len(piece)
            self.machine.send_stream_data(stream_id, piece)  # type: ignore[arg-type]
        if flow.pending:
            return
        del self._writing[stream_id]
        if flow.fin:
            self.machine.send_stream_data(stream_id, b"", end_stream=True)
            flow.fin, flow.sent_all = False, True
            self._forget_if_done(stream_id, flow)
        flow.stream.drained()

    def _flush_soon(self) -> None:
        """Flush at the end of the loop's turn, so that what is written in it shares packets."""
        if not self._flush_due and not self._closed:
            self._flush_due = True
            self._loop.call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._flush_due = False
        self.flush()

    def _wake_openers(self) -> None:
        openers, self._openers = self._openers, []
        for opener in openers:
            if not opener.done():
                opener.set_result(None)

    def _end(self, error: NodeError | None, code: int, reason: str) -> None:
        """Tell the peer and shut down; `code` is the application's, or a TLS alert, or 1, an internal error."""
        if self._closed:
            return
        if self._machine is not None and self._machine.has_begun:
            frame = None if code in (0, GIVEN_UP) else 0
            self._machine.close(error_code=code, frame_type=frame, reason_phrase=reason)
            self._endpoint.say_farewell(self, self._machine.datagrams_to_send(self._loop.time()))
        self._shut_down(error)

    def _shut_down(self, error: NodeError | None) -> None:
        self._closed = True
        self._why = error
        if not self._proven.done():
            self._proven.set_exception(error or ConnectionClosed(f"{self.remote} closed the connection"))
            self._proven.exception()  # nobody may be waiting for it
        gone = ConnectionClosed(f"connection to {self.remote} ended: {error or 'closed'}")
        for flow in self._flows.values():
            flow.window.close()
            flow.stream.fail(gone, keep_buffered=True)
        self._flows.clear()
        self._writing.clear()
        self._early.clear()
        self._wake_openers()
        for pong in self._pongs.values():
            if not pong.done():
                pong.set_exception(gone)
        if self._machine is not None:
            self._machine.close_window()
        self._endpoint.remove(self)
        if self._on_closed is not None:
            self._on_closed(error)
