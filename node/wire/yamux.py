"""yamux: many streams on one ordered byte stream, each with a window.

    initiator                               responder
      WindowUpdate SYN 1 ──────────────────►            odd ids are the initiator's, even ones the responder's
      Data 1 ──────────────────────────────►            up to 256 KiB before the first credit
      ◄───────────────── WindowUpdate ACK 1
      ◄───────────────── WindowUpdate 1 +n              only the reader's consumption gives credit
      WindowUpdate FIN 1 ──────────────────►            half close; RST ends both halves at once

Facts: the initial window is always 256 KiB, for both directions, and grows by credit only. Frames for a stream we do
not know, such as one just reset, are dropped with their body. A peer that has no pong within 10 s takes the session for
dead (go does), so pongs go out ahead of all data. Data leaves in turns, one frame a stream; a body is handed on as it
arrives and never gathered.

The receive window follows the reader: when half of it was consumed in less than four round trips, it doubles, up to
`YamuxConfig.max_window` and as long as all growth of the session stays within `growth_budget`, and that of all sessions
within the `GrowthPool` they share: who reads fast, and then not at all, must not be sent more than we have memory for.

Spec: https://github.com/libp2p/specs/blob/master/yamux/README.md
"""

from __future__ import annotations

from dataclasses import dataclass

from node.errors import ConnectionClosed, LimitExceeded, RemoteProtocolError
from node.names.varint import Buffer
from node.wire.muxer_events import (
    DataReceived,
    Event,
    GoAwayReceived,
    KeepAliveFailed,
    PongReceived,
    StreamAcknowledged,
    StreamEnded,
    StreamOpened,
    StreamWasReset,
)
from node.wire.muxer_streams import MAX_CONTROL, MuxerStream, MuxerStreams
from node.wire.yamux_frames import HEADER, VERSION, Flag, GoAwayCode, Kind, pack
from node.wire.yamux_windows import Growth, GrowthPool

__all__ = ["INITIAL_WINDOW", "MAX_CONTROL", "PROTOCOL", "Yamux", "YamuxConfig"]

PROTOCOL = "/yamux/1.0.0"
INITIAL_WINDOW = 256 * 1024
MAX_PINGS = 16  # of ours that wait for their pong; the oldest is given up
_MAX_CREDIT = 2**32 - 1


_DATA, _WINDOW_UPDATE, _PING, _GO_AWAY = (int(kind) for kind in Kind)
_SYN, _ACK, _FIN, _RST = (int(flag) for flag in Flag)


@dataclass(frozen=True, slots=True)
class YamuxConfig:
    """Bounds and times of a session; bytes and seconds."""

    max_window: int = 16 * 1024 * 1024
    growth_budget: int = 64 * 1024 * 1024
    """How much all receive windows together may exceed their initial size."""
    max_streams: int = 1024
    """Of each side."""
    ack_backlog: int = 256
    """Streams of ours that the peer has not acknowledged yet."""
    keep_alive: float = 30.0
    answer_within: float = 10.0
    linger: float = 60.0
    """How long a stream that we closed may wait for the peer's FIN before it is reset."""


class _Stream(MuxerStream):
    __slots__ = ("acked", "consumed", "credit", "epoch", "send_window", "window")

    def __init__(self, now: float) -> None:
        super().__init__()
        self.acked = False
        self.send_window = INITIAL_WINDOW
        self.window = INITIAL_WINDOW
        self.credit = INITIAL_WINDOW  # what the peer may still send
        self.consumed = 0  # read by our user and not yet given back as credit
        self.epoch = now  # of the last credit given

    def can_send(self) -> bool:
        if self.outgoing:
            return self.send_window > 0
        return self.fin_wanted and not self.fin_sent


