"""RESP: commands out of bytes however they are split, replies as Redis writes them, and bounds that hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.services.resp import (
    MAX_ARGUMENT,
    MAX_ARGUMENTS,
    MAX_LINE,
    Command,
    Failure,
    Reader,
    Reply,
    RespError,
    Simple,
    encode,
    encode_nothing,
)

words = st.lists(st.binary(max_size=40), min_size=1, max_size=5).map(tuple)


def written(command: Command) -> bytes:
    return b"*%d\r\n" % len(command) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in command)


@given(st.lists(words, max_size=4), st.lists(st.integers(1, 30), min_size=1, max_size=20))
def test_commands_are_the_same_however_the_bytes_are_split(commands: list[Command], sizes: list[int]) -> None:
    data, reader, seen = b"".join(map(written, commands)), Reader(), []
    while data:
        size = sizes[len(data) % len(sizes)]
        seen += reader.receive_data(data[:size])
        data = data[size:]
    assert seen == commands


def test_a_command_may_be_typed_by_hand() -> None:
    assert Reader().receive_data(b"PING\r\n\r\nset  k v\nPI") == [(b"PING",), (b"set", b"k", b"v")]


def test_an_array_of_nothing_is_no_command() -> None:
    assert Reader().receive_data(b"*0\r\n*-1\r\n" + written((b"PING",))) == [(b"PING",)]


@pytest.mark.parametrize(
    "data",
    [
        b"*%d\r\n" % (MAX_ARGUMENTS + 1),
        b"*1\r\n$%d\r\n" % (MAX_ARGUMENT + 1),
        b"*1\r\n$-1\r\n",
        b"*1\r\n:1\r\n",
        b"*x\r\n",
        b"*99999999999999\r\n",
        b"*1\r\n$4\r\nPING\n\n",
        b"x" * MAX_LINE,
    ],
)
def test_what_is_no_command_or_too_large_a_one_is_refused(data: bytes) -> None:
    with pytest.raises(RespError, match="Protocol error"):
        Reader().receive_data(data)


@pytest.mark.parametrize(
    ("reply", "second", "third"),
    [
        (Simple.OK, b"+OK\r\n", b"+OK\r\n"),
        (Failure("ERR of\ntwo lines"), b"-ERR of two lines\r\n", b"-ERR of two lines\r\n"),
        (7, b":7\r\n", b":7\r\n"),
        (b"\r\n", b"$2\r\n\r\n\r\n", b"$2\r\n\r\n\r\n"),
        (None, b"$-1\r\n", b"_\r\n"),
        ((b"k", 1, ()), b"*3\r\n$1\r\nk\r\n:1\r\n*0\r\n", b"*3\r\n$1\r\nk\r\n:1\r\n*0\r\n"),
        ({b"a": 1}, b"*2\r\n$1\r\na\r\n:1\r\n", b"%1\r\n$1\r\na\r\n:1\r\n"),
    ],
)
def test_a_reply_is_written_in_either_version(reply: Reply, second: bytes, third: bytes) -> None:
    assert (encode(reply), encode(reply, 3)) == (second, third)


def test_a_list_that_did_not_come_is_nothing_of_its_own_kind() -> None:
    assert (encode_nothing(), encode_nothing(3)) == (b"*-1\r\n", b"_\r\n")
