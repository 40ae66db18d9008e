"""The userspace link: a program that holds packets back, drops, doubles and spoils them, where the kernel has no netem.

    python -m lab.kernel.userlink        in the network namespace of the core

    stdin   {"shape": {…}}    a `Shaping`, first of all and again whenever a link changes
            {"tell": true}
    stdout  {"ok": true}      the shaping is in force
            {"links": […]}    what each has done so far, `LinkCount`s

It takes packets from one queue for each uplink (`lab.kernel.nfqueue`), asks each `Passage` on their way when they leave
it (`lab.plan.fate`), and gives the verdict at that time. It has a process of its own so that nothing else that the lab
does delays packets, and one thread: 50,000 packets a second need some 40 % of a core. Where root made the sandbox that
process runs ahead of all others (`sandbox.hurry`): on a busy machine nearly all that is late is late for want of a
processor.

A passage whose next answer depends on when a packet comes (a rate, jitter) is asked when the packet gets there and not
before: packets from far away do not hold up those from near by.
"""

from __future__ import annotations

import gc
import json
import select
import socket
import sys
import time
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any, Final, Protocol

from lab.errors import LabError
from lab.kernel import syscalls
from lab.kernel.nfqueue import Packet, Queue, interface_key, keep_time
from lab.model.plain import from_plain, to_plain
from lab.plan.fate import NO_FLIP, Passage
from lab.plan.shaping import Shaping, Uplink, queue_number

EARLY: Final = 20e-6
"seconds that a packet may leave too early; waking up takes longer than that"
AT_A_TIME: Final = 32
"packets that are taken from one queue before others have their turn, and those that are due: some 10 µs for each"
OLDEST: Final = 0.25
"seconds; a packet that waited longer to be read came before a step of the clock"
_IPV6_HDRINCL: Final = 36
_IPV6_HEADER: Final = 40


@dataclass(frozen=True, slots=True)
class LinkCount:
    """What one uplink has done to packets."""

    name: str
    taken: int
    "packets from it that were looked at"
    lost: int
    "by intention, in either direction"
    dropped: int
    "for want of room in a buffer, in either direction"
    doubled: int
    spoiled: int
    overruns: int
    "times that packets came faster than they were read; the network was not the one asked for"
    latest: float
    "seconds that the latest packet from it left too late"


class _Port:
    """An uplink in action."""

    def __init__(self, uplink: Uplink, queue: Queue, seed: int) -> None:
        self.uplink = uplink
        self.queue = queue
        self.changes = 0
        self.up = Passage(uplink.up, f"{seed}/{uplink.name}/up")
        self.down = Passage(uplink.down, f"{seed}/{uplink.name}/down")
        self.taken = self.doubled = self.spoiled = 0
        self.earlier = (0, 0)
        "lost and dropped by passages that have been replaced"
        self.latest = 0.0

    def change(self, uplink: Uplink, seed: int) -> None:
        """Have the link be another one from now on; what is on its way keeps the time it was given."""
        if (uplink.up, uplink.down) != (self.uplink.up, self.uplink.down):
            self.changes += 1
            self.earlier = (self.lost, self.dropped)
            self.up = Passage(uplink.up, f"{seed}/{uplink.name}/up/{self.changes}")
            self.down = Passage(uplink.down, f"{seed}/{uplink.name}/down/{self.changes}")
        self.uplink = uplink

    @property
    def lost(self) -> int:
        return self.earlier[0] + self.up.lost + self.down.lost

    @property
    def dropped(self) -> int:
        return self.earlier[1] + self.up.dropped + self.down.dropped

    def count(self) -> LinkCount:
        overruns = self.queue.overruns
        return LinkCount(
            self.uplink.name,
            self.taken,
            self.lost,
            self.dropped,
            self.doubled,
            self.spoiled,
            overruns,
            round(self.latest, 6),
        )


class _Way:
    """From one uplink to another."""

    __slots__ = ("distance", "down", "port", "queue", "up")

    def __init__(self, port: _Port, distance: float, there: _Port | None) -> None:
        self.port = port
        self.queue = port.queue
        self.up = port.up
        self.distance = distance
        self.down = there.down if there is not None else None


