"""The board on which programs of one test leave each other word: keys with a text or a list, as in Redis. No IO.

It knows the commands by which upstream's programs find each other, and what their clients say beside them. A client
that waits for a list (BLPOP) is served in the order in which it began to wait; who goes away takes nothing with it.
Who wrote and who waits is kept, so that a test which stands still can be told from whom it lacks what.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from lab.services.resp import Command, Failure, Reply, Simple

MAX_KEYS: Final = 1000
MAX_BYTES: Final = 4 << 20
"of all keys and values together"
MAX_WAITS: Final = 256
"clients that wait for a list at a time"
VERSION: Final = b"7.2.0"
"of the Redis whose answers these are"

WRONG_TYPE: Final = Failure("WRONGTYPE Operation against a key holding the wrong kind of value")
SYNTAX: Final = Failure("ERR syntax error")
FULL: Final = Failure("OOM command not allowed: the board holds as much as it may")


@dataclass(eq=False, slots=True)
class Wait:
    """A client that waits for one of several lists."""

    who: str
    keys: tuple[bytes, ...]
    deliver: Callable[[Reply], None]
    seconds: float = 0.0
    "how long it is ready to wait; 0: for ever"


Done: TypeAlias = "Reply | Wait"
_Answer: TypeAlias = Callable[["Client", Command], Done]


@dataclass(frozen=True, slots=True)
class Written:
    """A key that a program has written."""

    who: str
    command: str
    key: str
    value: str


@dataclass(slots=True)
class Client:
    """One connection: which peer's it is, and where its answers go when it has to wait."""

    who: str
    deliver: Callable[[Reply], None]
    number: int = 0
    version: int = 2
    "of RESP"
    name: bytes = b""
    leaving: bool = False
    "it said goodbye"


