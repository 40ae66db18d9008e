"""Redis for the programs of one test: a door on the loopback of each namespace, one board behind all of them.

So word is passed past the network under test, which cannot carry it or be carried by it. Which door a client came
through says whose it is. A door may translate keys, as upstream does for programs that know only their old names.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, Protocol

from lab.errors import KernelError
from lab.services.board import Board, Client, Wait, Written
from lab.services.resp import Command, Failure, Reader, Reply, RespError, encode, encode_nothing

PORT: Final = 6379
HOST: Final = "127.0.0.1"
MAX_CLIENTS: Final = 64
"connections through one door"
MAX_PENDING: Final = 256
"commands that a client may send while it waits for the answer to another, or reads none"

Names = Mapping[bytes, bytes]
"Keys as one peer knows them, and what the others know them by."


class Space(Protocol):
    """Where a door is; `lab.kernel.namespace.Namespace` is one."""

    name: str

    def socket(self, family: int, kind: int, proto: int = 0) -> socket.socket: ...


class Redis:
    """Doors to one board, from the first `open` to `close`. `on_write` hears of every value that is written."""

    def __init__(self, on_write: Callable[[Written], None]) -> None:
        self.board = Board(on_write)
        self._servers: list[asyncio.Server] = []  # one a peer
        self._clients: set[_Connection] = set()  # at most MAX_CLIENTS a door
        self._numbers = 0

    async def open(self, who: str, space: Space, names: Names = MappingProxyType({})) -> None:
        """A door for a peer in its namespace; KernelError if something else listens there."""
        listening = space.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.setblocking(False)
            listening.bind((HOST, PORT))
            server = await asyncio.get_running_loop().create_server(
                lambda: _Connection(self, who, names), sock=listening
            )
        except OSError as error:
            listening.close()
            raise KernelError(f"{space.name}: no Redis at {HOST}:{PORT}: {error.strerror}") from error
        self._servers.append(server)

    async def close(self) -> None:
        """Close all doors and send everybody away."""
        for server in self._servers:
            server.close()
        for client in list(self._clients):
            client.drop()
        self._servers.clear()

    def admit(self, connection: _Connection) -> int | None:
        """A number for a new connection; None if its peer has enough of them."""
        if sum(each.who == connection.who for each in self._clients) >= MAX_CLIENTS:
            return None
        self._clients.add(connection)
        self._numbers += 1
        return self._numbers

    def dismiss(self, connection: _Connection) -> None:
        """A connection has ended."""
        self._clients.discard(connection)


class _Connection(asyncio.Protocol):
    """One client. Its commands are done in order; while one waits, or answers are not read, the others wait too."""

    def __init__(self, redis: Redis, who: str, names: Names) -> None:
        self.who = who
        self._redis = redis
        self._names = names
        self._known_as = {theirs: ours for ours, theirs in names.items()}
        self._reader = Reader()
        self._pending: deque[Command] = deque()  # at most MAX_PENDING and what one read holds
        self._full = False
        "its answers are not read"
        self._wait: Wait | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._client = Client(who, self._delivered)

    def drop(self) -> None:
        """End it at once."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        number = self._redis.admit(self)
        if number is None:
            transport.write(encode(Failure("ERR max number of clients reached")))
            transport.close()
        else:
            self._client.number = number

    def connection_lost(self, exc: Exception | None) -> None:
        self._redis.dismiss(self)
        self._pending.clear()
        self._end_wait()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._work()

    def data_received(self, data: bytes) -> None:
        try:
            self._pending.extend(self._reader.receive_data(data))
        except RespError as error:
            self._transport.write(encode(Failure(f"ERR {error}")))
            self._transport.close()
            return
        self._work()

    def _work(self) -> None:
        """Do what has been asked, until a command has to wait."""
        while self._pending and self._wait is None and not self._full and not self._transport.is_closing():
            command = self._pending.popleft()
            done = self._redis.board.execute(self._client, tuple(self._names.get(word, word) for word in command))
            if isinstance(done, Wait):
                self._wait = done
                if done.seconds:
                    self._timer = asyncio.get_running_loop().call_later(done.seconds, self._expired)
            else:
                self._answer(done)
                if self._client.leaving:
                    self._transport.close()
        if len(self._pending) > MAX_PENDING:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _answer(self, reply: Reply) -> None:
        if isinstance(reply, tuple):
            reply = tuple(self._known_as.get(item, item) if isinstance(item, bytes) else item for item in reply)
        self._transport.write(encode(reply, self._client.version))

    def _delivered(self, reply: Reply) -> None:
        """What it waited for is there."""
        self._end_wait()
        self._answer(reply)
        # Not within the command of whoever wrote it, which is to be over before this client's next one begins.
        asyncio.get_running_loop().call_soon(self._work)

    def _expired(self) -> None:
        self._end_wait()
        self._transport.write(encode_nothing(self._client.version))
        self._work()

    def _end_wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._wait is not None:
            self._redis.board.forget(self._wait)
            self._wait = None
