"""STUN on real sockets: a server for others, and a client that finds out what kind of NAT is in front of us.

What is answered is `node.logic.stun.StunServer`, what is asked `BehaviourTest`; here are their sockets and their clock.

RFC 8489, RFC 5780
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from node.errors import DeadlineExceeded, DialError
from node.logic.stun import BehaviourTest, FreshMappings, Socket, StunServer
from node.net.datagrams import DatagramPort, source_towards

if TYPE_CHECKING:
    from node.logic.nat import NatKind
    from node.wire.stun import Endpoint

logger = logging.getLogger(__name__)

TIMEOUT = 20.0
"""Seconds for a whole test; with every packet lost it takes 15."""


class StunService:
    """Answers on one address, or on the four endpoints of two."""

    def __init__(self, primary: Endpoint, alternate: Endpoint | None, clock: Callable[[], float]) -> None:
        self._server = StunServer(primary, alternate)
        self._clock = clock
        self._ports: dict[Endpoint, DatagramPort] = {}  # four at most

    async def start(self) -> None:
        """Listen; ConfigError where that is not possible."""
        for endpoint in self._server.endpoints:
            self._ports[endpoint] = DatagramPort(endpoint, partial(self._received, endpoint))

    async def close(self) -> None:
        """Listen no more."""
        for port in self._ports.values():
            port.close()
        self._ports.clear()

    def _received(self, at: Endpoint, data: bytes, source: Endpoint) -> None:
        reply = self._server.receive_datagram(data, source, at, self._clock())
        if reply is not None:
            self._ports[reply.source].send(reply.data, source)


async def measure(server: Endpoint, clock: Callable[[], float], *, timeout: float = TIMEOUT) -> NatKind:
    """Find out what the NAT between us and a server with two addresses does to UDP.

    Raises DialError where the server does not answer, or cannot answer from elsewhere.
    """
    try:
        here = source_towards(server)
    except OSError as error:
        raise DialError(f"no way to {server}: {error.strerror or error}") from error
    news = asyncio.Event()
    with ExitStack() as stack:

        def received(kind: Socket, data: bytes, source: Endpoint) -> None:
            test.receive_datagram(kind, data, source, clock())
            news.set()

        ports = {kind: DatagramPort(here, partial(received, kind)) for kind in Socket}
        for port in ports.values():
            stack.callback(port.close)
        local = (ports[Socket.FILTERING].local, ports[Socket.MAPPING].local)
        test = BehaviourTest(server, local, secrets.token_bytes)
        try:
            async with asyncio.timeout(timeout):
                await _run(test, ports, news, clock)
        except TimeoutError:
            raise DeadlineExceeded(f"{server}: no result within {timeout:g} s") from None
    if test.why is not None:
        raise DialError(test.why)
    return test.result()


async def fresh_mappings(
    server: Endpoint, count: int, clock: Callable[[], float], *, timeout: float = TIMEOUT
) -> list[tuple[Endpoint, Endpoint]]:
    """Have so many fresh sockets write to a server at once; return each one's own and external endpoint, in order.

    Raises DialError where the server does not answer all of them.
    """
    try:
        here = source_towards(server)
    except OSError as error:
        raise DialError(f"no way to {server}: {error.strerror or error}") from error
    news = asyncio.Event()
    with ExitStack() as stack:
        test = FreshMappings(server, count, secrets.token_bytes)

        def received(data: bytes, source: Endpoint) -> None:
            test.receive_datagram(data, source)
            news.set()

        ports = [DatagramPort(here, received) for _ in range(count)]
        for port in ports:
            stack.callback(port.close)
        try:
            async with asyncio.timeout(timeout):
                while test.open:
                    for index, data in test.datagrams_to_send(clock()):
                        ports[index].send(data, server)
                    if (timer := test.get_timer()) is not None:
                        await _news(news, timer - clock())
        except TimeoutError:
            raise DeadlineExceeded(f"{server}: no answer within {timeout:g} s") from None
        if len(test.mapped) < count:
            raise DialError(f"no answer from {server}")
        return [(port.local, test.mapped[index]) for index, port in enumerate(ports)]


async def _run(
    test: BehaviourTest, ports: dict[Socket, DatagramPort], news: asyncio.Event, clock: Callable[[], float]
) -> None:
    test.start(clock())
    while not test.done:
        for datagram in test.datagrams_to_send(clock()):
            ports[datagram.socket].send(datagram.data, datagram.to)
        timer = test.get_timer()
        if timer is None:
            return
        await _news(news, timer - clock())


async def _news(news: asyncio.Event, within: float) -> None:
    """Wait for news, but not longer than that."""
    news.clear()
    waiting = asyncio.create_task(news.wait(), name="an answer of a STUN server")
    try:
        await asyncio.wait({waiting}, timeout=max(0.0, within))
    finally:
        waiting.cancel()