class Board:
    """Keys and who waits for them; `on_write` hears of every value."""

    def __init__(self, on_write: Callable[[Written], None]) -> None:
        self._on_write = on_write
        self._texts: dict[bytes, bytes] = {}  # with _lists at most MAX_KEYS keys and MAX_BYTES
        self._lists: dict[bytes, deque[bytes]] = {}
        self._size = 0
        self._waits: list[Wait] = []  # at most MAX_WAITS
        self._asked: dict[bytes, str] = {}  # keys that were read when nothing was there; at most MAX_KEYS
        self._commands: Mapping[bytes, tuple[int, int, _Answer]] = {
            b"PING": (1, 2, lambda _, command: command[1] if len(command) > 1 else Simple.PONG),
            b"ECHO": (2, 2, lambda _, command: command[1]),
            b"SET": (3, 3, self._set),
            b"GET": (2, 2, self._get),
            b"DEL": (2, 64, self._delete),
            b"EXISTS": (2, 64, lambda _, command: sum(self._holds(key) for key in command[1:])),
            b"RPUSH": (3, 64, self._push),
            b"LPUSH": (3, 64, self._push),
            b"LPOP": (2, 2, self._pop),
            b"RPOP": (2, 2, self._pop),
            b"LLEN": (2, 2, self._length),
            b"LRANGE": (4, 4, self._range),
            b"BLPOP": (3, 64, self._pop_blocking),
            b"HELLO": (1, 8, _hello),
            b"CLIENT": (2, 8, _client),
            b"SELECT": (2, 2, _select),
            b"INFO": (
                1,
                8,
                lambda *_: b"# Server\r\nredis_version:%b\r\nredis_mode:standalone\r\nloading:0\r\n" % VERSION,
            ),
            b"CONFIG": (2, 8, lambda *_: ()),
            b"COMMAND": (1, 8, lambda *_: ()),
            b"QUIT": (1, 1, _quit),
        }

    def execute(self, client: Client, command: Command) -> Done:
        """Do what a client says; a `Wait` has no answer yet, and `deliver` will be called with it."""
        name = command[0].upper()
        known = self._commands.get(name)
        if known is None:
            return Failure(f"ERR unknown command '{_text(command[0])}'")
        least, most, answer = known
        if not least <= len(command) <= most:
            return Failure(f"ERR wrong number of arguments for '{_text(name).lower()}' command")
        return answer(client, command)

    def forget(self, wait: Wait) -> None:
        """A client waits no more."""
        if wait in self._waits:
            self._waits.remove(wait)

    def missing(self) -> dict[str, tuple[str, ...]]:
        """Who waits for which keys, or has asked for them in vain."""
        wanted: dict[str, dict[str, None]] = {}
        for wait in self._waits:
            wanted.setdefault(wait.who, {}).update((_text(key), None) for key in wait.keys)
        for key, who in self._asked.items():
            wanted.setdefault(who, {})[_text(key)] = None
        return {who: tuple(keys) for who, keys in wanted.items()}

    # ── texts ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _set(self, client: Client, command: Command) -> Done:
        _, key, value = command
        if not self._fits(key, value, freed=self._size_of(key)):
            return FULL
        self._remove(key)
        self._texts[key] = value
        self._size += len(key) + len(value)
        self._written(client, command)
        return Simple.OK

    def _get(self, client: Client, command: Command) -> Done:
        key = command[1]
        if key in self._lists:
            return WRONG_TYPE
        if key not in self._texts:
            self._in_vain(client, key)
        return self._texts.get(key)

    def _delete(self, client: Client, command: Command) -> Done:
        return sum(self._remove(key) for key in command[1:])

    # ── lists ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _push(self, client: Client, command: Command) -> Done:
        name, key, *values = command
        if key in self._texts:
            return WRONG_TYPE
        if not self._fits(key, *values):
            return FULL
        if key not in self._lists:
            self._size += len(key)
        items = self._lists.setdefault(key, deque())
        for value in values:
            if name.upper() == b"RPUSH":
                items.append(value)
            else:
                items.appendleft(value)
            self._size += len(value)
        length = len(items)
        self._written(client, command)
        self._serve(key)
        return length

    def _pop(self, client: Client, command: Command) -> Done:
        name, key = command
        if key in self._texts:
            return WRONG_TYPE
        if key not in self._lists:
            self._in_vain(client, key)
            return None
        return self._take(key, last=name.upper() == b"RPOP")

    def _length(self, client: Client, command: Command) -> Done:
        return WRONG_TYPE if command[1] in self._texts else len(self._lists.get(command[1], ()))

    def _range(self, client: Client, command: Command) -> Done:
        _, key, *bounds = command
        if key in self._texts:
            return WRONG_TYPE
        try:
            start, end = (int(bound) for bound in bounds)
        except ValueError:
            return Failure("ERR value is not an integer or out of range")
        items = list(self._lists.get(key, ()))
        start, end = (bound + len(items) if bound < 0 else bound for bound in (start, end))
        return items[max(0, start) : max(0, end + 1)]

    def _pop_blocking(self, client: Client, command: Command) -> Done:
        *keys, patience = command[1:]
        try:
            seconds = float(patience)
        except ValueError:
            seconds = float("nan")
        if not 0 <= seconds < float("inf"):
            return Failure("ERR timeout is not a float or out of range")
        for key in keys:
            if key in self._texts:
                return WRONG_TYPE
            if key in self._lists:
                return (key, self._take(key))
        if len(self._waits) >= MAX_WAITS:
            return FULL
        wait = Wait(client.who, tuple(keys), client.deliver, seconds)
        self._waits.append(wait)
        return wait

    def _serve(self, key: bytes) -> None:
        """Give what is in a list to those that wait for it, the first first."""
        for wait in [wait for wait in self._waits if key in wait.keys]:
            if key not in self._lists:
                return
            self._waits.remove(wait)
            wait.deliver((key, self._take(key)))

    def _take(self, key: bytes, *, last: bool = False) -> bytes:
        items = self._lists[key]
        value = items.pop() if last else items.popleft()
        self._size -= len(value)
        if not items:
            self._remove(key)
        return value

    # ── all keys ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _holds(self, key: bytes) -> bool:
        return key in self._texts or key in self._lists

    def _size_of(self, key: bytes) -> int:
        held = (self._texts.get(key, b""), *self._lists.get(key, ()))
        return sum(map(len, held)) + len(key) if self._holds(key) else 0

    def _fits(self, key: bytes, *values: bytes, freed: int = 0) -> bool:
        new = not self._holds(key)
        size = self._size - freed + sum(map(len, values)) + len(key) * (new or freed > 0)
        return size <= MAX_BYTES and len(self._texts) + len(self._lists) + new <= MAX_KEYS

    def _remove(self, key: bytes) -> bool:
        self._size -= self._size_of(key)
        return self._texts.pop(key, None) is not None or self._lists.pop(key, None) is not None

    def _in_vain(self, client: Client, key: bytes) -> None:
        if key in self._asked or len(self._asked) < MAX_KEYS:
            self._asked[key] = client.who

    def _written(self, client: Client, command: Command) -> None:
        name, key, *values = command
        self._asked.pop(key, None)
        for value in values:
            self._on_write(Written(client.who, _text(name.upper()), _text(key), _text(value)))


def _hello(client: Client, command: Command) -> Done:
    options = list(command[2:])
    if len(command) > 1:
        if command[1] not in (b"2", b"3"):
            return Failure("NOPROTO unsupported protocol version")
        while options:
            word = options.pop(0).upper()
            if word == b"SETNAME" and options:
                client.name = options.pop(0)
            elif word == b"AUTH" and len(options) >= 2:
                del options[:2]  # nobody needs a password here, and whoever gives one may come in
            else:
                return SYNTAX
        client.version = int(command[1])
    return {
        b"server": b"redis",
        b"version": VERSION,
        b"proto": client.version,
        b"id": client.number,
        b"mode": b"standalone",
        b"role": b"master",
        b"modules": (),
    }


def _client(client: Client, command: Command) -> Done:
    match command[1].upper(), command[2:]:
        case b"ID", ():
            return client.number
        case b"GETNAME", ():
            return client.name or None
        case b"SETNAME", (name,):
            client.name = name
            return Simple.OK
        case b"SETINFO", (_, _):
            return Simple.OK
        case word, _:
            return Failure(f"ERR unknown subcommand '{_text(word)}'")


def _select(client: Client, command: Command) -> Done:
    return Simple.OK if command[1] == b"0" else Failure("ERR DB index is out of range")


def _quit(client: Client, command: Command) -> Done:
    client.leaving = True
    return Simple.OK


def _text(data: bytes) -> str:
    """A name or value for people to read."""
    return data.decode("utf-8", "backslashreplace")
