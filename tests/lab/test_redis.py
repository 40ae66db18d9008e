"""Redis on the loopback of namespaces, asked by a client that others wrote (redis-py, in both versions of RESP)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import redis

from lab.errors import KernelError
from lab.kernel.link import LOOPBACK, Links
from lab.kernel.namespace import Namespace
from lab.services.board import Written
from lab.services.redis import HOST, MAX_CLIENTS, PORT, Redis
from lab.services.resp import MAX_ARGUMENT

Inside = Callable[[Callable[[], None]], None]
WITHIN = 60.0


class Doors:
    """A server with a door in each of two namespaces, one of which knows a key by its old name."""

    def __init__(self, alice: Namespace, bob: Namespace) -> None:
        self.alice, self.bob = alice, bob
        self.written: list[Written] = []
        self.server = Redis(self.written.append)

    async def ask(self, space: Namespace, script: Callable[[Any], Any], protocol: int = 2) -> Any:
        """Run a script with a client in that namespace."""

        def run() -> Any:
            client = redis.Redis(host=HOST, port=PORT, protocol=protocol, socket_timeout=WITHIN)
            with space.entered(), client:
                return script(client)

        return await asyncio.to_thread(run)

    def clients(self) -> list[asyncio.Transport]:
        """The server's end of each connection."""
        return [client._transport for client in self.server._clients]

    async def waiting(self, *who: str) -> None:
        """Until these wait for a key."""
        while set(self.server.board.missing()) != set(who):  # noqa: ASYNC110 - the board tells nobody who waits
            await asyncio.sleep(0)


def with_doors(inside: Inside, body: Callable[[Doors], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        with Namespace("alice") as alice, Namespace("bob") as bob:
            for space in (alice, bob):
                with Links(space) as links:
                    links.bring_up(LOOPBACK)
                    links.commit()
            doors = Doors(alice, bob)
            await doors.server.open("alice", alice, {b"listenerAddr": b"k_listener_multiaddr"})
            await doors.server.open("bob", bob)
            try:
                async with asyncio.timeout(WITHIN):
                    await body(doors)
            finally:
                await doors.server.close()

    inside(lambda: asyncio.run(main()))


@pytest.mark.parametrize("protocol", [2, 3])
def test_programs_in_two_namespaces_find_each_other(inside: Inside, protocol: int) -> None:
    async def body(doors: Doors) -> None:
        popping = asyncio.create_task(
            doors.ask(doors.bob, lambda client: client.blpop("k_listener_multiaddr", 0), protocol)
        )
        await doors.waiting("bob")
        await doors.ask(doors.alice, lambda client: client.rpush("listenerAddr", "/ip4/11.0.0.1"), protocol)
        assert await popping in (
            (b"k_listener_multiaddr", b"/ip4/11.0.0.1"),
            [b"k_listener_multiaddr", b"/ip4/11.0.0.1"],
        )
        assert doors.written == [Written("alice", "RPUSH", "k_listener_multiaddr", "/ip4/11.0.0.1")]

        await doors.ask(doors.bob, lambda client: client.rpush("k_listener_multiaddr", "v"), protocol)
        assert list(await doors.ask(doors.alice, lambda client: client.blpop("listenerAddr", 1), protocol)) == [
            b"listenerAddr",
            b"v",
        ]

    with_doors(inside, body)


@pytest.mark.parametrize("protocol", [2, 3])
def test_what_redis_answers_the_client_takes(inside: Inside, protocol: int) -> None:
    def script(client: Any) -> None:
        assert client.ping()
        assert client.get("k") is None
        assert client.set("k", "v")
        assert client.get("k") == b"v"
        assert client.delete("k") == 1
        assert client.blpop("k", 0.05) is None
        assert client.info()["redis_mode"] == "standalone"
        with pytest.raises(redis.ResponseError, match="unknown command"):
            client.execute_command("SHUTDOWN")
        assert client.ping(), "an error is no end"

    async def body(doors: Doors) -> None:
        await doors.ask(doors.alice, script, protocol)

    with_doors(inside, body)


def test_who_goes_away_while_it_waits_takes_nothing_with_it(inside: Inside) -> None:
    async def body(doors: Doors) -> None:
        _, writer = await asyncio.open_connection(sock=connected(doors.bob))
        writer.write(b"*3\r\n$5\r\nBLPOP\r\n$1\r\nk\r\n$1\r\n0\r\n")
        await doors.waiting("bob")
        writer.close()
        await doors.waiting()
        await doors.ask(doors.alice, lambda client: client.rpush("k", "v"))
        assert await doors.ask(doors.alice, lambda client: client.llen("k")) == 1

    with_doors(inside, body)


def test_commands_behind_one_that_waits_are_done_after_it(inside: Inside) -> None:
    async def body(doors: Doors) -> None:
        reader, writer = await asyncio.open_connection(sock=connected(doors.bob))
        writer.write(b"BLPOP k 0\r\nPING after\r\n")
        await doors.waiting("bob")
        await doors.ask(doors.alice, lambda client: client.rpush("k", "v"))
        said = b"*2\r\n$1\r\nk\r\n$1\r\nv\r\n$5\r\nafter\r\n"
        assert await reader.readexactly(len(said)) == said
        writer.close()

    with_doors(inside, body)


def test_who_reads_no_answers_has_to_wait_with_more_questions(inside: Inside) -> None:
    word = b"x" * MAX_ARGUMENT
    question = b"*2\r\n$4\r\nECHO\r\n$%d\r\n%b\r\n" % (len(word), word)
    answer = b"$%d\r\n%b\r\n" % (len(word), word)

    async def body(doors: Doors) -> None:
        door = connected(doors.bob)
        door.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MAX_ARGUMENT)
        reader, writer = await asyncio.open_connection(sock=door, limit=MAX_ARGUMENT)
        count = 800  # 50 MB, which is more than it and both sockets hold
        writer.write(question * count)
        while not (server := doors.clients()) or server[0].is_reading():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0)
        for _ in range(count):
            assert await reader.readexactly(len(answer)) == answer
        writer.close()

    with_doors(inside, body)


