"""Programs inside a namespace: started there, with pipes, in a session of their own, and ended with all they started.

A child process is born into the network namespace of the thread that forks it. asyncio forks in the first step of
`create_subprocess_exec`, but awaits afterwards, and whatever ran then would run in the wrong network. So the coroutine
is driven step by step: the thread goes in before each step and comes out after it. That spares a `preexec_fn`, which
is slow and not safe with threads, and an `nsenter` in between.

When the lab is killed, its children end with their PID namespace, which nothing escapes (`lab.kernel.sandbox`).
"""

from __future__ import annotations

import asyncio
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Coroutine, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from lab.errors import PeerError
from lab.kernel.namespace import Namespace

_T = TypeVar("_T")
_LINE_LIMIT = 1 << 20
"Bytes that stdout may hold unread without a line's end."
LOOK = 0.02
"Seconds between two looks whether a program has ended."


async def spawn(
    ns: Namespace,
    argv: Sequence[str],
    env: Mapping[str, str],
    cwd: Path,
    stderr_path: Path | None,
    *,
    limit: int = _LINE_LIMIT,
) -> Process:
    """Start a program in a namespace with pipes for stdin and stdout; stderr is appended to a file, or dropped.

    `env` is all its environment. Raises PeerError when there is no such program or folder.
    """
    try:
        log = DEVNULL if stderr_path is None else os.open(stderr_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            starting = asyncio.create_subprocess_exec(
                *argv,
                stdin=PIPE,
                stdout=PIPE,
                stderr=log,
                env=dict(env),
                cwd=cwd,
                start_new_session=True,
                limit=limit,
            )
            return await _Inside(ns, starting)
        finally:
            if log != DEVNULL:
                os.close(log)
    except OSError as error:
        raise PeerError(f"{ns.name}: cannot start {argv[0]}: {error.strerror}") from error


async def ended(process: Process) -> int:
    """Wait until a program has ended; its exit status, -n when signal n ended it."""
    # asyncio's own wait lasts until all pipes are closed, and who has left the session may hold them.
    await _gone(process.pid)
    while (status := process.returncode) is None:  # noqa: ASYNC110 - asyncio hears of it in a moment and tells nobody
        await asyncio.sleep(LOOK)
    return status


async def _gone(pid: int) -> None:
    """Wait until a child has ended, as the kernel tells it."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop, gone = asyncio.get_running_loop(), asyncio.Event()
    try:
        loop.add_reader(handle, gone.set)
        await gone.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)


async def terminate(process: Process, grace: float) -> int:
    """End a program and all of its session: SIGTERM, after `grace` seconds SIGKILL. Returns its exit status."""
    _signal_session(process, signal.SIGTERM)
    try:
        async with asyncio.timeout(grace):
            status = await ended(process)
    except TimeoutError:
        status = None
    # Also when it ended in time: it may have left children.
    _signal_session(process, signal.SIGKILL)
    return await ended(process) if status is None else status


class Child:
    """A program that is a process, as one that is a container is: `lab.kernel.pods.Program`."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @property
    def stdin(self) -> asyncio.StreamWriter | None:
        """What it is told."""
        return self._process.stdin

    @property
    def stdout(self) -> asyncio.StreamReader | None:
        """What it prints."""
        return self._process.stdout

    @property
    def pid(self) -> int:
        """As the lab's own PID namespace numbers it."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit status, -n when signal n ended it; None while it runs."""
        return self._process.returncode

    async def wait(self) -> int:
        """As `ended`."""
        return await ended(self._process)

    async def terminate(self, grace: float) -> int:
        """As the function of that name."""
        return await terminate(self._process, grace)

    def kill(self) -> None:
        """As the function of that name."""
        kill(self._process)


def kill(process: Process) -> None:
    """End a program and all of its session at once, without waiting for it."""
    _signal_session(process, signal.SIGKILL)


def _signal_session(process: Process, number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


class _Inside(Generic[_T]):
    """A coroutine, to be awaited, whose every step runs in a namespace."""

    def __init__(self, ns: Namespace, coroutine: Coroutine[Any, Any, _T]) -> None:
        self._ns = ns
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, None, _T]:
        steps = self._coroutine.__await__()
        thrown: BaseException | None = None
        while True:
            with self._ns.entered():
                try:
                    waits_for = next(steps) if thrown is None else steps.throw(thrown)
                except StopIteration as result:
                    return cast("_T", result.value)
            try:
                yield waits_for
                thrown = None
            except BaseException as error:  # noqa: BLE001 - raised again where the coroutine waits, inside
                thrown = error
