"""What the lab makes of peers that crash, hang or talk nonsense, of NATs that lie, and of its own sudden death."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from lab.kernel import sandbox
from lab.lab import ADAPTERS
from lab.model.classical import cell_topology
from lab.model.topology import Topology
from lab.peers.adapter import Adapter
from lab.peers.handle import MAX_STDERR
from lab.plan.plan import Launch
from lab.report.results import Cell, Mark
from lab.run.cell import run_cell
from lab.run.evidence import Evidence

READY = """
import json, sys, time
def say(**line): print(json.dumps(line), flush=True)
say(event="ready", at=time.time(), peer="12D3KooWFake", addrs=[], agent="fake")
def info(line):
    ask = json.loads(line)
    say(id=ask["id"], ok=dict(peer="12D3KooWFake", addrs=[], implementation="fake", version="0"))
info(sys.stdin.readline())
"""


@dataclass(frozen=True, slots=True)
class Script:
    """A peer that is a Python program of a few lines."""

    source: str
    name: str = "script"

    def argv(self, launch: Launch, options: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-c", self.source]

    def environment(self, launch: Launch, home: Path) -> Mapping[str, str]:
        return {"HOME": str(home), "PATH": "/usr/bin:/bin"}


Inside = Callable[[Callable[[], None]], None]


def with_bob(source: str, folder: Path, judge: Callable[[Cell, Evidence], None]) -> Callable[[], None]:
    """A cell whose listener is that program; what came of it is judged inside the sandbox."""

    def check() -> None:
        plain = cell_topology("full-cone", "full-cone")
        peers = tuple(replace(peer, impl="script") if peer.name == "bob" else peer for peer in plain.peers)
        topology: Topology = replace(plain, peers=peers)
        adapters: Mapping[str, Adapter] = {**ADAPTERS, "script": Script(source)}
        evidence = Evidence(folder / "run")
        judge(asyncio.run(run_cell(topology, evidence, 1, "capture.pcapng", adapters)), evidence)

    return check


def test_a_peer_that_crashes_fails_its_cell_with_the_tail_of_its_stderr(inside: Inside, tmp_path: Path) -> None:
    def judge(cell: Cell, _: Evidence) -> None:
        assert cell.verdict is Mark.FAILED
        assert "bob ended by itself, exit status 3" in cell.why
        assert "out of cheese" in cell.why

    inside(with_bob("import sys; print('out of cheese', file=sys.stderr); sys.exit(3)", tmp_path, judge))


def test_a_peer_that_crashes_when_asked_fails_its_cell(inside: Inside, tmp_path: Path) -> None:
    def judge(cell: Cell, _: Evidence) -> None:
        assert cell.verdict is Mark.FAILED
        assert "ended by itself" in cell.why

    inside(with_bob(READY + "sys.stdin.readline(); sys.exit(7)", tmp_path, judge))


def test_an_answer_of_unsupported_makes_the_cell_unsupported(inside: Inside, tmp_path: Path) -> None:
    def judge(cell: Cell, _: Evidence) -> None:
        assert cell.verdict is Mark.UNSUPPORTED
        assert "does not support 'relay'" in cell.why

    source = READY + "ask = json.loads(sys.stdin.readline()); say(id=ask['id'], unsupported='relay'); sys.stdin.read()"
    inside(with_bob(source, tmp_path, judge))


def test_a_flag_that_a_peer_does_not_have_makes_the_cell_unsupported_and_a_panic_of_go_does_not(
    inside: Inside, tmp_path: Path
) -> None:
    def unsupported(cell: Cell, _: Evidence) -> None:
        assert cell.verdict is Mark.UNSUPPORTED
        assert cell.why == "bob does not start so: peer: unknown option '--state'"

    def failed(cell: Cell, _: Evidence) -> None:
        assert cell.verdict is Mark.FAILED
        assert "goroutine 1 [running]" in cell.why

    end = "import sys; print({!r}, file=sys.stderr); sys.exit(2)"
    inside(with_bob(end.format("usage: …\npeer: unknown option '--state'"), tmp_path / "flag", unsupported))
    panic = "panic: no\n\ngoroutine 1 [running]:\nmain.main()\n\t/src/go-libp2p/main.go:8 +0x25"
    inside(with_bob(end.format(panic), tmp_path / "panic", failed))


def test_nonsense_is_recorded_and_an_answer_without_its_fields_fails_the_cell(inside: Inside, tmp_path: Path) -> None:
    def judge(cell: Cell, evidence: Evidence) -> None:
        assert cell.verdict is Mark.FAILED
        assert "bob answered without a usable 'relay'" in cell.why
        assert '"nonsense"' in (evidence.path / "events.jsonl").read_text()

    source = (
        READY + "print('hello!', flush=True); say(id=json.loads(sys.stdin.readline())['id'], ok={}); sys.stdin.read()"
    )
    inside(with_bob(source, tmp_path, judge))


def test_a_line_without_end_is_cut_off_and_fails_the_cell(inside: Inside, tmp_path: Path) -> None:
    def judge(cell: Cell, _: Evidence) -> None:
        assert cell.verdict is Mark.FAILED

    source = READY + "sys.stdin.readline(); sys.stdout.write('x' * 3_000_000); sys.stdout.flush(); sys.stdin.read()"
    inside(with_bob(source, tmp_path, judge))


def test_a_peer_that_leaves_somebody_behind_who_holds_its_pipes_has_ended(inside: Inside, tmp_path: Path) -> None:
    def judge(cell: Cell, _: Evidence) -> None:
        assert cell.verdict is Mark.FAILED
        assert cell.why.startswith("bob ended by itself, exit status 3")

    daemon = "import subprocess; subprocess.Popen(['sleep', '1000'], start_new_session=True)\n"
    inside(with_bob(READY + "sys.stdin.readline()\n" + daemon + "sys.exit(3)", tmp_path, judge))


def test_a_peer_that_says_more_than_anybody_can_use_is_ended(
    inside: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def judge(cell: Cell, evidence: Evidence) -> None:
        assert cell.verdict is Mark.FAILED
        assert cell.why == "bob was ended, since it said more than 1 MiB"
        assert (evidence.path / "peers/bob.jsonl").stat().st_size < 4 << 20

    monkeypatch.setattr("lab.peers.handle.MAX_SPOKEN", 1 << 20)
    flood = "while True: say(id=99, ok={'x': 'x' * 1000})"
    inside(with_bob(READY + flood, tmp_path, judge))


def test_of_an_endless_stderr_the_end_is_kept(inside: Inside, tmp_path: Path) -> None:
    def judge(cell: Cell, evidence: Evidence) -> None:
        assert cell.verdict is Mark.FAILED
        assert "out of cheese" in cell.why
        kept = evidence.stderr("bob").read_bytes()
        assert len(kept) <= MAX_STDERR
        assert kept.startswith(b"... ")
        assert kept.endswith(b"\nout of cheese\n")

    flood = "for _ in range(3 * 2**10): sys.stderr.write('x' * 2**14 + chr(10))\n"
    inside(with_bob(READY + flood + "print('out of cheese', file=sys.stderr); sys.exit(3)", tmp_path, judge))


def test_a_peer_that_never_answers_is_given_up_and_ended(
    inside: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lab.lab.READY_WITHIN", 5.0)

    def judge(cell: Cell, _: Evidence) -> None:
        assert cell.verdict is Mark.FAILED
        assert "bob said no such ready within 5 s" in cell.why

    ignore = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(1000)"
    inside(with_bob(ignore, tmp_path, judge))


def test_a_nat_that_does_not_measure_as_declared_makes_the_cell_inconclusive(
    inside: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lab.plan.ruleset import ruleset as honest

    def lie(nat: object, *rest: object) -> str:
        """Rules of a full cone, whatever was declared."""
        return honest(cell_topology("full-cone", "full-cone").routers[0].nat, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("lab.plan.build.ruleset", lie)

    def check() -> None:
        evidence = Evidence(tmp_path / "run")
        cell = asyncio.run(run_cell(cell_topology("port-restricted", "full-cone"), evidence, 1, "capture.pcapng"))
        assert cell.verdict is Mark.INCONCLUSIVE
        assert "home-a does not measure as declared" in cell.why
        assert "filtering" in cell.why

    inside(check)


@pytest.fixture
def lasting_lab(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """`punchlab up two-homes`, once it has said that all is up."""
    if reason := sandbox.problem():
        pytest.skip(reason)
    argv = [sys.executable, "-m", "lab", "up", "two-homes", "--runs", str(tmp_path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as lab:
        assert lab.stdout is not None
        try:
            assert any("Ctrl-C" in line for line in lab.stdout), "it ended before all was up; its stderr says why"
            yield lab
        finally:
            lab.kill()


def descendants(pid: int) -> list[int]:
    """All processes below one, children of children included."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [one for child in map(int, children) for one in (child, *descendants(child))]


