"""Programs that are measured: started with pipes, read line by line, ended with the block, killed at a deadline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

ROOT: Final = Path(__file__).resolve().parents[2]
"The checkout."
DEADLINE: Final = 120.0
"Seconds that any program may live; a stalled one must not stall the benchmark."
GRACE: Final = 5.0
"Seconds from the end of its stdin to SIGKILL."


class BenchError(Exception):
    """Something could not be measured; the text is one line."""


class Program:
    """A running program; `with Program(argv) as program:`. What it says is read by `line`."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        self._name = " ".join(Path(word).name for word in argv[:4])
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            cwd=ROOT,
            env={**os.environ, **(env or {})},
        )
        self._timer = threading.Timer(DEADLINE, self._process.kill)

    def __enter__(self) -> Self:
        self._timer.daemon = True
        self._timer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._timer.cancel()
        if kind is not None:
            self._process.kill()
        try:
            self._process.communicate(timeout=GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        finally:
            self._stderr.close()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def cpu(self) -> float:
        """Processor seconds of all its threads so far; /proc/<pid>/stat would tell hundredths only."""
        tasks = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text("ascii").split()[0]) for task in tasks) / 1e9

    def line(self) -> str:
        """Its next line; raises `BenchError` with the last words of its stderr if it ends instead."""
        assert self._process.stdout is not None
        if said := self._process.stdout.readline():
            return said.decode().strip()
        raise BenchError(f"{self._name} ended without an answer{self._last_words()}")

    def json(self) -> dict[str, Any]:
        """Its next line as a JSON object."""
        text = self.line()
        try:
            value = json.loads(text)
        except ValueError:
            value = None
        if isinstance(value, dict):
            return value
        raise BenchError(f"{self._name} said {text[:200]!r}, which is no JSON object")

    def tell(self, text: str) -> None:
        """Send it a line."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(text.encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise BenchError(f"{self._name} reads no more{self._last_words()}") from None

    def _last_words(self) -> str:
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1]}" if lines else ""


LISTEN: Final = "/ip4/127.0.0.1/tcp/0"
"Where a node listens unless told otherwise."


class Peer(Program):
    """A program that speaks the peers' contract (docs/contract.md)."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        super().__init__(argv, env)
        self._id = 0

    def ready(self) -> str:
        """Wait until it says that it is ready; returns its address. What it tells before is skipped."""
        while (said := self.json()).get("event") != "ready":
            continue
        return f"{said['addrs'][0].partition('/p2p/')[0]}/p2p/{said['peer']}"

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Have it do something; its events are skipped. Raises `BenchError` when it could not."""
        self._id += 1
        self.tell(json.dumps({"id": self._id, "do": do, "timeout": DEADLINE, **arguments}))
        while (said := self.json()).get("id") != self._id:
            continue
        answer = said.get("ok")
        if isinstance(answer, dict):
            return answer
        raise BenchError(f"a node could not {do}: {said.get('why', said)}")


class Node(Peer):
    """One of our nodes."""

    def __init__(self, name: str, *flags: str, listen: str = LISTEN) -> None:
        command = ["-P", "-m", "node", "--name", name, "--listen", listen, "--log-level", "warning", *flags]
        # A node starts from compiled modules, as in a lab, whatever the benchmark's own environment says.
        super().__init__([sys.executable, *command], {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": ""})