class Yamux(MuxerStreams[_Stream]):
    """The machine of one session. Any error raised by `receive_data` is final; GoAway is then queued."""

    has_ping = True

    def __init__(
        self, *, initiator: bool, now: float, config: YamuxConfig | None = None, pool: Growth | None = None
    ) -> None:
        self.rtt: float | None = None
        """The last measured round trip, smoothed; seconds."""
        self._config = config or YamuxConfig()
        super().__init__("yamux", HEADER.size, self._config.linger)
        self._pool: Growth = pool or GrowthPool(self._config.growth_budget)
        self._next_id = 1 if initiator else 2
        self._remote_parity = 0 if initiator else 1
        self._unacked = 0
        self._growth = 0
        self._header = bytearray()  # of a frame under way, less than HEADER.size
        self._body_left = 0
        self._body_ends_stream = False
        self._going_away = self._peer_going_away = False
        self._pings: dict[int, float] = {}  # nonce → time sent; the last MAX_PINGS
        self._next_nonce = 0
        self._probe_at = now
        self._answer_by: float | None = None

    # --- the peer's side

    def receive_data(self, data: Buffer, now: float) -> list[Event]:
        """Take bytes of the peer, in pieces of any size; raises RemoteProtocolError."""
        events: list[Event] = []
        view, offset = memoryview(data), 0
        self._answer_by = None  # whatever comes shows that the peer lives, even if its pong queues behind data
        try:
            while offset < len(view):
                if self._body_left:
                    offset = self._receive_body(view, offset, events)
                else:
                    offset = self._receive_header(view, offset, now, events)
        except RemoteProtocolError:
            self.go_away(GoAwayCode.PROTOCOL_ERROR)
            raise
        return events

    def _receive_header(self, view: memoryview, offset: int, now: float, events: list[Event]) -> int:
        end = offset + HEADER.size - len(self._header)
        if self._header or end > len(view):
            self._header += view[offset:end]
            if len(self._header) < HEADER.size:
                return len(view)
            version, kind, flags, stream_id, length = HEADER.unpack(self._header)
            self._header.clear()
        else:
            version, kind, flags, stream_id, length = HEADER.unpack_from(view, offset)
        if version != VERSION:
            raise RemoteProtocolError(f"yamux version {version}")
        if kind in (_DATA, _WINDOW_UPDATE):
            self._on_stream_frame(kind, flags, stream_id, length, now, events)
        elif kind == _PING:
            self._on_ping(flags, length, now, events)
        elif kind == _GO_AWAY:
            self._peer_going_away = True
            events.append(GoAwayReceived(length))
        else:
            raise RemoteProtocolError(f"yamux frame of type {kind}")
        return end

    def _receive_body(self, view: memoryview, offset: int, events: list[Event]) -> int:
        end = min(offset + self._body_left, len(view))
        self._body_left -= end - offset
        stream_id = self._body_stream
        if stream_id is not None:
            events.append(DataReceived(stream_id, view[offset:end]))
            if not self._body_left and self._body_ends_stream:
                self._on_fin(stream_id, events)
        return end

    def _on_stream_frame(
        self, kind: int, flags: int, stream_id: int, length: int, now: float, events: list[Event]
    ) -> None:
        if stream_id == 0:
            raise RemoteProtocolError("yamux stream frame for the session")
        if flags & _SYN:
            self._on_syn(stream_id, now, events)
        stream = self._streams.get(stream_id)
        if stream is not None and flags & _ACK and not stream.acked:
            stream.acked = True
            self._unacked -= 1
            events.append(StreamAcknowledged(stream_id))
        if flags & _RST:
            if stream is not None:
                self._forget(stream_id)
                events.append(StreamWasReset(stream_id, length if kind == _WINDOW_UPDATE else 0))
            stream = None
        if kind == _DATA:
            self._begin_body(stream, stream_id, length)
        elif stream is not None:
            stream.send_window = min(stream.send_window + length, _MAX_CREDIT)
            self._enqueue(stream_id, stream)
        if flags & _FIN and stream is not None:
            if self._body_left:
                self._body_ends_stream = True
            else:
                self._on_fin(stream_id, events)

    def _on_syn(self, stream_id: int, now: float, events: list[Event]) -> None:
        if stream_id % 2 != self._remote_parity:
            raise RemoteProtocolError(f"yamux stream {stream_id} opened by the wrong side")
        if stream_id in self._streams:
            raise RemoteProtocolError(f"yamux stream {stream_id} opened twice")
        if self._going_away or self._counts[self._remote_parity] >= self._config.max_streams:
            self._answer(_WINDOW_UPDATE, _RST, stream_id, 0)
            return
        self._add(stream_id, _Stream(now)).acked = True
        self._answer(_WINDOW_UPDATE, _ACK, stream_id, 0)
        events.append(StreamOpened(stream_id))

    def _begin_body(self, stream: _Stream | None, stream_id: int, length: int) -> None:
        self._body_ends_stream = False
        self._body_left, self._body_stream = length, None
        if stream is None:
            if length > self._config.max_window:
                raise RemoteProtocolError(f"yamux frame of {length} bytes, more than any window")
            return
        if length > stream.credit:
            raise RemoteProtocolError(f"yamux stream {stream_id} overran its window by {length - stream.credit} bytes")
        stream.credit -= length
        if length and stream.remote_fin:
            raise RemoteProtocolError(f"yamux stream {stream_id} goes on after its end")
        if length and stream.refusing:
            self.reset(stream_id)
            return
        self._body_stream = stream_id

    def _on_fin(self, stream_id: int, events: list[Event]) -> None:
        stream = self._streams.get(stream_id)
        if stream is None or stream.remote_fin:
            return
        stream.remote_fin = True
        if stream.fin_sent:
            self._forget(stream_id)
        events.append(StreamEnded(stream_id))

    def _on_ping(self, flags: int, nonce: int, now: float, events: list[Event]) -> None:
        if flags & _SYN:
            self._answer(_PING, _ACK, 0, nonce)
        elif flags & _ACK and (sent := self._pings.pop(nonce, None)) is not None:
            rtt = now - sent
            self.rtt = rtt if self.rtt is None else (self.rtt + rtt) / 2
            events.append(PongReceived(nonce, rtt))

    def _answer(self, kind: int, flags: int, stream_id: int, length: int) -> None:
        if len(self._control) >= MAX_CONTROL:
            raise RemoteProtocolError(f"yamux peer lets {MAX_CONTROL} answers wait and asks for more")
        self._control.append(pack(kind, flags, stream_id, length))

    # --- our user's side

    def open_stream(self, now: float) -> int:
        """Open a stream and return its id; raises ConnectionClosed after a GoAway, LimitExceeded at a bound."""
        if self._going_away or self._peer_going_away:
            raise ConnectionClosed("yamux session is going away")
        if self._counts[1 - self._remote_parity] >= self._config.max_streams:
            raise LimitExceeded(f"{self._config.max_streams} streams of ours on one connection")
        if not self.may_open():
            raise LimitExceeded(f"{self._unacked} streams that the peer has not acknowledged")
        stream_id, self._next_id = self._next_id, self._next_id + 2
        self._add(stream_id, _Stream(now))
        self._unacked += 1
        self._send_control(_WINDOW_UPDATE, _SYN, stream_id, 0)
        return stream_id

    def may_open(self) -> bool:
        """Whether the backlog of unacknowledged streams has room."""
        return self._unacked < self._config.ack_backlog

    def reset(self, stream_id: int, code: int = 0) -> None:
        """End both directions at once and forget what is queued."""
        if stream_id in self._streams:
            self._forget(stream_id)
            self._send_control(_WINDOW_UPDATE, _RST, stream_id, code)

    def consume(self, stream_id: int, size: int, now: float) -> bool:
        """Tell that our user has taken `size` received bytes; true if this made credit to send."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.remote_fin:
            return False
        stream.consumed += size
        if stream.consumed < stream.window // 2:
            return False
        credit = stream.consumed + self._grow(stream, now)
        stream.consumed, stream.epoch = 0, now
        stream.credit += credit
        self._send_control(_WINDOW_UPDATE, 0, stream_id, credit)
        return True

    def ping(self, now: float) -> int:
        """Send a ping and return its nonce, which `PongReceived` will carry."""
        nonce, self._next_nonce = self._next_nonce, (self._next_nonce + 1) % 2**32
        if len(self._pings) >= MAX_PINGS:
            del self._pings[next(iter(self._pings))]
        self._pings[nonce] = now
        self._send_control(_PING, _SYN, 0, nonce)
        return nonce

    def go_away(self, code: int = GoAwayCode.NORMAL) -> None:
        """Announce the end, once; the peer's new streams are refused from now on."""
        if not self._going_away:
            self._going_away = True
            self._send_control(_GO_AWAY, 0, 0, code)

    # --- towards the wire

    def _take(self, stream_id: int, stream: _Stream, room: int, batch: list[Buffer]) -> int:
        if not stream.outgoing:
            stream.fin_sent = True
            batch.append(pack(_WINDOW_UPDATE, _FIN, stream_id, 0))
            if stream.remote_fin:
                self._forget(stream_id)
            return HEADER.size
        size = min(len(stream.outgoing[0]), stream.send_window, room - HEADER.size)
        stream.send_window -= size
        batch += (pack(_DATA, 0, stream_id, size), self._cut(stream_id, stream, size))
        return HEADER.size + size

    def _send_control(self, kind: int, flags: int, stream_id: int, length: int) -> None:
        self._control.append(pack(kind, flags, stream_id, length))

    def _forget(self, stream_id: int) -> _Stream:
        stream = super()._forget(stream_id)
        self._return_growth(stream.window - INITIAL_WINDOW)
        if not stream.acked:
            self._unacked -= 1
        return stream

    def _grow(self, stream: _Stream, now: float) -> int:
        if self.rtt is None or now - stream.epoch >= 4 * self.rtt:
            return 0
        room = min(self._config.max_window - stream.window, self._config.growth_budget - self._growth)
        growth = self._pool.take(min(stream.window, room))
        stream.window += growth
        self._growth += growth
        return growth

    def _return_growth(self, size: int) -> None:
        self._growth -= size
        self._pool.give(size)

    def abandon(self) -> None:
        """The session is over: forget its streams and return what their windows took of the pool."""
        self._return_growth(self._growth)
        super().abandon()

    # --- time

    def get_timer(self) -> float:
        """When `handle_timer` is to be called at the latest."""
        due = [self._probe_at]
        if self._answer_by is not None:
            due.append(self._answer_by)
        if self._lingering:
            due.append(next(iter(self._lingering.values())))
        return min(due)

    def handle_timer(self, now: float) -> list[Event]:
        """Do what is due: ping the peer (at once after the start), give up a silent one, reset streams that linger."""
        if self._answer_by is not None and self._answer_by <= now:
            return [KeepAliveFailed()]
        if self._probe_at <= now:
            self.ping(now)
            self._probe_at = now + self._config.keep_alive
            self._answer_by = now + self._config.answer_within
        self._reset_those_that_linger(now)
        return []
