"""A hole puncher without libp2p: two hosts, a rendezvous that tells each its endpoint, and both write to the other's.

    left  ── who am I? ──▶ rendezvous ◀── who am I? ── right        each learns the endpoint it is seen at
    left  ── knock ──▶ right's endpoint …  left's endpoint ◀── knock ── right        begun `offset` seconds apart
    left  ◀── here ──────────────────────────────────────────────── right            to whoever a knock comes from

UDP knocks again and again. TCP connects from the port that it listens on, tries again when it is refused, and else
leaves it to the kernel to repeat its SYN. A punch is through when one side has an answer from the other: whatever goes
both ways. Nobody predicts ports, and nobody knows anything of the NATs.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final, Self

from lab.errors import LabError
from lab.observe.nat import Address
from lab.run.probes import bind
from lab.run.versions import Space, Version, version_of

PATIENCE: Final = {"udp": 1.0, "tcp": 3.0}
"Seconds from the later beginning until a punch has failed; TCP sends a lost SYN again after one."
KNOCK: Final = 0.1
"Seconds from one knock to the next."
ASKING: Final = 10.0
"Seconds for the rendezvous to answer; a lost SYN or two fit in."
MAX_TALKS: Final = 16
"Connections of one side of a punch."
BACKLOG: Final = 1024
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_WHO, _KNOCK, _HERE = b"?", b"k", b"h"


class PunchError(LabError):
    """The rendezvous did not answer: nothing can be said of the punch."""


class Rendezvous:
    """Tells whoever asks, by UDP or TCP, the endpoint that it is seen at. `async with` closes it."""

    def __init__(self, space: Space, address: str) -> None:
        self._loop = asyncio.get_running_loop()
        version = version_of(address)
        self._datagrams = _socket(space, version, socket.SOCK_DGRAM, (address, 0))
        self.address: Address = self._datagrams.getsockname()[:2]
        self._listener = _socket(space, version, socket.SOCK_STREAM, self.address)
        self._listener.listen(BACKLOG)
        self._callers: dict[Address, socket.socket] = {}
        "at most two for each punch that is under way: the caller closes"

    async def __aenter__(self) -> Self:
        self._loop.add_reader(self._datagrams, self._tell)
        self._loop.add_reader(self._listener, self._accept)
        return self

    async def __aexit__(self, *_: object) -> None:
        for its in (self._datagrams, self._listener, *self._callers.values()):
            self._loop.remove_reader(its)
            its.close()

    def _tell(self) -> None:
        try:
            while True:
                data, source = self._datagrams.recvfrom(64)
                if data == _WHO:
                    self._datagrams.sendto(_written(source), source)
        except BlockingIOError:
            return

    def _accept(self) -> None:
        try:
            while True:
                caller, source = self._listener.accept()
                caller.setblocking(False)
                caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                caller.send(_written(source))
                self._callers[source] = caller
                self._loop.add_reader(caller, self._gone, source, caller)
        except BlockingIOError:
            return

    def _gone(self, source: Address, caller: socket.socket) -> None:
        self._loop.remove_reader(caller)
        caller.close()
        if self._callers.get(source) is caller:
            del self._callers[source]


class Side(ABC):
    """One side of a punch, on one port of a host."""

    def __init__(self, space: Space, version: Version, port: int, token: bytes, through: asyncio.Event) -> None:
        self._space = space
        self._version = version
        self._port = port
        self._token = token
        self._through = through
        "set when the other side has answered"
        self._loop = asyncio.get_running_loop()

    @abstractmethod
    async def ask(self, rendezvous: Address) -> Address:
        """The endpoint that this side is seen at. Raises TimeoutError, OSError."""

    @abstractmethod
    async def listen(self) -> None:
        """Answer knocks until cancelled."""

    @abstractmethod
    async def knock(self, target: Address) -> None:
        """Knock there until cancelled."""

    @abstractmethod
    def close(self) -> None:
        """Leave nothing behind."""


class UdpSide(Side):
    def __init__(self, space: Space, version: Version, port: int, token: bytes, through: asyncio.Event) -> None:
        super().__init__(space, version, port, token, through)
        self._socket = _socket(space, version, socket.SOCK_DGRAM, (version.anywhere, port))

    async def ask(self, rendezvous: Address) -> Address:
        async with asyncio.timeout(ASKING):
            while True:
                await self._loop.sock_sendto(self._socket, _WHO, rendezvous)
                try:
                    async with asyncio.timeout(KNOCK):
                        data, source = await self._loop.sock_recvfrom(self._socket, 64)
                except TimeoutError:
                    continue
                if source == rendezvous:
                    return _read(data)

    async def listen(self) -> None:
        while True:
            data, source = await self._loop.sock_recvfrom(self._socket, 64)
            if data == _KNOCK + self._token:
                await self._loop.sock_sendto(self._socket, _HERE + self._token, source)
            elif data == _HERE + self._token:
                self._through.set()

    async def knock(self, target: Address) -> None:
        while True:
            await self._loop.sock_sendto(self._socket, _KNOCK + self._token, target)
            await asyncio.sleep(KNOCK)

    def close(self) -> None:
        self._socket.close()


class TcpSide(Side):
    def __init__(self, space: Space, version: Version, port: int, token: bytes, through: asyncio.Event) -> None:
        super().__init__(space, version, port, token, through)
        self._sockets: list[socket.socket] = []
        self._listener = self._bound()
        self._listener.listen(MAX_TALKS)

    async def ask(self, rendezvous: Address) -> Address:
        async with asyncio.timeout(ASKING):
            asking = self._bound()
            await self._loop.sock_connect(asking, rendezvous)
            return _read(await self._loop.sock_recv(asking, 64))

    async def listen(self) -> None:
        # Not `sock_accept`: cancelled while a connection comes in, it raises in the event loop.
        ready = asyncio.Event()
        self._loop.add_reader(self._listener, ready.set)
        try:
            async with asyncio.TaskGroup() as talks:
                while True:
                    await ready.wait()
                    ready.clear()
                    for accepted in self._accepted():
                        talks.create_task(self._talk(accepted))
        finally:
            self._loop.remove_reader(self._listener)

    async def knock(self, target: Address) -> None:
        while len(self._sockets) < MAX_TALKS:
            attempt = self._bound()
            try:
                await self._loop.sock_connect(attempt, target)
            except OSError:
                # Refused; or the kernel has this very connection already, and the listener may hand it out.
                attempt.close()
                self._sockets.remove(attempt)
                await asyncio.sleep(KNOCK)
                continue
            await self._talk(attempt)

    async def _talk(self, connection: socket.socket) -> None:
        """Both sides say the token; who hears it is through."""
        try:
            await self._loop.sock_sendall(connection, self._token)
            heard = await self._loop.sock_recv(connection, len(self._token))
        except ConnectionError:
            return
        if heard == self._token:
            self._through.set()

    def close(self) -> None:
        # Not only closed: a program that is being started may hold a copy, which would go on listening.
        self._listener.shutdown(socket.SHUT_RDWR)
        for its in self._sockets:
            its.close()

    def _accepted(self) -> list[socket.socket]:
        """The connections that have come in."""
        fresh: list[socket.socket] = []
        try:
            while True:
                accepted, _ = self._listener.accept()
                if len(self._sockets) >= MAX_TALKS:
                    accepted.close()
                    continue
                accepted.setblocking(False)
                accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                self._sockets.append(accepted)
                fresh.append(accepted)
        except BlockingIOError:
            return fresh
        return fresh

    def _bound(self) -> socket.socket:
        fresh = _socket(self._space, self._version, socket.SOCK_STREAM, (self._version.anywhere, self._port))
        self._sockets.append(fresh)
        return fresh


SIDES: Final[dict[str, Callable[[Space, Version, int, bytes, asyncio.Event], Side]]] = {"udp": UdpSide, "tcp": TcpSide}


async def punch(
    transport: str, left: tuple[Space, int], right: tuple[Space, int], rendezvous: Address, offset: float, token: bytes
) -> bool:
    """Whether two hosts, each on a port of its own, get through; the right one begins `offset` s after the left.

    Raises `PunchError` if the rendezvous is not to be reached, `OSError` if a port is not to be had.
    """
    through = asyncio.Event()
    sides: list[Side] = []
    try:
        for space, port in (left, right):
            sides.append(SIDES[transport](space, version_of(rendezvous[0]), port, token, through))
        return await _punch(sides[0], sides[1], rendezvous, offset, PATIENCE[transport], through)
    finally:
        for side in sides:
            side.close()


async def _punch(
    left: Side, right: Side, rendezvous: Address, offset: float, patience: float, through: asyncio.Event
) -> bool:
    try:
        at_left, at_right = await asyncio.gather(left.ask(rendezvous), right.ask(rendezvous))
    except (TimeoutError, ConnectionError) as error:
        raise PunchError(f"the rendezvous did not answer within {ASKING:g} s: {error}") from error
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(left.listen()),
            group.create_task(right.listen()),
            group.create_task(_later(max(0.0, -offset), left, at_right)),
            group.create_task(_later(max(0.0, offset), right, at_left)),
        ]
        # In turns, not in one timeout: where the machine stands still, time passes in which nobody could knock.
        for _ in range(round((abs(offset) + patience) / KNOCK)):
            if await _within(KNOCK, through):
                break
        for task in tasks:
            task.cancel()
    return through.is_set()


async def _within(seconds: float, event: asyncio.Event) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False


async def _later(seconds: float, side: Side, target: Address) -> None:
    await asyncio.sleep(seconds)
    await side.knock(target)


def _socket(space: Space, version: Version, kind: int, address: Address) -> socket.socket:
    fresh = version.new_socket(space, kind)
    fresh.setblocking(False)
    if kind == socket.SOCK_STREAM:
        fresh.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        fresh.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        fresh.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    bind(fresh, address)
    return fresh


def _written(address: Address) -> bytes:
    return f"{address[0]} {address[1]}".encode()


def _read(data: bytes) -> Address:
    host, port = data.decode().split()
    return host, int(port)
