"""The sandbox for real: what it isolates, what passes through it, and that no way of ending it leaves anything."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import termios
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.errors import KernelError
from lab.kernel import sandbox

Inside = Callable[[Callable[[], None]], None]
MARK = "PUNCHLAB_TEST_MARK"
DEADLINE = 30.0

BUSY = """
import signal, subprocess, sys
from lab.kernel import sandbox
from lab.kernel.namespace import Namespace
def main():
    spaces = [Namespace(str(number)) for number in range(3)]
    with spaces[0].entered():
        subprocess.Popen(["sleep", "1000"])
        subprocess.Popen(["sh", "-c", "trap '' TERM; setsid sleep 1000 & sleep 1000"])
    try:
        print(sandbox.host_pid(), flush=True)
        while True:
            signal.pause()
    except KeyboardInterrupt:
        more = signal.sigtimedwait({signal.SIGINT}, 0.2)
        print("interrupted", "twice" if more else "once", flush=True)
        raise
sys.exit(sandbox.run_in_sandbox(main))
"""


@pytest.fixture(autouse=True)
def _a_sandbox_can_be_made(inside: Inside) -> None:
    """Skips otherwise."""


def marked(mark: str) -> set[int]:
    """The processes that were started with this mark in their environment, and what those forked."""
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if mark.encode() in (folder / "environ").read_bytes():
                    found.add(int(folder.name))
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
    return found


def wait_for(mark: str, count: int) -> None:
    """Wait until so many processes are there; a program just started bears no mark before it executes."""
    deadline = time.monotonic() + DEADLINE
    while len(marked(mark)) < count:
        assert time.monotonic() < deadline, f"{len(marked(mark))} of {count} processes are there"


def wait_until_gone(mark: str) -> None:
    """Wait for the end of all marked processes, by their pidfds."""
    deadline = time.monotonic() + DEADLINE
    while processes := marked(mark):
        for pid in processes:
            try:
                ended = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            try:
                left = deadline - time.monotonic()
                assert left > 0, f"still there: {processes}"
                assert select.select([ended], [], [], left)[0], f"{pid} is still there"
            finally:
                os.close(ended)


@contextmanager
def running(
    program: str, *, stdin: int | None = None, own_session: bool = False
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, MARK: mark},
        stdout=subprocess.PIPE,
        text=True,
        stdin=stdin,
        start_new_session=own_session,
    )
    try:
        yield process, mark
    finally:
        process.kill()
        process.communicate(timeout=DEADLINE)
        wait_until_gone(mark)


def keeper_of(caller: int) -> int:
    return int(Path(f"/proc/{caller}/task/{caller}/children").read_text().split()[0])


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


@pytest.mark.parametrize("victim", ["caller", "keeper", "init"])
def test_killing_any_of_its_processes_ends_all_that_ran_inside(victim: str) -> None:
    with running(BUSY) as (process, mark):
        init = int(read_line(process))
        wait_for(mark, 5)
        os.kill({"caller": process.pid, "keeper": keeper_of(process.pid), "init": init}[victim], signal.SIGKILL)
        assert process.wait(DEADLINE) in (-signal.SIGKILL, 128 + signal.SIGKILL)
        wait_until_gone(mark)


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_killing_it_while_it_is_set_up_ends_all_of_it(processes: int) -> None:
    with running(BUSY) as (process, mark):
        wait_for(mark, processes)
        process.kill()
        process.wait(DEADLINE)
        wait_until_gone(mark)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_the_caller_arrives_as_a_keyboard_interrupt_and_shows_in_the_status(
    number: signal.Signals, status: int
) -> None:
    with running(BUSY) as (process, _):
        read_line(process)
        process.send_signal(number)
        assert read_line(process) == "interrupted once\n"
        assert process.wait(DEADLINE) == status


def test_ctrl_c_at_a_terminal_interrupts_once() -> None:
    master, slave = os.openpty()
    take_terminal = f"import fcntl; fcntl.ioctl(0, {termios.TIOCSCTTY}, 0)\n"
    try:
        with running(take_terminal + BUSY, stdin=slave, own_session=True) as (process, _):
            read_line(process)
            os.write(master, b"\x03")
            assert read_line(process) == "interrupted once\n"
            assert process.wait(DEADLINE) == 130
    finally:
        os.close(master)
        os.close(slave)


@pytest.mark.parametrize("status", [0, 7, 255])
def test_the_status_of_main_passes_through(status: int) -> None:
    assert sandbox.run_in_sandbox(lambda: status) == status


def test_a_main_that_raises_has_status_1(capfd: pytest.CaptureFixture[str]) -> None:
    def fails() -> int:
        raise ValueError("on purpose")

    assert sandbox.run_in_sandbox(fails) == 1
    assert "ValueError: on purpose" in capfd.readouterr().err


def test_main_is_root_and_pid_1_with_its_own_processes_run_folder_and_interfaces(inside: Inside) -> None:
    def check() -> None:
        assert (os.getpid(), os.geteuid()) == (1, 0)
        assert [entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit()] == ["1"]
        assert list(Path("/run").iterdir()) == []
        assert Path("/proc/net/dev").read_text().count(":") == 1

    inside(check)


def test_what_main_returns_comes_back_however_long_it_is() -> None:
    assert sandbox.fork_into_sandbox(lambda: bytes(3_000_000)) == bytes(3_000_000)


def test_a_call_that_raises_is_told_with_its_traceback() -> None:
    def fails() -> bytes:
        raise ValueError("on purpose")

    with pytest.raises(KernelError, match="ValueError: on purpose") as raised:
        sandbox.fork_into_sandbox(fails)
    assert "in fails" in raised.value.__notes__[0]


def test_a_call_that_dies_is_told_with_its_status() -> None:
    with pytest.raises(KernelError, match="status 9 and no result"):
        sandbox.fork_into_sandbox(lambda: os._exit(9))


def test_a_call_that_takes_too_long_is_ended() -> None:
    def waits() -> bytes:
        signal.pause()
        return b""

    with pytest.raises(KernelError, match="no result in time"):
        sandbox.fork_into_sandbox(waits, timeout=0.2)


def test_it_can_be_made_from_a_process_with_threads() -> None:
    held = threading.Event()
    other = threading.Thread(target=held.wait)
    results: list[bytes] = []
    caller = threading.Thread(target=lambda: results.append(sandbox.fork_into_sandbox(lambda: b"from a thread")))
    other.start()
    caller.start()
    caller.join(DEADLINE)
    held.set()
    other.join()
    assert results == [b"from a thread"]


def test_one_fits_into_another(inside: Inside) -> None:
    def check() -> None:
        assert sandbox.fork_into_sandbox(lambda: b"%d" % os.getpid()) == b"1"

    inside(check)


def as_nobody(python: str, program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, "-c", program],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
        user=65534,
        group=65534,
        extra_groups=[],
    )


def python_for_nobody() -> str | None:
    """An interpreter that user 65534 may run, and that finds this project in the working directory."""
    for python in (sys.executable, "/usr/bin/python3"):
        try:
            if as_nobody(python, "import sys, lab.errors; assert sys.version_info >= (3, 11)").returncode == 0:
                return python
        except OSError:
            continue
    return None


@pytest.mark.skipif(os.geteuid() != 0, reason="whoever is no root has shown it by the other tests")
def test_an_ordinary_user_can_make_one() -> None:
    program = "from lab.kernel import sandbox; import os, sys; sys.exit(sandbox.run_in_sandbox(os.geteuid))"
    if (python := python_for_nobody()) is None:
        pytest.skip("no Python 3.11 and this project are open to other users")
    done = as_nobody(python, program)
    assert (done.returncode, done.stderr) == (0, "")


def may_hurry() -> bool:
    """Whether whoever runs the tests may run ahead of others; a process of its own tries."""
    tried = "import os; os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))"
    return subprocess.run([sys.executable, "-c", tried], capture_output=True, check=False).returncode == 0


def test_a_process_runs_ahead_of_all_others_where_root_made_the_sandbox(inside: Inside) -> None:
    allowed = may_hurry()

    def check() -> None:
        with subprocess.Popen(["sleep", "1000"]) as hurried, subprocess.Popen(["sleep", "1000"]) as other:
            # The first that was asked for is done when the second is: by then all that is to be had is had.
            sandbox.hurry(hurried.pid)
            sandbox.hurry(os.getpid())
            deadline = time.monotonic() + DEADLINE
            while allowed and os.sched_getscheduler(0) == os.SCHED_OTHER and time.monotonic() < deadline:
                os.sched_yield()
            policies = [os.sched_getscheduler(pid) & ~os.SCHED_RESET_ON_FORK for pid in (hurried.pid, other.pid)]
            hurried.kill()
            other.kill()
        assert policies == [os.SCHED_FIFO if allowed else os.SCHED_OTHER, os.SCHED_OTHER]
        with subprocess.Popen(["sleep", "0"]) as child:
            assert os.sched_getscheduler(child.pid) == os.SCHED_OTHER, "what it starts does not"

    inside(check)


def test_nobody_hurries_outside_a_sandbox() -> None:
    sandbox.hurry(os.getpid())
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
