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
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Any

from lab.errors import KernelError
from lab.kernel.namespace import Namespace

Flow = tuple[str, int, str, int]
"Source address and port, destination address and port; ports are 0 where the protocol has none."

_NETLINK_NETFILTER = 12
_CT_NEW, _CT_GET, _CT_DELETE = 0x100, 0x101, 0x102
_GROUPS = 0b111
"The multicast groups NEW, UPDATE and DESTROY, as bind(2) takes them."
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_REQUEST_ACK, _REQUEST_DUMP = 0x1 | 0x4, 0x1 | 0x300
_CREATE = 0x400
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_TYPE_MASK, _NESTED = 0x3FFF, 0x8000
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


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the table."""

    orig: Flow
    reply: Flow
    family: int
    key: bytes
    "what the kernel knows it by: its CTA_TUPLE_ORIG, header included"


def flush(ns: Namespace) -> None:
    """Drop every entry of a namespace. Raises KernelError."""
    with _conversation(ns) as link:
        code = _delete(link, socket.AF_UNSPEC, b"")
    if code:
        raise KernelError(f"{ns.name}: conntrack flush: {os.strerror(code)}")


def entries(ns: Namespace) -> list[Entry]:
    """Every entry of a namespace. Raises KernelError."""
    found: list[Entry] = []
    with _conversation(ns) as link:
        link.send(_request(_CT_GET, _REQUEST_DUMP, socket.AF_UNSPEC, b""))
        # Each datagram holds at least one entry, so this ends; the table itself is bounded by nf_conntrack_max.
        while not _take_entries(link.recv(1 << 16), found):
            pass
    return found


def forget(ns: Namespace, entry: Entry) -> None:
    """Drop one entry, if it is still there. Raises KernelError."""
    with _conversation(ns) as link:
        code = _delete(link, entry.family, entry.key)
    if code not in (0, errno.ENOENT):
        raise KernelError(f"{ns.name}: conntrack: {os.strerror(code)}")


@contextmanager
def _conversation(ns: Namespace) -> Iterator[socket.socket]:
    try:
        with ns.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as link:
            link.settimeout(_ANSWER_WITHIN)
            yield link
    except OSError as error:
        raise KernelError(f"{ns.name}: conntrack: {error}") from error


def _request(kind: int, flags: int, family: int, body: bytes) -> bytes:
    head = struct.pack("=BBH", family, 0, 0)
    return _HEADER.pack(_HEADER.size + len(head) + len(body), kind, flags, 1, 0) + head + body


def _delete(link: socket.socket, family: int, key: bytes) -> int:
    """Delete one entry, or all if no key is given; returns the error code, 0 if it was done."""
    link.send(_request(_CT_DELETE, _REQUEST_ACK, family, key))
    answer = link.recv(1 << 16)
    _, kind, *_ = _HEADER.unpack_from(answer)
    (code,) = struct.unpack_from("=i", answer, _HEADER.size)
    return -int(code) if kind == _NLMSG_ERROR else errno.EPROTO


def _take_entries(data: bytes, found: list[Entry]) -> bool:
    """Read a datagram of the dump; True when it was the last."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, at)
        if kind == _NLMSG_DONE:
            return True
        if kind == _NLMSG_ERROR:
            (code,) = struct.unpack_from("=i", data, at + _HEADER.size)
            raise OSError(-code, os.strerror(-code))
        family = data[at + _HEADER.size]
        parts = dict(_attributes(data[at + _HEADER.size + 4 : at + length]))
        raw = parts.get(_TUPLE_ORIG, b"")
        key = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(raw), _TUPLE_ORIG | _NESTED) + raw
        found.append(Entry(_tuple(raw)[1], _tuple(parts.get(_TUPLE_REPLY, b""))[1], family, key))
        at += max((length + 3) & ~3, _HEADER.size)
    return False


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