def test_nonsense_ends_its_connection_and_no_other(inside: Inside) -> None:
    async def body(doors: Doors) -> None:
        reader, writer = await asyncio.open_connection(sock=connected(doors.bob))
        writer.write(b"*1\r\n!\r\nPING\r\n")
        assert await reader.read() == b"-ERR Protocol error: expected '$', got b'!'\r\n"
        writer.close()
        assert await doors.ask(doors.bob, lambda client: client.ping())

    with_doors(inside, body)


def test_a_door_lets_in_so_many_and_another_peer_none_the_less(inside: Inside) -> None:
    async def body(doors: Doors) -> None:
        kept = [await asyncio.open_connection(sock=connected(doors.bob)) for _ in range(MAX_CLIENTS)]
        for reader, writer in kept:
            writer.write(b"PING\r\n")
            assert await reader.readline() == b"+PONG\r\n"
        reader, _ = await asyncio.open_connection(sock=connected(doors.bob))
        assert await reader.read() == b"-ERR max number of clients reached\r\n"
        assert await doors.ask(doors.alice, lambda client: client.ping())

    with_doors(inside, body)


def test_a_door_that_is_taken_is_told(inside: Inside) -> None:
    async def body(doors: Doors) -> None:
        with pytest.raises(KernelError, match=r"bob: no Redis at 127\.0\.0\.1:6379: Address already in use"):
            await doors.server.open("bob", doors.bob)

    with_doors(inside, body)


def connected(space: Namespace) -> socket.socket:
    """A connection to the door of a namespace; on loopback it is there at once."""
    made = space.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.connect((HOST, PORT))
    made.setblocking(False)
    return made
