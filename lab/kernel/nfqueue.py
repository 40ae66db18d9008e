"""nfnetlink: packets handed to a program, and its verdicts (linux/netfilter/nfnetlink_queue.h); and the rule for it.

    nlmsghdr 16 │ nfgenmsg 4 │ PACKET_HDR 12 │ INDEV 8 │ OUTDEV 8 │ HWADDR 16 │ TIMESTAMP 20 │ … │ PAYLOAD
                               ↑ id                (any order is allowed; the kernel has always had this one)

The head is read at fixed places, checked by the attributes' types, because it is read for every packet. Verdicts are
netlink messages of 32 bytes, and a send may hold any number of them.

nft cannot write `queue` where the kernel has no NFT_QUEUE. Such kernels have xt_NFQUEUE and NFT_COMPAT, by which an
nftables rule holds an iptables target: iptables-nft does the same. The rule is one message, so `iptables` need not be
installed. nft lists such a rule as an empty one.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lab.errors import KernelError
from lab.kernel.namespace import Namespace

NETLINK_NETFILTER: Final = 12
ACCEPT: Final = 1
DROP: Final = 0
HEADERS_ONLY: Final = 20
"bytes of each packet that are copied: no IP packet is shorter, so they are always the last of the message"
WHOLE: Final = 0xFFFF
RECEIVE_BUFFER: Final = 4 << 20
"bytes; the kernel grants at most net.core.rmem_max, which is 208 KiB on most machines: some 250 packets"
MAX_WAITING: Final = 1 << 16
"packets that one queue holds; more are dropped and counted"
MAX_MESSAGE: Final = 1 << 17
MAX_VERDICTS: Final = 64
"in one send; beyond, the kernel would hold its lock for long"

_ANSWER_WITHIN: Final = 10.0
_SUBSYSTEM_QUEUE, _SUBSYSTEM_NFTABLES = 3, 10
_PACKET, _VERDICT, _CONFIG = (_SUBSYSTEM_QUEUE << 8 | kind for kind in range(3))
_NEW_RULE: Final = _SUBSYSTEM_NFTABLES << 8 | 6
_BATCH_BEGIN, _BATCH_END = 16, 17
_REQUEST, _ACK, _CREATE, _APPEND = 0x1, 0x4, 0x400, 0x800
_NLMSG_ERROR: Final = 2
_NESTED: Final = 0x8000
_FAMILY_INET: Final = 1

_CONFIG_COMMAND, _CONFIG_PARAMS, _CONFIG_MAXLEN = 1, 2, 3
_BIND, _COPY_PACKET = 1, 2
_VERDICT_HEADER, _PAYLOAD, _TIMESTAMP = 2, 10, 4

_MESSAGE = struct.Struct("=IHHII")
_NFGEN = struct.Struct("!BBH")
_ATTRIBUTE = struct.Struct("=HH")
_HEAD = struct.Struct("=24x4s6xH6xH4s18xH")
"id, type of INDEV, of OUTDEV, its value, type of TIMESTAMP; as laid out above"
_STAMP = struct.Struct("!68xQQ")
_LENGTHS = struct.Struct("!BxHH")
"version, IPv4's total length, IPv6's payload length"
_INDEV, _OUTDEV = 5, 6
_IPV6_HEADER = 40


@dataclass(frozen=True, slots=True)
class QueueState:
    """What the kernel says of a queue (/proc/net/netfilter/nfnetlink_queue)."""

    number: int
    waiting: int
    overflowed: int
    "packets dropped because MAX_WAITING were waiting"
    unread: int
    "packets dropped because the program did not read fast enough"


def add_queue_rules(ns: Namespace, table: str, chains: Iterable[tuple[str, int]]) -> None:
    """Append to each chain of an inet table the rule that hands its packets to a queue. Raises KernelError.

    Without a program at that queue the packets are dropped: a link that has broken must not look ideal.
    """
    rules = [_rule(table, chain, queue) for chain, queue in chains]
    messages = [_message(_BATCH_BEGIN, _REQUEST, 0, _SUBSYSTEM_NFTABLES)]
    messages += [_message(_NEW_RULE, _REQUEST | _CREATE | _APPEND, _FAMILY_INET, 0, rule) for rule in rules[:-1]]
    # One answer, from the last, is enough: a batch is in force as a whole or not at all, and every error is answered.
    messages.append(_message(_NEW_RULE, _REQUEST | _ACK | _CREATE | _APPEND, _FAMILY_INET, 0, rules[-1]))
    messages.append(_message(_BATCH_END, _REQUEST, 0, _SUBSYSTEM_NFTABLES))
    with ns.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as control:
        control.settimeout(_ANSWER_WITHIN)
        try:
            control.send(b"".join(messages))
            _check(control.recv(MAX_MESSAGE))
        except OSError as error:
            hint = ": this kernel has neither xt_NFQUEUE nor NFT_COMPAT" if error.errno == errno.ENOENT else ""
            raise KernelError(f"{ns.name}: no rule for a queue: {error.strerror}{hint}") from error


def queue_states(ns: Namespace) -> tuple[QueueState, ...]:
    """Every queue of a namespace."""
    with ns.entered():
        try:
            lines = Path("/proc/thread-self/net/netfilter/nfnetlink_queue").read_text("ascii").splitlines()
        except OSError as error:
            raise KernelError(f"{ns.name}: no nfnetlink_queue: {error.strerror}") from error
    rows = (line.split() for line in lines)
    return tuple(QueueState(int(row[0]), int(row[2]), int(row[5]), int(row[6])) for row in rows)


class Packet:
    """A packet that waits for its verdict."""

    __slots__ = ("at", "changed", "copies", "data", "identity", "length", "out")

    def __init__(self, identity: bytes, out: bytes, at: float | None, length: int, data: bytes | None) -> None:
        self.identity = identity
        "by which the verdict names it"
        self.out = out
        "the interface that it is routed to, as `interface_key` has it"
        self.at = at
        "Unix seconds of its arrival, if the kernel took the time: it does while anybody captures"
        self.length = length
        "of the IP packet, bytes"
        self.data = data
        "all of it, if the queue copies whole packets"
        self.changed = False
        self.copies = 0


class Queue:
    """One queue of the network namespace that the thread is in, with a socket of its own."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.overruns = 0
        "times that the kernel found the socket full; `queue_states` has the packets that it cost"
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        self.socket.bind((0, 0))
        verdict = _MESSAGE.pack(32, _VERDICT, _REQUEST, 0, 0) + _NFGEN.pack(0, 0, number) + _ATTRIBUTE.pack(12, 2)
        self._accept, self._drop = (verdict + struct.pack("!I", what) for what in (ACCEPT, DROP))
        self._verdicts: list[bytes] = []
        self._whole = False
        "whether whole packets were ever asked for: then the place of the header has to be looked for"
        self._buffer = bytearray(MAX_MESSAGE)
        self.socket.settimeout(_ANSWER_WITHIN)
        for attribute in (
            _attribute(_CONFIG_COMMAND, struct.pack("!BBH", _BIND, 0, 0)),
            _attribute(_CONFIG_MAXLEN, struct.pack("!I", MAX_WAITING)),
            _copying(HEADERS_ONLY),
        ):
            self.socket.send(_message(_CONFIG, _REQUEST | _ACK, 0, number, attribute))
            _check(self.socket.recv(MAX_MESSAGE))
        self.socket.setblocking(False)

    def copy(self, *, whole: bool) -> None:
        """Have the kernel hand over whole packets, or their headers only; packets under way come as they were."""
        # Without asking for an answer, which could come behind any number of packets; an error comes unasked.
        request = _message(_CONFIG, _REQUEST, 0, self.number, _copying(WHOLE if whole else HEADERS_ONLY))
        self.socket.send(request)
        self._whole = True

    def take(self) -> Packet | None:
        """The next packet; None if there is none now."""
        buffer = self._buffer
        try:
            size = self.socket.recv_into(buffer)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            self.overruns += 1
            return self.take()
        identity, indev, outdev, out, stamp = _HEAD.unpack_from(buffer)
        if indev != _INDEV or outdev != _OUTDEV:
            _check(bytes(buffer[:size]))
            raise KernelError("nfnetlink_queue: a message is laid out as in no kernel that this was made for")
        at = None
        if stamp == _TIMESTAMP:
            seconds, microseconds = _STAMP.unpack_from(buffer)
            at = seconds + microseconds / 1e6
        if self._whole:
            data = _payload(buffer, size)
            version, total, payload = _LENGTHS.unpack_from(data)
        else:
            data = None
            version, total, payload = _LENGTHS.unpack_from(buffer, size - HEADERS_ONLY)
        length = total if version >> 4 == 4 else payload + _IPV6_HEADER
        return Packet(identity, out, at, length, data if data is not None and len(data) >= length else None)

    def accept(self, packet: Packet) -> None:
        """Let a packet go, with the next `flush`."""
        self._verdicts.append(self._accept + packet.identity)

    def drop(self, packet: Packet) -> None:
        """Drop a packet, with the next `flush`."""
        self._verdicts.append(self._drop + packet.identity)

    def replace(self, packet: Packet, data: bytes) -> None:
        """Let a packet go with other bytes, with the next `flush`."""
        verdict = _attribute(_VERDICT_HEADER, struct.pack("!I", ACCEPT) + packet.identity)
        message = _message(_VERDICT, _REQUEST, 0, self.number, verdict + _attribute(_PAYLOAD, data))
        self._verdicts.append(message)

    def flush(self) -> None:
        """Tell the kernel the verdicts since the last time."""
        verdicts = self._verdicts
        if len(verdicts) <= MAX_VERDICTS:
            if verdicts:
                self.socket.send(b"".join(verdicts))
        else:
            for start in range(0, len(verdicts), MAX_VERDICTS):
                self.socket.send(b"".join(verdicts[start : start + MAX_VERDICTS]))
        verdicts.clear()

    def close(self) -> None:
        """Give the queue up; what waits in it is dropped."""
        self.socket.close()


