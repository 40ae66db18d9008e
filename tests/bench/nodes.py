"""What a node costs: the time and processor time to its first line, its memory when idle, its handshakes.

Beside it stand the interpreter alone, which nothing written in Python undercuts, and the other implementations'
listening programs. The memory of a process is its resident set, shared libraries included.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench import handshakes
from tests.bench.figures import Figure, Section, milliseconds
from tests.bench.foreign import available
from tests.bench.program import Node, Program

IDLE: Final = 0.5
"Seconds from the first line until memory is read."
ONE_LINE: Final = (sys.executable, "-c", "print(flush=True); input()")
"An interpreter that says one line and waits for the end."
_PER_S: Final = "/s"


@dataclass(frozen=True, slots=True)
class Start:
    """Seconds from spawn to the first line, processor seconds spent on it, MiB resident when idle."""

    seconds: float
    cpu: float
    memory: float


def run(starts: int, rounds: int, count: int) -> Section:
    """Start everything `starts` times in turn, and once before to warm up; `rounds` rounds of `count` handshakes."""
    foreign, notes = available()
    programs: dict[str, Callable[[], Start]] = {"bare python": lambda: _start(ONE_LINE), "our node": _own}
    for each in foreign:
        programs[each.name] = lambda command=(*each.command, "listen"): _start(command)  # type: ignore[misc]
    seen: dict[str, list[Start]] = {name: [] for name in programs}
    for _ in range(1 + starts):
        for name, start in programs.items():
            seen[name].append(start())
    figures = [figure for name, values in seen.items() for figure in _tell(name, values[1:])]
    return Section("node", "A node: start, memory, handshakes", (*figures, *_handshakes(rounds, count)), (*notes,))


def _tell(name: str, starts: Sequence[Start]) -> list[Figure]:
    return [
        milliseconds(f"{name}: start", [start.seconds for start in starts]),
        milliseconds(f"{name}: start, CPU", [start.cpu for start in starts]),
        Figure(f"{name}: idle RSS", "MiB", tuple(start.memory for start in starts)),
    ]


def _handshakes(rounds: int, count: int) -> list[Figure]:
    measured = [
        (handshakes.dials(count), handshakes.noise(count), handshakes.cryptography(count)) for _ in range(rounds)
    ]
    dials, noise, curves = zip(*measured, strict=True)
    full = Figure("full handshakes", _PER_S, dials)
    pure = Figure("Noise XX alone", _PER_S, noise)
    return [full, pure, Figure("its curves alone", _PER_S, curves), full.over(pure, "full / Noise alone")]


def _own() -> Start:
    began = time.perf_counter()
    with Node("idle") as node:
        node.ready()
        return _look(node, began)


def _start(command: Sequence[str]) -> Start:
    began = time.perf_counter()
    with Program(command) as program:
        program.line()
        return _look(program, began)


def _look(program: Program, began: float) -> Start:
    seconds, cpu = time.perf_counter() - began, program.cpu()
    time.sleep(IDLE)  # memory is that of a program at rest, and none says when it is
    return Start(seconds, cpu, _resident(program.pid))


def _resident(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text("utf-8")
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else 0.0
