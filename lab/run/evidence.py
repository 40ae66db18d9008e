"""The folder of one run: every file that analysis and reports need, written as things happen.

    runs/<id>/  run.json  topology.toml  plan.json  certificates.json  results.json
                capture.pcapng  events.jsonl  conntrack.jsonl
                peers/<name>.jsonl (the lines spoken)  peers/<name>.stderr
    runs/latest -> <id>

Lines are written whole and flushed, so that the folder of a lab that was killed can still be read.
"""

from __future__ import annotations

import json
import os
import random
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import IO, Any

from lab.errors import Inconclusive, KernelError, LabError
from lab.files import write_whole
from lab.peers.contract import Event

ORDER = "order.json"
"The file that says what a matrix of implementations is for, written before anything else of it."
LAB = "lab"
"The name under which the lab itself appears in `events.jsonl`."


def new_run(root: Path, label: str, now: float, chance: random.Random) -> Path:
    """Make the folder of a new run below `root` and point `latest` at it."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(now))
    words = re.sub(r"[^A-Za-z0-9.]+", "-", label).strip("-") or "run"
    try:
        root.mkdir(parents=True, exist_ok=True)
        path = root / f"{stamp}-{words[:40]}-{chance.getrandbits(16):04x}"
        path.mkdir()
        point_at(root / "latest", path.name)
    except OSError as error:
        raise LabError(
            f"cannot make a folder for the run in {root}: {error.strerror}; choose one with --runs"
        ) from error
    return path


def point_at(link: Path, target: str) -> None:
    """Make `link` a symbolic link to `target`, replacing the one that is there in one step."""
    fresh = link.with_name(f".{link.name}-{os.getpid()}-{target[-4:]}")
    fresh.symlink_to(target)
    fresh.replace(link)


def find_run(root: Path, name: str) -> Path:
    """The folder that a user means by `latest`, an id, the start of one, a cell of one, or a path."""
    for candidate in (Path(name), root / name):
        if _is_run(candidate):
            return candidate.resolve()
    begun = [] if Path(name).is_absolute() else root.glob(f"{escape(name)}*")
    matches = sorted(path for path in begun if _is_run(path) and not path.is_symlink())
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise LabError(f"{name!r} fits several runs: {', '.join(path.name for path in matches[:5])}")
    newest = sorted((path.name for path in root.glob("*") if _is_run(path) and not path.is_symlink()), reverse=True)
    there = f"the newest are {', '.join(newest[:3])}" if newest else "there are none yet: start with `punchlab run`"
    raise LabError(f"no run {name!r} in {root}; {there}")


def find_cell(root: Path, name: str) -> Path:
    """As `find_run`, of something that has packets of its own: a matrix has them in its cells."""
    run = find_run(root, name)
    cells = sorted(path.name for path in (run / "cells").glob("*") if _is_run(path))
    if cells:
        raise LabError(
            f"{run.name} is a matrix; name one of its cells: {name}/cells/{cells[0]} (there are {len(cells)})"
        )
    return run


def _is_run(path: Path) -> bool:
    # A matrix that was killed has left no results, but what it was for, and each cell that was done.
    return any((path / file).is_file() for file in ("run.json", "results.json", ORDER))


def _kind(error: BaseException) -> str:
    return "INCONCLUSIVE" if isinstance(error, Inconclusive | KernelError) else type(error).__name__


class Evidence:
    """Writes one run's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "peers").mkdir(parents=True, exist_ok=True)
        self._files: dict[str, IO[str]] = {}

    @property
    def run(self) -> str:
        """What a run, or a cell of one, is called."""
        return str(Path(*self.path.absolute().parts[-3:])) if self.path.parent.name == "cells" else self.path.name

    @property
    def capture(self) -> Path:
        """Where the packets go."""
        return self.path / "capture.pcapng"

    def home(self, peer: str) -> Path:
        """A folder of a peer's own."""
        home = self.path / "peers" / peer
        home.mkdir(exist_ok=True)
        return home

    def stderr(self, peer: str) -> Path:
        """Where a peer's log goes."""
        return self.path / "peers" / f"{peer}.stderr"

    def write(self, name: str, value: Any) -> None:
        """A whole JSON file, replaced in one step."""
        self.write_text(name, json.dumps(value, indent=1, ensure_ascii=False) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """A whole file, replaced in one step."""
        write_whole(self.path / name, text)

    def event(self, event: Event) -> None:
        """One line of `events.jsonl`."""
        self._append("events.jsonl", event.to_json())

    def line(self, peer: str, direction: str, raw: bytes) -> None:
        """One line spoken with a peer: `>` to it, `<` from it."""
        value = {"at": time.time(), "direction": direction, "line": raw.decode("utf-8", "replace").rstrip("\n")}
        self._append(f"peers/{peer}.jsonl", value)

    def mapping(self, value: dict[str, Any]) -> None:
        """One conntrack event."""
        self._append("conntrack.jsonl", value)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Record when a step of the scenario began, when it ended and how."""
        began = time.time()
        self.event(Event(LAB, "step", began, {"name": name, "stage": "begin"}))
        failure: str | None = None
        try:
            yield
        except BaseException as error:
            failure = f"{_kind(error)}: {error}"
            raise
        finally:
            ended = time.time()
            fields: dict[str, Any] = {"name": name, "stage": "end", "seconds": ended - began}
            self.event(Event(LAB, "step", ended, fields if failure is None else {**fields, "error": failure}))

    def close(self) -> None:
        """Close all files."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _append(self, name: str, value: dict[str, Any]) -> None:
        file = self._files.get(name)
        if file is None:
            file = self._files[name] = (self.path / name).open("a", encoding="utf-8", buffering=1)
        file.write(json.dumps(value, separators=(",", ":"), ensure_ascii=False) + "\n")
