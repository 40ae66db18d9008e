"""The matrix of implementations with every peer in a container: as with processes, and whatever images do."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from lab.errors import MissingCapability
from lab.kernel.container import Engine
from lab.model.capabilities import Capabilities
from lab.model.interop import Check, Selection
from lab.model.runner import CONTAINER
from lab.peers.foreign import BUILT
from lab.peers.own import OWN
from lab.report.interop import Results, load
from lab.report.results import Mark
from lab.run import conformance
from lab.run.interop import JOURNAL, Order, Run, begin, plan
from tests.support.containers import assert_none_left, in_containers

CHECKS = (Check.CONNECT, Check.PING, Check.IDENTIFY, Check.ECHO, Check.RELAY)
USER = 10001
"as whom our image runs its program"
CONNECT = (
    *("--check", "connect", "--listener", "own", "--transport", "tcp", "--security", "noise"),
    *("--runner", "container"),
)
IMPATIENT = "import sys, lab.lab, lab.cli; lab.lab.CONTAINER_READY_WITHIN = 5.0; sys.exit(lab.cli.main(sys.argv[1:]))"
"a program: the command line of the lab, that waits five seconds for what never comes"


@pytest.fixture
def peers(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of built peers, with nobody in it; what our image can do has been found out."""
    folder = tmp_path / "built" / "peers"
    folder.mkdir(parents=True)
    monkeypatch.setenv(BUILT, str(folder))
    conformance.remember(Capabilities("own", "punchlab-python", "", conformance.digest_of(OWN, engine), ()), engine)
    return folder


def matrix(runs: Path, *arguments: str, program: Sequence[str] = ("-m", "lab")) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, *program, "matrix", *arguments, "--runs", str(runs)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=240, check=False)


def marks(results: Results) -> dict[str, Mark]:
    return {finding.setup.dialer: finding.outcome.mark for finding in results.findings}


def users(folder: Path) -> set[int]:
    """Whose the state is that peers left there."""
    return {path.stat().st_uid for path in folder.glob("peers/*/*")}


def test_ours_passes_in_containers_as_in_processes(engine: Engine, tmp_path: Path) -> None:
    selection = Selection(("own",), ("own",), ("own",), CHECKS, ("tcp",), ("noise",))
    order = Order(selection, jobs=2, runner=CONTAINER)

    def play() -> None:
        run = Run(begin(order, tmp_path), order, plan(order, {}), {}, engine=engine)
        results = asyncio.run(run.play(lambda _: None))
        assert {finding.outcome.check for finding in results.findings} == set(CHECKS)
        assert {finding.outcome.mark for finding in results.findings} == {Mark.PASSED}, results.findings
        assert (results.runner, results.ok) == (CONTAINER, True)
        assert load(run.folder) == results
        for cell in results.cells:
            assert users(run.folder / cell.attempts[-1].evidence) == {USER}, "it was a process of ours"

    in_containers(play)
    run = (tmp_path / "latest").resolve()
    for cell in load(run).cells:
        assert_none_left(f"{run.name}/{cell.attempts[-1].evidence}")


@pytest.mark.usefixtures("peers")
def test_a_matrix_of_containers_goes_on_in_containers(tmp_path: Path) -> None:
    whole = ("--check", "connect", "--dialer", "own", "--listener", "own", "--transport", "tcp,quic", "--keep")
    done = matrix(tmp_path, *whole, "--security", "noise", "--runner", "container")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "peers in containers" in done.stdout
    folder = (tmp_path / "latest").resolve()
    first, second = (folder / JOURNAL).read_text("utf-8").splitlines(keepends=True)
    (folder / JOURNAL).write_text(first, "utf-8")
    refused = matrix(tmp_path, "--resume", folder.name, "--runner", "process")
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"punchlab: {folder.name} runs peers in containers, and goes on so")
    again = matrix(tmp_path, "--resume", folder.name)
    assert again.returncode == 0, again.stdout + again.stderr
    results = load(folder)
    assert (results.runner, results.complete, len(results.cells)) == (CONTAINER, True, 2)
    assert (folder / JOURNAL).read_text("utf-8").startswith(first)
    assert second not in (folder / JOURNAL).read_text("utf-8"), "it was tried anew, which takes another time"
    assert all(users(folder / cell.attempts[-1].evidence) == {USER} for cell in results.cells)


def strangers(peers: Path, *whats: str) -> list[str]:
    """Have the lab know of peers of these names, whose images are another matter."""
    names = [f"{what}-{os.getpid()}" for what in whats]
    for name in names:
        (peers / name).mkdir()
        (peers / name / "peer").touch(0o755)
    return names


def test_images_that_are_not_here_or_do_not_start_cost_a_line_each_and_the_rest_goes_on(
    peers: Path, image: Callable[..., str], tmp_path: Path
) -> None:
    absent, broken = strangers(peers, "absent", "broken")
    image('ENTRYPOINT ["/no/such/program"]', f"punchlab/{broken}")
    done = matrix(tmp_path, *CONNECT, "--dialer", f"own,{absent},{broken}")
    assert done.returncode == 3, done.stdout + done.stderr
    told = [line for line in done.stderr.splitlines() if line]
    assert len(told) == 2, told
    assert told[0].startswith(f"{absent}: UNSUPPORTED: the image punchlab/{absent} is not here")
    assert told[1].startswith(f"{broken}: INCONCLUSIVE: the image punchlab/{broken} does not start: ")
    results = load((tmp_path / "latest").resolve())
    assert marks(results) == {"own": Mark.PASSED, absent: Mark.UNSUPPORTED, broken: Mark.INCONCLUSIVE}
    assert [bool(cell.attempts[-1].evidence) for cell in results.cells] == [True, False, False]
    assert {len(cell.attempts) for cell in results.cells[1:]} == {1}, "nothing was built, nothing is tried again"


def test_an_image_that_never_says_a_word_is_waited_for_once(
    peers: Path, image: Callable[..., str], tmp_path: Path
) -> None:
    (silent,) = strangers(peers, "silent")
    image('ENTRYPOINT ["sh", "-c", "sleep 1000"]', f"punchlab/{silent}")
    done = matrix(tmp_path, *CONNECT, "--check", "connect,echo", "--dialer", silent, program=("-c", IMPATIENT))
    assert done.returncode == 3, done.stdout + done.stderr
    why = f"the image punchlab/{silent} said no such ready within 5 s"
    assert [line.startswith(f"{silent}: INCONCLUSIVE: {why}") for line in done.stderr.splitlines() if line] == [True]
    assert f"INCONCLUSIVE: 2 checks that were not made: {why}" in done.stdout


def test_without_the_image_that_holds_networks_a_line_says_so(engine: Engine) -> None:
    with pytest.raises(
        MissingCapability, match="the image punchlab/nobody is not here, and no peer runs in a container"
    ):
        engine.require_image("punchlab/nobody")


def test_what_an_image_can_do_is_kept_apart_from_what_a_program_can(engine: Engine, peers: Path) -> None:
    assert conformance.recall("own", engine) is not None
    assert conformance.recall("own") is None
    conformance.remember(Capabilities("own", "", "", conformance.digest_of(OWN), ()))
    assert conformance.recall("own") is not None
    assert conformance.recall("own", engine) != conformance.recall("own")