def interface_key(index: int) -> bytes:
    """The number of an interface as packets have it."""
    return index.to_bytes(4, "big")


def _copying(length: int) -> bytes:
    return _attribute(_CONFIG_PARAMS, struct.pack("!IB", length, _COPY_PACKET))


def _payload(buffer: bytearray, size: int) -> bytes:
    at = _MESSAGE.size + _NFGEN.size
    while at < size:
        length, kind = _ATTRIBUTE.unpack_from(buffer, at)
        if kind == _PAYLOAD:
            return bytes(buffer[at + _ATTRIBUTE.size : at + length])
        at += (length + 3) & ~3
    raise KernelError("nfnetlink_queue: a message without a packet")


def _rule(table: str, chain: str, queue: int) -> bytes:
    """NFTA_RULE_* of a rule whose one expression is the target NFQUEUE, revision 3, for one queue."""
    info = struct.pack("=HHHxx", queue, 1, 0)
    target = _attribute(1, b"NFQUEUE\0") + _attribute(2, struct.pack("!I", 3)) + _attribute(3, info)
    expression = _attribute(1, b"target\0") + _attribute(2 | _NESTED, target)
    names = _attribute(1, table.encode() + b"\0") + _attribute(2, chain.encode() + b"\0")
    return names + _attribute(4 | _NESTED, _attribute(1 | _NESTED, expression))


def _attribute(kind: int, data: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(data), kind) + data + bytes(-len(data) % 4)


def _message(kind: int, flags: int, family: int, resource: int, body: bytes = b"") -> bytes:
    head = _MESSAGE.pack(_MESSAGE.size + _NFGEN.size + len(body), kind, flags, 0, 0)
    return head + _NFGEN.pack(family, 0, resource) + body


def _check(answer: bytes) -> None:
    """Raise the OSError that an acknowledgement stands for, if any."""
    if _MESSAGE.unpack_from(answer)[1] == _NLMSG_ERROR:
        (code,) = struct.unpack_from("=i", answer, _MESSAGE.size)
        if code:
            raise OSError(-code, os.strerror(-code))
