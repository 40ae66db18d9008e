"""A secured connection with many streams.

    socket buffer ─► Channel.receive_data ─► Yamux.receive_data ─► MuxedStream buffers ─► read()
    write() ─► Yamux.send_data ─► data_to_send ─► Channel.send_data ─► RawConnection.send ─► socket

All of it happens in the event loop's callback that brought the bytes, or in the `write` that has them: no task and no
await lies between socket and stream. A batch of frames is one security message of up to 64 KiB. Batches are made only
while the connection is writable, so what waits, waits in the streams' queues and is sent in fair turns.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from node.errors import ConnectionClosed, DeadlineExceeded, NodeError, ProtocolError, SecurityError, StreamReset
from node.names.keys import PublicKey
from node.names.peerid import PeerId
from node.names.varint import Buffer
from node.net.muxed_stream import MuxedStream
from node.net.muxer import Muxer
from node.net.secure import Secured
from node.net.stream import Abandonable, RawConnection, Taking
from node.wire import multistream, muxer_events, noise
from node.wire.framing import encode_frame
from node.wire.security_events import DataReceived
from node.wire.yamux_frames import GoAwayCode

if TYPE_CHECKING:
    from collections.abc import Callable

    from node.net.transport import OnClosed, OnStream

logger = logging.getLogger(__name__)

BATCH = noise.MAX_PLAINTEXT


class Muxed:
    """A secured, muxed connection over a raw one; implements `node.net.transport.MuxedConnection`."""

    def __init__(self, raw: RawConnection, secured: Secured, machine: Muxer, *, muxer: str, ahead: bytes) -> None:
        self.remote_peer: PeerId = secured.peer
        self.remote_key: PublicKey = secured.key
        self.security: str = secured.protocol
        self.muxer: str = muxer
        self.early_muxer: bool = secured.muxer is not None
        """Whether the security handshake chose the muxer."""
        self.raw = raw
        self._channel = secured.channel
        self._machine = machine
        self._ahead = ahead
        self._loop = asyncio.get_running_loop()
        self._streams: dict[int, MuxedStream] = {}  # at most twice max_streams, as in the machine
        self._openers: list[asyncio.Future[None]] = []  # as many as `open_stream` calls are waiting
        self._pongs: dict[int, asyncio.Future[float]] = {}  # as many as `ping` calls are waiting
        self._on_stream: OnStream | None = None
        self._on_closed: OnClosed | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._flush_due = False
        self._closed = False
        self._peer_code: int | None = None

    def __repr__(self) -> str:
        return f"<Muxed {self.remote_peer} over {self.raw}>"

    # --- what the owner calls

    def start(self, on_stream: OnStream, on_closed: OnClosed) -> None:
        """Begin: `on_stream` gets each stream the peer opens, `on_closed` once the reason of the end, None if wanted.

        Both are called from the event loop and must not block; either may come before `start` returns.
        """
        self._on_stream, self._on_closed = on_stream, on_closed
        ahead, self._ahead = self._ahead, b""
        self._handle_timer()
        if ahead:
            self._guarded(self._receive_plaintext, ahead)
        if not self._closed:
            self.raw.push_to(self)

    @property
    def is_closed(self) -> bool:
        """True from the moment no stream can be used any more."""
        return self._closed

    @property
    def is_leaving(self) -> bool:
        """True from the moment the peer takes no more streams of ours; it may let the open ones go on for long."""
        return self._closed or self._peer_code is not None

    @property
    def streams(self) -> int:
        """How many streams have not ended in both directions."""
        return len(self._streams)

    @property
    def bytes_in(self) -> int:
        """Bytes received of the raw connection."""
        return self.raw.bytes_in

    @property
    def bytes_out(self) -> int:
        """Bytes given to the raw connection."""
        return self.raw.bytes_out

    def is_taking(self, within: float) -> bool:
        """Whether something waits to be sent, and the other end took a part of it in the last `within` seconds."""
        return isinstance(self.raw, Taking) and self.raw.is_taking(within)

    async def open_stream(self) -> MuxedStream:
        """Open a stream, waiting while too many are not acknowledged; raises ConnectionClosed or LimitExceeded."""
        while not self._closed and not self._machine.may_open():
            waiter = self.create_future()
            self._openers.append(waiter)
            try:
                await waiter
            finally:
                if waiter in self._openers:  # given up: a peer that never acknowledges wakes nobody
                    self._openers.remove(waiter)
        if self._closed:
            raise ConnectionClosed(f"connection to {self.remote_peer} is closed")
        stream_id = self._machine.open_stream(self._loop.time())
        stream = self._streams[stream_id] = MuxedStream(self, stream_id)
        self._flush_soon()
        return stream

    async def ping(self, timeout: float = 10.0) -> float:
        """Return the muxer's round trip in seconds; raises DeadlineExceeded or ConnectionClosed."""
        if self._closed:
            raise ConnectionClosed(f"connection to {self.remote_peer} is closed")
        if not self._machine.has_ping:
            return await self._ping_by_stream(timeout)
        nonce = self._machine.ping(self._loop.time())
        pong: asyncio.Future[float] = self._loop.create_future()
        self._pongs[nonce] = pong
        self._flush()
        try:
            async with asyncio.timeout(timeout):
                return await pong
        except TimeoutError as error:
            raise DeadlineExceeded(f"no pong of {self.remote_peer} within {timeout} s") from error
        finally:
            self._pongs.pop(nonce, None)

    async def _ping_by_stream(self, timeout: float) -> float:
        """Have the peer answer multistream's header, as it does on every stream."""
        began, stream = self._loop.time(), await self.open_stream()
        try:
            async with asyncio.timeout(timeout):
                await stream.write(encode_frame(multistream.PROTOCOL.encode() + b"\n"))
                await stream.read()
        except TimeoutError as error:
            raise DeadlineExceeded(f"no answer of {self.remote_peer} within {timeout} s") from error
        finally:
            stream.reset()
        return self._loop.time() - began

    async def close(self, code: int = GoAwayCode.NORMAL) -> None:
        """Tell the peer, end all streams and close the connection."""
        self._say_goodbye(code)
        self._shut_down(None)
        await self.raw.close()

    def abort(self) -> None:
        """Close at once, losing what is under way."""
        self.raw.abort()

    def abandon(self) -> None:
        """Close at once a connection whose other end is not there."""
        if isinstance(self.raw, Abandonable):
            self.raw.abandon()
        else:
            self.raw.abort()

    # --- what streams call

    def create_future(self) -> asyncio.Future[None]:
        """A future of the connection's loop."""
        return self._loop.create_future()

    def send(self, stream_id: int, data: memoryview) -> bool:
        """Send or queue bytes; true if none of them waits."""
        self._machine.send_data(stream_id, data if data.format == "B" and data.ndim == 1 else data.cast("B"))
        self._flush()
        return not self._machine.pending(stream_id)

    def consume(self, stream_id: int, size: int) -> None:
        """Give credit for bytes that were read."""
        if self._machine.consume(stream_id, size, self._loop.time()):
            self._flush_soon()

    def close_write(self, stream_id: int) -> None:
        """End our direction of a stream."""
        self._machine.close_write(stream_id)
        self._flush_soon()

    def close_stream(self, stream_id: int, unread: int) -> None:
        """End our direction of a stream and refuse the rest of the peer's."""
        now = self._loop.time()
        self._machine.consume(stream_id, unread, now)  # a peer waiting for credit is to learn that we are gone
        self._machine.close(stream_id, now)
        self._flush_soon()

    def reset_stream(self, stream_id: int, code: int) -> None:
        """End both directions of a stream."""
        self._machine.reset(stream_id, code)
        self._flush_soon()

    # --- what the raw connection calls

    def data_received(self, data: memoryview) -> None:
        """Decrypt and hand out."""
        self._guarded(self._receive_ciphertext, data)

    def eof_received(self) -> None:
        """The peer will send no more, so nothing can be done with the connection."""
        if not self._closed:
            self._shut_down(self._why_ended("the peer ended the connection"))
            self.raw.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is gone."""
        self._shut_down(self._why_ended(f"connection lost: {error or 'closed by the peer'}"))

    def resume_writing(self) -> None:
        """Send what waited."""
        if not self._closed:
            self._flush()

    # --- inside

    def _guarded(self, receive: Callable[[Buffer], None], data: Buffer) -> None:
        if self._closed:
            return
        try:
            receive(data)
        except (ProtocolError, SecurityError) as error:
            logger.info("closing the connection to %s: %s", self.remote_peer, error)
            self._say_goodbye(GoAwayCode.PROTOCOL_ERROR)
            self._fail(error)
        else:
            self._flush()

    def _receive_ciphertext(self, data: Buffer) -> None:
        for event in self._channel.receive_data(data):
            if isinstance(event, DataReceived):
                self._receive_plaintext(event.data)

    def _receive_plaintext(self, data: Buffer) -> None:
        for event in self._machine.receive_data(data, self._loop.time()):
            self._dispatch(event)

    def _dispatch(self, event: muxer_events.Event) -> None:
        match event:
            case muxer_events.DataReceived(stream_id, data):
                if stream := self._streams.get(stream_id):
                    stream.receive(data)
            case muxer_events.StreamOpened(stream_id):
                stream = self._streams[stream_id] = MuxedStream(self, stream_id)
                if self._on_stream is not None:
                    self._on_stream(stream)
            case muxer_events.StreamEnded(stream_id):
                if stream := self._streams.get(stream_id):
                    stream.end()
            case muxer_events.StreamWasReset(stream_id):
                if stream := self._streams.pop(stream_id, None):
                    stream.fail(StreamReset(f"stream {stream_id} was reset by the peer"), keep_buffered=True)
            case muxer_events.StreamOverran(stream_id):
                if stream := self._streams.pop(stream_id, None):
                    stream.fail(StreamReset(f"stream {stream_id} was reset: its reader is too far behind"))
            case muxer_events.StreamAcknowledged():
                self._wake_openers()
            case muxer_events.PongReceived(nonce, rtt):
                if (pong := self._pongs.pop(nonce, None)) and not pong.done():
                    pong.set_result(rtt)
            case muxer_events.GoAwayReceived(code):
                self._peer_code = code
            case muxer_events.KeepAliveFailed():
                self._fail(DeadlineExceeded(f"nothing heard of {self.remote_peer} for too long"))

    def _flush(self) -> None:
        while self.raw.writable and (batch := self._machine.data_to_send(BATCH)):
            self._send(batch)
        for stream_id in self._machine.drained():
            if stream := self._streams.get(stream_id):
                stream.drained()
        for stream_id in self._machine.forgotten():
            self._streams.pop(stream_id, None)
            self._wake_openers()

    def _send(self, batch: list[Buffer]) -> None:
        self._channel.send_data(batch)
        for message in self._channel.data_to_send():
            self.raw.send(message)

    def _flush_soon(self) -> None:
        """Flush at the end of the loop's turn, so that small frames share a message with what else is written in it."""
        if not self._flush_due and not self._closed:
            self._flush_due = True
            self._loop.call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._flush_due = False
        if not self._closed:
            self._flush()

    def _handle_timer(self) -> None:
        for event in self._machine.handle_timer(self._loop.time()):
            self._dispatch(event)
        if not self._closed:
            self._flush()
            self._timer = self._loop.call_at(self._machine.get_timer(), self._handle_timer)

    def _wake_openers(self) -> None:
        openers, self._openers = self._openers, []
        for opener in openers:
            if not opener.done():
                opener.set_result(None)

    def _say_goodbye(self, code: int) -> None:
        """Send a GoAway, and what fits of the streams' data in front of it, whether or not the socket is willing."""
        if self._closed:
            return
        self._machine.go_away(code)
        self._flush()
        if batch := self._machine.data_to_send(BATCH):
            self._send(batch)

    def _why_ended(self, text: str) -> NodeError | None:
        if self._peer_code is None:
            return ConnectionClosed(text)
        return None if self._peer_code == GoAwayCode.NORMAL else ConnectionClosed(f"{text}, code {self._peer_code}")

    def _fail(self, error: NodeError) -> None:
        self._shut_down(error)
        self.raw.abort()

    def _shut_down(self, error: NodeError | None) -> None:
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        gone = ConnectionClosed(f"connection to {self.remote_peer} ended: {error or 'closed'}")
        for stream in self._streams.values():
            stream.fail(gone, keep_buffered=True)
        self._streams.clear()
        self._machine.abandon()
        self._wake_openers()
        for pong in self._pongs.values():
            if not pong.done():
                pong.set_exception(gone)
        if self._on_closed is not None:
            self._on_closed(error)
