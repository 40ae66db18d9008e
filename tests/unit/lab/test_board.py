"""The board: what Redis would answer, who is served first, who lacks what, and how much it holds."""

from __future__ import annotations

from typing import Any

import pytest

from lab.services.board import MAX_BYTES, MAX_KEYS, MAX_WAITS, Board, Client, Wait, Written
from lab.services.resp import MAX_ARGUMENT, Failure, Reply, Simple


class Table:
    """A board and clients at it, asked in words."""

    def __init__(self) -> None:
        self.written: list[Written] = []
        self.board = Board(self.written.append)
        self.got: dict[str, list[Reply]] = {}

    def ask(self, who: str, *command: str | bytes) -> Any:
        client = Client(who, self.got.setdefault(who, []).append)
        return self.board.execute(client, tuple(each.encode() if isinstance(each, str) else each for each in command))


@pytest.fixture
def table() -> Table:
    return Table()


def test_a_text_is_set_read_and_deleted(table: Table) -> None:
    assert table.ask("a", "get", "k") is None
    assert table.ask("a", "SET", "k", "v") is Simple.OK
    assert table.ask("b", "GET", "k") == b"v"
    assert table.ask("b", "DEL", "k", "other") == 1
    assert table.ask("b", "EXISTS", "k") == 0


def test_a_list_is_taken_from_its_head(table: Table) -> None:
    assert table.ask("a", "RPUSH", "k", "1", "2") == 2
    assert table.ask("a", "LPUSH", "k", "0") == 3
    assert table.ask("b", "LRANGE", "k", "0", "-1") == [b"0", b"1", b"2"]
    assert table.ask("b", "LRANGE", "k", "-9", "1") == [b"0", b"1"]
    assert table.ask("b", "LRANGE", "k", "0", "-9") == []
    assert table.ask("b", "RPOP", "k") == b"2"
    assert table.ask("b", "BLPOP", "x", "k", "0") == (b"k", b"0")
    assert table.ask("b", "LPOP", "k") == b"1"
    assert (table.ask("b", "LPOP", "k"), table.ask("b", "LLEN", "k")) == (None, 0)


def test_who_waits_is_served_in_order_and_who_left_takes_nothing(table: Table) -> None:
    waits = [table.ask(who, "BLPOP", "k", "0") for who in ("gone", "first", "second")]
    assert all(isinstance(wait, Wait) for wait in waits)
    table.board.forget(waits[0])
    assert table.ask("a", "RPUSH", "k", "1", "2", "3") == 3
    assert table.got == {"gone": [], "first": [(b"k", b"1")], "second": [(b"k", b"2")], "a": []}
    assert table.ask("a", "LLEN", "k") == 1


def test_a_wait_for_several_lists_ends_with_the_first(table: Table) -> None:
    table.ask("a", "BLPOP", "j", "k", "2.5")
    table.ask("b", "RPUSH", "k", "v")
    table.ask("b", "RPUSH", "j", "v")
    assert table.got["a"] == [(b"k", b"v")]
    assert table.ask("b", "LLEN", "j") == 1


def test_what_is_written_is_told_and_what_is_missing_is_known(table: Table) -> None:
    table.ask("dialer", "BLPOP", "relay", "0")
    table.ask("listener", "GET", "key")
    table.ask("listener", "LPOP", "other")
    assert table.board.missing() == {"dialer": ("relay",), "listener": ("key", "other")}
    table.ask("relay", "RPUSH", "relay", "/ip4/11.0.0.1")
    table.ask("relay", "SET", "key", "v")
    assert table.written == [
        Written("relay", "RPUSH", "relay", "/ip4/11.0.0.1"),
        Written("relay", "SET", "key", "v"),
    ]
    assert table.board.missing() == {"listener": ("other",)}


def test_a_key_is_a_text_or_a_list(table: Table) -> None:
    table.ask("a", "SET", "text", "v")
    table.ask("a", "RPUSH", "list", "v")
    for command in ("LPOP text", "LLEN text", "RPUSH text v", "LRANGE text 0 1", "BLPOP text 0", "GET list"):
        reply = table.ask("a", *command.split())
        assert isinstance(reply, Failure)
        assert reply.why.startswith("WRONGTYPE"), command
    assert table.ask("a", "SET", "list", "now a text") is Simple.OK


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("NOSUCH", "ERR unknown command"),
        ("GET", "ERR wrong number"),
        ("SET k v EX 5", "ERR wrong number"),
        ("BLPOP k -1", "ERR timeout"),
        ("BLPOP k soon", "ERR timeout"),
        ("BLPOP k inf", "ERR timeout"),
        ("LRANGE k a b", "ERR value"),
        ("SELECT 1", "ERR DB index"),
        ("CLIENT KILL", "ERR unknown subcommand"),
        ("HELLO 4", "NOPROTO"),
        ("HELLO 3 WHAT", "ERR syntax"),
    ],
)
def test_what_it_does_not_know_it_says(table: Table, command: str, kind: str) -> None:
    reply = table.ask("a", *command.split())
    assert isinstance(reply, Failure)
    assert reply.why.startswith(kind)


def test_clients_say_who_they_are_and_choose_a_version(table: Table) -> None:
    client = Client("a", print, number=7)
    answer = table.board.execute
    hello = answer(client, (b"HELLO", b"3", b"AUTH", b"u", b"p", b"SETNAME", b"me"))
    assert isinstance(hello, dict)
    assert (hello[b"proto"], hello[b"id"], client.version) == (3, 7, 3)
    assert answer(client, (b"CLIENT", b"GETNAME")) == b"me"
    assert answer(client, (b"CLIENT", b"SETINFO", b"LIB-NAME", b"x")) is Simple.OK
    assert answer(client, (b"QUIT",)) is Simple.OK
    assert client.leaving


def test_it_holds_no_more_than_it_may(table: Table) -> None:
    big = b"x" * MAX_ARGUMENT
    pushed = [table.ask("a", "RPUSH", "k", big) for _ in range(MAX_BYTES // MAX_ARGUMENT)]
    assert isinstance(pushed[-1], Failure)
    assert all(isinstance(reply, int) for reply in pushed[:-1])
    assert isinstance(table.ask("a", "SET", "k2", big), Failure)
    assert table.ask("a", "SET", "k", "little") is Simple.OK, "what a key held makes room for what it will hold"
    for number in range(MAX_KEYS - 1):
        assert table.ask("a", "SET", f"key {number}", "v") is Simple.OK
    assert isinstance(table.ask("a", "SET", "one more", "v"), Failure)
    waits = [table.ask("a", "BLPOP", "later", "0") for _ in range(MAX_WAITS + 1)]
    assert isinstance(waits[-1], Failure)
    for number in range(MAX_KEYS + 10):
        table.ask("b", "GET", f"in vain {number}")
    assert len(table.board.missing()["b"]) == MAX_KEYS
