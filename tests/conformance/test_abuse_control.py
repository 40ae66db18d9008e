"""Garbage on the control channel of a running node: each line is answered or complained about, and the next one served.

The node must neither print a traceback nor a line that is longer than the contract allows.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.contract import MAX_LINE, Fields, Malformed, Request, failed, ok, parse_request, unsupported
from node.errors import NodeError

ROOT = Path(__file__).parents[2]
DEADLINE = 120.0
"""Seconds one test may take on a busy machine, where a node takes many to start."""
STRANGER = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"
DEEP = b"[" * 980 + b"]" * 980

COMPLAINTS: dict[str, bytes] = {
    "no JSON": b"hello",
    "bytes that are no text": b"\xff\xfe\x00\x01",
    "nothing but nesting": b"[" * 100_000,
    "a number": b"7",
    "a list": b"[1, 2]",
    "null": b"null",
    "half an object": b'{"id": 1, "do": "info"',
    "two objects": b'{"id": 1, "do": "info"} {"id": 2, "do": "info"}',
    "no command": b'{"id": 1}',
    "a command that is no text": b'{"id": 1, "do": ["info"]}',
    "no id": b'{"do": "info"}',
    "an id that is no integer": b'{"id": "1", "do": "info"}',
    "an id that is true": b'{"id": true, "do": "info"}',
    "an integer of 5000 digits": b'{"id": ' + b"9" * 5000 + b', "do": "info"}',
    "a line beyond the bound": b'{"id": 1, "do": "info", "x": "' + b"x" * MAX_LINE + b'"}',
}
ERRORS: dict[str, dict[str, Any]] = {
    "a timeout that is no number": {"do": "info", "timeout": "soon"},
    "a timeout of almost a mebibyte": {"do": "info", "timeout": "x" * (MAX_LINE - 100)},
    "a negative timeout": {"do": "info", "timeout": -1},
    "an endless timeout": {"do": "info", "timeout": float("inf")},
    "no address": {"do": "dial"},
    "an address that is none": {"do": "dial", "addr": "nowhere"},
    "an address without end": {"do": "dial", "addr": "/ip4/127.0.0.1" * 60_000},
    "an address with half a character": {"do": "dial", "addr": "/dns/\ud800/tcp/1"},
    "an address without a peer": {"do": "dial", "addr": "/ip4/127.0.0.1/tcp/1"},
    "a peer that is none": {"do": "ping", "peer": "\ud800" * 40},
    "a peer that is a list": {"do": "ping", "peer": [[[]]]},
    "less than nothing": {"do": "echo", "peer": STRANGER, "bytes": -1},
    "more than there is": {"do": "perf", "peer": STRANGER, "upload": 2**70, "download": 0},
    "a protocol of half a character": {"do": "echo", "peer": STRANGER, "bytes": 1, "protocol": "\ud800"},
    "a protocol of two lines": {"do": "echo", "peer": STRANGER, "bytes": 1, "protocol": "/a\n/b"},
    "a protocol without end": {"do": "echo", "peer": STRANGER, "bytes": 1, "protocol": "/x" * 4000},
}


class Node:
    """A running node and what it has printed."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.longest = 0

    def write(self, line: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + b"\n")

    async def line(self) -> dict[str, Any]:
        """The next line."""
        assert self._process.stdout is not None
        raw = await self._process.stdout.readline()
        self.longest = max(self.longest, len(raw))
        value: dict[str, Any] = json.loads(raw)
        return value

    async def until(self, **fields: object) -> dict[str, Any]:
        """The next line with these fields."""
        while not fields.items() <= (line := await self.line()).items():
            pass
        return line


@asynccontextmanager
async def running() -> AsyncIterator[Node]:
    """A node; in the end it must stop by itself and have nothing to say on stderr that is a fault of ours."""
    command = (sys.executable, "-m", "node", "--listen", "/ip4/127.0.0.1/tcp/0")
    process = await asyncio.create_subprocess_exec(
        *command, stdin=PIPE, stdout=PIPE, stderr=PIPE, cwd=ROOT, limit=8 * MAX_LINE
    )
    try:
        async with asyncio.timeout(DEADLINE):
            node = Node(process)
            await node.until(event="listening")
            yield node
            node.write(b'{"do": "stop"}')
            await node.until(event="stopped")
            _, stderr = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert process.returncode == 0
    assert b"Traceback" not in stderr
    assert node.longest <= MAX_LINE


def test_lines_that_are_no_requests_are_complained_about_one_by_one() -> None:
    async def main() -> None:
        async with running() as node:
            for number, line in enumerate(COMPLAINTS.values(), start=1):
                node.write(line)
                complaint = await node.until(event="complaint")
                assert complaint["why"].startswith(f"line {number}: ")
            node.write(b'{"id": 5, "do": "info"}')
            assert "ok" in await node.until(id=5)

    asyncio.run(main())


def test_requests_that_cannot_be_are_answered_as_bad_arguments() -> None:
    async def main() -> None:
        async with running() as node:
            for number, request in enumerate(ERRORS.values()):
                node.write(json.dumps({"id": number, **request}).encode())
                answer = await node.until(id=number)
                assert answer["error"] == "bad-argument", request
                assert "\n" not in answer["why"]

    asyncio.run(main())


@pytest.mark.parametrize("name", ["x" * (MAX_LINE - 40), "\u00e9" * (MAX_LINE // 2 - 40), "\ud800", "__init__", ""])
def test_commands_that_nobody_knows_are_unsupported(name: str) -> None:
    async def main() -> None:
        async with running() as node:
            node.write(b'{"id":1,"do":"' + name.encode(errors="surrogatepass") + b'"}')
            node.write(json.dumps({"id": 2, "do": name[:1000]}).encode())
            assert "unsupported" in await node.until(id=2)

    asyncio.run(main())


def test_nesting_that_can_just_be_read_can_be_told_about() -> None:
    async def main() -> None:
        async with running() as node:
            node.write(b'{"id": 1, "do": "info", "timeout": ' + DEEP + b"}")
            answer = await node.line()
            assert answer.get("error") == "bad-argument" or answer.get("event") == "complaint"

    asyncio.run(main())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
ARGUMENTS = ("timeout", "addr", "peer", "bytes", "protocol")


@settings(max_examples=200, deadline=None)
@given(line=st.binary(max_size=60) | st.builds(lambda value: json.dumps(value).encode(), JSON))
def test_any_line_is_a_request_or_malformed(line: bytes) -> None:
    with contextlib.suppress(Malformed):
        assert isinstance(parse_request(line), Request)


def answer(read: Callable[[], object]) -> Fields:
    """What is answered where reading an argument comes to nothing."""
    try:
        return ok(1, {"read": repr(read())})
    except NodeError as error:
        return failed(1, error)


@settings(max_examples=200, deadline=None)
@given(arguments=st.fixed_dictionaries({}, optional=dict.fromkeys(ARGUMENTS, JSON)), do=st.text())
def test_any_arguments_are_values_or_a_typed_error_that_fits_a_line(arguments: dict[str, Any], do: str) -> None:
    request = parse_request(json.dumps({"id": 1, "do": do, **arguments}).encode())
    assert len(json.dumps(unsupported(1, request.do))) < MAX_LINE
    for read in (
        lambda: request.timeout,
        lambda: request.addr("addr"),
        lambda: request.peer("peer"),
        lambda: request.size("bytes", 10),
        lambda: request.protocol("protocol", "/echo/1.0.0").encode(),
    ):
        assert len(json.dumps(answer(read))) < MAX_LINE
