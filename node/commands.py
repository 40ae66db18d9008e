"""The commands of the control channel: what each does with the host and what it answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from node.contract import Fields, Request, connection_fields, full, texts
from node.errors import NegotiationError
from node.host import AGENT, VERSION
from node.protocols import echo

if TYPE_CHECKING:
    from node.host import Host
    from node.names.peerid import PeerId
    from node.net.connection import Connection

IMPLEMENTATION = "punchlab-python"
PERF_BYTES = 1 << 34
"""Bound of one perf command in one direction."""

Command = Callable[[Request], Awaitable[Fields]]


class Unsupported(Exception):
    """The node was started without what the command needs."""


class Commands:
    """The commands by name; each raises a NodeError, BadArgument or Unsupported."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._by_name: dict[str, Command] = {
            "info": self._info,
            "dial": self._dial,
            "reserve": self._reserve,
            "echo": self._echo,
            "ping": self._ping,
            "connections": self._connections,
            "disconnect": self._disconnect,
            "perf": self._perf,
            "protocols": self._protocols,
        }

    def find(self, name: str) -> Command | None:
        """Return the command called `name`."""
        return self._by_name.get(name)

    async def _info(self, request: Request) -> Fields:
        host = self._host
        return {
            "peer": str(host.peer_id),
            "addrs": full(host.addrs(), host.peer_id),
            "observed": texts(host.observed_addrs()),
            "agent": AGENT,
            "version": VERSION,
            "implementation": IMPLEMENTATION,
            "protocols": host.protocols(),
        }

    async def _dial(self, request: Request) -> Fields:
        connection = await self._host.connect(request.addr("addr"), timeout=request.timeout)
        return {**connection_fields(connection), "rtt": await self._round_trip(connection, request.timeout)}

    async def _reserve(self, request: Request) -> Fields:
        client = self._host.relay_client
        if client is None:
            raise Unsupported
        held = await client.reserve(request.addr("addr"), timeout=request.timeout)
        limit = None if held.limit is None else {"duration": held.limit.duration, "data": held.limit.data}
        return {
            "relay": str(held.relay),
            "expire": held.expire,
            "addrs": full(held.addrs, self._host.peer_id),
            "limit": limit,
            "voucher": held.voucher is not None,
        }

    async def _echo(self, request: Request) -> Fields:
        size = request.size("bytes", echo.MAX_BYTES)
        protocol = request.protocol("protocol", echo.PROTOCOL)
        connection = await self._best(request.peer("peer"), request.timeout)
        echoed = await self._host.echo.echo(connection, size, protocol=protocol, timeout=request.timeout)
        return {
            "path": connection.path.value,
            "bytes": echoed.bytes,
            "seconds": echoed.seconds,
            "remote": str(connection.remote),
            "rtt": await self._round_trip(connection, request.timeout),
        }

    async def _ping(self, request: Request) -> Fields:
        connection = await self._best(request.peer("peer"), request.timeout)
        rtt = await self._host.ping.ping(connection, timeout=request.timeout)
        return {"rtt": rtt, "path": connection.path.value}

    async def _connections(self, request: Request) -> Fields:
        open_now = self._host.swarm.connections()
        return {"connections": [{**connection_fields(each), "since": each.opened_at} for each in open_now]}

    async def _disconnect(self, request: Request) -> Fields:
        return {"closed": await self._host.swarm.disconnect(request.peer("peer"))}

    async def _perf(self, request: Request) -> Fields:
        upload, download = request.size("upload", PERF_BYTES), request.size("download", PERF_BYTES)
        connection = await self._best(request.peer("peer"), request.timeout)
        measured = await self._host.perf.measure(connection, upload, download, timeout=request.timeout)
        return {
            "upload_seconds": measured.upload_seconds,
            "download_seconds": measured.download_seconds,
            "path": connection.path.value,
        }

    async def _protocols(self, request: Request) -> Fields:
        connection = await self._best(request.peer("peer"), request.timeout)
        await self._host.identified(connection, request.timeout)
        known = self._host.protocols_of(connection.peer)
        return {"protocols": sorted(known) if known else list(await connection.list_protocols(request.timeout))}

    async def _best(self, peer: PeerId, timeout: float) -> Connection:
        """The best connection to the peer; by the addresses we know of it where there is none."""
        addrs = self._host.addressbook.addrs(peer, self._host.now())
        return await self._host.swarm.dial(peer, addrs, timeout=timeout)

    async def _round_trip(self, connection: Connection, timeout: float) -> float:
        try:
            return await self._host.ping.ping(connection, timeout=timeout)
        except NegotiationError:  # a peer need not serve ping; every muxer answers its own
            return await connection.ping()
