"""WebSocket and secure WebSocket: what goes over them, whom they trust, and what strangers may send."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from node.errors import ConfigError, ConnectionClosed, DialError, NodeError, RemoteProtocolError
from node.names.multiaddr import Multiaddr
from node.net.stream import RawConnection
from node.net.tcp import TcpTransport
from node.net.web_tls import WebConfig
from node.net.websocket import WebSocketTransport
from tests.support.connections import DEADLINE, read_all, upgraded
from tests.support.web import web

Accepted = asyncio.Queue[RawConnection]
PLAIN, SECURE = "/ip4/127.0.0.1/tcp/0/ws", "/ip4/127.0.0.1/tcp/0/tls/ws"


@asynccontextmanager
async def listening(addr: str, config: WebConfig | None = None) -> AsyncIterator[tuple[Multiaddr, Accepted]]:
    accepted: Accepted = asyncio.Queue()
    listener = await WebSocketTransport(config).listen(Multiaddr(addr), accepted.put_nowait)
    async with asyncio.timeout(DEADLINE):
        yield listener.addr, accepted
    await listener.close()
    while not accepted.empty():
        accepted.get_nowait().abort()


async def dial(addr: Multiaddr, accepted: Accepted, config: WebConfig) -> tuple[RawConnection, RawConnection]:
    """Both ends; the accepting one is kept busy until the dial is through."""

    async def accept() -> RawConnection:
        raw = await accepted.get()
        first = await raw.read(1)
        assert first == b"!"
        return raw

    async def connect() -> RawConnection:
        raw = await WebSocketTransport(config).dial(addr)
        await raw.write(b"!")
        return raw

    ours, theirs = await asyncio.gather(connect(), accept())
    return ours, theirs


@pytest.mark.parametrize("addr", [PLAIN, SECURE])
def test_a_muxed_connection_runs_over_it_in_both_directions(tmp_path: Path, addr: str) -> None:
    async def main() -> None:
        config = web(tmp_path, "127.0.0.1")
        async with listening(addr, config) as (bound, accepted):
            ours, theirs = await dial(bound, accepted, config)
            assert str(theirs.local) == str(ours.remote) == str(bound)
            assert str(theirs.remote).endswith("/tls/ws" if "tls" in bound else "/ws")
            alice, bob = await upgraded(ours, theirs)
            for one, other in ((alice, bob), (bob, alice)):
                stream = await one.muxed.open_stream()
                sending = asyncio.create_task(stream.write(bytes(3_000_000)))
                received = await other.incoming.get()
                got = 0
                while got < 3_000_000:
                    got += len(await received.read())
                await sending
            await alice.muxed.close()
            assert await bob.closed is None

    asyncio.run(main())


@pytest.mark.parametrize("addr", [PLAIN, SECURE])
def test_the_end_of_one_side_reaches_the_other(tmp_path: Path, addr: str) -> None:
    async def main() -> None:
        config = web(tmp_path, "127.0.0.1")
        async with listening(addr, config) as (bound, accepted):
            ours, theirs = await dial(bound, accepted, config)
            await ours.write(b"last words")
            closing = asyncio.create_task(ours.close())
            assert await read_all(theirs) == b"last words"
            await theirs.close()
            await closing

    asyncio.run(main())


def test_the_name_of_sni_is_what_the_certificate_must_bear(tmp_path: Path) -> None:
    async def main() -> None:
        config = web(tmp_path, "relay.lab")
        async with listening(SECURE, config) as (bound, accepted):
            tcp = bound.decapsulate("tls")
            ours, theirs = await dial(tcp / "/tls/sni/relay.lab/ws", accepted, config)
            assert str(ours.remote).endswith("/tls/sni/relay.lab/ws")
            for end in (ours, theirs):
                end.abort()
            reading = asyncio.create_task(read_from_next(accepted))
            with pytest.raises(DialError, match="certificate"):
                await WebSocketTransport(config).dial(tcp / "/tls/sni/other.lab/ws")
            assert isinstance(await reading, NodeError)

    asyncio.run(main())


async def write_for_ever(raw: RawConnection, data: bytes) -> None:
    while True:
        await raw.write(data)


async def read_from_next(accepted: Accepted) -> bytes | NodeError:
    raw = await accepted.get()
    try:
        return await raw.read()
    except NodeError as error:
        return error
    finally:
        raw.abort()


def test_an_authority_nobody_named_is_not_trusted(tmp_path: Path) -> None:
    async def main() -> None:
        async with listening(SECURE, web(tmp_path, "127.0.0.1")) as (bound, accepted):
            reading = asyncio.create_task(read_from_next(accepted))
            with pytest.raises(DialError, match="--ws-ca"):
                await WebSocketTransport().dial(bound)
            assert isinstance(await reading, NodeError)

    asyncio.run(main())


@pytest.mark.parametrize("addr", [PLAIN, SECURE])
def test_what_is_no_websocket_is_refused_by_a_typed_error(tmp_path: Path, addr: str) -> None:
    async def main() -> None:
        async with listening(addr, web(tmp_path, "127.0.0.1")) as (bound, accepted):
            below = bound.decapsulate("tls" if "tls" in bound else "ws")
            for said in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x13/multistream/1.0.0\n", bytes(300)):
                raw = await TcpTransport().dial(below)
                await raw.write(said)
                await raw.close_write()
                assert isinstance(await read_from_next(accepted), NodeError)
                await raw.close()

    asyncio.run(main())


def test_a_head_without_end_is_not_read_for_ever() -> None:
    async def main() -> None:
        async with listening(PLAIN) as (bound, accepted):
            raw = await TcpTransport().dial(bound.decapsulate("ws"))
            reading = asyncio.create_task(read_from_next(accepted))
            await raw.write(b"GET / HTTP/1.1\r\n")
            writing = asyncio.create_task(write_for_ever(raw, b"X-Long: " + b"a" * 60_000 + b"\r\n"))
            assert isinstance(await reading, RemoteProtocolError)
            with pytest.raises(ConnectionClosed):
                await writing
            raw.abort()

    asyncio.run(main())


def test_listening_needs_a_certificate_that_can_be_read(tmp_path: Path) -> None:
    async def main(config: WebConfig) -> None:
        async with listening(SECURE, config):
            pass

    with pytest.raises(ConfigError, match="--ws-cert"):
        asyncio.run(main(WebConfig()))
    with pytest.raises(ConfigError, match=r"missing\.pem"):
        asyncio.run(main(WebConfig(tmp_path / "missing.pem")))


def test_a_port_where_nobody_listens_is_a_dial_error() -> None:
    with pytest.raises(DialError, match="refused"):
        asyncio.run(WebSocketTransport().dial(Multiaddr("/ip4/127.0.0.1/tcp/1/ws")))
