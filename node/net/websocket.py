"""WebSocket and secure WebSocket as transports, over our TCP.

    /ip4/…/tcp/80/ws     /ip4/…/tcp/443/tls/ws, …/wss     /ip4/…/tcp/443/tls/sni/<name>/ws

Dials leave from the port of a WebSocket listener, as TCP's do. The name that a server's certificate must bear is that
of `/sni`, which takes the place of a name that was resolved, else the IP address itself.
"""

from __future__ import annotations

import asyncio
from functools import cached_property
from typing import TYPE_CHECKING

from node.errors import DeadlineExceeded, DialError, NodeError
from node.net.layered import LayeredConnection
from node.net.tcp import TcpTransport
from node.net.web_tls import WebConfig, WebTls
from node.wire.websocket import WebSocket

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from node.names.multiaddr import Multiaddr
    from node.net.stream import RawConnection
    from node.net.tcp import Listener as TcpListener

_ABOVE_TCP = ("tls", "wss", "ws")


class Listener:
    """An open listener."""

    def __init__(self, inner: TcpListener, tail: str) -> None:
        self.addr = inner.addr / tail
        """The address bound, with the port in use; a wildcard as it was asked for."""
        self._inner = inner

    async def close(self) -> None:
        """Accept no more; connections that were accepted stay."""
        await self._inner.close()


class WebSocketTransport:
    """Listens and dials, secured by TLS where the addresses say so."""

    def __init__(self, web: WebConfig | None = None) -> None:
        self._web = web or WebConfig()
        self._tcp = TcpTransport()

    @cached_property
    def _client(self) -> ssl.SSLContext:
        return self._web.client()

    @cached_property
    def _server(self) -> ssl.SSLContext:
        return self._web.server()

    async def listen(self, addr: Multiaddr, on_connection: Callable[[RawConnection], None]) -> Listener:
        """Bind `addr`; raises ConfigError where that is not possible. HTTP and TLS begin with the first read."""
        below, tail = _split(addr)
        context = self._server if _is_secure(addr) else None

        def accept(raw: RawConnection) -> None:
            carrier = raw if context is None else LayeredConnection(raw, WebTls(context))
            local, remote = raw.local / tail, raw.remote / tail
            on_connection(LayeredConnection(carrier, WebSocket(initiator=False), local=local, remote=remote))

        return Listener(await self._tcp.listen(below, accept), tail)

    async def dial(
        self, addr: Multiaddr, *, source: Multiaddr | None = None, strict_source: bool = False, timeout: float = 15.0
    ) -> RawConnection:
        """Connect and upgrade HTTP; raises DialError (TcpDialError where TCP fails) or DeadlineExceeded."""
        below, tail = _split(addr)
        from_where = None if source is None else _split(source)[0]
        try:
            async with asyncio.timeout(timeout):
                raw = await self._tcp.dial(below, source=from_where, strict_source=strict_source, timeout=timeout)
                try:
                    return await self._upgrade(raw, addr, tail)
                except BaseException:
                    raw.abort()
                    raise
        except TimeoutError as error:
            raise DeadlineExceeded(f"{addr}: no answer within {timeout} s") from error

    async def _upgrade(self, raw: RawConnection, addr: Multiaddr, tail: str) -> RawConnection:
        name = addr.value("sni") or str(addr.ip)
        carrier: RawConnection = raw
        try:
            if _is_secure(addr):
                carrier = LayeredConnection(raw, WebTls(self._client, name=name))
            layer = WebSocket(initiator=True, host=f"[{name}]" if ":" in name else name)
            connection = LayeredConnection(carrier, layer, local=raw.local / tail, remote=addr.without("p2p"))
            await connection.ready()
        except NodeError as error:
            raise DialError(f"{addr}: {error}") from error
        return connection


def _is_secure(addr: Multiaddr) -> bool:
    return "tls" in addr or "wss" in addr


def _split(addr: Multiaddr) -> tuple[Multiaddr, str]:
    """The TCP address and what is above it, `/tls/ws`, without name and peer."""
    first = next(name for name in addr.names if name in _ABOVE_TCP)
    return addr.decapsulate(first), {"tls": "/tls/ws", "wss": "/tls/ws", "ws": "/ws"}[first]
