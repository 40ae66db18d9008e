"""The control channel: one JSON object a line, commands on stdin, answers and events on stdout.

    stdin ─► Lines ─► Request ─► a task with a deadline ─► answer ─┐
                                          host's events ───────────┴─► Output ─► stdout

Commands run side by side and are answered in any order. The end of stdin, `stop`, SIGTERM or SIGINT end the node:
commands under way get a second, then everything is closed, within two seconds in all.

Facts: stdin is read when the loop says it is readable, without O_NONBLOCK, which would be set for whoever else has the
same terminal or pipe; a file or /dev/null cannot be waited for and never makes one wait. stdout must not block the
loop, since a lab that does not read would stop the pongs of every connection, so it is non-blocking where it can be.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import stat
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from node.commands import Command, Commands, Unsupported
from node.contract import (
    MAX_LINE,
    Fields,
    Malformed,
    Request,
    event_fields,
    event_line,
    failed,
    full,
    ok,
    parse_request,
    unsupported,
)
from node.errors import ConnectionClosed, DeadlineExceeded, LimitExceeded, NodeError
from node.host import AGENT, Host
from node.net.tasks import Tasks
from node.wire.lines import Lines, TooLong

if TYPE_CHECKING:
    from node.events import Event
    from node.host import HostConfig

logger = logging.getLogger(__name__)

COMMANDS_AT_ONCE = 256
DRAIN_TIMEOUT = 0.8
"""Seconds for commands under way when the node ends."""
CLOSE_TIMEOUT = 1.0
"""Seconds to close connections after that."""
FLUSH_TIMEOUT = 0.2
"""Seconds for the last lines to be read."""
IO_SIZE = 65536
MAX_QUEUED = 8 << 20
"""Bytes that wait for a lab that does not read; further events are dropped and counted."""


class Output:
    """Lines on a file descriptor, queued while it is not writable."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._queue = bytearray()  # at most MAX_QUEUED, and the answers to COMMANDS_AT_ONCE
        self._dropped = 0
        self._loop = asyncio.get_running_loop()
        self._waiting = False
        self._written = asyncio.Event()
        self.broken = asyncio.Event()
        """Set when nobody reads any more."""
        kind = os.fstat(fd).st_mode
        if stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind):
            os.set_blocking(fd, False)

    def answer(self, fields: Fields) -> None:
        """Write one line."""
        self._queue += json.dumps(fields, separators=(",", ":")).encode() + b"\n"
        if not self._waiting:
            self._write()

    def event(self, name: str, fields: Fields) -> None:
        """Write one event, unless the queue is full."""
        if len(self._queue) > MAX_QUEUED:
            self._dropped += 1
            return
        if dropped := self._dropped:
            self._dropped = 0
            self.event("complaint", {"why": f"{dropped} events were dropped: nobody read them"})
        self.answer(event_line(name, time.time(), fields))

    async def drain(self, timeout: float) -> None:
        """Wait until all is written, or nobody reads any more, or `timeout` seconds have passed."""
        if self._queue:
            self._written.clear()
            try:
                async with asyncio.timeout(timeout):
                    await self._written.wait()
            except TimeoutError:
                logger.warning("%d bytes of answers were not read", len(self._queue))
                self._loop.remove_writer(self._fd)

    def _write(self) -> None:
        try:
            while self._queue:
                written = os.write(self._fd, bytes(self._queue[:IO_SIZE]))
                del self._queue[:written]
        except BlockingIOError:
            if not self._waiting:
                self._waiting = True
                self._loop.add_writer(self._fd, self._write)
            return
        except OSError as error:
            logger.warning("nobody reads our answers: %s", error)
            self._queue.clear()
            self.broken.set()
        self._written.set()
        if self._waiting:
            self._waiting = False
            self._loop.remove_writer(self._fd)


