"""mplex: many streams on one ordered byte stream, and nothing that holds a sender back.

    uvarint( number << 3 | flag ) ‖ uvarint( length ) ‖ body, at most 1 MiB

    flag   0 new stream, the body is a name   1, 2 message   3, 4 close   5, 6 reset
           the even ones come from who opened the stream, the odd ones from the other; numbers are each side's own

Facts: there is no window, no acknowledgement, no ping and no goodbye. Who reads too slowly can only stall all streams
or lose the one: here a stream that is MplexConfig.max_unread behind is reset, as in js and py. Hence deprecated, and
off unless asked for. To our user a stream has one id of both its number and its opener, the same on both sides.

Spec: https://github.com/libp2p/specs/blob/master/mplex/README.md
"""

from __future__ import annotations

from dataclasses import dataclass

from node.errors import ConnectionClosed, LimitExceeded, LocalProtocolError, RemoteProtocolError
from node.names import varint
from node.names.varint import Buffer
from node.wire.muxer_events import DataReceived, Event, StreamEnded, StreamOpened, StreamOverran, StreamWasReset
from node.wire.muxer_streams import MAX_CONTROL, MuxerStream, MuxerStreams

__all__ = ["MAX_CONTROL", "MAX_MESSAGE", "PROTOCOL", "Mplex", "MplexConfig"]

PROTOCOL = "/mplex/6.7.0"
MAX_MESSAGE = 1024 * 1024
_NEW_STREAM, _MESSAGE, _CLOSE, _RESET = 0, 1, 3, 5
_BY_OPENER = 1  # added to a flag
_LAST_FLAG = 6
_MAX_HEADER = 2 * 9
_NUMBER_BITS = 60


@dataclass(frozen=True, slots=True)
class MplexConfig:
    """Bounds and times of a session; bytes and seconds."""

    max_unread: int = 4 * 1024 * 1024
    """What may wait for the reader of one stream, as in js."""
    max_unread_together: int = 16 * 1024 * 1024
    max_streams: int = 256
    """Of each side."""
    linger: float = 60.0
    """How long a stream that we closed may wait for the peer's close before it is reset."""


class _Stream(MuxerStream):
    __slots__ = ("unread",)

    def __init__(self) -> None:
        super().__init__()
        self.unread = 0  # at most max_unread


