"""Daemons that stay in the foreground, so that each is our child and no pid has to be looked for.

What one tells goes into a pipe that never blocks and that nobody empties: the first 64 KiB are kept, to say why it
would not start.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from typing import Final

from lab.kernel.namespace import Namespace

ENDS_WITHIN: Final = 3.0
"Seconds from SIGTERM to SIGKILL."
_TOLD_MAX: Final = 65536


class Foreground:
    """One running daemon in a namespace, from its start to `end`. All methods block."""

    def __init__(self, ns: Namespace, argv: Sequence[str]) -> None:
        """Start it. Raises OSError."""
        self._told, told = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            with ns.entered():
                self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=told, stderr=told)
        except BaseException:
            os.close(self._told)
            raise
        finally:
            os.close(told)

    @property
    def pid(self) -> int:
        """As the lab's own PID namespace numbers it."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether it has ended by itself."""
        return self._process.poll() is not None

    def last_words(self) -> str:
        """The last line that it told, or that there is none; the line is gone then."""
        try:
            told = os.read(self._told, _TOLD_MAX).decode(errors="replace").strip()
        except BlockingIOError:
            told = ""
        return told.rpartition("\n")[2] or f"it said nothing (status {self._process.poll()})"

    def end(self) -> None:
        """End it and wait for it."""
        self._process.terminate()
        try:
            self._process.wait(ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._told)
