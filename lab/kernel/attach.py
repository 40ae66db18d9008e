"""A container's stdin, stdout and stderr over one connection to the engine, as asyncio's streams.

What comes from the container is framed (Docker Engine API, "Attach to a container"): a byte for the stream, three
zeros, the length in 4 bytes, big-endian, the bytes. What goes to it is not. Closing our direction closes its stdin.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator
from typing import BinaryIO, Final

_HEADER: Final = struct.Struct(">BxxxI")
_STDOUT, _STDERR = 1, 2


class Frames:
    """Takes framed bytes apart, however they are split."""

    def __init__(self) -> None:
        self._header = b""
        self._stream = 0
        self._left = 0

    def receive(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Parts of streams, each with its number; a frame may come in several parts. Keeps 7 bytes at most."""
        view = memoryview(data)
        while view:
            if self._left:
                part, view = view[: self._left], view[self._left :]
                self._left -= len(part)
                yield self._stream, bytes(part)
                continue
            missing = _HEADER.size - len(self._header)
            self._header, view = self._header + view[:missing], view[missing:]
            if len(self._header) == _HEADER.size:
                self._stream, self._left = _HEADER.unpack(self._header)
                self._header = b""


class Attached(asyncio.StreamReaderProtocol):
    """One such connection: `stdin`, `stdout`, which holds back the engine when nobody reads, and a file for stderr."""

    def __init__(self, log: BinaryIO, limit: int) -> None:
        """`log` is closed at the end; `limit` is as in `asyncio.StreamReader`."""
        self.stdout = asyncio.StreamReader(limit=limit)
        self.ended = asyncio.get_running_loop().create_future()
        "Done when the engine has hung up, as it does when the container has ended."
        self._frames = Frames()
        self._log = log
        super().__init__(self.stdout)

    @classmethod
    async def over(cls, connection: socket.socket, log: BinaryIO, limit: int) -> Attached:
        """By a connection that the engine has made for attaching."""
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        transport, attached = await loop.create_connection(lambda: cls(log, limit), sock=connection)
        attached.transport = transport
        attached.stdin = asyncio.StreamWriter(transport, attached, attached.stdout, loop)
        return attached

    transport: asyncio.Transport
    stdin: asyncio.StreamWriter

    def data_received(self, data: bytes) -> None:
        for stream, part in self._frames.receive(data):
            if stream == _STDOUT:
                super().data_received(part)
            elif stream == _STDERR:
                self._log.write(part)

    def eof_received(self) -> bool:
        super().eof_received()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._log.close()
        if not self.ended.done():
            self.ended.set_result(None)
