"""Echo between two hosts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest

from node.errors import DeadlineExceeded, NegotiationError, RemoteProtocolError, StreamReset
from node.host import Host
from node.net.connection import Stream
from node.protocols.echo import BLOCK, PROTOCOL

Hosts = Callable[..., AbstractAsyncContextManager[tuple[Host, Host]]]


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3_000_001])
def test_what_is_sent_comes_back(hosts: Hosts, size: int) -> None:
    async def main() -> None:
        async with hosts() as (alice, bob):
            connection = await alice.connect(bob.addrs()[0].with_peer(bob.peer_id))
            echoed = await alice.echo.echo(connection, size)
            assert echoed.bytes == size
            assert 0 < echoed.seconds < 20

    asyncio.run(main())


async def _changes_a_byte(stream: Stream) -> None:
    data = bytearray(await stream.read())
    data[0] ^= 1
    await stream.write(data)
    await stream.close_write()


async def _says_less(stream: Stream) -> None:
    await stream.write((await stream.read())[1:])
    await stream.close_write()


async def _says_more(stream: Stream) -> None:
    await stream.write(await stream.read() + b"more")
    await stream.close_write()


async def _gives_up(stream: Stream) -> None:
    stream.reset()


async def _keeps_it(stream: Stream) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("handler", "error"),
    [
        (_changes_a_byte, RemoteProtocolError),
        (_says_less, RemoteProtocolError),
        (_says_more, RemoteProtocolError),
        (_gives_up, StreamReset),
        (_keeps_it, DeadlineExceeded),
    ],
)
def test_anything_else_is_an_error(hosts: Hosts, handler: Callable[[Stream], None], error: type[Exception]) -> None:
    async def main() -> None:
        async with hosts() as (alice, bob):
            bob.handle("/other/1.0.0", handler)  # type: ignore[arg-type]
            connection = await alice.connect(bob.addrs()[0].with_peer(bob.peer_id))
            timeout = 0.5 if error is DeadlineExceeded else 30
            with pytest.raises(error):
                await alice.echo.echo(connection, 100, protocol="/other/1.0.0", timeout=timeout)
            assert (await alice.echo.echo(connection, 100)).bytes == 100

    asyncio.run(main())


def test_a_peer_without_echo_says_so(hosts: Hosts) -> None:
    async def main() -> None:
        async with hosts() as (alice, bob):
            await bob.echo.close()
            connection = await alice.connect(bob.addrs()[0].with_peer(bob.peer_id))
            with pytest.raises(NegotiationError):
                await alice.echo.echo(connection, 1, protocol=PROTOCOL)

    asyncio.run(main())
