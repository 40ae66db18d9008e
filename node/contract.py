"""What the lines on stdin and stdout say: requests read, answers and events written. Pure; `docs/contract.md` has all.

{"id": 7, "do": "dial", "addr": "/ip4/…/p2p/12D3…"}                        ─► Request
{"id": 7, "ok": {…}}   {"id": 8, "error": "refused", "why": "…"}           ◄─ answers
{"event": "connected", "at": 1763719123.25, "path": "relayed", …}          ◄─ events
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from node.errors import (
    ConfigError,
    ConnectionClosed,
    DeadlineExceeded,
    DecodeError,
    DialError,
    Gated,
    LimitExceeded,
    NodeError,
    PeerIdMismatch,
    RelayError,
    StreamClosed,
    StreamReset,
)
from node.events import (
    Bootstrapped,
    Circuit,
    Complaint,
    Connected,
    DialledBack,
    Disconnected,
    Discovered,
    Identified,
    LatencyCrossed,
    Listening,
    NatLearnt,
    Observed,
    PortMapped,
    PortMappingLost,
    Prediction,
    PunchStage,
    ReachabilityChanged,
    ReservationLost,
    Reserved,
    StreamOpened,
)
from node.logic.limits import NO_BOUND
from node.logic.resources import Kind
from node.names.multiaddr import Multiaddr
from node.names.peerid import PeerId
from node.wire.stun import Endpoint

if TYPE_CHECKING:
    from node.events import Event
    from node.logic.nat import NatKind
    from node.logic.resources import Scope
    from node.net.connection import Connection

MAX_LINE = 1 << 20
"""Bytes."""
DEFAULT_TIMEOUT = 30.0
MAX_TIMEOUT = 3600.0
MAX_PROTOCOL = 256
"""Characters of a protocol's name."""
MAX_WHY = 4096
"""Characters of a reason: what a request holds may come back in it."""

Fields = dict[str, Any]
"""What one JSON object holds; made here and printed, never passed on."""


class BadArgument(NodeError):
    """A request whose arguments cannot be used."""


class Malformed(NodeError):
    """A line that is no request."""


@dataclass(frozen=True, slots=True)
class Request:
    """One command; `id` is None only for a `stop` that wants no answer."""

    id: int | None
    do: str
    arguments: Mapping[str, Any]

    @property
    def timeout(self) -> float:
        """Seconds that the command may take."""
        value = self.arguments.get("timeout", DEFAULT_TIMEOUT)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= MAX_TIMEOUT:
            raise BadArgument(f"`timeout` must be a number of seconds up to {MAX_TIMEOUT:g}, not {reprlib.repr(value)}")
        return float(value)

    def addr(self, name: str) -> Multiaddr:
        """An argument that is a multiaddr with a peer at its end."""
        addr = self._multiaddr(name)
        if addr.peer_id is None:
            raise BadArgument(f"`{name}`: {addr} does not end in /p2p/<peer id>")
        return addr

    def udp(self, name: str) -> Endpoint:
        """An argument that is `/ip4|ip6/…/udp/…`."""
        addr = self._multiaddr(name)
        if addr.ip is None or not addr.port or addr.names[1:] != ("udp",):
            raise BadArgument(f"`{name}`: {addr} is not /ip4|ip6/…/udp/… with a port")
        return Endpoint(addr.ip, addr.port)

    def peer(self, name: str) -> PeerId:
        """An argument that is a peer id."""
        try:
            return PeerId.parse(self._text(name))
        except DecodeError as error:
            raise BadArgument(f"`{name}`: {error}") from error

    def protocol(self, name: str, default: str) -> str:
        """An argument that is a protocol's name, and may be left out."""
        text = self._text(name) if name in self.arguments else default
        if not text.isprintable() or not 0 < len(text) <= MAX_PROTOCOL:
            raise BadArgument(f"`{name}` must be a printable name, not {reprlib.repr(text)}")
        return text

    def size(self, name: str, most: int) -> int:
        """An argument that is a number of bytes."""
        value = self.arguments.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
            raise BadArgument(f"`{name}` must be a number of bytes from 0 to {most}, not {reprlib.repr(value)}")
        return value

    def number(self, name: str, allowed: Sequence[int], default: int) -> int:
        """An argument that is one of a few numbers, and may be left out."""
        value = self.arguments.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value not in allowed:
            raise BadArgument(f"`{name}` must be one of {', '.join(map(str, allowed))}, not {reprlib.repr(value)}")
        return value

    def addrs(self, name: str, most: int) -> list[Multiaddr]:
        """An argument that is a list of multiaddrs, and may be left out."""
        value = self.arguments.get(name, [])
        if not isinstance(value, list) or len(value) > most or not all(isinstance(item, str) for item in value):
            raise BadArgument(f"`{name}` must be a list of at most {most} addresses, not {reprlib.repr(value)}")
        try:
            return [Multiaddr(item) for item in value]
        except DecodeError as error:
            raise BadArgument(f"`{name}`: {error}") from error

    def _multiaddr(self, name: str) -> Multiaddr:
        try:
            return Multiaddr(self._text(name))
        except DecodeError as error:
            raise BadArgument(f"`{name}`: {error}") from error

    def _text(self, name: str) -> str:
        value = self.arguments.get(name)
        if not isinstance(value, str):
            raise BadArgument(f"`{name}` must be a text, not {reprlib.repr(value)}")
        return value


