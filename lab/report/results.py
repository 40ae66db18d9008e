"""`results.json`: what became of every cell of a run, with all that is needed to read it later without the lab.

A cell is one dialer, one listener and one relay, each behind its NAT. The file has a format version; a reader refuses
versions that it does not know, and says where a file is not what it should be.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final, TypeVar

from lab.errors import LabError
from lab.model.nat import Nat
from lab.model.plain import from_plain, to_plain

T = TypeVar("T")
FORMAT: Final = 2
"Raised by every change that an older reader would misread."
RESULTS: Final = "results.json"
"the file's name in the folder of a run"
MAX_BYTES: Final = 64 << 20


class Mark(Enum):
    """A verdict: on the peers (PASSED, FAILED), by a peer on itself (UNSUPPORTED), on the lab (INCONCLUSIVE)."""

    PASSED = "PASSED"
    FAILED = "FAILED"
    UNSUPPORTED = "UNSUPPORTED"
    INCONCLUSIVE = "INCONCLUSIVE"


@dataclass(frozen=True, slots=True)
class Party:
    """One peer of a cell."""

    name: str
    implementation: str
    "as the peer calls itself, `punchlab-python`; empty if it never said"
    version: str
    nat_name: str
    "the preset, the router's name, or `internet`"
    nat: Nat | None
    "None: no NAT is in front of it"


@dataclass(frozen=True, slots=True)
class Seconds:
    """The length of each step, in seconds; None for a step that was not reached or not needed."""

    reserve: float | None = None
    "the listener's reservation"
    relayed: float | None = None
    "the dial through the relay"
    direct: float | None = None
    "from the relayed connection to the direct one"
    first_byte: float | None = None
    "from the relayed connection to the first payload on the direct one, by the wire"
    echo: float | None = None
    "the payload over the final path, there and back"
    total: float | None = None
    "the whole cell, with building its network and starting its peers"


@dataclass(frozen=True, slots=True)
class Cell:
    """One pair of NATs and what came of it."""

    dialer: Party
    listener: Party
    relay: Party
    transport: str
    security: str
    muxer: str
    predicted: str
    "direct, relayed or none"
    seen: str
    "direct, relayed, none, unclear, or empty if it did not come to that"
    verdict: Mark
    why: str
    "one sentence"
    seconds: Seconds
    capture: str
    "the pcapng, relative to the folder of the results"
    attempts: int | None = None
    "which punch made the direct connection, 0: a plain dial did; None: not direct, or the peer does not say"

    @property
    def as_predicted(self) -> bool:
        """Whether the path seen is the one predicted, and the verdict says so too."""
        return self.verdict is Mark.PASSED and self.seen == self.predicted


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a run took place."""

    processors: int
    system: str
    "`Debian GNU/Linux 12`"
    kernel: str
    python: str
    punchlab: str

    def __str__(self) -> str:
        return f"{self.processors} processors, {self.system}, Linux {self.kernel}"


@dataclass(frozen=True, slots=True)
class Results:
    """Everything a run has to tell."""

    run: str
    "its id"
    started: float
    "Unix seconds"
    seconds: float
    "wall time"
    machine: Machine
    cells: tuple[Cell, ...]

    @property
    def ok(self) -> bool:
        """Whether every cell came out as predicted."""
        return all(cell.as_predicted for cell in self.cells)


def findings(cells: Iterable[Cell]) -> list[str]:
    """One line for each cell that did not come out as predicted: which, why, and where its packets are."""
    return [
        f"{cell.dialer.nat_name} → {cell.listener.nat_name} by {cell.transport}: "
        f"{cell.verdict.value}: {cell.why} ({cell.capture})"
        for cell in cells
        if not cell.as_predicted
    ]


def day(started: float) -> str:
    """The day of a time in Unix seconds, in UTC: `2025-11-25`."""
    return time.strftime("%Y-%m-%d", time.gmtime(started))


def results_to_json(results: Results) -> str:
    """The text of `results.json`."""
    return json.dumps({"format": FORMAT, **to_plain(results)}, indent=1, ensure_ascii=False) + "\n"


def results_from_json(text: str) -> Results:
    """The results of such a text; `LabError` says where it is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LabError(f"not JSON: {error}") from None
    if not isinstance(value, dict) or "format" not in value:
        raise LabError("not results of punchlab: no `format`")
    if value.pop("format") != FORMAT:
        raise LabError(f"results of another format; this punchlab reads format {FORMAT}")
    return from_plain(value, Results, "results")


def load(folder: Path) -> Results:
    """The results in the folder of a run; `LabError`."""
    return load_by(results_from_json, folder)


def load_by(read: Callable[[str], T], folder: Path) -> T:
    """What `read` makes of the `results.json` in the folder of a run, of whatever kind; `LabError` names the file."""
    path = folder / RESULTS
    try:
        if path.stat().st_size > MAX_BYTES:
            raise LabError(f"{path}: larger than {MAX_BYTES >> 20} MiB")
        return read(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise LabError(f"{path}: cannot read: {error}") from None
    except LabError as error:
        raise LabError(f"{path}: {error}") from None
