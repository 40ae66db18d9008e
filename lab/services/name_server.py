"""The lab's name server: UDP and TCP, port 53, in a namespace of its own. What it answers is `authority`'s business."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from lab.kernel.namespace import Namespace
from lab.plan.zone import DnsPlan
from lab.services.authority import Authority, Reply

PORT: Final = 53
MAX_WAITING: Final = 1000
"answers that are late on purpose; a question beyond gets none"
MAX_CONNECTIONS: Final = 100
IDLE: Final = 10.0
"Seconds that a connection may be silent (RFC 7766 §6.2.3)."
_LENGTH = struct.Struct("!H")

Source: TypeAlias = tuple[Any, ...]
"a socket's address: of IPv6 it has four parts"


class NameServer:
    """A server from `start` to `close`. `on_reply` hears of every question that is one."""

    def __init__(self, plan: DnsPlan, on_reply: Callable[[Reply], None]) -> None:
        self.authority = Authority(plan)
        self._addresses = plan.addresses
        self._on_reply = on_reply
        self._transports: list[asyncio.DatagramTransport] = []
        self._servers: list[asyncio.Server] = []
        "each one for every address"
        self._waiting: set[asyncio.TimerHandle] = set()
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self, space: Namespace) -> None:
        """Listen; raises OSError where it cannot."""
        loop = asyncio.get_running_loop()
        for address in self._addresses:
            datagrams, connections = (_bound(space, kind, address) for kind in ("udp", "tcp"))
            transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), sock=datagrams)
            self._transports.append(transport)
            self._servers.append(await asyncio.start_server(self._accept, sock=connections))

    async def close(self) -> None:
        """Stop, and answer nobody any more."""
        for handle in self._waiting:
            handle.cancel()
        self._waiting.clear()
        for transport in self._transports:
            transport.close()
        for server in self._servers:
            server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def datagram(self, transport: asyncio.DatagramTransport, data: bytes, source: Source) -> None:
        """Answer a question that came by UDP."""
        reply = self._ask(data, by_tcp=False, source=source)
        if reply is None or reply.wire is None:
            return
        if not reply.delay:
            transport.sendto(reply.wire, source)
        elif len(self._waiting) < MAX_WAITING:
            self._send_later(transport, reply.wire, source, reply.delay)

    def _send_later(self, transport: asyncio.DatagramTransport, wire: bytes, source: Source, delay: float) -> None:
        def send() -> None:
            self._waiting.discard(handle)
            transport.sendto(wire, source)

        handle = asyncio.get_running_loop().call_later(delay, send)
        self._waiting.add(handle)

    def _ask(self, data: bytes, *, by_tcp: bool, source: Source) -> Reply | None:
        reply = self.authority.reply(data, by_tcp=by_tcp, by_ipv6=":" in source[0])
        if reply is not None:
            self._on_reply(reply)
        return reply

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._connections) >= MAX_CONNECTIONS:
            writer.close()
            return
        self._connections.add(task)
        try:
            await self._converse(reader, writer)
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
            return  # whoever asks by TCP and goes away has no answer to get
        finally:
            self._connections.discard(task)
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            async with asyncio.timeout(IDLE):
                (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
                question = await reader.readexactly(length)
            reply = self._ask(question, by_tcp=True, source=writer.get_extra_info("peername"))
            if reply is None:
                return
            if reply.wire is not None:
                await asyncio.sleep(reply.delay)
                writer.write(_LENGTH.pack(len(reply.wire)) + reply.wire)
                async with asyncio.timeout(IDLE):
                    await writer.drain()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: NameServer) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Source) -> None:
        self._server.datagram(self._transport, data, addr)


def _bound(space: Namespace, kind: str, address: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = space.socket(family, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setblocking(False)
        made.bind((address, PORT))
    except OSError:
        made.close()
        raise
    return made
