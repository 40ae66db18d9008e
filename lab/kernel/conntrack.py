"""What a router's NAT knows: conntrack entries, as events when they come, change and go; and dropping them all.

ctnetlink, the connection tracking part of nfnetlink (linux/netfilter/nfnetlink_conntrack.h), spoken directly, because
it takes one request and one kind of message. An entry is two tuples: `orig`, the flow's first packet as its sender
wrote it, and `reply`, an answer as it arrives at the router. Their difference is the translation:

    orig  192.168.1.10:4001 → 11.0.3.2:4001      reply  11.0.3.2:4001 → 11.0.1.2:4001      SNAT to 11.0.1.2:4001

Facts:

* An entry is announced when its first packet has left every hook; a packet that a rule drops makes neither.
* Events carry the kernel's own time from Linux 6.14 on (CTA_TIMESTAMP_EVENT; nf_conntrack_timestamp must be 1), else
  they are stamped when they are read, which is why they should be read soon.
* The kernel drops events when the socket's buffer is full and then says ENOBUFS once; `overruns` counts that.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Any

from lab.errors import KernelError
from lab.kernel.namespace import Namespace

Flow = tuple[str, int, str, int]
"Source address and port, destination address and port; ports are 0 where the protocol has none."

_NETLINK_NETFILTER = 12
_CT_NEW, _CT_DELETE = 0x100, 0x102
_GROUPS = 0b111
"The multicast groups NEW, UPDATE and DESTROY, as bind(2) takes them."
_NLMSG_ERROR = 2
_REQUEST_ACK = 0x1 | 0x4
_CREATE = 0x400
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_TYPE_MASK = 0x3FFF
_BUFFER = 1 << 20
"Bytes of receive buffer asked for; an event is some 200, and the host's rmem_max may allow less."
_READ_AT_ONCE = 4096
"Datagrams taken by one `drain()`; the rest waits for the next."
_ANSWER_WITHIN = 10.0

_TUPLE_ORIG, _TUPLE_REPLY, _STATUS, _PROTOINFO, _TIMESTAMP_EVENT = 1, 2, 3, 4, 27
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_SEEN_REPLY, _ASSURED = 1 << 1, 1 << 2
_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmp6"}
_TCP_STATES = (
    "NONE",
    "SYN_SENT",
    "SYN_RECV",
    "ESTABLISHED",
    "FIN_WAIT",
    "CLOSE_WAIT",
    "LAST_ACK",
    "TIME_WAIT",
    "CLOSE",
    "SYN_SENT2",
)


class ConntrackKind(Enum):
    NEW = "new"
    UPDATE = "update"
    DESTROY = "destroy"


@dataclass(frozen=True, slots=True)
class ConntrackEvent:
    """An entry of a router's connection tracking came, changed or went, at Unix seconds `at`."""

    at: float
    router: str
    kind: ConntrackKind
    proto: str
    "tcp, udp, icmp, or the protocol's number"
    orig: Flow
    reply: Flow
    seen_reply: bool | None = None
    "packets went both ways; None: not told"
    assured: bool | None = None
    tcp_state: str | None = None
    "in the kernel's words; SYN_SENT2 is a simultaneous open"

    def to_json(self) -> dict[str, Any]:
        """As a line of `conntrack.jsonl`."""
        return {
            "at": self.at,
            "router": self.router,
            "kind": self.kind.value,
            "proto": self.proto,
            "orig": list(self.orig),
            "reply": list(self.reply),
            "seen_reply": self.seen_reply,
            "assured": self.assured,
            "tcp_state": self.tcp_state,
        }


class ConntrackWatch:
    """A subscription to one router's events, from its making on. Has `fileno()`, for `loop.add_reader`."""

    def __init__(self, ns: Namespace, router: str) -> None:
        """Raises KernelError."""
        self.router = router
        self.overruns = 0
        "How often the kernel had to drop events."
        try:
            self._socket = ns.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
            self._socket.bind((0, _GROUPS))
        except OSError as error:
            raise KernelError(f"{router}: no conntrack events: {error.strerror}") from error
        self._socket.setblocking(False)

    def __enter__(self) -> ConntrackWatch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def fileno(self) -> int:
        """The descriptor that becomes readable when there are events."""
        return self._socket.fileno()

    def drain(self) -> list[ConntrackEvent]:
        """Take the events that wait, without blocking; raises KernelError."""
        events: list[ConntrackEvent] = []
        for _ in range(_READ_AT_ONCE):
            try:
                data = self._socket.recv(1 << 16)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise KernelError(f"{self.router}: conntrack events: {error.strerror}") from error
                self.overruns += 1
                continue
            events += parse_events(data, self.router, time.time())
        return events

    def close(self) -> None:
        """End the subscription."""
        self._socket.close()


