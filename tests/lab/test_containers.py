"""Peers in containers: the same network, scenario and verdict as for processes, bad images, and nothing left behind."""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from lab.errors import MissingCapability
from lab.kernel import sandbox
from lab.kernel.container import Engine
from lab.model.classical import cell_topology
from lab.model.runner import CONTAINER, all_run_as
from lab.model.topology import Topology
from lab.report.results import Cell, Mark
from lab.run.cell import run_cell
from lab.run.evidence import Evidence
from lab.run.scenario import laboratory
from tests.support.containers import DEADLINE, assert_none_left, containers, in_containers


def cell(topology: Topology, folder: Path, engine: Engine, judge: Callable[[Cell, Evidence], None]) -> None:
    run = f"cell-{os.urandom(4).hex()}"

    def play() -> None:
        evidence = Evidence(folder / run)
        result = asyncio.run(run_cell(topology, evidence, 1, "capture.pcapng", engine=engine))
        judge(result, evidence)

    in_containers(play)
    assert_none_left(run)


def with_bob(name: str) -> Topology:
    """A network in which bob, and nobody else, is a container of that image."""
    plain = cell_topology("full-cone", "full-cone")
    peers = (replace(peer, run=CONTAINER, image=name) if peer.name == "bob" else peer for peer in plain.peers)
    return replace(plain, peers=tuple(peers))


def test_containers_punch_as_processes_do(engine: Engine, tmp_path: Path) -> None:
    def judge(result: Cell, evidence: Evidence) -> None:
        assert (result.verdict, result.seen) == (Mark.PASSED, "direct"), result.why
        kept = list(evidence.home("alice").iterdir())
        assert {file.stat().st_uid for file in kept} == {10001}, "the node is not root, and keeps its state outside"

    cell(all_run_as(cell_topology("port-restricted", "address-restricted"), CONTAINER), tmp_path, engine, judge)


def test_a_peer_is_killed_and_started_again_in_the_network_that_it_had(engine: Engine, tmp_path: Path) -> None:
    topology = all_run_as(cell_topology("home", "home"), CONTAINER)

    async def scenario() -> None:
        async with laboratory(topology, Evidence(tmp_path / "again"), engine=engine) as lab:
            before = lab.peer("alice")
            await lab.event("alice", "kill")
            await lab.event("alice", "start")
            after = lab.peer("alice")
            assert after.peer_id == before.peer_id
            assert (await after.dial(lab.peer("relay").address)).path == "direct"

    in_containers(lambda: asyncio.run(scenario()))


