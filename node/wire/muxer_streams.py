"""What every muxer keeps of its streams, and how they take turns to send: the part that no format changes.

    send_data, close_write ──► a stream's queue ──► the round ──► data_to_send, one frame a stream

What a muxer answers and announces goes ahead of all data. A stream that our user has closed lingers until the peer ends
its direction too, and is reset if that takes too long.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from typing import Generic, TypeVar

from node.errors import StreamClosed
from node.names.varint import Buffer

__all__ = ["MAX_CONTROL", "MuxerStream", "MuxerStreams"]

MAX_CONTROL = 4096
"""Answers that wait for a peer which asks but does not read; beyond it the peer is flooding us."""
_MIN_FRAME = 1024
"""Bytes: below this a data frame is not worth the rest of a batch: the next batch carries it whole."""


class MuxerStream:
    """What a session knows of one stream."""

    __slots__ = ("fin_sent", "fin_wanted", "outgoing", "queued", "refusing", "remote_fin")

    def __init__(self) -> None:
        self.outgoing: deque[memoryview] = deque()  # what the writer waits for, so bounded by the writer
        self.queued = False  # in the session's round of streams with something to send
        self.fin_wanted = self.fin_sent = self.remote_fin = False
        self.refusing = False  # closed by us: more data is answered by a reset

    def can_send(self) -> bool:
        """Whether there is something to send that may be sent."""
        return bool(self.outgoing) or (self.fin_wanted and not self.fin_sent)


Known = TypeVar("Known", bound=MuxerStream)


class MuxerStreams(ABC, Generic[Known]):
    """The streams of one session."""

    def __init__(self, name: str, max_header: int, linger: float) -> None:
        """`max_header` is in bytes; `linger`, in seconds, how long a closed stream waits for the peer."""
        self._name = name
        self._max_header = max_header
        self._linger = linger
        self._streams: dict[int, Known] = {}  # at most twice the format's max_streams
        self._counts = [0, 0]  # open streams by the parity of their id
        self._control: deque[bytes] = deque()  # at most MAX_CONTROL by the peer's doing
        self._round: deque[int] = deque()  # streams that can send, each once
        self._drained: list[int] = []
        self._forgotten: list[int] = []
        self._lingering: dict[int, float] = {}  # stream → when it is reset, in the order of time
        self._body_stream: int | None = None

    @abstractmethod
    def reset(self, stream_id: int, code: int = 0) -> None:
        """End both directions at once and forget what is queued."""

    @abstractmethod
    def _take(self, stream_id: int, stream: Known, room: int, batch: list[Buffer]) -> int:
        """Add a stream's next frame, of at most `room` bytes, to a batch; how many they were."""

    # --- our user's side

    def send_data(self, stream_id: int, data: memoryview) -> None:
        """Queue bytes (format B), which must not change until `drained` names the stream; raises StreamClosed."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.fin_wanted:
            raise StreamClosed(f"{self._name} stream {stream_id} is closed for writing")
        if data:
            stream.outgoing.append(data)
            self._enqueue(stream_id, stream)

    def pending(self, stream_id: int) -> bool:
        """Whether bytes of `send_data` still wait."""
        stream = self._streams.get(stream_id)
        return stream is not None and bool(stream.outgoing)

    def drained(self) -> list[int]:
        """The streams whose last queued byte was handed out since the last call."""
        drained, self._drained = self._drained, []
        return drained

    def forgotten(self) -> list[int]:
        """The streams that ended in both directions since the last call, and are not open again."""
        forgotten, self._forgotten = self._forgotten, []
        return [stream_id for stream_id in forgotten if stream_id not in self._streams]

    def close_write(self, stream_id: int) -> None:
        """End our direction, after what is queued."""
        stream = self._streams.get(stream_id)
        if stream is not None and not stream.fin_wanted:
            stream.fin_wanted = True
            self._enqueue(stream_id, stream)

    def close(self, stream_id: int, now: float) -> None:
        """End our direction and refuse the rest of the peer's: its end is fine, more data is answered by a reset."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.refusing:
            return
        stream.refusing = True
        self.close_write(stream_id)
        if not stream.remote_fin:
            self._lingering[stream_id] = now + self._linger

    # --- towards the wire

    def data_to_send(self, max_bytes: int) -> list[Buffer]:
        """The next buffers for the peer, together at most `max_bytes`; empty when nothing can be sent."""
        batch: list[Buffer] = []
        room = max_bytes
        while self._control and room >= self._max_header:
            batch.append(self._control.popleft())
            room -= len(batch[-1])
        while self._round and room >= self._max_header + _MIN_FRAME:
            stream_id = self._round.popleft()
            stream = self._streams[stream_id]
            stream.queued = False
            room -= self._take(stream_id, stream, room, batch)
            self._enqueue(stream_id, stream)
        return batch

    def _cut(self, stream_id: int, stream: Known, size: int) -> memoryview:
        """Take the first bytes of what a stream has queued, at most its first buffer."""
        data = stream.outgoing[0]
        if size < len(data):
            stream.outgoing[0] = data[size:]
        else:
            stream.outgoing.popleft()
            if not stream.outgoing:
                self._drained.append(stream_id)
        return data[:size]

    def _enqueue(self, stream_id: int, stream: Known) -> None:
        if not stream.queued and stream.can_send() and stream_id in self._streams:
            stream.queued = True
            self._round.append(stream_id)

    # --- coming and going

    def _add(self, stream_id: int, stream: Known) -> Known:
        self._streams[stream_id] = stream
        self._counts[stream_id % 2] += 1
        return stream

    def _forget(self, stream_id: int) -> Known:
        stream = self._streams.pop(stream_id)
        self._counts[stream_id % 2] -= 1
        self._forgotten.append(stream_id)
        self._lingering.pop(stream_id, None)
        if stream.queued:
            self._round.remove(stream_id)
        if self._body_stream == stream_id:
            self._body_stream = None
        return stream

    def abandon(self) -> None:
        """The session is over: forget its streams."""
        self._streams.clear()
        self._round.clear()
        self._lingering.clear()

    def _reset_those_that_linger(self, now: float) -> None:
        for stream_id in [stream_id for stream_id, due in self._lingering.items() if due <= now]:
            self.reset(stream_id)
