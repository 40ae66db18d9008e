"""The matrix of implementations in real labs: whose failure is whose, what is tried again, and that nothing is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from lab.kernel import sandbox
from lab.lab import ADAPTERS
from lab.model.interop import Check, Selection
from lab.model.known import KnownFailure
from lab.peers.adapter import Adapter
from lab.report.interop import Results, load
from lab.report.results import Mark
from lab.run.interop import Order, Run, begin, plan, resume
from tests.lab.test_bad_days import READY, Script

Inside = Callable[[Callable[[], None]], None]


def talks(*dialers: str) -> Order:
    """The checks of one connection to a node of ours, over TCP with Noise."""
    checks = (Check.CONNECT, Check.PING, Check.IDENTIFY, Check.ECHO)
    return Order(Selection(dialers, ("own",), (), checks, ("tcp",), ("noise",)))


def play(folder: Path, order: Order, source: str = "", known: tuple[KnownFailure, ...] = ()) -> Results:
    """That matrix, whose implementation `script` is this program."""
    adapters: Mapping[str, Adapter] = {**ADAPTERS, "script": Script(source)}
    run = Run(begin(order, folder), order, plan(order, {}), {}, known, adapters)
    return asyncio.run(run.play(lambda _: None))


def test_ours_passes_and_leaves_results_in_every_form_and_no_capture(inside: Inside, tmp_path: Path) -> None:
    def check() -> None:
        results = play(tmp_path, talks("own"))
        assert [finding.outcome.mark for finding in results.findings] == [Mark.PASSED] * 4, results.findings
        assert results.ok
        assert results.implementations[0].implementation == "punchlab-python"
        folder = tmp_path / results.run
        assert load(folder) == results
        assert {"junit.xml", "summary.md", "badge.svg", "badge.json"} <= {path.name for path in folder.iterdir()}
        assert not list(folder.rglob("*.pcapng"))

    inside(check)


def test_a_crash_is_failed_with_its_stderr_tried_again_alone_and_captured(inside: Inside, tmp_path: Path) -> None:
    def check() -> None:
        results = play(tmp_path, talks("script"), "import sys; print('out of cheese', file=sys.stderr); sys.exit(3)")
        assert {finding.outcome.mark for finding in results.findings} == {Mark.FAILED}
        assert all("out of cheese" in finding.outcome.why for finding in results.findings)
        assert not results.ok
        (cell,) = results.cells
        assert [attempt.alone for attempt in cell.attempts] == [False, True]
        assert (tmp_path / results.run / cell.attempts[-1].evidence / "peers" / "alice.stderr").exists()

    inside(check)


def test_what_fails_beside_others_and_passes_alone_is_flaky(inside: Inside, tmp_path: Path) -> None:
    mark = tmp_path / "been here"
    # The second time the very program of ours takes its place.
    source = f"""
import os, pathlib, sys
mark = pathlib.Path({str(mark)!r})
if not mark.exists():
    mark.touch()
    sys.exit('not today')
os.environ['PYTHONPATH'] = {os.pathsep.join(sys.path)!r}
os.execv({sys.executable!r}, [{sys.executable!r}, '-P', '-m', 'node', '--listen', '/ip4/0.0.0.0/tcp/4001'])
"""

    def check() -> None:
        results = play(tmp_path / "runs", talks("script"), source)
        assert all(finding.flaky for finding in results.findings), results.findings
        assert results.ok

    inside(check)


def test_a_failure_that_is_known_is_not_tried_again_and_is_no_reason_to_fail(inside: Inside, tmp_path: Path) -> None:
    def check() -> None:
        known = (KnownFailure("no-cheese", "it is out of cheese", "docs/interop.md", peer=("script",)),)
        results = play(tmp_path, talks("script"), "import sys; sys.exit(3)", known)
        assert results.ok
        assert {finding.outcome.mark for finding in results.findings} == {Mark.FAILED}
        assert len(results.cells[0].attempts) == 1

    inside(check)


def test_what_fails_only_sometimes_is_known_where_it_fails_and_no_cure_where_it_passes(
    inside: Inside, tmp_path: Path
) -> None:
    def check() -> None:
        known = (KnownFailure("no-cheese", "it is out of cheese", "docs/interop.md", sometimes=True),)
        results = play(tmp_path, talks("script"), "import sys; sys.exit(3)", known)
        assert all(finding.known is not None for finding in results.findings)
        results = play(tmp_path, talks("own"), known=known)
        assert all(finding.known is None for finding in results.findings)

    inside(check)


def test_what_a_peer_refuses_is_unsupported(inside: Inside, tmp_path: Path) -> None:
    source = READY + "ask = json.loads(sys.stdin.readline()); say(id=ask['id'], unsupported='dial'); sys.stdin.read()"

    def check() -> None:
        results = play(tmp_path, talks("script"), source)
        assert {finding.outcome.mark for finding in results.findings} == {Mark.UNSUPPORTED}
        assert results.ok

    inside(check)


def test_an_interrupted_matrix_keeps_what_is_done_and_goes_on_from_there(tmp_path: Path) -> None:
    if reason := sandbox.problem():
        pytest.skip(reason)
    peers = tmp_path / "peers" / "stuck"
    peers.mkdir(parents=True)
    program = peers / "peer"
    program.write_text("#!/bin/sh\nexec sleep 1000\n")
    program.chmod(0o755)
    runs = tmp_path / "runs"
    command = [sys.executable, "-m", "tests.lab.interrupted", str(runs)]
    environment = {**os.environ, "PUNCHLAB_PEERS": str(tmp_path / "peers")}
    root = Path(__file__).resolve().parents[2]
    matrix = subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True)
    assert matrix.stdout is not None
    assert matrix.stdout.readline() == "own\n"
    matrix.send_signal(signal.SIGINT)
    matrix.communicate(timeout=120)
    assert matrix.returncode == 130
    (folder,) = runs.glob("*-interop-*")
    results = load(folder)
    assert (len(results.cells), results.planned, results.complete) == (1, 2, False)
    assert all(finding.outcome.mark is Mark.PASSED for finding in results.findings)
    assert [cell.setup.dialer for cell in resume(folder).values()] == ["own"]
