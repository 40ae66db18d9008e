"""Links that are not ideal: one interface, two ways to make them, chosen by what the kernel offers.

netem       the kernel's own, for as many packets as it can carry            (`lab.kernel.netem`)
userspace   a program that delays verdicts; repeats itself, seed by seed     (`lab.kernel.userlink`)
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, Protocol

from lab.errors import KernelError
from lab.kernel import netem, nft
from lab.kernel.namespace import Namespace
from lab.kernel.nfqueue import add_queue_rules, queue_states
from lab.kernel.userlink import LinkCount
from lab.model.plain import from_plain, to_plain
from lab.plan.names import CORE
from lab.plan.shaping import TABLE, Shaping, link_rules, membership_rules, queue_chain, queue_number

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
    """netem where the kernel has it, else the userspace link; or the one that is named."""
    if backend is None:
        backend = NETEM if netem.available(spaces[CORE]) else USERSPACE
    if backend == NETEM:
        return netem.NetemLinks(spaces)
    return UserspaceLinks(spaces[CORE])


class UserspaceLinks:
    """The userspace link's process, in the core. It is dropped with the lab's PID namespace at the latest."""

    name = "userspace"

    def __init__(self, core: Namespace) -> None:
        self._core = core
        self._process: subprocess.Popen[bytes] | None = None

    def shape(self, shaping: Shaping) -> None:
        """Be these links from now on; what is under way keeps its time. Raises KernelError."""
        if self._process is None:
            self._start()
            self._ask({"shape": to_plain(shaping)})
            nft.load(self._core, link_rules(shaping))
            chains = [(queue_chain(n), queue_number(n)) for n in range(len(shaping.uplinks))]
            add_queue_rules(self._core, TABLE, chains)
        else:
            self._ask({"shape": to_plain(shaping)})
            nft.load(self._core, membership_rules(shaping))

    @property
    def pid(self) -> int:
        """Of the program; 0 before the links are first shaped."""
        return self._process.pid if self._process is not None else 0

    def counts(self) -> tuple[LinkCount, ...]:
        """What each link has done so far. Raises KernelError."""
        if self._process is None:
            return ()
        answer = self._ask({"tell": True})
        return from_plain(answer["links"], tuple[LinkCount, ...], "links")

    def problems(self) -> tuple[str, ...]:
        """Why the links were not those asked for: packets came faster than they could be carried, or it has ended."""
        if self._process is None:
            return ()
        if self._process.poll() is not None:
            return (f"the userspace link ended with status {self._process.returncode}: {self._complaint()}",)
        states = queue_states(self._core)
        lost = sum(state.unread + state.overflowed for state in states)
        return (f"the userspace link was too slow and lost {lost} packets",) if lost else ()

    def close(self) -> None:
        """End the process; packets that wait are dropped."""
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

    def _start(self) -> None:
        with self._core.entered():
            self._process = subprocess.Popen(
                [sys.executable, "-m", "lab.kernel.userlink"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
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