def await_ends(pidfds: list[int], within: float) -> None:
    """Wait until all of those processes have ended."""
    deadline = time.monotonic() + within
    for pidfd in pidfds:
        ended, _, _ = select.select([pidfd], [], [], max(0.0, deadline - time.monotonic()))
        assert ended, "a process outlived the lab"
        os.close(pidfd)


@pytest.mark.parametrize("victim", ["the command", "its first child", "the lab itself"])
def test_a_lab_killed_at_once_leaves_nothing_behind(lasting_lab: subprocess.Popen[str], victim: str) -> None:
    below = descendants(lasting_lab.pid)
    assert len(below) >= 5, "two processes of the sandbox and three peers"
    with ExitStack() as held:
        # The kernel gives the number of a namespace that has gone to the next one, which may be of a lab beside this.
        open_ones = [held.enter_context(Path(f"/proc/{pid}/ns/net").open("rb")) for pid in below]
        namespaces = {Path(f"net:[{os.fstat(each.fileno()).st_ino}]") for each in open_ones}
        assert len(namespaces) >= 4, "each peer has a network of its own"
        pidfds = [os.pidfd_open(pid) for pid in (lasting_lab.pid, *below)]

        os.kill(
            {"the command": lasting_lab.pid, "its first child": below[0], "the lab itself": below[1]}[victim],
            signal.SIGKILL,
        )
        await_ends(pidfds, within=60)

        left = {readlink(entry) for entry in Path("/proc").glob("[0-9]*/ns/net")}
        assert not (namespaces - {Path("/proc/self/ns/net").readlink()}) & left


def readlink(path: Path) -> Path | None:
    try:
        return path.readlink()
    except OSError:  # the process has ended since, or is another user's
        return None


def test_an_interrupt_ends_a_lasting_lab_in_order(lasting_lab: subprocess.Popen[str], tmp_path: Path) -> None:
    lasting_lab.send_signal(signal.SIGINT)

    assert lasting_lab.wait(60) == 0
    run = (tmp_path / "latest").resolve()
    assert not (run / "lab.json").exists()
    assert (run / "capture.pcapng").stat().st_size > 0


def test_a_shell_opens_inside_a_peers_network(lasting_lab: subprocess.Popen[str], tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "lab", "shell", "--runs", str(tmp_path), "alice", "ip", "-4", "-o", "addr"]
    shell = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)

    assert shell.returncode == 0, shell.stderr
    assert "192.168.1.10/24" in shell.stdout
