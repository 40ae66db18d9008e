"""Lines out of bytes: the framing of the control channel.

A line ends in a newline and holds at most `max_line` bytes; of a longer one nothing is kept but that there was one, so
that a broken lab costs the node no memory. The last line may lack its newline.
"""

from __future__ import annotations

from dataclasses import dataclass

from node.names.varint import Buffer


@dataclass(frozen=True, slots=True)
class Line:
    """A line without its newline, and its number, from 1."""

    number: int
    data: bytes


@dataclass(frozen=True, slots=True)
class TooLong:
    """A line that was longer than allowed."""

    number: int


class Lines:
    """Cuts bytes into lines."""

    def __init__(self, max_line: int) -> None:
        self._max_line = max_line
        self._buffer = bytearray()  # at most max_line and one read
        self._number = 1
        self._dropping = False

    def receive_data(self, data: Buffer) -> list[Line | TooLong]:
        """Return the lines that end in `data`."""
        lines: list[Line | TooLong] = []
        *ended, rest = bytes(data).split(b"\n")
        for part in ended:
            self._buffer += part
            lines.append(self._finish())
        self._buffer += rest
        if len(self._buffer) > self._max_line:
            self._dropping = True
            self._buffer.clear()
        return lines

    def receive_eof(self) -> list[Line | TooLong]:
        """Return the last line if it lacks its newline."""
        return [self._finish()] if self._buffer or self._dropping else []

    def _finish(self) -> Line | TooLong:
        number, data = self._number, bytes(self._buffer)
        too_long = self._dropping or len(data) > self._max_line
        self._buffer.clear()
        self._dropping = False
        self._number += 1
        return TooLong(number) if too_long else Line(number, data)