def parse_request(data: bytes) -> Request:
    """Return the request of a line; raises Malformed."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise Malformed("not a JSON object")
    do, id = value.get("do"), value.get("id")
    if not isinstance(do, str):
        raise Malformed("no command in `do`")
    if (not isinstance(id, int) or isinstance(id, bool)) and (do != "stop" or id is not None):
        raise Malformed("no integer in `id`")
    return Request(id, do, value)


def ok(id: int | None, fields: Fields) -> Fields:
    """The answer to a command that was done."""
    return {"id": id, "ok": fields}


def unsupported(id: int | None, what: str) -> Fields:
    """The answer to a command that we do not know or were told not to serve."""
    return {"id": id, "unsupported": what[:MAX_PROTOCOL]}


def failed(id: int | None, error: BaseException) -> Fields:
    """The answer to a command that could not be done."""
    why = " ".join(str(error).split()) or type(error).__name__
    return {"id": id, "error": kind_of(error), "why": why[:MAX_WHY]}


def kind_of(error: BaseException) -> str:
    """Return the contract's word for an error."""
    match error:
        case BadArgument() | ConfigError():
            return "bad-argument"
        case PeerIdMismatch():
            return "wrong-peer"
        case RelayError(status="NO_RESERVATION"):
            return "no-reservation"
        case LimitExceeded() | RelayError(status="RESOURCE_LIMIT_EXCEEDED"):
            return "limit"
        case Gated():
            return "gated"
        case DialError():
            return "dial-failed"
        case DeadlineExceeded() | TimeoutError():
            return "timeout"
        case StreamReset():
            return "reset"
        case StreamClosed() | ConnectionClosed():
            return "closed"
        case NodeError():
            return "refused"
        case _:
            return "internal"


def connection_fields(connection: Connection) -> Fields:
    """What `dial` and `connections` tell of a connection."""
    return {
        "peer": str(connection.peer),
        "path": connection.path.value,
        "direction": connection.direction.value,
        "local": str(connection.local),
        "remote": str(connection.remote),
        "transport": connection.transport,
        "security": connection.security,
        "muxer": connection.muxer,
    }


def nat_fields(kind: NatKind) -> Fields:
    """What `nat` tells, as command and as event."""
    external = None if kind.external is None else str(kind.external)
    return {
        "kind": kind.name,
        "mapping": kind.mapping.value,
        "filtering": kind.filtering.value,
        "ports": kind.ports.value,
        "external": external,
    }


def event_line(name: str, at: float, fields: Fields) -> Fields:
    """One event; fields that are None are left out."""
    return {"event": name, "at": at, **{key: value for key, value in fields.items() if value is not None}}


def texts(items: Iterable[object]) -> list[str]:
    """Addresses, ids or names as JSON has them."""
    return [str(item) for item in items]


def full(addrs: Iterable[Multiaddr], peer: PeerId) -> list[str]:
    """Addresses that end in `/p2p/<peer>`, as somebody would dial them."""
    return [str(addr.with_peer(peer)) for addr in addrs]


