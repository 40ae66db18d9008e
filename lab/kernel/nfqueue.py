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
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lab.errors import KernelError
from lab.kernel.namespace import Namespace
from lab.kernel.nfnetlink import (
    ACK,
    ANSWER_WITHIN,
    ATTRIBUTE,
    GENERIC,
    MAX_MESSAGE,
    MESSAGE,
    NETLINK_NETFILTER,
    REQUEST,
    append_rules,
    attribute,
    check,
    expression,
    message,
    rule,
)

ACCEPT: Final = 1
DROP: Final = 0
HEADERS_ONLY: Final = 20
"bytes of each packet that are copied: no IP packet is shorter, so they are always the last of the message"
WHOLE: Final = 0xFFFF
RECEIVE_BUFFER: Final = 4 << 20
"bytes; the kernel grants at most net.core.rmem_max, which is 208 KiB on most machines: some 250 packets"
MAX_WAITING: Final = 1 << 16
"packets that one queue holds; more are dropped and counted"
MAX_VERDICTS: Final = 64
"in one send; beyond, the kernel would hold its lock for long"

_SO_TIMESTAMP: Final = 29
_SUBSYSTEM_QUEUE: Final = 3
_PACKET, _VERDICT, _CONFIG = (_SUBSYSTEM_QUEUE << 8 | kind for kind in range(3))
_FAMILY_INET: Final = 1

_CONFIG_COMMAND, _CONFIG_PARAMS, _CONFIG_MAXLEN = 1, 2, 3
_BIND, _COPY_PACKET = 1, 2
_VERDICT_HEADER, _PAYLOAD, _TIMESTAMP = 2, 10, 4

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
    try:
        append_rules(ns, _FAMILY_INET, [_rule(table, chain, queue) for chain, queue in chains])
    except OSError as error:
        hint = ": this kernel has neither xt_NFQUEUE nor NFT_COMPAT" if error.errno == errno.ENOENT else ""
        raise KernelError(f"{ns.name}: no rule for a queue: {error.strerror}{hint}") from error


def _check_answer(answer: bytes) -> None:
    """Raise what the kernel says of a verdict, unless it has let go of the packet itself: its cable was pulled."""
    try:
        check(answer)
    except FileNotFoundError:
        return
    raise KernelError("nfnetlink_queue: a message is laid out as in no kernel that this was made for")


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
        "Unix seconds of its arrival, if the kernel took the time: it does while any socket asks for it (`keep_time`)"
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
        verdict = MESSAGE.pack(32, _VERDICT, REQUEST, 0, 0) + GENERIC.pack(0, 0, number) + ATTRIBUTE.pack(12, 2)
        self._accept, self._drop = (verdict + struct.pack("!I", what) for what in (ACCEPT, DROP))
        self._verdicts: list[bytes] = []
        self._whole = False
        "whether whole packets were ever asked for: then the place of the header has to be looked for"
        self._buffer = bytearray(MAX_MESSAGE)
        self.socket.settimeout(ANSWER_WITHIN)
        for setting in (
            attribute(_CONFIG_COMMAND, struct.pack("!BBH", _BIND, 0, 0)),
            attribute(_CONFIG_MAXLEN, struct.pack("!I", MAX_WAITING)),
            _copying(HEADERS_ONLY),
        ):
            self.socket.send(message(_CONFIG, REQUEST | ACK, 0, number, setting))
            check(self.socket.recv(MAX_MESSAGE))
        self.socket.setblocking(False)

    def copy(self, *, whole: bool) -> None:
        """Have the kernel hand over whole packets, or their headers only; packets under way come as they were."""
        # Without asking for an answer, which could come behind any number of packets; an error comes unasked.
        request = message(_CONFIG, REQUEST, 0, self.number, _copying(WHOLE if whole else HEADERS_ONLY))
        self.socket.send(request)
        self._whole = True

    def take(self) -> Packet | None:
        """The next packet; None if there is none now."""
        buffer = self._buffer
        while True:
            try:
                size = self.socket.recv_into(buffer)
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.overruns += 1
                continue
            identity, indev, outdev, out, stamp = _HEAD.unpack_from(buffer)
            if indev == _INDEV and outdev == _OUTDEV:
                break
            _check_answer(bytes(buffer[:size]))
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
        verdict = attribute(_VERDICT_HEADER, struct.pack("!I", ACCEPT) + packet.identity)
        self._verdicts.append(message(_VERDICT, REQUEST, 0, self.number, verdict + attribute(_PAYLOAD, data)))

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


def keep_time() -> socket.socket:
    """A socket that has the kernel take the time of every packet that comes to any interface, while it is open.

    A capture is no such socket, and without one a packet is as old as its program was quick to read it.
    """
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMP, 1)
    return made


def interface_key(index: int) -> bytes:
    """The number of an interface as packets have it."""
    return index.to_bytes(4, "big")


def _copying(length: int) -> bytes:
    return attribute(_CONFIG_PARAMS, struct.pack("!IB", length, _COPY_PACKET))


def _payload(buffer: bytearray, size: int) -> bytes:
    at = MESSAGE.size + GENERIC.size
    while at < size:
        length, kind = ATTRIBUTE.unpack_from(buffer, at)
        if kind == _PAYLOAD:
            return bytes(buffer[at + ATTRIBUTE.size : at + length])
        at += (length + 3) & ~3
    raise KernelError("nfnetlink_queue: a message without a packet")


def _rule(table: str, chain: str, queue: int) -> bytes:
    """A rule whose one expression is the target NFQUEUE, revision 3, for one queue."""
    info = struct.pack("=HHHxx", queue, 1, 0)
    target = attribute(1, b"NFQUEUE\0") + attribute(2, struct.pack("!I", 3)) + attribute(3, info)
    return rule(table, chain, [expression("target", target)])
