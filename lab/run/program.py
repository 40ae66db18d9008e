"""A program that is started, prints something and ends: what programs of libp2p's own suites are to the lab."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from lab.files import keep_tail
from lab.peers.handle import KEPT_STDERR, MAX_STDERR, keep_bounded, tail_of

MAX_TOLD = 1000
"Lines of a program's output that are told of; what it printed is kept nevertheless."
MAX_OUTPUT = 1 << 20
"Bytes of what a program prints; one that prints more is ended."
CHUNK = 64 * 1024
GRACE = 2.0
"Seconds that a program has to end when it is asked to, and its output to come to an end after it."


class Started(Protocol):
    """What runs, a process or a container: `lab.kernel.process.Child`, `lab.kernel.pods.Program`."""

    @property
    def stdout(self) -> asyncio.StreamReader | None: ...
    @property
    def returncode(self) -> int | None: ...
    async def wait(self) -> int: ...
    async def terminate(self, grace: float) -> int: ...
    def kill(self) -> None: ...


class Program:
    """One running program. It ends by itself, or by `end`."""

    def __init__(self, name: str, started: Started, stderr: Path, on_line: Callable[[bytes], None]) -> None:
        """`on_line` hears of each line that it prints; what it told on stderr is in that file."""
        self.name = name
        self._started = started
        self._stderr = stderr
        self._output = bytearray()  # at most MAX_OUTPUT
        self._reader = asyncio.create_task(self._read(on_line), name=f"read {name}")
        self._keeper = asyncio.create_task(keep_bounded(stderr), name=f"stderr of {name}")

    @property
    def output(self) -> str:
        """What it has printed."""
        return self._output.decode("utf-8", "replace")

    @property
    def overflowed(self) -> bool:
        """Whether it was ended for printing too much."""
        return len(self._output) >= MAX_OUTPUT

    @property
    def status(self) -> int | None:
        """Its exit status, -n when signal n ended it; None while it runs."""
        return self._started.returncode

    async def ended(self) -> int:
        """Wait for its end, with all that it has printed read; its exit status."""
        status = await self._started.wait()
        await self.end()
        return status

    async def end(self) -> None:
        """Have it end, with all of its session."""
        await self._started.terminate(GRACE)
        self._keeper.cancel()
        keep_tail(self._stderr, MAX_STDERR, KEPT_STDERR)
        # Who has left the session lives on, and its output may never end.
        await asyncio.wait([self._reader], timeout=GRACE)
        if not self._reader.cancel() and not self._reader.cancelled():
            self._reader.result()

    def tail(self) -> str:
        """The last lines of its stderr, for an error message; empty if there are none."""
        return tail_of(self._stderr)

    async def _read(self, on_line: Callable[[bytes], None]) -> None:
        stdout = self._started.stdout
        assert stdout is not None
        begin = told = 0
        while chunk := await stdout.read(CHUNK):
            if self.overflowed:
                continue
            self._output += chunk[: MAX_OUTPUT - len(self._output)]
            while told < MAX_TOLD and (end := self._output.find(b"\n", begin)) >= 0:
                on_line(bytes(self._output[begin : end + 1]))
                begin, told = end + 1, told + 1
            if self.overflowed:
                self._started.kill()
        if told < MAX_TOLD and begin < len(self._output):
            on_line(bytes(self._output[begin:]))
