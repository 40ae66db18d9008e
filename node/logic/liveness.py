"""Which connections to ask for a sign of life: those of peers we keep, once nothing was heard for too long.

    look(connection, bytes received) ─► heard or silent ─► due(kept) ─► asked ─► answered, or over

A connection that carries anything from the peer needs no asking. Whoever is asked is not asked again meanwhile.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

SILENCE = 15.0
"""Seconds without a byte after which a peer that we keep is asked: as often as QUIC's keep-alive."""
ANSWER = 4.0
"""Seconds for the answer."""
DOUBT = 1.0
"""Seconds without an answer after which others may be silent for the same reason, and are asked too."""
LOOKS = 5
"""Looks in the time of SILENCE."""

Conn = TypeVar("Conn", bound=Hashable)


@dataclass(slots=True)
class _Heard:
    bytes_in: int
    at: float


class Liveness(Generic[Conn]):
    """When each connection was heard of last; times are seconds of the caller's clock."""

    def __init__(self, silence: float = SILENCE) -> None:
        self._silence = silence
        self._heard: dict[Conn, _Heard] = {}  # one for each open connection
        self._asked: set[Conn] = set()

    def look(self, connection: Conn, bytes_in: int, now: float) -> None:
        """Take note of how many bytes have come in until now."""
        known = self._heard.get(connection)
        if known is None:
            self._heard[connection] = _Heard(bytes_in, now)
        elif known.bytes_in != bytes_in:
            known.bytes_in, known.at = bytes_in, now

    def forget(self, connection: Conn) -> None:
        """The connection is over."""
        self._heard.pop(connection, None)
        self._asked.discard(connection)

    def due(self, kept: Iterable[Conn], now: float) -> list[Conn]:
        """Return those of the connections to be asked now; each counts as asked until `answered` or `forget`."""
        return self.ask(each for each in kept if self._is_silent(each, now))

    def ask(self, connections: Iterable[Conn]) -> list[Conn]:
        """Return those that are not being asked already; each counts as asked until `answered` or `forget`."""
        fresh = [each for each in connections if each not in self._asked]
        self._asked.update(fresh)
        return fresh

    def answered(self, connection: Conn, now: float) -> None:
        """There was a sign of life."""
        self._asked.discard(connection)
        if (known := self._heard.get(connection)) is not None:
            known.at = now

    def is_fresh(self, connection: Conn, now: float) -> bool:
        """Whether it was heard of so lately, if only by its beginning, that there is no reason for doubt."""
        known = self._heard.get(connection)
        return known is not None and now - known.at < DOUBT

    def _is_silent(self, connection: Conn, now: float) -> bool:
        known = self._heard.get(connection)
        return known is not None and now - known.at >= self._silence

    def __len__(self) -> int:
        return len(self._heard)