def flush(ns: Namespace) -> None:
    """Drop every entry of a namespace. Raises KernelError."""
    body = struct.pack("=BBH", socket.AF_UNSPEC, 0, 0)
    request = _HEADER.pack(_HEADER.size + len(body), _CT_DELETE, _REQUEST_ACK, 1, 0) + body
    try:
        with ns.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as link:
            link.settimeout(_ANSWER_WITHIN)
            link.send(request)
            answer = link.recv(1 << 16)
    except OSError as error:
        raise KernelError(f"{ns.name}: conntrack flush: {error}") from error
    _, kind, *_ = _HEADER.unpack_from(answer)
    (code,) = struct.unpack_from("=i", answer, _HEADER.size)
    if kind != _NLMSG_ERROR or code:
        raise KernelError(f"{ns.name}: conntrack flush: {os.strerror(-code)}")


def parse_events(data: bytes, router: str, now: float) -> list[ConntrackEvent]:
    """Read a datagram of ctnetlink events; those without a time of their own get `now`."""
    events: list[ConntrackEvent] = []
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, flags, _, _ = _HEADER.unpack_from(data, at)
        if kind in (_CT_NEW, _CT_DELETE):
            events.append(_event(data[at + _HEADER.size + 4 : at + length], _kind(kind, flags), router, now))
        at += max((length + 3) & ~3, _HEADER.size)
    return events


def _kind(message: int, flags: int) -> ConntrackKind:
    if message == _CT_DELETE:
        return ConntrackKind.DESTROY
    return ConntrackKind.NEW if flags & _CREATE else ConntrackKind.UPDATE


def _event(data: bytes, kind: ConntrackKind, router: str, now: float) -> ConntrackEvent:
    found = dict(_attributes(data))
    stamp, status = found.get(_TIMESTAMP_EVENT), found.get(_STATUS)
    bits = None if status is None else int.from_bytes(status, "big")
    proto, orig = _tuple(found.get(_TUPLE_ORIG, b""))
    _, reply = _tuple(found.get(_TUPLE_REPLY, b""))
    return ConntrackEvent(
        at=now if stamp is None else int.from_bytes(stamp, "big") / 1e9,
        router=router,
        kind=kind,
        proto=_PROTOCOLS.get(proto, str(proto)),
        orig=orig,
        reply=reply,
        seen_reply=None if bits is None else bool(bits & _SEEN_REPLY),
        assured=None if bits is None else bool(bits & _ASSURED),
        tcp_state=_tcp_state(found.get(_PROTOINFO, b"")),
    )


def _tuple(data: bytes) -> tuple[int, Flow]:
    """The protocol's number and the flow of a CTA_TUPLE."""
    parts = dict(_attributes(data))
    addresses = dict(_attributes(parts.get(_TUPLE_IP, b"")))
    source = addresses.get(1) or addresses.get(3) or bytes(4)
    destination = addresses.get(2) or addresses.get(4) or bytes(4)
    number, source_port, destination_port = (
        int.from_bytes(dict(_attributes(parts.get(_TUPLE_PROTO, b""))).get(key, b""), "big") for key in (1, 2, 3)
    )
    return number, (_address(source), source_port, _address(destination), destination_port)


def _address(raw: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw)


def _tcp_state(protoinfo: bytes) -> str | None:
    state = dict(_attributes(dict(_attributes(protoinfo)).get(1, b""))).get(1)
    return _TCP_STATES[state[0]] if state and state[0] < len(_TCP_STATES) else None


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and payload of each netlink attribute; ends at the first that does not fit."""
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size or at + length > len(data):
            return
        yield kind & _TYPE_MASK, data[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
