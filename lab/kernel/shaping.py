"""Links that are not ideal: one interface, two ways to make them, chosen by what the kernel offers.

netem       the kernel's own, for as many packets as it can carry                   (`lab.kernel.netem`)
userspace   programs that hold packets back and repeat themselves, seed by seed     (`lab.kernel.userlink`, `cablelink`)
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, Protocol

from lab.errors import KernelError, MissingCapability
from lab.kernel import netem, nft, sandbox
from lab.kernel.link import Links as Requests
from lab.kernel.namespace import Namespace
from lab.kernel.nfqueue import add_queue_rules, queue_states
from lab.kernel.userlink import LinkCount
from lab.model.plain import from_plain, to_plain
from lab.plan.names import CORE
from lab.plan.shaping import (
    MIDWAY,
    TABLE,
    Shaping,
    far_port,
    link_rules,
    membership_rules,
    near_port,
    queue_chain,
    queue_number,
)

ENVIRONMENT: Final = "PUNCHLAB_LINKS"
"the variable that chooses, `netem` or `userspace`"
ANSWER_WITHIN: Final = 10.0
"Seconds for the userspace link to start, or to answer."
_END_WITHIN: Final = 2.0


class Links(Protocol):
    """One way to make links. All methods block."""

    name: str

    def shape(self, shaping: Shaping) -> None: ...
    def problems(self) -> tuple[str, ...]: ...
    def close(self) -> None: ...


def choose(spaces: Mapping[str, Namespace], backend: str | None = None) -> Links:
    """netem where the kernel has it, else the userspace link; or the one that is named. `spaces` are all there are.

    Raises MissingCapability as `choice` does.
    """
    if choice(backend)[0] == NETEM:
        return netem.NetemLinks(spaces)
    return UserspaceLinks(spaces[CORE], spaces.get(MIDWAY))


def choice(backend: str | None = None) -> tuple[str, str]:
    """What makes links on this machine, and why, if not simply because it can: `as PUNCHLAB_LINKS says`.

    Raises MissingCapability if the one named, here or in the environment, is not to be had.
    """
    why = ""
    if backend is None and (backend := os.environ.get(ENVIRONMENT) or None):
        why = f"as {ENVIRONMENT} says"
    if backend not in (None, NETEM, USERSPACE):
        raise MissingCapability(f"{ENVIRONMENT}={backend}: links are made by {NETEM} or by {USERSPACE}")
    if backend == USERSPACE:
        return USERSPACE, why
    problem = netem.problem()
    if problem is None:
        return NETEM, why
    if backend == NETEM:
        raise MissingCapability(f"links by netem were asked for: {problem}")
    return USERSPACE, problem


class UserspaceLinks:
    """Programs that hold packets back: one in the core, and one where the shaped cables of private networks pass."""

    name = "userspace"

    def __init__(self, core: Namespace, midway: Namespace | None) -> None:
        self._core = core
        self._internet = Program(core, "lab.kernel.userlink")
        self._cables = Program(midway, "lab.kernel.cablelink") if midway is not None else None
        self._midway = midway

    def shape(self, shaping: Shaping) -> None:
        """Be these links from now on; what is under way keeps its time. Raises KernelError."""
        if self._internet.running:
            self._internet.ask({"shape": to_plain(shaping)})
            nft.load(self._core, membership_rules(shaping))
        elif not shaping.ideal_internet:
            self._internet.start()
            self._internet.ask({"shape": to_plain(shaping)})
            nft.load(self._core, link_rules(shaping))
            chains = [(queue_chain(n), queue_number(n)) for n in range(len(shaping.uplinks))]
            add_queue_rules(self._core, TABLE, chains)
        if self._cables is not None and (self._cables.running or not shaping.ideal_cables):
            self._shape_cables(self._cables, shaping)

    def _shape_cables(self, cables: Program, shaping: Shaping) -> None:
        """The first time, the program takes the place of the bridges; it is started before, which takes longer."""
        if not cables.running:
            assert self._midway is not None
            cables.start()
            unplug(self._midway, len(shaping.cables))
        cables.ask({"shape": to_plain(shaping)})

    @property
    def pid(self) -> int:
        """Of the program in the core; 0 before the links are first shaped."""
        return self._internet.pid

    def counts(self) -> tuple[LinkCount, ...]:
        """What each link has done so far, cables of private networks last. Raises KernelError."""
        return tuple(count for program in self._programs for count in program.counts())

    def problems(self) -> tuple[str, ...]:
        """Why the links were not those asked for: packets came faster than they could be carried, or one has ended."""
        ended = tuple(problem for program in self._programs if (problem := program.ended()))
        if ended:
            return ended
        states = queue_states(self._core) if self._internet.running else ()
        lost = sum(state.unread + state.overflowed for state in states)
        lost += sum(count.overruns for count in self._cables.counts()) if self._cables is not None else 0
        return (f"the userspace link was too slow and lost {lost} packets",) if lost else ()

    def close(self) -> None:
        """End the programs; packets that wait are dropped."""
        for program in self._programs:
            program.close()

    @property
    def _programs(self) -> tuple[Program, ...]:
        return (self._internet,) if self._cables is None else (self._internet, self._cables)


class Program:
    """One program of links, and what is said with it. It is dropped with the lab's PID namespace at the latest."""

    def __init__(self, space: Namespace, module: str) -> None:
        self._space = space
        self._module = module
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether it has been started."""
        return self._process is not None

    @property
    def pid(self) -> int:
        """Of the program; 0 before it is started."""
        return self._process.pid if self._process is not None else 0

    def start(self) -> None:
        """Start it in its space, and have it run ahead of all others where that is allowed. Raises KernelError."""
        with self._space.entered():
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        self.ask({"tell": True})
        # Only now, for by its answer it has said how it would be scheduled by itself.
        sandbox.hurry(self._process.pid)

    def counts(self) -> tuple[LinkCount, ...]:
        """What each of its links has done so far. Raises KernelError."""
        if self._process is None:
            return ()
        return from_plain(self.ask({"tell": True})["links"], tuple[LinkCount, ...], "links")

    def ended(self) -> str | None:
        """That it ended by itself, if it did."""
        if self._process is None or self._process.poll() is None:
            return None
        return f"the userspace link ended with status {self._process.returncode}: {self._complaint()}"

    def close(self) -> None:
        """End it."""
        if self._process is None:
            return
        process, self._process = self._process, None
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        with suppress(BrokenPipeError):  # it has ended already; `problems` told
            process.stdin.close()
        try:
            process.wait(_END_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        process.stderr.close()

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Tell it something and wait for its answer. Raises KernelError."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            raise KernelError(f"the userspace link has ended: {self._complaint()}") from None
        line = _line(process, time.monotonic() + ANSWER_WITHIN)
        if not line.endswith(b"\n"):
            raise KernelError(f"the userspace link does not answer: {self._complaint()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise KernelError(f"the userspace link: {answer['error']}")
        return answer

    def _complaint(self) -> str:
        process = self._process
        assert process is not None
        assert process.stderr is not None
        if process.poll() is None:
            return "it is busy"
        lines = process.stderr.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


def unplug(midway: Namespace, cables: int) -> None:
    """Take the bridges halfway along so many cables out of the way."""
    numbers = midway.interfaces()
    with Requests(midway) as requests:
        for number in range(cables):
            for port in (near_port(number), far_port(number)):
                requests.plug(numbers[port], 0)


def _line(process: subprocess.Popen[bytes], deadline: float) -> bytes:
    """One line of its output, or what there is of it by the deadline."""
    assert process.stdout is not None
    line = b""
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([process.stdout], (), (), max(deadline - time.monotonic(), 0.0))
        more = process.stdout.read1(1 << 16) if ready else b""  # type: ignore[attr-defined]
        if not more:
            break
        line += more
    return line


NETEM: Final = netem.NetemLinks.name
USERSPACE: Final = UserspaceLinks.name
