"""The userspace link of cables in private networks: it carries every frame from one half of a cable to the other.

    python -m lab.kernel.cablelink       in the space that shaped cables pass through (`lab.plan.midway`)

It is told and asked as `lab.kernel.userlink` is, and has the same passages decide (`lab.plan.fate`). What is no IP, ARP
above all, passes at once, for the links of the internet do not see it either. Frames are read from rings that are
shared with the kernel, and written one by one; the kernel's stamp says when each came.
"""

from __future__ import annotations

import errno
import select
import socket
import sys
import time
from heapq import heappop, heappush
from typing import Final

from lab.kernel.capture import Frame, Ring
from lab.kernel.userlink import AT_A_TIME, EARLY, LinkCount, serve
from lab.plan.fate import NO_FLIP, Passage
from lab.plan.shaping import CableLink, Shaping, far_port, near_port

RING_BYTES: Final = 2 << 20
"for each half of a cable: 1280 frames that wait to be read"
MAX_WAITING: Final = 1 << 16
"frames on their way on one half of a cable; more are dropped and counted"
_ETHERNET: Final = 14
_IPV6_HEADER: Final = 40
_IP: Final = (b"\x08\x00", b"\x86\xdd")
_GONE: Final = (errno.ENETDOWN, errno.ENXIO)
"a pulled cable carries nothing"


class _Half:
    """What comes in at one port halfway along a cable, and goes out at the other."""

    def __init__(self, port: str, seed: str) -> None:
        self._seed = seed
        self._changes = 0
        self.ring = Ring(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0), port, 0, RING_BYTES, port)
        self.ring.ignore_outgoing()
        self.passage: Passage | None = None
        self.taken = self.doubled = self.spoiled = self.lost = self.dropped = self.overruns = 0
        "lost and dropped: by passages that have been replaced, and for want of room"
        self.waiting = 0
        self.latest = 0.0

    def become(self, passage: Passage) -> None:
        """Have another passage decide from now on."""
        if self.passage is not None:
            self.lost += self.passage.lost
            self.dropped += self.passage.dropped
        self.passage = passage


class _Cable:
    """A cable in action."""

    def __init__(self, number: int, link: CableLink, seed: int) -> None:
        self.link: CableLink | None = None
        self.changes = -1
        self._seed = f"{seed}/{link.space}/{link.port}"
        # What comes in at the far port is on its way up, and leaves at the near one.
        self.up, self.down = (_Half(port(number), self._seed) for port in (far_port, near_port))
        self.change(link)

    def change(self, link: CableLink) -> None:
        """Be another link from now on; what is on its way keeps the time it was given."""
        if self.link is None or (link.up, link.down) != (self.link.up, self.link.down):
            self.changes += 1
            again = f"/{self.changes}" if self.changes else ""
            self.up.become(Passage(link.up, f"{self._seed}/up{again}"))
            self.down.become(Passage(link.down, f"{self._seed}/down{again}"))
        self.link = link

    def count(self) -> LinkCount:
        """What it has done."""
        halves = (self.up, self.down)
        for half in halves:
            half.overruns += half.ring.dropped()
        passages = [half.passage for half in halves if half.passage is not None]
        assert self.link is not None
        return LinkCount(
            f"{self.link.space}/{self.link.port}",
            sum(half.taken for half in halves),
            sum(half.lost for half in halves) + sum(passage.lost for passage in passages),
            sum(half.dropped for half in halves) + sum(passage.dropped for passage in passages),
            sum(half.doubled for half in halves),
            sum(half.spoiled for half in halves),
            sum(half.overruns for half in halves),
            round(max(half.latest for half in halves), 6),
        )


class Cables:
    """All shaped cables of one network."""

    def __init__(self) -> None:
        self._cables: list[_Cable] = []
        self._waiting: list[tuple[float, int, bytes, _Half, _Half]] = []
        "by time: the frame, the half that it came in by, and the one whose port it leaves by; bounded by MAX_WAITING"
        self._order = 0

    def shape(self, shaping: Shaping) -> None:
        """Be these links from now on. The cables are always the same ones."""
        if not self._cables:
            self._cables = [_Cable(number, link, shaping.seed) for number, link in enumerate(shaping.cables)]
        for cable, link in zip(self._cables, shaping.cables, strict=True):
            cable.change(link)

    def counts(self) -> tuple[LinkCount, ...]:
        """What each link has done so far."""
        return tuple(cable.count() for cable in self._cables)

    def run(self, control: int) -> None:
        """Carry frames until there is something to read from `control`."""
        ways = [way for cable in self._cables for way in ((cable.up, cable.down), (cable.down, cable.up))]
        by_descriptor = {here.ring.fileno(): (here, there) for here, there in ways}
        watched = [*by_descriptor, control]
        frames: list[Frame] = []
        while True:
            pause = max(self._waiting[0][0] - time.monotonic(), 0.0) if self._waiting else None
            ready, _, _ = select.select(watched, (), (), pause)
            # Frames are stamped with the time of day and leave by a clock without steps.
            offset = time.time() - time.monotonic()
            for descriptor in ready:
                if descriptor != control:
                    here, there = by_descriptor[descriptor]
                    here.ring.take(frames)
                    for number, (at, _, length, data, _) in enumerate(frames, 1):
                        self._enter(at / 1e9 - offset, data[:length], here, there)
                        if number % AT_A_TIME == 0:
                            self._release(time.monotonic() + EARLY)
                    frames.clear()
                    here.ring.overlook_error()
            self._release(time.monotonic() + EARLY)
            if control in ready:
                return

    def _enter(self, at: float, frame: bytes, here: _Half, there: _Half) -> None:
        passage = here.passage
        assert passage is not None
        if frame[12:14] not in _IP:
            _send(frame, there)
            return
        here.taken += 1
        leaves = passage.departs(min(at, time.monotonic()), len(frame) - _ETHERNET)
        if leaves is None:
            return
        if here.waiting >= MAX_WAITING:
            here.dropped += 1
            return
        copies = 1
        if passage.rewrites:
            frame, copies = _rewritten(frame, passage, here)
        for _ in range(copies):
            self._order += 1
            here.waiting += 1
            heappush(self._waiting, (leaves, self._order, frame, here, there))

    def _release(self, now: float) -> None:
        waiting = self._waiting
        while waiting and waiting[0][0] <= now:
            at, _, frame, here, there = heappop(waiting)
            here.waiting -= 1
            here.latest = max(here.latest, now - at)
            _send(frame, there)


def _rewritten(frame: bytes, passage: Passage, here: _Half) -> tuple[bytes, int]:
    """A frame as the link leaves it, and how many times."""
    header = (frame[_ETHERNET] & 15) * 4 if frame[_ETHERNET] >> 4 == 4 else _IPV6_HEADER
    twice, bit = passage.rewrite(len(frame) - _ETHERNET - header)
    here.doubled += twice
    if bit != NO_FLIP:
        spoiled = bytearray(frame)
        spoiled[_ETHERNET + header + bit // 8] ^= 0x80 >> bit % 8
        frame = bytes(spoiled)
        here.spoiled += 1
    return frame, 1 + twice


def _send(frame: bytes, out: _Half) -> None:
    try:
        out.ring.send(frame)
    except OSError as error:
        if error.errno not in _GONE:
            raise


if __name__ == "__main__":
    sys.exit(serve(Cables()))
