"""Files that are whole at any time, whoever writes them, and bounded, whoever has written them."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from lab.errors import TopologyError


def read_asked(path: Path, most: int, what: str) -> str:
    """The text of a file that a user has named, at most so many bytes; TopologyError calls it `what`."""
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise TopologyError(f"{path}: {error.strerror or error}") from None
    if len(data) > most:
        raise TopologyError(f"{path}: longer than {what} may be, {most >> 10} KiB")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TopologyError(f"{path}:{line}: not text in UTF-8") from None


def keep_tail(path: Path, most: int, kept: int) -> None:
    """Leave the last `kept` bytes and a line that says so of a file that others append to, if it has more than `most`.

    What is appended meanwhile may be lost. A file that is not there is left so. Raises OSError.
    """
    if not path.exists() or (size := path.stat().st_size) <= most:
        return
    with path.open("rb+") as file:
        file.seek(-kept, os.SEEK_END)
        tail = file.read()
        file.truncate(0)
    with path.open("ab") as file:  # as its writer does, or one would overwrite the other
        file.write(b"... %d bytes were more than is kept ...\n%b" % (size - kept, tail))


def write_whole(path: Path, text: str) -> None:
    """Write a file in one step: who reads it finds the old text or the new one. Raises OSError."""
    # Not by process id: every lab has a PID namespace of its own.
    fresh = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        fresh.write_text(text, "utf-8")
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
