"""compose/compose.yaml for real: the lab in one container, and nodes that find, ping and echo each other."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from typing import Any

import pytest

from lab.errors import LabError
from lab.kernel.container import Engine
from node.names.keys import PrivateKey

FOLDER = Path(__file__).resolve().parents[2] / "compose"
SERVICES = {"bootstrap": 1, "relay": 1, "node": 3, "hidden": 1}
WITHIN = 180.0
"Seconds for one command, and for what is waited for; all of it takes 20 on an idle machine."
STRANGER = 4321
"A user whom nobody else is: the folder of the results belongs to him."

Compose = tuple[str, ...]
Node = subprocess.Popen[str]


@pytest.fixture(params=["docker compose", "docker-compose"])
def compose(request: pytest.FixtureRequest) -> Compose:
    """Compose's plugin, or the program of old, 1.29."""
    command = tuple(request.param.split())
    found = shutil.which(command[0]) and subprocess.run(
        [*command, "version"], capture_output=True, timeout=WITHIN, check=False
    )
    if not found or found.returncode:
        pytest.skip(f"no `{request.param}` here; install docker-compose, or docker-compose-v2 for the plugin")
    return command


@pytest.fixture(scope="module")
def engine() -> Engine:
    """Docker's engine with our images, or the reason why there is none."""
    try:
        found = Engine.find()
        for image in ("punchlab/node", "punchlab/lab"):
            found.user_of(image)
    except LabError as error:
        pytest.skip(str(error))
    return found


@pytest.fixture
def bridged(engine: Engine) -> None:
    """An engine whose containers can have a network, with names in it; without iptables it has none."""
    name = f"punchlab-probe-{os.getpid()}"
    probe = ["docker", "run", "--rm", "--network", name, "--network-alias", "probe", "--entrypoint", "python3"]
    try:
        run("docker", "network", "create", name)
        run(*probe, "punchlab/node", "-c", "import socket; socket.gethostbyname('probe')")
    except AssertionError as error:
        pytest.skip(f"the engine makes no networks with names here: {str(error).strip().splitlines()[-1]}")
    finally:
        subprocess.run(["docker", "network", "rm", name], capture_output=True, timeout=WITHIN, check=False)


@pytest.fixture
def project(monkeypatch: pytest.MonkeyPatch) -> str:
    """A name for what is made, and ports of the host that are free."""
    name = f"punchlab-test-{os.getpid()}"
    monkeypatch.setenv("COMPOSE_PROJECT_NAME", name)
    monkeypatch.setenv("BOOTSTRAP_PORT", "0")
    monkeypatch.setenv("RELAY_PORT", "0")
    return name


def run(*command: str) -> str:
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=WITHIN, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


@contextmanager
def program(*command: str) -> Iterator[Node]:
    """A program that is spoken to, killed when it takes too long."""
    with subprocess.Popen(command, cwd=FOLDER, stdin=-1, stdout=-1, stderr=subprocess.DEVNULL, text=True) as started:
        timer = Timer(WITHIN, started.kill)
        timer.start()
        try:
            yield started
        finally:
            timer.cancel()
            started.kill()


def test_the_addresses_are_those_of_the_keys() -> None:
    text = (FOLDER / "compose.yaml").read_text("utf-8")
    for name in ("bootstrap", "relay"):
        key = PrivateKey.from_bytes((FOLDER / "keys" / f"{name}.key").read_bytes())
        assert set(re.findall(rf"/dns4/{name}/tcp/4001/p2p/(\w+)", text)) == {str(key.peer_id())}


def test_both_composes_take_the_file(compose: Compose) -> None:
    told = run(*compose, "config", "--services").split()
    assert set(told) >= set(SERVICES)
    assert not (set(told) - set(SERVICES) - {"lab"})


def test_nodes_find_each_other_and_one_is_reached_through_the_relay(
    compose: Compose, bridged: None, project: str
) -> None:
    begun = int(time.time()) - 1
    try:
        run(*compose, "up", "--detach", "--no-build")
        wait_until_well(project, begun)
        hidden = re.findall(r'"ready".*?"peer":"(\w+)"', run(*compose, "logs", "hidden"))[-1]
        with program(*compose, "run", "--rm", "-T", "node") as visitor:
            met = peers_met(visitor, 5)
            for peer in met:
                assert ask(visitor, "ping", peer=peer)["path"] == "direct"
                assert ask(visitor, "echo", peer=peer, bytes=10_000)["bytes"] == 10_000
            relay = re.search(r"/dns4/relay/\S+", (FOLDER / "compose.yaml").read_text("utf-8"))
            assert relay is not None
            assert ask(visitor, "dial", addr=f"{relay[0]}/p2p-circuit/p2p/{hidden}")["path"] == "relayed"
            assert ask(visitor, "echo", peer=hidden, bytes=10_000)["path"] == "relayed"
            assert visitor.stdin is not None
            visitor.stdin.close()
            assert visitor.wait(WITHIN) == 0
    finally:
        run(*compose, "down", "--volumes", "--timeout", "5")


def wait_until_well(project: str, begun: int) -> None:
    """Until every container's health check has passed."""
    of_ours = ("--filter", f"label=com.docker.compose.project={project}", "--filter", "event=health_status")
    left = sum(SERVICES.values())
    well: set[str] = set()
    with program("docker", "events", "--since", str(begun), *of_ours, "--format", "{{json .}}") as events:
        assert events.stdout is not None
        for line in events.stdout:
            event = json.loads(line)
            assert "unhealthy" not in event["Action"], event
            well.add(event["Actor"]["ID"])
            if len(well) == left:
                return
    pytest.fail(f"{len(well)} of {left} were well within {WITHIN:.0f} s")


def peers_met(node: Node, many: int) -> set[str]:
    """The first peers that a node is connected with."""
    assert node.stdout is not None
    met: set[str] = set()
    for line in node.stdout:
        event = json.loads(line)
        if event.get("event") == "identified":
            met.add(event["peer"])
        if len(met) == many:
            return met
    pytest.fail(f"it met {len(met)} peers, not {many}")


def ask(node: Node, command: str, **arguments: Any) -> dict[str, Any]:
    """What a node answers to a command."""
    assert node.stdin is not None
    assert node.stdout is not None
    node.stdin.write(json.dumps({"id": 1, "do": command, **arguments}) + "\n")
    node.stdin.flush()
    for line in node.stdout:
        answer = json.loads(line)
        if "id" in answer:
            assert "ok" in answer, answer
            return dict(answer["ok"])
    pytest.fail(f"no answer to {command}")


def test_the_lab_runs_in_its_container_as_whose_the_results_are(
    compose: Compose, engine: Engine, project: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() == 0:
        os.chown(tmp_path, STRANGER, STRANGER)
    monkeypatch.setenv("PUNCHLAB_RUNS", str(tmp_path))
    try:
        told = run(*compose, "run", "--rm", "-T", "lab", "run", "two-homes")
        assert "1 of 1 as predicted" in told
        kept = [*tmp_path.rglob("results.json"), *tmp_path.rglob("*.pcapng")]
        assert len(kept) == 2
        assert {path.stat().st_uid for path in kept} == {tmp_path.stat().st_uid}
    finally:
        run(*compose, "down", "--timeout", "5")
