"""How far a QUIC peer may send ahead of the reader: of one stream, and of all streams of a connection together.

The window follows the reader: when half of it was consumed in less than four round trips, it doubles, as long as the
pool that all connections share has room. Only consumption moves it: who reads slowly is sent slowly. The limit is told
in small steps: streams that nobody reads may hold most of a connection's window, and the others live on the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from node.wire.yamux_windows import Growth

STEP = 32 * 1024
"""Bytes by which the limit moves at least."""
_PATIENCE = 4
"""Round trips within which half a window must be consumed for it to grow."""


class ReceiveWindow:
    """The state of one window; `limit` is the offset up to which the peer may send."""

    __slots__ = ("_begin", "_consumed", "_grown", "_half", "_most", "_pool", "_size", "limit")

    def __init__(self, size: int, most: int, pool: Growth, now: float) -> None:
        self._size = size
        self._most = most
        self._pool = pool
        self._grown = 0
        self._consumed = 0
        self._half = size // 2  # what is consumed when it shows how fast the reader is
        self._begin = now
        self.limit = size

    def consume(self, size: int, now: float, rtt: float) -> bool:
        """Take note that the reader took `size` bytes; return whether the limit has moved and is to be told."""
        self._consumed += size
        if self._consumed >= self._half:
            self._grow(now, rtt)
        limit = self._consumed + self._size
        if limit - self.limit < STEP:
            return False
        self.limit = limit
        return True

    def _grow(self, now: float, rtt: float) -> None:
        if now - self._begin < _PATIENCE * rtt:
            grown = self._pool.take(min(self._size, self._most - self._size))
            self._size += grown
            self._grown += grown
        self._begin = now
        self._half = self._consumed + self._size // 2

    def close(self) -> None:
        """Return what was taken of the pool."""
        self._pool.give(self._grown)
        self._size -= self._grown
        self._grown = 0