def event_fields(event: Event, own: PeerId) -> tuple[str, Fields] | None:
    """Return the name and the fields of an event that the contract knows, None for one that stays within the node."""
    match event:
        case Listening(addr):
            return "listening", {"addr": str(addr.with_peer(own))}
        case Connected():
            return "connected", _connected(event)
        case Disconnected(peer, path, remote, why):
            return "disconnected", {"peer": str(peer), "path": path.value, "remote": str(remote), "why": why}
        case Identified():
            return "identified", _identified(event)
        case Observed(addr, by):
            return "observed", {"addr": str(addr), "by": str(by)}
        case Reserved(relay, expire, addrs):
            return "reserved", {"relay": str(relay), "expire": expire, "addrs": full(addrs, own)}
        case ReservationLost(relay, why):
            return "reservation-lost", {"relay": str(relay), "why": why}
        case PunchStage():
            return "punch", _punch(event)
        case Prediction():
            return "predict", _prediction(event)
        case Circuit():
            return "circuit", _circuit(event)
        case ReachabilityChanged(reachability, addrs):
            verdicts = {str(addr): verdict.value for addr, verdict in addrs}
            return "reachability", {"reachability": reachability.value, "addrs": verdicts}
        case NatLearnt(kind):
            return "nat", nat_fields(kind)
        case DialledBack(peer, addr, reachable, paid):
            return "dialled-back", {"peer": str(peer), "addr": str(addr), "reachable": reachable, "paid": paid}
        case StreamOpened(protocol, peer, path, direction):
            fields = {"protocol": protocol, "peer": str(peer), "path": path.value, "direction": direction.value}
            return "stream", fields
        case Discovered(peer, addrs, by):
            return "discovered", {"peer": str(peer), "addrs": full(addrs, peer), "by": by}
        case PortMapped(addrs, transport, internal, by, lifetime, public):
            where = {"addrs": full(addrs, own), "transport": transport, "internal": internal}
            return "port-mapped", {**where, "by": by, "lifetime": lifetime, "public": public}
        case PortMappingLost(addrs, transport, internal, why):
            where = {"addrs": full(addrs, own), "transport": transport, "internal": internal}
            return "port-mapping-lost", {**where, "why": why}
        case Bootstrapped(peers, failures):
            return "bootstrapped", {"peers": texts(peers), "failed": dict(failures)}
        case LatencyCrossed(peer, rtt, slow):
            return "latency", {"peer": str(peer), "rtt": rtt, "slow": slow}
        case Complaint(why):
            return "complaint", {"why": why}
        case _:
            return None


def _connected(event: Connected) -> Fields:
    return {
        "peer": str(event.peer),
        "path": event.path.value,
        "direction": event.direction.value,
        "local": str(event.local),
        "remote": str(event.remote),
        "transport": event.transport,
        "security": event.security,
        "muxer": event.muxer,
    }


def _identified(event: Identified) -> Fields:
    return {
        "peer": str(event.peer),
        "path": event.path.value,
        "agent": event.agent,
        "protocols": list(event.protocols),
        "addrs": texts(event.addrs),
        "observed": None if event.observed is None else str(event.observed),
    }


def _punch(event: PunchStage) -> Fields:
    return {
        "stage": event.stage.value,
        "peer": str(event.peer),
        "attempt": event.attempt,
        "addrs": texts(event.addrs) or None,
        "rtt": event.rtt,
        "role": event.role,
        "why": event.why,
    }


def _prediction(event: Prediction) -> Fields:
    return {
        "stage": event.stage.value,
        "peer": str(event.peer),
        "attempt": event.attempt,
        "way": event.way,
        "part": event.part,
        "sockets": event.sockets,
        "ports": event.ports,
        "expected": event.expected,
        "sent": event.sent,
        "seconds": event.seconds,
        "why": event.why,
    }


def _circuit(event: Circuit) -> Fields:
    return {
        "stage": event.stage.value,
        "source": str(event.source),
        "target": str(event.target),
        "bytes_up": event.bytes_up,
        "bytes_down": event.bytes_down,
        "why": event.why,
    }


def scope_fields(scope: Scope) -> Fields:
    """What one scope of the resource manager holds, and of how much; what it has no limit for is left out."""
    held = {kind.name.lower().replace("_", "-"): [scope.used[kind], scope.bounds[kind]] for kind in Kind}
    return {"scope": scope.kind, "name": scope.name} | {
        kind: values for kind, values in held.items() if values[1] != NO_BOUND
    }
