"""STUN: how a server answers, and how a client finds out what its NAT does (RFC 5780 §4.3, §4.4).

The client has two sockets. From one it asks the server's first address, plainly and to be answered from elsewhere; from
the other it asks all four of the server's endpoints, one after the other:

    filtering   A1:P1 plainly          an answer comes, or UDP is blocked
                A1:P1, change IP+port  an answer comes: endpoint-independent
                A1:P1, change port     an answer comes: by address; none: by address and port
    mapping     A1:P1, A2:P1, A2:P2, A1:P2    the same external port for all: endpoint-independent; the same for both
                                              ports of A2: by address; else by address and port

Two sockets, since a filter lets in whom the socket has written to: after the mapping test there is nothing left to
find. The ports of a NAT that gives a new one each time tell whether it counts or draws.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

from node.errors import DecodeError
from node.logic.nat import Filtering, Mapping, NatKind, Ports, ports_of
from node.logic.observed import observer_group
from node.wire.stun import (
    TRANSACTION_SIZE,
    Attribute,
    Class,
    Endpoint,
    Message,
    Method,
    address,
    change_request,
    decode,
    error_code,
    read_change_request,
    xor_mapped,
)

if TYPE_CHECKING:
    from node.names.varint import Buffer

# ── the client ───────────────────────────────────────────────────────────────────────────────────────────────────────

FIRST_TIMEOUT = 0.25
"""Seconds to the first retransmission; each further wait is twice as long."""
SENDS = 4
"""Times that a request is sent; after the last of them its wait ends it, 3.75 s in all."""


class Socket(IntEnum):
    """From which of the two sockets something is sent."""

    FILTERING = 0
    MAPPING = 1


@dataclass(frozen=True, slots=True)
class Datagram:
    """What is to be sent."""

    socket: Socket
    data: bytes
    to: Endpoint


@dataclass(slots=True)
class _Request:
    """One request until it is answered or given up."""

    socket: Socket
    to: Endpoint
    message: Message
    due: float
    sends: int = 0
    answer: Message | None = None
    given_up: bool = False

    @property
    def done(self) -> bool:
        return self.answer is not None or self.given_up


@dataclass(slots=True)
class BehaviourTest:
    """Finds out what the NAT between us and a server does; `result` is set when `done`."""

    server: Endpoint
    local: tuple[Endpoint, Endpoint]
    """The two sockets' own addresses, with their interface's IP."""
    chance: Callable[[int], bytes]
    """Gives so many random bytes: transaction ids must not be guessed."""
    _requests: dict[bytes, _Request] = field(default_factory=dict)  # at most seven
    _plain: _Request | None = None
    _changed: list[_Request] = field(default_factory=list)
    _mapping: list[_Request] = field(default_factory=list)
    why: str | None = None
    """Why there is nothing to tell, None as long as there may be."""

    def start(self, now: float) -> None:
        """Begin with the plain request, by which the server tells its other address."""
        self._plain = self._ask(Socket.FILTERING, self.server, now)

    @property
    def done(self) -> bool:
        """Whether no request is open and none will follow."""
        return all(request.done for request in self._requests.values())

    def datagrams_to_send(self, now: float) -> list[Datagram]:
        """Return what is due now, first sendings and further ones."""
        out: list[Datagram] = []
        for request in self._requests.values():
            if request.done or request.due > now:
                continue
            if request.sends == SENDS:
                request.given_up = True
                continue
            request.due = now + FIRST_TIMEOUT * 2**request.sends
            request.sends += 1
            out.append(Datagram(request.socket, request.message.to_bytes(fingerprint=True), request.to))
        if not out and self.done:
            self._go_on(now)
            if not self.done:
                return self.datagrams_to_send(now)
        return out

    def receive_datagram(self, socket: Socket, data: Buffer, source: Endpoint, now: float) -> None:
        """Take what came; datagrams that answer nothing are ignored: anybody can send them."""
        try:
            message = decode(data)
        except DecodeError:
            return
        request = self._requests.get(message.transaction)
        if request is None or request.done or request.socket is not socket or message.kind is not Class.SUCCESS:
            return
        if Attribute.CHANGE_REQUEST not in dict(request.message.attributes) and source != request.to:
            return
        if source == self.server and request in self._changed:  # it does not do what it offered to
            return
        request.answer = message
        self._go_on(now)

    def get_timer(self) -> float | None:
        """Return when to call `datagrams_to_send` next, None when done."""
        return min((request.due for request in self._requests.values() if not request.done), default=None)

    def result(self) -> NatKind:
        """Return what has been found out so far."""
        mapped = [each for request in self._mapping if (each := _mapped(request)) is not None]
        first = mapped[0] if mapped else (_mapped(self._plain) if self._plain is not None else None)
        mapping = self._mapping_kind(mapped)
        ports = Ports.UNKNOWN if mapping is Mapping.NONE else ports_of(self.local[1].port, [one.port for one in mapped])
        return NatKind(mapping, self._filtering_kind(), ports, first)

    def _go_on(self, now: float) -> None:
        """Ask what follows from the answers."""
        plain = self._plain
        if plain is None or not plain.done:
            return
        if plain.answer is None:
            self.why = f"no answer from {self.server}"
            return
        other = _other(plain.answer)
        if other is None or other.ip == self.server.ip or other.port == self.server.port:
            self.why = f"{self.server} has no other address and port to answer from"
            return
        if not self._changed:
            for ip in (True, False):
                change = change_request(ip=ip, port=True)
                self._changed.append(self._ask(Socket.FILTERING, self.server, now, change))
        here, there = self.server, other
        order = [here, Endpoint(there.ip, here.port), there, Endpoint(here.ip, there.port)]
        asked = len(self._mapping)
        if asked < len(order) and (not asked or self._mapping[-1].done):
            self._mapping.append(self._ask(Socket.MAPPING, order[asked], now))

    def _ask(self, socket: Socket, to: Endpoint, now: float, *attributes: tuple[int, bytes]) -> _Request:
        message = Message(Method.BINDING, Class.REQUEST, self.chance(TRANSACTION_SIZE), attributes)
        request = self._requests[message.transaction] = _Request(socket, to, message, now)
        return request

    def _filtering_kind(self) -> Filtering:
        if len(self._changed) < 2 or not all(request.done for request in self._changed):
            return Filtering.UNKNOWN
        both, port = self._changed
        if both.answer is not None:
            return Filtering.ENDPOINT_INDEPENDENT
        return Filtering.ADDRESS_DEPENDENT if port.answer is not None else Filtering.ADDRESS_AND_PORT_DEPENDENT

    def _mapping_kind(self, mapped: list[Endpoint]) -> Mapping:
        if len(mapped) < 3:
            return Mapping.UNKNOWN
        if all(each == self.local[1] for each in mapped):
            return Mapping.NONE
        first, other_ip, other_both = mapped[:3]
        if first == other_ip:
            return Mapping.ENDPOINT_INDEPENDENT
        return Mapping.ADDRESS_DEPENDENT if other_ip == other_both else Mapping.ADDRESS_AND_PORT_DEPENDENT


@dataclass(slots=True)
class FreshMappings:
    """Asks a server from several fresh sockets at once: which external ports does our NAT give one after the other?"""

    server: Endpoint
    count: int
    chance: Callable[[int], bytes]
    """Gives so many random bytes."""
    mapped: dict[int, Endpoint] = field(default_factory=dict)
    """By the number of the socket, as answers come."""
    _requests: dict[bytes, tuple[int, Message]] = field(default_factory=dict)  # `count`
    _due: float | None = None
    _sends: int = 0

    def __post_init__(self) -> None:
        for index in range(self.count):
            message = Message(Method.BINDING, Class.REQUEST, self.chance(TRANSACTION_SIZE))
            self._requests[message.transaction] = (index, message)

    @property
    def open(self) -> bool:
        """Whether answers are still waited for."""
        return len(self.mapped) < self.count and (self._sends <= SENDS)

    def datagrams_to_send(self, now: float) -> list[tuple[int, bytes]]:
        """Return what is due now, each with the number of its socket, in that order."""
        if self._due is not None and now < self._due:
            return []
        self._due = now + FIRST_TIMEOUT * 2**self._sends
        self._sends += 1
        if self._sends > SENDS:
            return []
        return [(i, each.to_bytes(fingerprint=True)) for i, each in self._requests.values() if i not in self.mapped]

    def receive_datagram(self, data: Buffer, source: Endpoint) -> None:
        """Take what came; datagrams that answer nothing are ignored."""
        try:
            message = decode(data)
            known = self._requests.get(message.transaction)
            if known is None or message.kind is not Class.SUCCESS or source != self.server:
                return
            mapped = message.mapped
        except DecodeError:
            return
        if mapped is not None:
            self.mapped.setdefault(known[0], mapped)

    def get_timer(self) -> float | None:
        """Return when to call `datagrams_to_send` next, None before it was called first."""
        return self._due


def _mapped(request: _Request) -> Endpoint | None:
    try:
        return None if request.answer is None else request.answer.mapped
    except DecodeError:
        return None


def _other(answer: Message) -> Endpoint | None:
    try:
        return answer.endpoint(Attribute.OTHER_ADDRESS)
    except DecodeError:
        return None


# ── the server ───────────────────────────────────────────────────────────────────────────────────────────────────────

BURST = 48
"""Answers that one host may have at once; a client's whole test takes seven, with all repetitions 28."""
REFILL = 4.0
"""Further answers a second."""
HOSTS = 4096
"""Hosts whose budget is remembered; the one that was quiet for longest goes first."""
GAIN = 3
"""An answer has at most so many times the bytes of its request: who writes in another's name gains little."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server answers: from which of its endpoints."""

    data: bytes
    source: Endpoint


