"""RESP, what Redis speaks: commands out of bytes, replies into bytes. No IO.

    *3\\r\\n$5\\r\\nRPUSH\\r\\n$1\\r\\nk\\r\\n$1\\r\\nv\\r\\n  ─►  (b"RPUSH", b"k", b"v")
    PING\\r\\n                                      ─►  (b"PING",)

Both versions: a connection speaks RESP2 until its client says HELLO 3; they differ in how nothing and maps are written.
Spec: https://redis.io/docs/latest/develop/reference/protocol-spec/
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

from lab.errors import LabError

MAX_ARGUMENTS: Final = 64
"of one command, its name included"
MAX_ARGUMENT: Final = 64 * 1024
"bytes: addresses and peer ids have some hundred"
MAX_LINE: Final = 1024
"bytes of a header, or of a command that is typed by hand"

Command: TypeAlias = tuple[bytes, ...]
"its name and its arguments; never empty"


class RespError(LabError):
    """Bytes that are no command; after them nothing on the connection can be understood."""


class Simple(Enum):
    """The replies that are a word."""

    OK = b"OK"
    PONG = b"PONG"


@dataclass(frozen=True, slots=True)
class Failure:
    """The reply to a command that cannot be done; the first word is its kind."""

    why: str


Reply: TypeAlias = "Simple | Failure | int | bytes | Sequence[Reply] | Mapping[bytes, Reply] | None"


class Reader:
    """Cuts the bytes of one connection into commands."""

    def __init__(self) -> None:
        self._buffer = bytearray()  # at most one argument and one read
        self._missing = 0
        self._arguments: list[bytes] = []  # at most MAX_ARGUMENTS
        self._length: int | None = None

    def receive_data(self, data: bytes) -> list[Command]:
        """The commands that end in `data`; RespError when it is none, and for ever after."""
        self._buffer += data
        return list(self._commands())

    def _commands(self) -> Iterator[Command]:
        while True:
            if not self._missing:
                line = self._line()
                if line is None:
                    return
                if line[:1] == b"*":
                    self._missing = max(0, _number(line, MAX_ARGUMENTS, "arguments"))
                elif typed := tuple(line.split()[:MAX_ARGUMENTS]):
                    yield typed
            else:
                argument = self._argument()
                if argument is None:
                    return
                self._arguments.append(argument)
                self._missing -= 1
                if not self._missing:
                    command, self._arguments = tuple(self._arguments), []
                    yield command

    def _argument(self) -> bytes | None:
        if self._length is None:
            line = self._line()
            if line is None:
                return None
            if line[:1] != b"$":
                raise RespError(f"Protocol error: expected '$', got {line[:1]!r}")
            length = _number(line, MAX_ARGUMENT, "bytes")
            if length < 0:
                raise RespError("Protocol error: an argument of a negative length")
            self._length = length
        if len(self._buffer) < self._length + 2:
            return None
        argument, end = bytes(self._buffer[: self._length]), self._buffer[self._length : self._length + 2]
        if end != b"\r\n":
            raise RespError("Protocol error: an argument does not end where it should")
        del self._buffer[: self._length + 2]
        self._length = None
        return argument

    def _line(self) -> bytes | None:
        """The bytes up to the next end of line, which by hand may lack its CR."""
        end = self._buffer.find(b"\n", 0, MAX_LINE)
        if end < 0:
            if len(self._buffer) >= MAX_LINE:
                raise RespError("Protocol error: too long a line")
            return None
        line = bytes(self._buffer[:end]).removesuffix(b"\r")
        del self._buffer[: end + 1]
        return line


def _number(line: bytes, most: int, what: str) -> int:
    digits = line[1:]
    if not digits.removeprefix(b"-").isdigit() or len(digits) > 10:
        raise RespError("Protocol error: invalid length")
    number = int(digits)
    if number > most:
        raise RespError(f"Protocol error: {number} {what}, of at most {most}")
    return number


def encode(reply: Reply, version: int = 2) -> bytes:
    """A reply in that version of the protocol."""
    match reply:
        case None:
            return b"_\r\n" if version == 3 else b"$-1\r\n"
        case Simple():
            return b"+" + reply.value + b"\r\n"
        case Failure(why):
            return b"-" + " ".join(why.split()).encode() + b"\r\n"
        case int():
            return b":%d\r\n" % reply
        case bytes():
            return b"$%d\r\n%b\r\n" % (len(reply), reply)
        case Mapping():
            head = b"%%%d\r\n" % len(reply) if version == 3 else b"*%d\r\n" % (2 * len(reply))
            return head + b"".join(encode(item, version) for pair in reply.items() for item in pair)
        case _:
            return b"*%d\r\n" % len(reply) + b"".join(encode(item, version) for item in reply)


def encode_nothing(version: int = 2) -> bytes:
    """What a list that nobody filled in time is answered with; RESP2 has a nothing of its own for lists."""
    return b"_\r\n" if version == 3 else b"*-1\r\n"
