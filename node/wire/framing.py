"""Frames: messages on a stream, each behind its length as a varint. identify, relay, dcutr and multistream use them.

uvarint length ‖ payload
"""

from __future__ import annotations

from node.errors import LocalProtocolError, RemoteProtocolError
from node.names import varint
from node.names.varint import Buffer, Truncated

__all__ = ["Buffer", "LengthDelimited", "encode_frame"]


def encode_frame(payload: Buffer) -> bytes:
    """The payload behind its length."""
    return b"".join((varint.encode(len(payload)), payload))


class LengthDelimited:
    """Cuts a peer's bytes into frames, and keeps what is not yet one; a frame may be at most `max_size` bytes."""

    def __init__(self, max_size: int) -> None:
        self.max_size = max_size
        self._buffer = bytearray()  # at most one incomplete frame and its length, plus what one call brings

    def receive_data(self, data: Buffer) -> list[bytes]:
        """All frames that are complete now; raises RemoteProtocolError for a length that is malformed or too large."""
        self._buffer += data
        frames: list[bytes] = []
        while (frame := self.next_frame()) is not None:
            frames.append(frame)
        return frames

    def next_frame(self) -> bytes | None:
        """One frame out of what was received, None if none is complete: for a reader that may have to stop after it."""
        try:
            size, start = varint.decode(self._buffer)
        except Truncated:
            return None
        if size > self.max_size:
            raise RemoteProtocolError(f"frame of {size} bytes, at most {self.max_size} allowed")
        if len(self._buffer) - start < size:
            return None
        frame = bytes(self._buffer[start : start + size])
        del self._buffer[: start + size]
        return frame

    def feed(self, data: Buffer) -> None:
        """Add received bytes without cutting them."""
        self._buffer += data

    def receive_eof(self) -> None:
        """The peer closed; raises RemoteProtocolError if it did so inside a frame."""
        if self._buffer:
            raise RemoteProtocolError(f"stream ends inside a frame, {len(self._buffer)} bytes after its start")

    def trailing(self) -> bytes:
        """Hand over, once, the bytes behind the last frame taken: they belong to the next protocol."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

    def bytes_wanted(self) -> int:
        """How many bytes can be read without running past the current frame, at least 1: for exact readers."""
        try:
            size, start = varint.decode(self._buffer)
        except Truncated:
            return 1
        if size > self.max_size:
            raise RemoteProtocolError(f"frame of {size} bytes, at most {self.max_size} allowed")
        missing = start + size - len(self._buffer)
        if missing <= 0:
            raise LocalProtocolError("a complete frame is waiting to be taken")
        return missing
