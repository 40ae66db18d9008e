"""Every security under every muxer over all that carries bytes: whoever initiates, it is the right peer or none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from node.errors import ConnectionClosed, DeadlineExceeded, PeerIdMismatch, SecurityError
from node.logic.protection import Security
from node.names.multiaddr import Multiaddr
from node.net.stream import RawConnection
from node.net.upgrade import Role, UpgradeConfig, upgrade
from node.net.websocket import WebSocketTransport
from node.wire import mplex, yamux
from tests.support.connections import ALICE, BOB, DEADLINE, read_all, tcp_pair, upgraded
from tests.support.web import web

PSK = bytes(range(32))
CARRIERS = {"tcp": None, "ws": "/ip4/127.0.0.1/tcp/0/ws", "wss": "/ip4/127.0.0.1/tcp/0/tls/ws"}
securities = pytest.mark.parametrize("security", list(Security))
muxers = pytest.mark.parametrize("muxer", [yamux.PROTOCOL, mplex.PROTOCOL])
carriers = pytest.mark.parametrize("carrier", CARRIERS)


@asynccontextmanager
async def carried(carrier: str, folder: Path) -> AsyncIterator[tuple[RawConnection, RawConnection]]:
    """Both ends of a connection that has done no more than it must to be one."""
    addr = CARRIERS[carrier]
    if addr is None:
        async with asyncio.timeout(DEADLINE), tcp_pair() as ends:
            yield ends
        return
    accepted: asyncio.Queue[RawConnection] = asyncio.Queue()
    transport = WebSocketTransport(web(folder, "127.0.0.1"))
    async with asyncio.timeout(DEADLINE):
        listener = await transport.listen(Multiaddr(addr), accepted.put_nowait)
        dialling = asyncio.create_task(transport.dial(listener.addr))
        theirs = await accepted.get()
        answering = asyncio.create_task(theirs.write(b""))  # HTTP begins with the first use
        ours, _ = await asyncio.gather(dialling, answering)
        yield ours, theirs
        await listener.close()
        for end in (ours, theirs):
            end.abort()


@securities
@muxers
@carriers
@pytest.mark.parametrize("psk", [None, PSK], ids=["open", "private"])
@pytest.mark.parametrize("dialler_initiates", [True, False], ids=["dialler", "listener"])
def test_it_carries_bytes_both_ways(
    security: Security, muxer: str, carrier: str, psk: bytes | None, dialler_initiates: bool, tmp_path: Path
) -> None:
    config = UpgradeConfig(security=(security,), muxers=(muxer,), psk=psk)

    async def main() -> None:
        async with carried(carrier, tmp_path) as ends:
            one, other = ends if dialler_initiates else reversed(ends)
            alice, bob = await upgraded(one, other, ours=config, theirs=config)
            assert (alice.muxed.security, bob.muxed.muxer) == (str(security), muxer)
            ours = await alice.muxed.open_stream()
            await ours.write(b"question" * 10_000)
            await ours.close_write()
            theirs = await bob.incoming.get()
            assert await read_all(theirs) == b"question" * 10_000
            await theirs.write(b"answer" * 10_000)
            await theirs.close_write()
            assert await read_all(ours) == b"answer" * 10_000
            for end in (alice, bob):
                await end.muxed.close()

    asyncio.run(main())


@securities
@carriers
def test_another_peer_than_the_one_wanted_is_refused(security: Security, carrier: str, tmp_path: Path) -> None:
    config = UpgradeConfig(security=(security,))

    async def main() -> None:
        async with carried(carrier, tmp_path) as (one, other):
            ours, theirs = await asyncio.gather(
                upgrade(one, key=ALICE, role=Role.INITIATOR, expected=ALICE.peer_id(), config=config),
                upgrade(other, key=BOB, role=Role.RESPONDER, config=config),
                return_exceptions=True,
            )
            assert isinstance(ours, PeerIdMismatch)
            assert isinstance(theirs, (ConnectionClosed, SecurityError))

    asyncio.run(main())


@securities
@carriers
def test_who_drips_is_cut_by_the_deadline(security: Security, carrier: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with carried(carrier, tmp_path) as (one, other):
            config = UpgradeConfig(security=(security,), timeout=0.3)
            waiting = asyncio.create_task(upgrade(other, key=BOB, role=Role.RESPONDER, config=config))
            await one.write(b"\x13/multi")
            with pytest.raises(DeadlineExceeded):
                await waiting

    asyncio.run(main())