class Control:
    """A node that is run by lines; `run` ends with it."""

    def __init__(self, config: HostConfig, stdin: int, stdout: int) -> None:
        self._host = Host(config)
        self._commands = Commands(self._host)
        self._stdin = stdin
        self._lines = Lines(MAX_LINE)
        self._output = Output(stdout)
        self._tasks = Tasks()
        self._stop = self._output.broken  # without a reader there is nobody to run for
        self._early: list[Event] | None = []  # what happens before `ready`: as many as there are listeners

    async def run(self) -> None:
        """Start the host, do what is asked until the end; ConfigError when it cannot start."""
        loop = asyncio.get_running_loop()
        self._host.subscribe(self._happened)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._host)
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._stop.set)
            self._announce()
            self._listen()
            await self._stop.wait()
            loop.remove_reader(self._stdin)
            await self._tasks.drain(DRAIN_TIMEOUT)
            await self._tasks.close()
            try:
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await stack.aclose()
            except TimeoutError:
                logger.warning("not everything was closed within %g s", CLOSE_TIMEOUT)
        self._output.event("stopped", {})
        await self._output.drain(FLUSH_TIMEOUT)

    def _announce(self) -> None:
        host = self._host
        ready = {"peer": str(host.peer_id), "addrs": full(host.addrs(), host.peer_id), "agent": AGENT}
        self._output.event("ready", ready)
        early, self._early = self._early, None
        for event in early or ():
            self._happened(event)

    def _happened(self, event: Event) -> None:
        if self._early is not None:
            self._early.append(event)
        elif (line := event_fields(event, self._host.peer_id)) is not None:
            self._output.event(*line)

    # ── stdin ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _listen(self) -> None:
        try:
            asyncio.get_running_loop().add_reader(self._stdin, self._read)
        except PermissionError:  # epoll's answer for what is always readable: a file, /dev/null
            self._tasks.spawn(self._read_file(), "stdin")

    async def _read_file(self) -> None:
        """Read a file to its end, giving others a turn after each piece; its commands run like any others."""
        for _ in iter(self._read, False):
            await asyncio.sleep(0)

    def _read(self) -> bool:
        """Take what there is; False at the end."""
        try:
            data = os.read(self._stdin, IO_SIZE)
        except OSError as error:
            logger.warning("stdin: %s", error)
            data = b""
        for line in self._lines.receive_data(data) if data else self._lines.receive_eof():
            if isinstance(line, TooLong):
                self._complain(f"line {line.number}: longer than {MAX_LINE} bytes")
            elif line.data.strip():
                self._receive(line.number, line.data)
        if not data:
            self._stop.set()
        return bool(data)

    def _receive(self, number: int, data: bytes) -> None:
        try:
            request = parse_request(data)
        except Malformed as error:
            self._complain(f"line {number}: {error}")
            return
        if request.do == "stop":
            if request.id is not None:
                self._output.answer(ok(request.id, {}))
            self._stop.set()
        elif (command := self._commands.find(request.do)) is None:
            self._output.answer(unsupported(request.id, request.do))
        elif len(self._tasks) >= COMMANDS_AT_ONCE:
            too_many = LimitExceeded(f"{COMMANDS_AT_ONCE} commands are under way already")
            self._output.answer(failed(request.id, too_many))
        else:
            self._tasks.spawn(self._execute(command, request), f"command {request.id}: {request.do}")

    def _complain(self, why: str) -> None:
        self._output.event("complaint", {"why": why})

    async def _execute(self, command: Command, request: Request) -> None:
        try:
            self._output.answer(await self._answer(command, request))
        except asyncio.CancelledError:
            self._output.answer(failed(request.id, ConnectionClosed("the node is stopping")))
            raise
        except BaseException as error:
            self._output.answer(failed(request.id, error))
            raise  # a bug of ours: its owner logs it

    async def _answer(self, command: Command, request: Request) -> Fields:
        try:
            async with asyncio.timeout(request.timeout):
                return ok(request.id, await command(request))
        except Unsupported:
            return unsupported(request.id, request.do)
        except TimeoutError:
            return failed(request.id, DeadlineExceeded(f"not done within {request.timeout:g} s"))
        except (NodeError, OSError) as error:
            return failed(request.id, error)


async def run(config: HostConfig, stdin: int = 0, stdout: int = 1) -> None:
    """Run a node until stdin ends or it is told to stop; ConfigError when it cannot start."""
    await Control(config, stdin, stdout).run()
