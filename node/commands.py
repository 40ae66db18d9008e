"""The commands of the control channel: what each does with the host and what it answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from node.contract import Fields, Request, connection_fields, full, nat_fields, scope_fields, texts
from node.errors import LimitExceeded, NegotiationError
from node.host import AGENT, VERSION
from node.protocols import echo

if TYPE_CHECKING:
    from node.host import Host
    from node.names.peerid import PeerId
    from node.net.connection import Connection

IMPLEMENTATION = "punchlab-python"
AUTONAT_ADDRESSES = 16
"""Bound of one autonat command."""
COMMANDED = "commanded"
"""The tag of protections that name none."""
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
            "metrics": self._metrics,
            "limits": self._limits,
            "peers": self._peers,
            "protect": self._protect,
            "unprotect": self._unprotect,
            "portmap": self._portmap,
            "autonat": self._autonat,
            "reachability": self._reachability,
            "nat": self._nat,
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

    async def _protect(self, request: Request) -> Fields:
        peer, tag = request.peer("peer"), request.protocol("tag", COMMANDED)
        if not self._host.connection_manager.trimmer.protect(peer, tag):
            raise LimitExceeded(f"{peer} cannot be protected: there are too many protections already")
        return {"protected": True}

    async def _unprotect(self, request: Request) -> Fields:
        peer, tag = request.peer("peer"), request.protocol("tag", COMMANDED)
        return {"protected": self._host.connection_manager.trimmer.unprotect(peer, tag)}

    async def _peers(self, request: Request) -> Fields:
        host, trimmer = self._host, self._host.connection_manager.trimmer
        peers = list(dict.fromkeys(each.peer for each in host.swarm.connections()))
        return {
            "peers": [
                {
                    "peer": str(peer),
                    "connections": len(host.swarm.connections(peer)),
                    "agent": host.addressbook.agent(peer),
                    "rtt": host.latencies.of(peer),
                    "bytes_in": host.swarm.traffic.of_peer(peer)[0],
                    "bytes_out": host.swarm.traffic.of_peer(peer)[1],
                    "protected": trimmer.is_protected(peer),
                }
                for peer in peers
            ]
        }

    async def _limits(self, request: Request) -> Fields:
        resources = self._host.swarm.resources
        return {"scopes": [scope_fields(each) for each in resources.usage()], "refused": dict(resources.refused)}

    async def _metrics(self, request: Request) -> Fields:
        return {"text": self._host.metrics.text()}

    async def _dial(self, request: Request) -> Fields:
        connection = await self._host.connect(request.addr("addr"), timeout=request.timeout)
        return {**connection_fields(connection), "rtt": await self._round_trip(connection, request.timeout)}

    async def _reserve(self, request: Request) -> Fields:
        client = self._host.relay_client
        if client is None:
            raise Unsupported
        relay = request.addr("addr")
        held = await client.reserve(relay, timeout=request.timeout)
        self._host.keeper.keep_slot(relay, client)
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

    async def _portmap(self, request: Request) -> Fields:
        mapper = self._host.port_mapper
        if mapper is None:
            raise Unsupported
        router, now = mapper.router, self._host.now()
        return {
            "router": None if router is None else str(router[0]),
            "by": None if router is None else router[1].value,
            "why": mapper.why,
            "mappings": [
                {
                    "addrs": full(addrs, self._host.peer_id),
                    "transport": lease.port.transport,
                    "internal": lease.port.number,
                    "external": lease.granted.number,
                    "ip": str(lease.granted.ip),
                    "public": lease.is_public,
                    "expires": lease.ends_at - now,
                }
                for lease, addrs in mapper.leases()
            ],
        }

    async def _ping(self, request: Request) -> Fields:
        connection = await self._best(request.peer("peer"), request.timeout)
        rtt = await self._host.ping.ping(connection, timeout=request.timeout)
        return {"rtt": rtt, "path": connection.path.value}

    async def _connections(self, request: Request) -> Fields:
        open_now = self._host.swarm.connections()
        return {"connections": [{**connection_fields(each), "since": each.opened_at} for each in open_now]}

    async def _disconnect(self, request: Request) -> Fields:
        return {"closed": await self._host.keeper.disconnect(request.peer("peer"))}

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

    async def _autonat(self, request: Request) -> Fields:
        """One request to one server, whatever is known already."""
        oneself = self._host.oneself
        if oneself is None or oneself.client is None:
            raise Unsupported
        server = await self._best(request.peer("peer"), request.timeout)
        addrs = request.addrs("addrs", AUTONAT_ADDRESSES) or oneself.candidates()
        if request.number("version", (1, 2), 2) == 1:
            response = await oneself.client.ask_v1(server, addrs, timeout=request.timeout)
            return {"status": response.status.name, "why": response.text, "addr": response.addr and str(response.addr)}
        tested = await oneself.client.ask(server, addrs, timeout=request.timeout)
        source = None if tested.source is None else str(tested.source)
        return {"addr": str(tested.addr), "reachable": tested.reachable, "paid": tested.paid, "source": source}

    async def _reachability(self, request: Request) -> Fields:
        oneself = self._host.oneself
        if oneself is None:
            raise Unsupported
        verdicts = {str(addr): verdict.value for addr, verdict in oneself.verdicts().items()}
        client = self._host.relay_client
        relays = [] if client is None else texts(held.relay for held in client.held)
        return {"reachability": oneself.reachability.value, "addrs": verdicts, "relays": relays}

    async def _nat(self, request: Request) -> Fields:
        """What is known of the NAT in front of us; with `addr`, after asking that STUN server."""
        oneself = self._host.oneself
        if oneself is None:
            raise Unsupported
        if "addr" in request.arguments:
            await oneself.measure(request.udp("addr"), timeout=request.timeout)
        return {**nat_fields(oneself.kind()), "tcp": oneself.kind("tcp").mapping.value}

    async def _best(self, peer: PeerId, timeout: float) -> Connection:
        """The best connection to the peer; by the addresses we know of it where there is none."""
        addrs = self._host.addressbook.addrs(peer, self._host.now())
        return await self._host.swarm.dial(peer, addrs, timeout=timeout)

    async def _round_trip(self, connection: Connection, timeout: float) -> float:
        try:
            return await self._host.ping.ping(connection, timeout=timeout)
        except NegotiationError:  # a peer need not serve ping; every muxer answers its own
            return await connection.ping()
