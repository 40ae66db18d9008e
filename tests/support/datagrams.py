"""A UDP path between two ends, as a NAT would make it: real sockets, and a hand on what goes through."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from node.names.multiaddr import Multiaddr

Filter = Callable[[bytes], bool]


class _Side(asyncio.DatagramProtocol):
    def __init__(self, on_datagram: Callable[[bytes, tuple[str, int]], None]) -> None:
        self.datagram_received = on_datagram  # type: ignore[assignment, method-assign]


class Forwarder:
    """Takes datagrams at `addr` and sends them to `target` from a port of its own; answers go back the same way."""

    addr: Multiaddr

    def __init__(self, target: Multiaddr) -> None:
        self._target = (str(target.ip), target.port or 0)
        self._client: tuple[str, int] | None = None
        self._near: asyncio.DatagramTransport
        self._far: asyncio.DatagramTransport
        self.forth: Filter = lambda data: True
        """Whether a datagram to the target goes through."""
        self.back: Filter = lambda data: True
        self.passed = 0
        """Datagrams that went to the target."""

    async def open(self) -> None:
        """Bind both sides."""
        self._near = await self._bind(self._from_client)
        self._far = await self._bind(self._from_target)
        self.addr = Multiaddr.quic("127.0.0.1", self._near.get_extra_info("sockname")[1])

    async def rebind(self) -> None:
        """Send from another port from now on; the old one is gone."""
        self._far.close()
        self._far = await self._bind(self._from_target)

    def close(self) -> None:
        """Carry nothing any more."""
        self._near.close()
        self._far.close()

    async def _bind(self, on_datagram: Callable[[bytes, tuple[str, int]], None]) -> asyncio.DatagramTransport:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: _Side(on_datagram), local_addr=("127.0.0.1", 0))
        return transport

    def _from_client(self, data: bytes, sender: tuple[str, int]) -> None:
        self._client = sender
        if self.forth(data):
            self.passed += 1
            self._far.sendto(data, self._target)

    def _from_target(self, data: bytes, _sender: tuple[str, int]) -> None:
        if self._client is not None and self.back(data):
            self._near.sendto(data, self._client)


@asynccontextmanager
async def forwarder(target: Multiaddr) -> AsyncIterator[Forwarder]:
    """A forwarder to `target`."""
    one = Forwarder(target)
    await one.open()
    try:
        yield one
    finally:
        one.close()