class UserLink:
    """All links of one core."""

    def __init__(self) -> None:
        self._shaping = Shaping()
        self._ports: list[_Port] = []
        self._by_interface: dict[bytes, _Port] = {}
        self._ways: dict[tuple[_Port, bytes], _Way] = {}
        "bounded by the square of the uplinks; made when first needed, forgotten when a link changes"
        self._waiting: list[tuple[float, int, Packet, _Way, bool]] = []
        "by time: the packet leaves then, or gets to the passage down; bounded by MAX_WAITING for each queue"
        self._order = 0
        self._senders: dict[int, socket.socket] = {}
        self._time = keep_time()

    def shape(self, shaping: Shaping) -> None:
        """Be these links from now on. The uplinks are always the same ones."""
        if not self._ports:
            queues = (Queue(queue_number(position)) for position in range(len(shaping.uplinks)))
            self._ports = [
                _Port(link, queue, shaping.seed) for link, queue in zip(shaping.uplinks, queues, strict=True)
            ]
        for port, uplink in zip(self._ports, shaping.uplinks, strict=True):
            port.change(uplink, shaping.seed)
        self._shaping = shaping
        self._ways.clear()
        self._by_interface = {interface_key(socket.if_nametoindex(p.uplink.name)): p for p in self._ports}
        arriving = any(port.down.rewrites for port in self._ports)
        for port in self._ports:
            port.queue.copy(whole=arriving or port.up.rewrites)

    def counts(self) -> tuple[LinkCount, ...]:
        """What each link has done so far."""
        return tuple(port.count() for port in self._ports)

    def run(self, control: int) -> None:
        """Carry packets until there is something to read from `control`."""
        ports = {port.queue.socket.fileno(): port for port in self._ports}
        watched = [*ports, control]
        while True:
            pause = max(self._waiting[0][0] - time.monotonic(), 0.0) if self._waiting else None
            ready, _, _ = select.select(watched, (), (), pause)
            # Packets are stamped with the time of day and leave by a clock without steps.
            offset = time.time() - time.monotonic()
            for descriptor in ready:
                if descriptor != control:
                    self._take(ports[descriptor], offset)
            self._release(time.monotonic() + EARLY)
            for port in self._ports:
                port.queue.flush()
            if control in ready:
                return

    def _take(self, port: _Port, offset: float) -> None:
        now = time.monotonic()
        take, ways = port.queue.take, self._ways
        for _ in range(AT_A_TIME):
            packet = take()
            if packet is None:
                return
            port.taken += 1
            at = now
            if packet.at is not None and 0.0 < now - (packet.at - offset) < OLDEST:
                at = packet.at - offset
            way = ways.get((port, packet.out)) or self._find_way(port, packet.out)
            self._enter(packet, way, way.up, at, last=False)

    def _find_way(self, port: _Port, out: bytes) -> _Way:
        there = self._by_interface.get(out)
        distance = self._shaping.distance(port.uplink, there.uplink) if there else 0.0
        way = self._ways[port, out] = _Way(port, distance, there)
        return way

    def _enter(self, packet: Packet, way: _Way, passage: Passage, at: float, *, last: bool) -> None:
        """Have a packet come to a passage, and decide what is next, or when that is decided."""
        leaves = passage.departs(at, packet.length)
        if leaves is None:
            way.queue.drop(packet)
            return
        if passage.rewrites and packet.data is not None:
            self._rewrite(packet, way, passage)
        if not last:
            leaves += way.distance
            down = way.down
            if down is None:
                last = True
            elif not down.ordered:
                self._enter(packet, way, down, leaves, last=True)
                return
        self._order += 1
        heappush(self._waiting, (leaves, self._order, packet, way, last))

    def _release(self, now: float) -> None:
        waiting = self._waiting
        while waiting and waiting[0][0] <= now:
            at, _, packet, way, last = heappop(waiting)
            if not last and way.down is not None:
                self._enter(packet, way, way.down, at, last=True)
                continue
            late = now - at
            if late > way.port.latest:
                way.port.latest = late
            if packet.changed:
                way.queue.replace(packet, packet.data or b"")
            else:
                way.queue.accept(packet)
            if packet.copies:
                self._send_again(packet, way)

    def _rewrite(self, packet: Packet, way: _Way, passage: Passage) -> None:
        data = packet.data or b""
        header = (data[0] & 15) * 4 if data[0] >> 4 == 4 else _IPV6_HEADER
        twice, bit = passage.rewrite(packet.length - header)
        if twice:
            packet.copies += 1
            way.port.doubled += 1
        if bit != NO_FLIP:
            spoiled = bytearray(data)
            spoiled[header + bit // 8] ^= 0x80 >> bit % 8
            packet.data, packet.changed = bytes(spoiled), True
            way.port.spoiled += 1

    def _send_again(self, packet: Packet, way: _Way) -> None:
        """Send copies by ourselves, routed as the original is: through `output`, so they come past no queue again."""
        data = packet.data or b""
        way.queue.flush()
        for _ in range(packet.copies):
            if data[0] >> 4 == 4:
                self._sender(socket.AF_INET).sendto(data, (socket.inet_ntop(socket.AF_INET, data[16:20]), 0))
            else:
                self._sender(socket.AF_INET6).sendto(data, (socket.inet_ntop(socket.AF_INET6, data[24:40]), 0))

    def _sender(self, family: int) -> socket.socket:
        if family not in self._senders:
            made = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
            if family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, _IPV6_HDRINCL, 1)
            self._senders[family] = made
        return self._senders[family]


class Carrier(Protocol):
    """What a program of links serves."""

    def shape(self, shaping: Shaping) -> None: ...
    def counts(self) -> tuple[LinkCount, ...]: ...
    def run(self, control: int) -> None: ...


def serve(link: Carrier) -> int:
    """Serve requests until stdin ends."""
    syscalls.wake_exactly()
    # Nothing here makes cycles, and a collection would hold packets up.
    gc.disable()
    control = sys.stdin.buffer
    while line := control.readline():
        answer = _answer(link, json.loads(line))
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
        link.run(control.fileno())
    return 0


def _answer(link: Carrier, request: dict[str, Any]) -> dict[str, Any]:
    try:
        if "shape" in request:
            link.shape(from_plain(request["shape"], Shaping, "shape"))
            return {"ok": True}
        return {"links": [to_plain(count) for count in link.counts()]}
    except (LabError, OSError) as error:
        return {"error": str(error)}


if __name__ == "__main__":
    sys.exit(serve(UserLink()))