def test_a_connection_to_a_container_is_ours_whenever_garbage_is_collected(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    duplicate = os.dup

    def after_collecting(descriptor: int) -> int:
        gc.collect()  # as another thread may at that very moment
        return duplicate(descriptor)

    def talk() -> None:
        container = engine.create("punchlab/node", f"talk-{os.getpid()}", {"network_mode": "none"}, entrypoint=["cat"])
        try:
            with monkeypatch.context() as patched:
                patched.setattr("lab.kernel.container.os.dup", after_collecting)
                connection = engine.attach(container)
            with connection:
                engine.start(container)
                connection.settimeout(DEADLINE)
                connection.sendall(b"whole\n")
                told = b""
                while not told.endswith(b"whole\n") and (part := connection.recv(64)):
                    told += part
            assert told.endswith(b"whole\n")
        finally:
            engine.remove(container)

    in_containers(talk)


def test_an_image_that_cannot_be_started_is_inconclusive(
    engine: Engine, image: Callable[[str], str], tmp_path: Path
) -> None:
    def judge(result: Cell, _: Evidence) -> None:
        assert result.verdict is Mark.INCONCLUSIVE
        assert "bob: the image punchlab-test/" in result.why
        assert "does not start" in result.why
        assert "/no/such/program" in result.why
        assert "\n" not in result.why

    cell(with_bob(image('ENTRYPOINT ["/no/such/program"]')), tmp_path, engine, judge)


def test_an_image_that_crashes_fails_with_its_stderr(
    engine: Engine, image: Callable[[str], str], tmp_path: Path
) -> None:
    def judge(result: Cell, _: Evidence) -> None:
        assert result.verdict is Mark.FAILED
        assert "bob ended by itself, exit status 3" in result.why
        assert "out of cheese" in result.why

    crash = """ENTRYPOINT ["sh", "-c", "echo out of cheese >&2; exit 3"]"""
    cell(with_bob(image(crash)), tmp_path, engine, judge)


def test_an_image_that_says_nothing_or_nonsense_for_ever_is_inconclusive(
    engine: Engine, image: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hangs(result: Cell, _: Evidence) -> None:
        assert result.verdict is Mark.INCONCLUSIVE
        assert "bob said no such ready within 5 s" in result.why

    def babbles(result: Cell, _: Evidence) -> None:
        assert result.verdict is Mark.INCONCLUSIVE
        assert "not of the contract: 'Welcome to bob 1.0!'" in result.why

    monkeypatch.setattr("lab.lab.CONTAINER_READY_WITHIN", 5.0)
    cell(with_bob(image('ENTRYPOINT ["sh", "-c", "sleep 1000"]')), tmp_path, engine, hangs)
    banner = """ENTRYPOINT ["sh", "-c", "echo 'Welcome to bob 1.0!'; sleep 1000"]"""
    cell(with_bob(image(banner)), tmp_path, engine, babbles)


def test_an_image_that_is_not_here_is_unsupported(engine: Engine, tmp_path: Path) -> None:
    def judge(result: Cell, _: Evidence) -> None:
        assert result.verdict is Mark.UNSUPPORTED
        assert result.why.startswith("the image example.org/no-such-peer:1 is not here")

    cell(with_bob("example.org/no-such-peer:1"), tmp_path, engine, judge)


def test_nothing_is_left_of_a_lab_that_was_killed_and_living_labs_are_left_alone(
    engine: Engine, tmp_path: Path
) -> None:
    doomed, living = tmp_path / "doomed", tmp_path / "living"
    with lasting(doomed) as killed, lasting(living) as other:
        assert len(containers(run_of(doomed))) == len(containers(run_of(living))) == 6
        killed.send_signal(signal.SIGKILL)
        killed.wait(20)
        # What is left by then is a matter of the engine's speed; a start, or this, leaves nothing.
        told = punchlab("clean")
        left = re.search(r"(\d+) left to labs that are running", told)
        assert left is not None
        assert int(left[1]) >= 6, "those of the living lab, and maybe of other tests beside this one"
        assert_none_left(run_of(doomed))
        assert len(containers(run_of(living))) == 6
        other.send_signal(signal.SIGINT)
        assert other.wait(60) == 0
        assert_none_left(run_of(living))


def lasting(runs: Path) -> subprocess.Popen[str]:
    """A lab in containers, once all is up."""
    argv = [sys.executable, "-m", "lab", "up", "two-homes", "--runner", "container", "--runs", str(runs)]
    lab = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert lab.stdout is not None
    assert any("Ctrl-C" in line for line in lab.stdout), "it ended before all was up; its stderr says why"
    return lab


def run_of(runs: Path) -> str:
    return (runs / "latest").resolve().name


def punchlab(*arguments: str, **environment: str) -> str:
    """What the command says, on either stream."""
    argv = [sys.executable, "-m", "lab", *arguments]
    done = subprocess.run(
        argv, env={**os.environ, **environment}, capture_output=True, text=True, timeout=180, check=False
    )
    return done.stdout + done.stderr


# Without an engine.


@pytest.mark.parametrize(
    "arguments", [("run", "two-homes"), ("matrix",), ("matrix", "--check", "connect"), ("peers",), ("up", "two-homes")]
)
def test_without_an_engine_a_line_says_what_to_do(arguments: tuple[str, ...], tmp_path: Path) -> None:
    nowhere = f"unix://{tmp_path}/docker.sock"
    told = punchlab(*arguments, "--runner", "container", "--runs", str(tmp_path / "runs"), DOCKER_HOST=nowhere)
    assert told == (
        f"punchlab: no Docker engine runs here ({tmp_path}/docker.sock does not exist); install it (sudo apt install "
        "docker.io), or run every peer as a process\n"
    )
    assert not (tmp_path / "runs").exists()


@contextmanager
def engine_that(folder: Path, answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """Something that listens where an engine would, and the DOCKER_HOST that names it."""
    path = folder / "engine.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=lambda: answer(listener.accept()[0]))
        thread.start()
        yield f"unix://{path}"
        thread.join(20)
        assert not thread.is_alive()


def test_an_engine_that_is_too_old_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(connection: socket.socket) -> None:
        with connection:
            body = b'{"Version":"19.03.15","ApiVersion":"1.40"}'
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
            while connection.recv(4096):
                connection.sendall(head + body)

    with engine_that(tmp_path, answer) as host:
        monkeypatch.setenv("DOCKER_HOST", host)
        with pytest.raises(MissingCapability, match=r"Docker 19\.03\.15 is too old; install 20\.10 or newer"):
            Engine.find()


def test_an_engine_that_hangs_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(connection: socket.socket) -> None:
        with connection:
            while connection.recv(4096):
                pass

    monkeypatch.setattr("lab.kernel.container.FOUND_WITHIN", 1.0)
    with engine_that(tmp_path, answer) as host:
        monkeypatch.setenv("DOCKER_HOST", host)
        with pytest.raises(MissingCapability, match="Docker's engine did not answer within 1 s"):
            Engine.find()


def test_an_engine_that_lets_nobody_in_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/engine.sock")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.owner() == "root" and folder.is_relative_to(tmp_path.parents[2]):
            folder.chmod(0o755)

    def find() -> bytes:
        importlib.import_module("docker")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "engine.sock"))
            (tmp_path / "engine.sock").chmod(0o600)
            listener.listen()
            os.setresuid(65534, 65534, 65534)
            with pytest.raises(MissingCapability, match="does not let this user in; use sudo, or join its group"):
                Engine.find()
        return b"done"

    assert sandbox.fork_into_sandbox(find, DEADLINE) == b"done"


def test_an_engine_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://192.0.2.1:2375")
    with pytest.raises(MissingCapability, match="is not this machine's engine"):
        Engine.find()


def test_a_network_with_a_container_is_inconclusive_without_an_engine(tmp_path: Path) -> None:
    if (problem := sandbox.problem()) is not None:
        pytest.skip(problem)

    def check() -> bytes:
        result = asyncio.run(run_cell(with_bob("punchlab/node"), Evidence(tmp_path / "none"), 1, "capture.pcapng"))
        assert result.verdict is Mark.INCONCLUSIVE
        assert result.why == "bob runs in a container, and this lab was started without Docker's engine"
        return b"done"

    assert sandbox.fork_into_sandbox(check, DEADLINE) == b"done"
