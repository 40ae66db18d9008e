"""Perf between two hosts."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest

from node.errors import RemoteProtocolError, StreamReset
from node.host import Host
from node.net.connection import Stream
from node.protocols.perf import PROTOCOL

Hosts = Callable[..., AbstractAsyncContextManager[tuple[Host, Host]]]


@pytest.mark.parametrize(("upload", "download"), [(0, 0), (1, 0), (0, 1), (1_000_003, 2_000_005)])
def test_all_that_was_asked_for_goes_up_and_comes_down(hosts: Hosts, upload: int, download: int) -> None:
    async def main() -> None:
        async with hosts() as (alice, bob):
            connection = await alice.connect(bob.addrs()[0].with_peer(bob.peer_id))
            measured = await alice.perf.measure(connection, upload, download, timeout=10)
            assert measured.upload_seconds > 0
            assert measured.download_seconds >= 0

    asyncio.run(main())


def test_the_server_answers_after_the_end_of_the_upload_with_what_was_wanted(hosts: Hosts) -> None:
    async def main() -> None:
        async with hosts() as (alice, bob):
            connection = await alice.connect(bob.addrs()[0].with_peer(bob.peer_id))
            stream = await connection.new_stream([PROTOCOL])
            await stream.write(struct.pack(">Q", 5) + b"up")
            await stream.close_write()
            received = b""
            while data := await stream.read():
                received += data
            assert len(received) == 5

    asyncio.run(main())


def test_a_request_that_breaks_off_is_reset(hosts: Hosts) -> None:
    async def main() -> None:
        async with hosts() as (alice, bob):
            connection = await alice.connect(bob.addrs()[0].with_peer(bob.peer_id))
            stream = await connection.new_stream([PROTOCOL])
            await stream.write(b"\x00\x00")
            await stream.close_write()
            with pytest.raises(StreamReset):
                await stream.read()

    asyncio.run(main())


def test_a_server_that_sends_less_is_an_error(hosts: Hosts) -> None:
    async def stingy(stream: Stream) -> None:
        while await stream.read():
            pass
        await stream.close_write()

    async def main() -> None:
        async with hosts() as (alice, bob):
            await bob.perf.close()
            bob.handle(PROTOCOL, stingy)
            connection = await alice.connect(bob.addrs()[0].with_peer(bob.peer_id))
            with pytest.raises(RemoteProtocolError, match="0 bytes, 7"):
                await alice.perf.measure(connection, 10, 7, timeout=5)

    asyncio.run(main())
