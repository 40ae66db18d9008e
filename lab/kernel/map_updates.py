"""Statements that record into a map by IPv6 endpoints, which nft 1.0.6 aborts on, written as the kernel wants them.

    meta l4proto udp ct direction original update @out_udp { ct original ip6 saddr . ct original proto-src : udp sport }

Debian 12's nft gives the key and the data of such a statement four registers of four bytes each, and an IPv6 endpoint
has five (an assertion in `netlink_linearize.c`; 1.1.3 has none). So `split` takes these rules out of a table's text,
which stays the one description of it, and `append` adds them to their chains once nft has made those. They have to come
last there: they would otherwise change places with a rule that decides.

    key, data     ct original|reply ip6 saddr|daddr, ct original|reply proto-src|proto-dst,
                  ip6 saddr|daddr, udp|tcp sport|dport; several joined by `.`, and a key's `timeout 30s` after it
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from lab.errors import KernelError
from lab.kernel.namespace import Namespace
from lab.kernel.nfnetlink import NESTED, append_rules, attribute, expression, rule

_FAMILY_IPV6: Final = 10
_FIRST_REGISTER, _REGISTERS = 8, 16
"NFT_REG32_00, and how many there are"
_ADDRESS, _PORT = 16, 2
"bytes"

_TABLE: Final = re.compile(r"^table ip6 (?P<name>[\w-]+) \{")
_CHAIN: Final = re.compile(r"^  chain (?P<name>[\w-]+) \{")
_UPDATE: Final = re.compile(
    r"^    meta l4proto (?P<proto>[\w-]+)(?: ct direction (?P<direction>original|reply))?"
    r" update @(?P<map>\w+) \{ (?P<key>[^:{}]+?)(?: timeout (?P<seconds>\d+)s)? : (?P<data>[^:{}]+) \}$"
)
_NO_DECISION: Final = re.compile(r"^    meta l4proto [\w-]+(?: ct direction \w+)? update @\w+ \{ [^:{}]+ \}$")
"a rule that the statements may change places with: it records into a set"

_PROTOCOLS: Final = {"tcp": 6, "udp": 17, "ipv6-icmp": 58}
_DIRECTIONS: Final = {"original": 0, "reply": 1}
_CT_DIRECTION: Final = 1
_CT: Final = {
    "ip6 saddr": (21, _ADDRESS),
    "ip6 daddr": (22, _ADDRESS),
    "proto-src": (11, _PORT),
    "proto-dst": (12, _PORT),
}
"key of linux/netfilter/nf_tables.h, and bytes"
_NETWORK, _TRANSPORT = 1, 2
_PAYLOAD: Final = {
    "ip6 saddr": (_NETWORK, 8, _ADDRESS),
    "ip6 daddr": (_NETWORK, 24, _ADDRESS),
    **{
        f"{proto} {port}": (_TRANSPORT, at, _PORT)
        for proto in ("udp", "tcp")
        for port, at in (("sport", 0), ("dport", 2))
    },
}
"base, offset, bytes"
_META_L4PROTO: Final = 16
_UPDATE_ELEMENT: Final = 1


@dataclass(frozen=True, slots=True)
class MapUpdate:
    """One such rule, in the words of its text."""

    table: str
    chain: str
    proto: str
    direction: str | None
    holder: str
    "the map"
    key: tuple[str, ...]
    data: tuple[str, ...]
    seconds: int | None
    "how long the element lives; None: as long as the map says"


def split(text: str) -> tuple[str, tuple[MapUpdate, ...]]:
    """A rule set without the statements that nft may abort on, line for line, and those statements.

    Raises `KernelError` where one is followed in its chain by a rule that it may not change places with.
    """
    if "table ip6 " not in text:
        return text, ()
    updates: list[MapUpdate] = []
    lines: list[str] = []
    table = chain = ""
    taken = False
    for line in text.split("\n"):
        if line.startswith("table "):
            found = _TABLE.match(line)
            table = found["name"] if found else ""
        elif begun := _CHAIN.match(line):
            chain, taken = begun["name"], False
        statement = _UPDATE.match(line) if table else None
        if statement is not None:
            updates.append(_read(table, chain, statement))
            taken, line = True, ""
        elif taken and line.startswith("    ") and not _NO_DECISION.match(line):
            raise KernelError(f"{table}, chain {chain}: a map is updated ahead of `{line.strip()}`")
        lines.append(line)
    return "\n".join(lines), tuple(updates)


def append(ns: Namespace, updates: Iterable[MapUpdate]) -> None:
    """Add the statements to their chains. Raises `KernelError`."""
    rules = [_rule(update) for update in updates]
    if not rules:
        return
    try:
        append_rules(ns, _FAMILY_IPV6, rules)
    except OSError as error:
        raise KernelError(f"{ns.name}: the kernel does not take an update of an IPv6 map: {error.strerror}") from error


def _read(table: str, chain: str, statement: re.Match[str]) -> MapUpdate:
    seconds = statement["seconds"]
    return MapUpdate(
        table,
        chain,
        statement["proto"],
        statement["direction"],
        statement["map"],
        tuple(statement["key"].split(" . ")),
        tuple(statement["data"].split(" . ")),
        int(seconds) if seconds else None,
    )


def _rule(update: MapUpdate) -> bytes:
    try:
        return rule(update.table, update.chain, list(_expressions(update)))
    except KeyError as error:
        raise KernelError(f"{update.table}, chain {update.chain}: no way to load {error}") from None


def _expressions(update: MapUpdate) -> Iterator[bytes]:
    yield expression("meta", _number(1, _FIRST_REGISTER) + _number(2, _META_L4PROTO))
    yield _equal(_PROTOCOLS[update.proto])
    if update.direction is not None:
        yield expression("ct", _number(1, _FIRST_REGISTER) + _number(2, _CT_DIRECTION))
        yield _equal(_DIRECTIONS[update.direction])
    register = _FIRST_REGISTER
    starts = []
    for parts in (update.key, update.data):
        starts.append(register)
        for part in parts:
            load, size = _load(part, register)
            register += (size + 3) // 4
            if register > _FIRST_REGISTER + _REGISTERS:
                raise KernelError(f"{update.table}, chain {update.chain}: an element of @{update.holder} is too long")
            yield load
    key, data = starts
    body = attribute(1, update.holder.encode() + b"\0") + _number(3, _UPDATE_ELEMENT)
    body += _number(4, key) + _number(5, data)
    if update.seconds is not None:
        body += attribute(6, struct.pack("!Q", update.seconds * 1000))
    yield expression("dynset", body)


def _load(part: str, register: int) -> tuple[bytes, int]:
    """What loads a part of a key or of data into registers, and its bytes. Raises KeyError for one it does not know."""
    match part.split(" ", 2):
        case ["ct", direction, what]:
            key, size = _CT[what]
            body = _number(1, register) + _number(2, key) + attribute(3, bytes([_DIRECTIONS[direction]]))
            return expression("ct", body), size
        case _:
            base, offset, size = _PAYLOAD[part]
            where = _number(1, register) + _number(2, base) + _number(3, offset) + _number(4, size)
            return expression("payload", where), size


def _equal(value: int) -> bytes:
    """Goes on where the first register holds this one byte."""
    data = attribute(3 | NESTED, attribute(1, bytes([value])))
    return expression("cmp", _number(1, _FIRST_REGISTER) + _number(2, 0) + data)


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("!I", value))
