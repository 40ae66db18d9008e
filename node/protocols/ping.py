"""Ping: 32 random bytes there and back, as often as wanted, on one stream.

    initiator ── 32 bytes ─► responder
              ◄─ the same ──

The responder serves until the initiator ends its side. It runs over limited connections too.

Spec: https://github.com/libp2p/specs/blob/master/ping/ping.md
"""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import TYPE_CHECKING

from node.errors import DeadlineExceeded, RemoteProtocolError
from node.net.stream import read_exactly

if TYPE_CHECKING:
    from node.net.connection import Connection, Stream
    from node.protocols.api import HostApi

PROTOCOL = "/ipfs/ping/1.0.0"
SIZE = 32
IDLE_TIMEOUT = 60.0
"""Seconds the responder waits for the next ping."""


class Ping:
    """Answers pings and sends them."""

    def __init__(self, host: HostApi) -> None:
        self._host = host

    async def start(self) -> None:
        """Answer pings from now on."""
        self._host.handle(PROTOCOL, self._serve, limited=True)

    async def close(self) -> None:
        """Answer no more."""
        self._host.unhandle(PROTOCOL)

    async def ping(self, connection: Connection, *, timeout: float = 10.0) -> float:
        """Return one round trip in seconds; NegotiationError when the peer has no ping."""
        stream = await connection.new_stream([PROTOCOL], limited=True, timeout=timeout)
        try:
            async with asyncio.timeout(timeout):
                rtt = await _round_trip(stream)
                await stream.close()
        except TimeoutError:
            stream.reset()
            raise DeadlineExceeded(f"{connection.peer} did not answer a ping in {timeout:g} s") from None
        except BaseException:
            stream.reset()
            raise
        self._host.measured(connection.peer, rtt)
        return rtt

    async def _serve(self, stream: Stream) -> None:
        async with asyncio.timeout(IDLE_TIMEOUT) as deadline:
            while first := await stream.read(SIZE):
                await stream.write(first + await read_exactly(stream, SIZE - len(first)))
                deadline.reschedule(asyncio.get_running_loop().time() + IDLE_TIMEOUT)


async def _round_trip(stream: Stream) -> float:
    sent = secrets.token_bytes(SIZE)
    started = time.perf_counter()
    await stream.write(sent)
    received = await read_exactly(stream, SIZE)
    rtt = time.perf_counter() - started
    if received != sent:
        raise RemoteProtocolError(f"{stream.peer} answered a ping with other bytes")
    return rtt