class StunServer:
    """Answers Binding requests that come to `primary`, or with two addresses to any of the four endpoints."""

    def __init__(self, primary: Endpoint, alternate: Endpoint | None = None) -> None:
        self._primary = primary
        self._alternate = alternate
        self._budgets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # bounded by HOSTS; answers left, when

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Where to listen."""
        one, other = self._primary, self._alternate
        if other is None:
            return (one,)
        return (one, Endpoint(one.ip, other.port), Endpoint(other.ip, one.port), other)

    def receive_datagram(self, data: Buffer, source: Endpoint, at: Endpoint, now: float) -> Reply | None:
        """Return the answer to a datagram that came from `source` to our endpoint `at`; None to be silent."""
        try:
            request = decode(data)
        except DecodeError:
            return None
        if request.kind is not Class.REQUEST or request.method != Method.BINDING or not source.port:
            return None
        if not self._may(observer_group(source.ip), now):
            return None
        if unknown := request.unknown():
            return Reply(_refusal(request, unknown), at)
        try:
            origin = self._origin(request, at)
        except DecodeError:
            return None
        return None if origin is None else Reply(self._answer(request, source, at, origin, len(data)), origin)

    def _origin(self, request: Message, at: Endpoint) -> Endpoint | None:
        change = request.value(Attribute.CHANGE_REQUEST)
        ip, port = (False, False) if change is None else read_change_request(change)
        if not (ip or port):
            return at
        return None if self._alternate is None else self._changed(at, ip=ip, port=port)

    def _changed(self, at: Endpoint, *, ip: bool = True, port: bool = True) -> Endpoint:
        one, other = self._primary, self._alternate
        assert other is not None
        ips, ports = {one.ip: other.ip, other.ip: one.ip}, {one.port: other.port, other.port: one.port}
        return Endpoint(ips[at.ip] if ip else at.ip, ports[at.port] if port else at.port)

    def _answer(self, request: Message, source: Endpoint, at: Endpoint, origin: Endpoint, size: int) -> bytes:
        """The answer with as much as it may hold, what matters most first."""
        wanted = [xor_mapped(source, request.transaction)]
        if self._alternate is not None:
            wanted.append(address(Attribute.OTHER_ADDRESS, self._changed(at)))
        wanted.append(address(Attribute.RESPONSE_ORIGIN, origin))
        for count in range(len(wanted), 0, -1):
            message = Message(Method.BINDING, Class.SUCCESS, request.transaction, tuple(wanted[:count]))
            answer = message.to_bytes(fingerprint=True)
            if len(answer) <= GAIN * size:
                return answer
        return message.to_bytes()

    def _may(self, host: str, now: float) -> bool:
        left, since = self._budgets.pop(host, (float(BURST), now))
        left = min(float(BURST), left + (now - since) * REFILL)
        may = left >= 1
        self._budgets[host] = (left - 1 if may else left, now)
        if len(self._budgets) > HOSTS:
            self._budgets.popitem(last=False)
        return may

    def __len__(self) -> int:
        return len(self._budgets)


def _refusal(request: Message, unknown: tuple[int, ...]) -> bytes:
    """420: some attributes must be understood and are not."""
    types = b"".join(number.to_bytes(2, "big") for number in unknown[:2])  # more would be more than was asked with
    attributes = (error_code(420, ""), (int(Attribute.UNKNOWN_ATTRIBUTES), types))
    return Message(request.method, Class.ERROR, request.transaction, attributes).to_bytes()
