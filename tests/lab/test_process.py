"""Programs started in a namespace and ended again."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from lab.errors import PeerError
from lab.kernel.namespace import Namespace
from lab.kernel.process import spawn, terminate

Inside = Callable[[Callable[[], None]], None]
DEADLINE = 60.0
STUBBORN = "trap '' TERM; sleep 1000 & echo $!; wait; wait"


def within_deadline(main: Coroutine[Any, Any, None]) -> None:
    async def run() -> None:
        async with asyncio.timeout(DEADLINE):
            await main

    asyncio.run(run())


async def shell(ns: Namespace, script: str, folder: Path) -> Process:
    return await spawn(ns, ["sh", "-c", script], {"PATH": os.environ["PATH"]}, folder, folder / "stderr")


def here() -> Path:
    return Path("/proc/thread-self/ns/net").readlink()


async def output(process: Process) -> str:
    assert process.stdout is not None
    return (await process.stdout.read()).decode()


async def line(process: Process) -> str:
    assert process.stdout is not None
    return (await process.stdout.readline()).decode()


def test_a_program_runs_in_its_namespace_and_the_loop_stays_where_it_was(inside: Inside, tmp_path: Path) -> None:
    async def main() -> None:
        own, seen = here(), set[Path]()

        async def look() -> None:
            while True:
                seen.add(here())
                await asyncio.sleep(0)  # a look at each turn of the loop

        with Namespace("there") as ns:
            looking = asyncio.create_task(look())
            process = await shell(ns, "readlink /proc/self/ns/net", tmp_path)
            with ns.entered():
                there = here()
            assert await output(process) == f"{there}\n"
            assert await process.wait() == 0
            looking.cancel()
        assert there != own
        assert seen == {own}

    inside(lambda: within_deadline(main()))


def test_it_has_pipes_its_own_environment_folder_and_session_and_stderr_in_a_file(
    inside: Inside, tmp_path: Path
) -> None:
    async def main() -> None:
        with Namespace("there") as ns:
            script = "read line; echo $line; pwd; env | sort; ps -o sid= $$ || echo $$; echo complaint >&2"
            process = await shell(ns, script, tmp_path)
            assert process.stdin is not None
            process.stdin.write(b"hello\n")
            said = (await output(process)).split("\n")
            assert await process.wait() == 0
        assert said[:2] == ["hello", str(tmp_path)]
        assert f"PATH={os.environ['PATH']}" in said
        assert not any(entry.startswith("HOME=") for entry in said)
        assert said[-2].strip() == str(process.pid)
        assert (tmp_path / "stderr").read_text() == "complaint\n"

    inside(lambda: within_deadline(main()))


def test_a_program_that_does_not_mind_sigterm_is_killed_with_its_children(inside: Inside, tmp_path: Path) -> None:
    async def main() -> None:
        with Namespace("there") as ns:
            process = await shell(ns, STUBBORN, tmp_path)
            child = os.pidfd_open(int(await line(process)))
            assert await terminate(process, grace=0.1) == -9
            gone = asyncio.Event()
            asyncio.get_running_loop().add_reader(child, gone.set)
            await gone.wait()
            asyncio.get_running_loop().remove_reader(child)
            os.close(child)

    inside(lambda: within_deadline(main()))


def test_who_has_left_the_session_with_its_pipes_holds_up_nobody(inside: Inside, tmp_path: Path) -> None:
    async def main() -> None:
        with Namespace("there") as ns:
            leaves = "trap '' TERM; setsid sh -c 'echo away; exec sleep 1000' & wait; wait"
            process = await shell(ns, leaves, tmp_path)
            assert await line(process) == "away\n"
            assert await terminate(process, grace=0.1) == -9

    inside(lambda: within_deadline(main()))


def test_a_program_that_minds_sigterm_ends_with_its_own_status(inside: Inside, tmp_path: Path) -> None:
    async def main() -> None:
        with Namespace("there") as ns:
            process = await shell(ns, "trap 'exit 3' TERM; echo ready; while :; do sleep 0.01; done", tmp_path)
            await line(process)
            assert await terminate(process, grace=DEADLINE) == 3

    inside(lambda: within_deadline(main()))


def test_terminating_what_has_ended_tells_how_it_ended(inside: Inside, tmp_path: Path) -> None:
    async def main() -> None:
        with Namespace("there") as ns:
            process = await shell(ns, "exit 5", tmp_path)
            await process.wait()
            assert await terminate(process, grace=1) == 5

    inside(lambda: within_deadline(main()))


def test_a_program_that_does_not_exist_is_a_peers_error(inside: Inside, tmp_path: Path) -> None:
    async def main() -> None:
        with Namespace("there") as ns:
            with pytest.raises(PeerError, match="there: cannot start no-such-program: No such file"):
                await spawn(ns, ["no-such-program"], {}, tmp_path, None)
            with pytest.raises(PeerError, match="cannot start"):
                await spawn(ns, [sys.executable], {}, tmp_path / "nowhere", None)

    inside(lambda: within_deadline(main()))


HOLDER = """
import subprocess
import sys
from lab.kernel import sandbox
from lab.kernel.namespace import Namespace
from pathlib import Path
def main():
    ns = Namespace("there")
    with ns.entered():
        there = Path("/proc/thread-self/ns/net").readlink()
    print(sandbox.host_pid(), ns.fd, there, flush=True)
    sys.stdin.read()
    return 0
sandbox.run_in_sandbox(main)
"""
VISITOR = """
import os, sys
from lab.kernel.namespace import enter_foreign
enter_foreign(int(sys.argv[1]), int(sys.argv[2]))
os.execvp("sh", ["sh", "-c", "readlink /proc/self/ns/net; id -u; cat /proc/1/cmdline | tr '\\\\0' ' '; exit 4"])
"""


def test_another_process_can_enter_a_running_sandbox_and_run_a_program_there(inside: Inside) -> None:
    def python(program: str, *arguments: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-c", program, *arguments]
        return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    with python(HOLDER) as holder:
        assert holder.stdout is not None
        pid, descriptor, there = holder.stdout.readline().split()
        with python(VISITOR, pid, descriptor) as visitor:
            said, _ = visitor.communicate(timeout=DEADLINE)
        assert visitor.returncode == 4
        assert said.splitlines()[:2] == [there, "0"]
        assert "run_in_sandbox" in said
        holder.communicate(timeout=DEADLINE)