class Mplex(MuxerStreams[_Stream]):
    """The machine of one session; a `node.net.muxer.Muxer`. Any error raised by `receive_data` is final."""

    has_ping = False
    rtt: float | None = None

    def __init__(self, *, initiator: bool, now: float, config: MplexConfig | None = None) -> None:
        self._config = config or MplexConfig()
        super().__init__("mplex", _MAX_HEADER, self._config.linger)
        self._parity = 1 if initiator else 0  # of the ids of streams that we open
        self._next_number = 0
        self._unread = 0  # of all streams
        self._header = bytearray()  # less than _MAX_HEADER
        self._body_left = 0
        self._going_away = False
        self._sweep_at = now + self._config.linger

    # --- the peer's side

    def receive_data(self, data: Buffer, now: float) -> list[Event]:
        """Take bytes of the peer, in pieces of any size; raises RemoteProtocolError."""
        events: list[Event] = []
        view, offset = memoryview(data), 0
        while offset < len(view):
            if self._body_left:
                offset = self._receive_body(view, offset, events)
            else:
                offset = self._receive_header(view, offset, events)
        return events

    def _receive_header(self, view: memoryview, offset: int, events: list[Event]) -> int:
        known = len(self._header)
        self._header += view[offset : offset + _MAX_HEADER - known]
        try:
            tag, start = varint.decode(self._header)
            length, end = varint.decode(self._header, start)
        except varint.Truncated:
            return offset + len(self._header) - known
        self._header.clear()
        if length > MAX_MESSAGE:
            raise RemoteProtocolError(f"mplex message of {length} bytes, at most {MAX_MESSAGE} allowed")
        number, flag = tag >> 3, tag & 7
        if flag > _LAST_FLAG or number >> _NUMBER_BITS:
            raise RemoteProtocolError(f"mplex frame of kind {flag} for stream {number}")
        self._body_left, self._body_stream = length, None
        self._on_frame(number, flag, length, events)
        return offset + end - known

    def _on_frame(self, number: int, flag: int, length: int, events: list[Event]) -> None:
        if flag == _NEW_STREAM:
            self._on_new_stream(self._id(number, by_us=False), events)
            return
        by_opener = flag % 2 == 0
        stream_id = self._id(number, by_us=not by_opener)
        stream = self._streams.get(stream_id)
        if stream is None:
            return  # just reset, perhaps: dropped with its body
        match flag - by_opener:
            case 1:
                self._on_message(stream, stream_id, length, events)
            case 3:
                if not stream.remote_fin:
                    stream.remote_fin = True
                    events.append(StreamEnded(stream_id))
                    self._forget_if_over(stream_id, stream)
            case _:
                self._forget(stream_id)
                events.append(StreamWasReset(stream_id, 0))

    def _on_new_stream(self, stream_id: int, events: list[Event]) -> None:
        if stream_id in self._streams:
            raise RemoteProtocolError(f"mplex stream {stream_id} opened twice")
        if self._going_away or self._counts[1 - self._parity] >= self._config.max_streams:
            if len(self._control) >= MAX_CONTROL:
                raise RemoteProtocolError(f"mplex peer lets {MAX_CONTROL} answers wait and asks for more")
            self._control.append(self._pack(_RESET, stream_id))
            return
        self._add(stream_id, _Stream())
        events.append(StreamOpened(stream_id))

    def _on_message(self, stream: _Stream, stream_id: int, length: int, events: list[Event]) -> None:
        if stream.remote_fin:
            raise RemoteProtocolError(f"mplex stream {stream_id} goes on after its end")
        if stream.refusing and length:
            self.reset(stream_id)
            return
        together = self._unread + length > self._config.max_unread_together
        if together or stream.unread + length > self._config.max_unread:
            self.reset(stream_id)
            events.append(StreamOverran(stream_id))
            return
        stream.unread += length
        self._unread += length
        self._body_stream = stream_id

    def _receive_body(self, view: memoryview, offset: int, events: list[Event]) -> int:
        end = min(offset + self._body_left, len(view))
        self._body_left -= end - offset
        if self._body_stream is not None:
            events.append(DataReceived(self._body_stream, view[offset:end]))
        return end

    # --- our user's side

    def open_stream(self, now: float) -> int:
        """Open a stream and return its id; raises ConnectionClosed after `go_away`, LimitExceeded at the bound."""
        if self._going_away:
            raise ConnectionClosed("mplex session is going away")
        if self._counts[self._parity] >= self._config.max_streams:
            raise LimitExceeded(f"{self._config.max_streams} streams of ours on one connection")
        number, self._next_number = self._next_number, self._next_number + 1
        stream_id = self._id(number, by_us=True)
        self._add(stream_id, _Stream())
        self._control.append(varint.encode(number << 3 | _NEW_STREAM) + varint.encode(0))
        return stream_id

    def may_open(self) -> bool:
        """Always: nothing is acknowledged."""
        return True

    def reset(self, stream_id: int, code: int = 0) -> None:
        """End both directions at once and forget what is queued; there is no room for a code."""
        if stream_id in self._streams:
            self._forget(stream_id)
            self._control.append(self._pack(_RESET, stream_id))

    def consume(self, stream_id: int, size: int, now: float) -> bool:
        """Tell that our user has taken `size` received bytes; that makes nothing to send, so false."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.unread -= size
            self._unread -= size
            self._forget_if_over(stream_id, stream)
        return False

    def ping(self, now: float) -> int:
        """There is none: raises LocalProtocolError, see `has_ping`."""
        raise LocalProtocolError("mplex has no ping")

    def go_away(self, code: int = 0) -> None:
        """Refuse new streams; the peer hears nothing of it."""
        self._going_away = True

    # --- towards the wire

    def _take(self, stream_id: int, stream: _Stream, room: int, batch: list[Buffer]) -> int:
        if not stream.outgoing:
            stream.fin_sent = True
            batch.append(self._pack(_CLOSE, stream_id))
            self._forget_if_over(stream_id, stream)
            return len(batch[-1])
        size = min(len(stream.outgoing[0]), room - _MAX_HEADER, MAX_MESSAGE)
        batch += (self._pack(_MESSAGE, stream_id, size), self._cut(stream_id, stream, size))
        return len(batch[-2]) + size

    def _id(self, number: int, *, by_us: bool) -> int:
        """Odd where the initiator opened the stream, as in yamux."""
        return 2 * number + (1 if by_us == bool(self._parity) else 2)

    def _pack(self, flag: int, stream_id: int, length: int = 0) -> bytes:
        by_us = stream_id % 2 == self._parity
        return varint.encode((stream_id - 1) // 2 << 3 | flag + by_us * _BY_OPENER) + varint.encode(length)

    def _forget_if_over(self, stream_id: int, stream: _Stream) -> None:
        """What is not read yet still counts, and so the stream does."""
        if stream.fin_sent and stream.remote_fin and not stream.unread:
            self._forget(stream_id)

    def _forget(self, stream_id: int) -> _Stream:
        stream = super()._forget(stream_id)
        self._unread -= stream.unread
        return stream

    # --- time

    def get_timer(self) -> float:
        """When `handle_timer` is to be called at the latest."""
        return min(self._sweep_at, next(iter(self._lingering.values()), self._sweep_at))

    def handle_timer(self, now: float) -> list[Event]:
        """Do what is due: reset the streams that linger."""
        if self._sweep_at <= now:
            self._sweep_at = now + self._config.linger
        self._reset_those_that_linger(now)
        return []
