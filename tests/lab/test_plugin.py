"""The pytest plugin as its users meet it: pytest run on a folder of theirs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.kernel import sandbox

SCENARIO = """
import socket
from lab.run.plugin import topology

@topology("two-homes")
async def test_scenario(lab):
    assert {peer.name for peer in lab.all_peers} == {"relay", "alice", "bob"}
    assert not [name for _, name in socket.if_nameindex() if name != "lo"], "the scenario sees the host's network"

def test_beside_it():
    assert [name for _, name in socket.if_nameindex()]
"""

Inside = Callable[[Callable[[], None]], None]


def run_pytest(folder: Path, source: str, *options: str, before: tuple[str, ...] = ()) -> tuple[int, str]:
    """Exit status and output of pytest on one file of that source."""
    (folder / "test_theirs.py").write_text(source)
    argv = [*before, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, "test_theirs.py"]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(autouse=True)
def able() -> None:
    """One reason to skip where no sandbox can be made."""
    if reason := sandbox.problem():
        pytest.skip(reason)


def test_a_scenario_has_its_own_network_and_the_tests_beside_it_keep_theirs(tmp_path: Path) -> None:
    status, output = run_pytest(tmp_path, SCENARIO)

    assert status == 0, output
    assert "2 passed" in output
    assert (tmp_path / "runs" / "latest" / "capture.pcapng").is_file()


def test_scenarios_run_in_workers_side_by_side(tmp_path: Path) -> None:
    more = SCENARIO + SCENARIO.replace("test_scenario", "test_another").replace("test_beside_it", "test_by_it")
    status, output = run_pytest(tmp_path, more, "-n", "2")

    assert status == 0, output
    assert "4 passed" in output
    runs = [path for path in (tmp_path / "runs").iterdir() if not path.is_symlink()]
    assert len(runs) == 2


def test_a_scenario_leaves_nothing_set_up_for_tests_of_other_folders(tmp_path: Path) -> None:
    plain, scenario = "def test_plain() -> None:\n    assert True\n", SCENARIO.partition("def test_beside_it")[0]
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "test_1_plain.py").write_text(plain)
    (tmp_path / "one" / "test_2_scenario.py").write_text(scenario)
    status, output = run_pytest(tmp_path, plain, "one")

    assert status == 0, output
    assert "3 passed" in output


def test_a_scenario_that_is_skipped_tells_its_reason(tmp_path: Path) -> None:
    source = "import pytest\npytestmark = pytest.mark.skipif(True, reason='no such weather')\n" + SCENARIO
    status, output = run_pytest(tmp_path, source, "-rs")

    assert status == 0, output
    assert "2 skipped" in output
    assert "no such weather" in output


def test_a_failing_scenario_shows_its_assertion_and_where_the_evidence_lies(tmp_path: Path) -> None:
    status, output = run_pytest(tmp_path, SCENARIO.replace('"bob"}', '"carol"}'))

    assert status == 1
    assert "assert {'alice', 'bob', 'relay'} == {'alice', 'carol', 'relay'}" in output
    assert f"evidence: {tmp_path}/runs/" in output


def test_a_misspelt_topology_is_one_line_without_a_traceback(tmp_path: Path) -> None:
    status, output = run_pytest(tmp_path, SCENARIO.replace("two-homes", "two-holmes"))

    assert status == 1
    assert "no topology 'two-holmes'; did you mean two-homes?" in output
    assert "Traceback" not in output


def test_a_scenario_that_does_not_await_is_told_to(tmp_path: Path) -> None:
    status, output = run_pytest(tmp_path, SCENARIO.replace("async def", "def"))

    assert status == 1
    assert "a test that takes `lab` is a scenario: write `async def`" in output


def test_a_scenario_that_hangs_is_ended_at_its_deadline(tmp_path: Path) -> None:
    source = SCENARIO.replace('"two-homes"', '"two-homes", deadline=4.0').replace(
        "    assert {peer", "    await lab.peer('alice').saw('the end of time', within=1000)\n    assert {peer"
    )
    status, output = run_pytest(tmp_path, source)

    assert status == 1
    assert "the scenario's process" in output
    assert "1 failed, 1 passed" in output


def test_without_namespaces_scenarios_are_skipped_with_one_reason(inside: Inside, tmp_path: Path) -> None:
    def check() -> None:
        # A machine that gives no namespaces to anybody: none may be made, and no rights to do without.
        Path("/proc/sys/user/max_user_namespaces").write_text("0")
        powerless = ("setpriv", "--inh-caps=-all", "--bounding-set=-all")
        status, output = run_pytest(
            tmp_path, SCENARIO.replace("if name != ", "if not name or name != "), "-rs", before=powerless
        )

        assert status == 0, output
        assert "1 passed, 1 skipped" in output
        assert output.count("SKIPPED [1]") == 1
        assert "user.max_user_namespaces" in output

    inside(check)
