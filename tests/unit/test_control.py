"""`python -m node` as the lab starts it: real processes, lines in, lines out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from node.contract import MAX_LINE

DEADLINE = 120.0
"""Seconds one test may take on a busy machine, where a node takes many to start."""
ROOT = Path(__file__).parents[2]
STRANGER = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"


class Peer:
    """A running node."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self._id = 0

    async def line(self, where: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first line, past or to come, for which `where` holds."""
        for line in self.lines:
            if where(line):
                return line
        assert self.process.stdout is not None
        while raw := await self.process.stdout.readline():
            self.lines.append(json.loads(raw))
            if where(self.lines[-1]):
                return self.lines[-1]
        raise EOFError(f"stdout ended after {self.lines}")

    async def event(self, name: str, **fields: object) -> dict[str, Any]:
        expected = {"event": name, **fields}
        return await self.line(lambda line: expected.items() <= line.items())

    def write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)

    async def ask(self, do: str, **arguments: object) -> dict[str, Any]:
        self._id += 1
        request = {"id": self._id, "do": do, **arguments}
        self.write(json.dumps(request).encode() + b"\n")
        return await self.line(lambda line: line.get("id") == request["id"])

    async def done(self, do: str, **arguments: object) -> dict[str, Any]:
        answer = await self.ask(do, **arguments)
        assert "ok" in answer, answer
        ok: dict[str, Any] = answer["ok"]
        return ok

    async def end(self) -> tuple[int, str]:
        """Wait for the process to end; return its status and its stderr."""
        _, errors = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, errors.decode()


@contextlib.asynccontextmanager
async def start(*arguments: str, listen: str = "/ip4/127.0.0.1/tcp/0") -> AsyncIterator[Peer]:
    command = (sys.executable, "-m", "node", "--listen", listen, *arguments)
    process = await asyncio.create_subprocess_exec(
        *command, stdin=PIPE, stdout=PIPE, stderr=PIPE, cwd=ROOT, limit=2 * MAX_LINE
    )
    try:
        yield Peer(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(DEADLINE):
            await main()

    asyncio.run(bounded())


def test_the_first_line_is_ready_and_tells_where_to_dial() -> None:
    async def main() -> None:
        async with start() as peer:
            ready = await peer.line(lambda line: True)
            assert ready["event"] == "ready"
            assert abs(ready["at"] - time.time()) < DEADLINE
            assert all(addr.endswith(f"/p2p/{ready['peer']}") for addr in ready["addrs"])
            listening = await peer.event("listening")
            assert listening["addr"] == ready["addrs"][0]

    run(main)


def test_info_tells_who_we_are() -> None:
    async def main() -> None:
        async with start() as peer:
            info = await peer.done("info")
            ready = await peer.event("ready")
            assert (info["peer"], info["addrs"], info["agent"]) == (ready["peer"], ready["addrs"], ready["agent"])
            assert info["implementation"] == "punchlab-python"
            assert info["agent"].endswith(info["version"])
            assert "/ipfs/ping/1.0.0" in info["protocols"]
            assert info["observed"] == []

    run(main)


def test_two_nodes_meet_and_do_all_that_can_be_asked() -> None:
    async def main() -> None:
        async with start() as alice, start() as bob:
            there = await bob.event("ready")
            dialled = await alice.done("dial", addr=there["addrs"][0])
            assert (dialled["peer"], dialled["path"], dialled["direction"]) == (there["peer"], "direct", "outbound")
            assert (dialled["transport"], dialled["security"], dialled["muxer"]) == ("tcp", "/noise", "/yamux/1.0.0")
            assert 0 < dialled["rtt"] < DEADLINE
            assert f"{dialled['remote']}/p2p/{there['peer']}" == there["addrs"][0]

            echoed = await alice.done("echo", peer=there["peer"], bytes=100_000)
            assert (echoed["bytes"], echoed["path"], echoed["remote"]) == (100_000, "direct", dialled["remote"])
            assert echoed["seconds"] > 0
            assert echoed["rtt"] > 0
            pinged = await alice.done("ping", peer=there["peer"])
            assert pinged["rtt"] > 0
            measured = await alice.done("perf", peer=there["peer"], upload=1000, download=1000)
            assert measured["path"] == "direct"
            assert (await alice.done("protocols", peer=there["peer"]))["protocols"] == sorted(
                (await bob.done("info"))["protocols"]
            )
            (connection,) = (await alice.done("connections"))["connections"]
            assert connection.pop("since") <= time.time()
            assert connection == {key: value for key, value in dialled.items() if key != "rtt"}

            connected = await bob.event("connected", direction="inbound")
            assert connected["remote"] == dialled["local"]
            identified = await bob.event("identified")
            assert identified["peer"] == connected["peer"]
            await bob.event("stream", protocol="/echo/1.0.0", direction="inbound")
            assert await alice.done("disconnect", peer=there["peer"]) == {"closed": 1}
            gone = await bob.event("disconnected", peer=connected["peer"])
            assert gone["why"] == "closed by the peer"

    run(main)


def test_commands_run_side_by_side() -> None:
    async def main() -> None:
        # Connections to it are made by the kernel, and nobody speaks on them.
        with socket.create_server(("127.0.0.1", 0)) as server:
            async with start() as alice:
                silent = f"/ip4/127.0.0.1/tcp/{server.getsockname()[1]}/p2p/{STRANGER}"
                alice.write(json.dumps({"id": 100, "do": "dial", "addr": silent, "timeout": 2.0}).encode() + b"\n")
                await alice.done("info")
                assert not any(line.get("id") == 100 for line in alice.lines)
                late = await alice.line(lambda line: line.get("id") == 100)
                assert late["error"] == "timeout"

    run(main)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"do": "dial"}, "bad-argument"),
    ({"do": "dial", "addr": 7}, "bad-argument"),
    ({"do": "dial", "addr": "nonsense"}, "bad-argument"),
    ({"do": "dial", "addr": "/ip4/127.0.0.1/tcp/1"}, "bad-argument"),
    ({"do": "dial", "addr": f"/ip4/127.0.0.1/tcp/1/p2p/{STRANGER}"}, "dial-failed"),
    ({"do": "dial", "addr": f"/ip4/10.1.2.3/tcp/1/p2p/{STRANGER}"}, "gated"),
    ({"do": "echo", "peer": "nobody", "bytes": 1}, "bad-argument"),
    ({"do": "echo", "peer": STRANGER, "bytes": -1}, "bad-argument"),
    ({"do": "echo", "peer": STRANGER, "bytes": True}, "bad-argument"),
    ({"do": "echo", "peer": STRANGER, "bytes": 1}, "dial-failed"),
    ({"do": "ping", "peer": STRANGER, "timeout": "soon"}, "bad-argument"),
    ({"do": "ping", "peer": STRANGER, "timeout": 0}, "bad-argument"),
    ({"do": "perf", "peer": STRANGER, "upload": 1}, "bad-argument"),
    ({"do": "reserve", "addr": "/ip4/127.0.0.1/tcp/1"}, "bad-argument"),
]


def test_what_cannot_be_done_is_answered_with_the_contracts_word() -> None:
    async def main() -> None:
        async with start("--deny", "10.0.0.0/8") as peer:
            for request, error in REFUSED:
                answer = await peer.ask(**request)
                assert answer["error"] == error, request
                assert answer["why"]
                assert "\n" not in answer["why"]
            peer.write(b'{"do":"stop"}\n')
            status, errors = await peer.end()
            assert (status, "Traceback" in errors) == (0, False)

    run(main)


def test_the_wrong_peer_at_an_address_is_told_apart() -> None:
    async def main() -> None:
        async with start() as alice, start() as bob:
            addr = (await bob.event("ready"))["addrs"][0].rpartition("/")[0]
            assert (await alice.ask("dial", addr=f"{addr}/{STRANGER}"))["error"] == "wrong-peer"

    run(main)


def test_what_we_do_not_know_or_were_told_not_to_do_is_unsupported() -> None:
    async def main() -> None:
        async with start("--no-relay-client") as peer:
            assert await peer.ask("webrtc") == {"id": 1, "unsupported": "webrtc"}
            answer = await peer.ask("reserve", addr=f"/ip4/127.0.0.1/tcp/1/p2p/{STRANGER}")
            assert answer == {"id": 2, "unsupported": "reserve"}

    run(main)


def test_lines_that_are_no_requests_are_complained_about_and_the_node_goes_on() -> None:
    async def main() -> None:
        async with start() as peer:
            bad = [
                b"nonsense",
                b"[]",
                b"\xff\xfe",
                b'{"id":1}',
                b'{"do":"info"}',
                b'{"id":true,"do":"info"}',
                b"[" * 9000,
            ]
            peer.write(b"\n".join(bad) + b"\n\n" + b"x" * (MAX_LINE + 1) + b"\n")
            assert (await peer.done("info"))["peer"]
            complaints = [line["why"] for line in peer.lines if line.get("event") == "complaint"]
            numbers = [1, 2, 3, 4, 5, 6, 7, 9]
            assert [why.partition(":")[0] for why in complaints] == [f"line {number}" for number in numbers]

    run(main)


def test_stop_is_answered_and_ends_the_node() -> None:
    async def main() -> None:
        async with start() as alice, start() as bob:
            await alice.done("dial", addr=(await bob.event("ready"))["addrs"][0])
            assert await alice.done("stop") == {}
            assert (await alice.line(lambda line: line.get("event") == "stopped"))["at"]
            status, errors = await alice.end()
            assert (status, "Traceback" in errors) == (0, False)
            await bob.event("disconnected")

    run(main)


def test_the_end_of_stdin_ends_the_node_after_what_was_asked_before() -> None:
    async def main() -> None:
        async with start() as peer:
            peer.write(b'{"id":5,"do":"info"}')
            assert peer.process.stdin is not None
            peer.process.stdin.close()
            assert "ok" in await peer.line(lambda line: line.get("id") == 5)
            await peer.event("stopped")
            assert (await peer.end())[0] == 0

    run(main)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_node_cleanly(number: signal.Signals) -> None:
    async def main() -> None:
        async with start() as peer:
            await peer.event("ready")
            peer.process.send_signal(number)
            await peer.event("stopped")
            status, errors = await peer.end()
            assert (status, "Traceback" in errors) == (0, False)

    run(main)


def test_a_command_under_way_at_the_end_is_answered() -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            async with start() as peer:
                silent = f"/ip4/127.0.0.1/tcp/{server.getsockname()[1]}/p2p/{STRANGER}"
                peer.write(json.dumps({"id": 1, "do": "dial", "addr": silent}).encode() + b'\n{"do":"stop"}\n')
                assert (await peer.line(lambda line: line.get("id") == 1))["error"] == "closed"
                assert (await peer.end())[0] == 0

    run(main)


def test_nobody_reading_ends_the_node() -> None:
    async def main() -> None:
        inlet, outlet = os.pipe()
        command = (sys.executable, "-m", "node", "--listen", "/ip4/127.0.0.1/tcp/0")
        process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE, stdout=outlet, cwd=ROOT)
        os.close(outlet)
        with os.fdopen(inlet, "rb") as answers:
            assert b'"ready"' in await asyncio.to_thread(answers.readline)
        assert process.stdin is not None
        process.stdin.write(b'{"id":1,"do":"info"}\n')
        assert await process.wait() == 0

    run(main)


def test_stdin_may_be_a_file(tmp_path: Path) -> None:
    async def main() -> None:
        asked = tmp_path / "asked"
        asked.write_bytes(b'{"id":1,"do":"info"}\n{"id":2,"do":"webrtc"}')
        with asked.open("rb") as stdin, (tmp_path / "answers").open("wb") as stdout:
            command = (sys.executable, "-m", "node", "--listen", "/ip4/127.0.0.1/tcp/0")
            process = await asyncio.create_subprocess_exec(*command, stdin=stdin, stdout=stdout, cwd=ROOT)
            assert await process.wait() == 0
        lines = [json.loads(line) for line in (tmp_path / "answers").read_text().splitlines()]
        assert lines[0]["event"] == "ready"
        assert lines[-1]["event"] == "stopped"
        assert {line["id"] for line in lines if "id" in line} == {1, 2}

    run(main)


def test_what_is_wrong_with_the_command_line_is_told_in_one_line() -> None:
    async def main() -> None:
        async with start("--listen", "/ip4/192.0.2.77/tcp/1") as peer:
            status, errors = await peer.end()
            assert (status, errors.count("\n")) == (2, 1)
            assert "192.0.2.77" in errors

    run(main)


def test_a_key_from_a_file_is_the_same_peer_every_time(tmp_path: Path) -> None:
    from node.names.keys import PrivateKey

    async def main() -> None:
        key = PrivateKey.generate()
        file = tmp_path / "key"
        file.write_bytes(key.to_bytes())
        async with start("--key", str(file)) as peer:
            assert (await peer.event("ready"))["peer"] == str(key.peer_id())

    run(main)
