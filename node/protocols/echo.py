"""Echo: what arrives goes back until the initiator ends its side. Not a spec; js ships the same under the same name.

initiator ── bytes, end ─► responder
          ◄─ bytes, end ──
"""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from node.errors import DeadlineExceeded, NodeError, RemoteProtocolError

if TYPE_CHECKING:
    from node.net.connection import Connection, Stream
    from node.protocols.api import HostApi

PROTOCOL = "/echo/1.0.0"
BLOCK = 65536
"""Bytes of one write."""
MAX_BYTES = 1 << 30
"""Bound of what one echo sends."""
IDLE_TIMEOUT = 60.0
"""Seconds the responder waits for more, in either direction."""


@dataclass(frozen=True, slots=True)
class Echoed:
    """A payload that came back as it was sent; `seconds` from the first byte out to the last byte in."""

    bytes: int
    seconds: float


class Echo:
    """Answers echoes and sends them."""

    def __init__(self, host: HostApi) -> None:
        self._host = host

    async def start(self) -> None:
        """Echo from now on, over limited connections too: the lab tells by it whether a path carries bytes."""
        self._host.handle(PROTOCOL, self._serve, limited=True)

    async def close(self) -> None:
        """Echo no more."""
        self._host.unhandle(PROTOCOL)

    async def echo(
        self, connection: Connection, size: int, *, protocol: str = PROTOCOL, timeout: float = 30.0
    ) -> Echoed:
        """Send `size` random bytes and compare what returns; RemoteProtocolError when it is not the same."""
        stream = await connection.new_stream([protocol], limited=True, timeout=timeout)
        try:
            async with asyncio.timeout(timeout):
                seconds = await _there_and_back(stream, size)
                await stream.close()
        except TimeoutError:
            stream.reset()
            raise DeadlineExceeded(f"{size} bytes did not return from {connection.peer} in {timeout:g} s") from None
        except BaseException:
            stream.reset()
            raise
        return Echoed(size, seconds)

    async def _serve(self, stream: Stream) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(IDLE_TIMEOUT) as deadline:
            while data := await stream.read(BLOCK):
                await stream.write(data)
                deadline.reschedule(loop.time() + IDLE_TIMEOUT)
            await stream.close_write()


async def _there_and_back(stream: Stream, size: int) -> float:
    block = secrets.token_bytes(min(size, BLOCK))
    started = time.perf_counter()
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_send(stream, block, size), name="echo out")
            group.create_task(_compare(stream, block, size), name="echo in")
    except* NodeError as errors:
        raise errors.exceptions[0] from None
    return time.perf_counter() - started


async def _send(stream: Stream, block: bytes, size: int) -> None:
    whole, rest = divmod(size, BLOCK)
    for _ in range(whole):
        await stream.write(block)
    if rest:
        await stream.write(block[:rest])
    await stream.close_write()


async def _compare(stream: Stream, block: bytes, size: int) -> None:
    """Read `size` bytes, which must be `block` again and again, and then the end."""
    pattern = memoryview(block + block)
    received = 0
    while data := await stream.read(BLOCK):
        offset = received % BLOCK
        received += len(data)
        if received > size or data != pattern[offset : offset + len(data)]:
            raise RemoteProtocolError(f"{stream.peer} echoed other bytes around byte {received}")
    if received != size:
        raise RemoteProtocolError(f"{stream.peer} echoed {received} of {size} bytes")
