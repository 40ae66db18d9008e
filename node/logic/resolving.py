"""Names in addresses: which questions to ask of the DNS, and which addresses the answers stand for.

    /dns4/relay.lab/tcp/4001     ─ A ─►                       /ip4/11.0.0.7/tcp/4001
    /dns/relay.lab/tcp/4001      ─ A, AAAA ─►                 one address of each IP version
    /dnsaddr/relay.lab/p2p/12D3… ─ TXT _dnsaddr.relay.lab ─►  the values `dnsaddr=…` that end in /p2p/12D3…

Spec: https://github.com/multiformats/multiaddr/blob/master/protocols/DNSADDR.md

Facts: a TXT record may name another `/dnsaddr`, so what a stranger's zone says can go round or fan out without end;
four steps and a hundred addresses in all are go's bounds. What follows the name in an address is a filter for
`/dnsaddr`, and stays for the others. Whether a resolved address may be dialled is for the gater, as with any other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from node.errors import DecodeError, NodeError
from node.names.multiaddr import Multiaddr

if TYPE_CHECKING:
    from node.names.peerid import PeerId

DEPTH: Final = 4
"""Times a `/dnsaddr` may lead to another."""
ADDRESSES: Final = 100
"""Addresses that one resolution looks at, those with names included."""
RECORDS: Final = 100
"""Records of one answer that are looked at."""
PREFIX: Final = b"dnsaddr="
LOCALHOST: Final = "localhost"


class ResolveError(NodeError):
    """A name that does not resolve; the message names it and says why."""


class Kind(Enum):
    """The types of records that addresses are made of."""

    A = "A"
    AAAA = "AAAA"
    TXT = "TXT"


KINDS: Final = {"dns4": (Kind.A,), "dns6": (Kind.AAAA,), "dns": (Kind.A, Kind.AAAA), "dnsaddr": (Kind.TXT,)}


@dataclass(frozen=True, slots=True)
class Question:
    """What to ask of the DNS; `name` is absolute, whether or not it ends in a dot."""

    name: str
    kind: Kind

    def __str__(self) -> str:
        return f"{self.kind.value} {self.name}"


@dataclass(frozen=True, slots=True)
class Unresolved:
    """An address that names led to nothing for, and why."""

    addr: Multiaddr
    error: NodeError


@dataclass(frozen=True, slots=True)
class _Wanted:
    """An address that waits for an answer; `depth` counts the `/dnsaddr` that led to it."""

    addr: Multiaddr
    depth: int


def is_name(addr: Multiaddr) -> bool:
    """Return whether the first hop of `addr` has to be resolved before it can be dialled."""
    return addr.names[0] in KINDS


class Resolving:
    """One resolution of a few addresses; whoever drives it asks the `questions` and reports what came of each.

    `addrs` has the addresses that can be dialled, without repetitions, in the order they were found. With a `peer`
    records that end in another peer's id are left out, and what is found loses the id.
    """

    def __init__(self, addrs: Iterable[Multiaddr], peer: PeerId | None = None) -> None:
        self._peer = peer
        self._addrs: dict[Multiaddr, None] = {}
        self._waiting: dict[Question, list[_Wanted]] = {}
        self._answers: dict[Question, Sequence[bytes] | NodeError] = {}
        self._new: list[Question] = []
        self._failures: list[Unresolved] = []
        self._looked_at = 0
        for addr in addrs:
            self._look_at(_Wanted(addr, 0))

    def questions(self) -> list[Question]:
        """Return the questions that have not been returned before."""
        new, self._new = self._new, []
        return new

    def answered(self, question: Question, records: Sequence[bytes]) -> None:
        """Take an answer: packed addresses of A and AAAA records, the joined strings of each TXT record."""
        self._settle(question, records[:RECORDS])

    def failed(self, question: Question, why: str) -> None:
        """Take note that there is no answer, and why."""
        self._settle(question, ResolveError(f"{question}: {why}"))

    @property
    def addrs(self) -> tuple[Multiaddr, ...]:
        """The addresses found so far."""
        return tuple(self._addrs)

    @property
    def failures(self) -> tuple[Unresolved, ...]:
        """The addresses that came to nothing so far, in the order they did."""
        return tuple(self._failures)

    def _look_at(self, wanted: _Wanted) -> None:
        if self._looked_at >= ADDRESSES:
            return
        self._looked_at += 1
        addr = wanted.addr
        if not is_name(addr):
            self._found(addr)
            return
        name = addr.value(addr.names[0]) or ""
        if addr.names[0] == "dnsaddr":
            if wanted.depth >= DEPTH:
                self._failures.append(Unresolved(addr, ResolveError(f"more than {DEPTH} /dnsaddr in a row")))
                return
            name = f"_dnsaddr.{name}"
        for kind in KINDS[addr.names[0]]:
            self._ask(Question(name, kind), wanted)

    def _ask(self, question: Question, wanted: _Wanted) -> None:
        answer = self._answers.get(question)
        if answer is not None:
            self._expand(question, wanted, answer)
        elif (waiting := self._waiting.get(question)) is not None:
            waiting.append(wanted)
        elif question.kind is not Kind.TXT and _is_localhost(question.name):
            loopback = "127.0.0.1" if question.kind is Kind.A else "::1"  # RFC 6761 §6.3: never asked of the DNS
            self._answers[question] = [ip_address(loopback).packed]
            self._ask(question, wanted)
        else:
            self._waiting[question] = [wanted]
            self._new.append(question)

    def _settle(self, question: Question, answer: Sequence[bytes] | NodeError) -> None:
        waiting = self._waiting.pop(question, [])
        self._answers[question] = answer
        for wanted in waiting:
            self._expand(question, wanted, answer)

    def _expand(self, question: Question, wanted: _Wanted, answer: Sequence[bytes] | NodeError) -> None:
        if isinstance(answer, NodeError):
            self._failures.append(Unresolved(wanted.addr, answer))
            return
        if question.kind is Kind.TXT:
            meant = [addr for addr in _of_texts(answer, wanted.addr) if self._fits(addr)]
            for addr in meant:
                self._look_at(_Wanted(addr, wanted.depth + 1))
        else:
            meant = [each for packed in answer if (each := _of_ip(packed, wanted.addr)) is not None]
            for addr in meant:
                self._found(addr)
        if not meant:
            self._failures.append(Unresolved(wanted.addr, ResolveError(f"{question}: no record that fits")))

    def _fits(self, addr: Multiaddr) -> bool:
        return self._peer is None or addr.peer_id in (None, self._peer)

    def _found(self, addr: Multiaddr) -> None:
        if self._peer is not None and addr.peer_id is not None:
            addr = addr.without("p2p")
        if len(self._addrs) < ADDRESSES:
            self._addrs[addr] = None


def _is_localhost(name: str) -> bool:
    name = name.rstrip(".").lower()
    return name == LOCALHOST or name.endswith(f".{LOCALHOST}")


def _rest(addr: Multiaddr) -> str:
    """What follows the name, as text."""
    return str(addr).removeprefix(f"/{addr.names[0]}/{addr.value(addr.names[0])}")


def _with_server_name(addr: Multiaddr) -> str:
    """What follows the name, where TLS is in it with the name in `/sni`: the certificate has to bear it."""
    name, rest = addr.value(addr.names[0]), _rest(addr)
    if "sni" in addr:
        return rest
    return re.sub(r"/(?:wss|tls/ws)(?=/|$)", lambda _: f"/tls/sni/{name}/ws", rest, count=1)


def _of_ip(packed: bytes, addr: Multiaddr) -> Multiaddr | None:
    """The address with an IP address for its name; None where that makes none, as `packed` is too short for one."""
    try:
        ip = ip_address(packed)
        return Multiaddr(f"/ip{ip.version}/{ip}{_with_server_name(addr)}")
    except (ValueError, DecodeError):
        return None


def _of_texts(texts: Iterable[bytes], addr: Multiaddr) -> list[Multiaddr]:
    """The addresses of the TXT records that end as `addr` does after its name, up to a circuit; those get it back."""
    own, circuit, beyond = _rest(addr).partition("/p2p-circuit")
    found: dict[Multiaddr, None] = {}
    for text in texts:
        if not text.startswith(PREFIX):
            continue
        try:
            meant = Multiaddr(text.removeprefix(PREFIX).decode())
            if str(meant).endswith(own):
                found[Multiaddr(f"{meant}{circuit}{beyond}")] = None
        except ValueError:  # somebody else's TXT record, or a kind of address that we do not know
            continue
    return list(found)
