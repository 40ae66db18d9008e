"""`.ci/again.py`: what failed is run once more, alone, and only a test that passes then is called flaky."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

AGAIN = Path(__file__).parents[2] / ".ci/again.py"
TESTS = "def test_good():\n    pass\n\n\ndef test_bad():\n    raise AssertionError\n"


def ran_again(root: Path, status: int, failed: list[str]) -> tuple[int, str]:
    """What a run that left those failures makes of them: the exit status and the lines."""
    (root / ".ci").mkdir()
    shutil.copy(AGAIN, root / ".ci")
    (root / "test_some.py").write_text(TESTS)
    (root / "pytest.ini").write_text("[pytest]\n")
    for name, value in (("punchlab/status", status), ("cache/lastfailed", dict.fromkeys(failed, True))):
        kept = root / ".pytest_cache/v" / name
        kept.parent.mkdir(parents=True)
        kept.write_text(json.dumps(value))
    argv = [sys.executable, ".ci/again.py"]
    done = subprocess.run(argv, cwd=root, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, "\n".join(line for line in done.stdout.splitlines() if line.startswith("again: "))


def test_what_passes_alone_is_flaky(tmp_path: Path) -> None:
    said = "again: FLAKY, passes alone: test_some.py::test_good"
    assert ran_again(tmp_path, 1, ["test_some.py::test_good"]) == (0, said)


def test_what_fails_alone_too_is_failing_and_so_is_the_whole(tmp_path: Path) -> None:
    status, said = ran_again(tmp_path, 1, ["test_some.py::test_bad", "test_some.py::test_good"])
    assert status == 1
    assert "FAILING, alone too: test_some.py::test_bad" in said
    assert "FLAKY, passes alone: test_some.py::test_good" in said


@pytest.mark.parametrize(
    ("status", "failed"),
    [(1, [f"test_some.py::test_{n}" for n in range(4)]), (2, ["test_some.py::test_good"]), (1, [])],
    ids=["many", "interrupted", "none"],
)
def test_many_failures_or_other_ends_are_not_tried_again(tmp_path: Path, status: int, failed: list[str]) -> None:
    again, said = ran_again(tmp_path, status, failed)
    assert again == 1
    assert said.endswith("that is not tried again")


def test_without_a_run_there_is_nothing_to_try(tmp_path: Path) -> None:
    (tmp_path / ".ci").mkdir()
    shutil.copy(AGAIN, tmp_path / ".ci")
    argv = [sys.executable, ".ci/again.py"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "again: no tests were run\n")
