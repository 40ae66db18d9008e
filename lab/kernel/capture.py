"""Recording interfaces: a ring shared with the kernel for each, and one pcapng file for all, in order of time.

packet(7) rings of TPACKET_V2. The kernel copies each packet into a slot with its own timestamp and flips the slot's
status; we copy it out and flip it back. No system call per packet, no limit by rmem_max, no program to start.

Facts:

* V2 and not V3: a V3 packet is seen when its block is full or timed out, and a trickle uses up a whole block per
  time-out. A V2 packet is seen at once, so a scenario can ask the wire in the middle of a run. The price is fixed
  slots: a ring of 2 MiB holds 1280 packets, however short; drained every 50 ms that is 25,000 a second. Where a dozen
  labs share the thread that drains, and some implementation asks in a loop (4000 packets in 0.3 s were seen), it is the
  size of the ring that saves the evidence; so a network with few interfaces has larger ones.
* One socket sees what comes in and what goes out, each once. On a bridge it sees what the bridge itself sends and gets:
  the router's side of the LAN. Frames between two hosts of the LAN are at their own interfaces.
* The rings are read one after the other. What is younger than the start of the round (less a margin) is kept for the
  next, because another ring that was read earlier may still get something older: so the file is in order throughout.
* Opening and closing a ring waits for RCU grace periods, some 15 ms; the rings of a set do it at the same time.
"""

from __future__ import annotations

import mmap
import socket
import struct
import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from lab.errors import KernelError
from lab.kernel import pcapng, syscalls
from lab.kernel.namespace import Namespace
from lab.plan.plan import Capture

RING_BYTES = 2 << 20
"of kernel memory for each interface at least"
MAX_RING_BYTES = 8 << 20
RINGS_BYTES = 64 << 20
"of kernel memory for all interfaces of a run, as long as that leaves the least for each"
MAX_FILE_BYTES = 1 << 30
"What comes after is counted as dropped: a capture is evidence of a scenario, no place for a benchmark's payload."

_SOL_PACKET = 263
_RX_RING, _PACKET_STATISTICS, _VERSION, _IGNORE_OUTGOING = 5, 6, 10, 23
_STATISTICS = struct.Struct("=II")
"tpacket_stats: packets, drops"
_TPACKET_V2 = 1
_ETH_P_ALL = 3
_STATUS_USER = 1
_TO_KERNEL = bytes(4)
_OUTGOING = 4

_BLOCK_BYTES = 1 << 16
_SLOT_BYTES = 1600
"66 bytes of headers, 14 of Ethernet, 1500 of payload, rounded up to 16"
_SLOTS_PER_BLOCK = _BLOCK_BYTES // _SLOT_BYTES
SNAPLEN = _SLOT_BYTES - 66

_SLOT = struct.Struct("=IIIHHII")
"tpacket2_hdr: status, length, kept, offset of the Ethernet header, of the network header, seconds, nanoseconds"
_PACKET_TYPE_AT = 32 + 10
"sll_pkttype, in the sockaddr_ll behind the header"
MARGIN_NS = 1_000_000
"The longest that the kernel takes from stamping a packet to handing over its slot."

Frame = tuple[int, int, int, bytes, bool]
"Unix nanoseconds, number of the interface, length, bytes kept, outbound"


@dataclass(frozen=True, slots=True)
class CaptureStats:
    """What became of the packets of a run."""

    packets: int
    "written to the file"
    dropped: tuple[tuple[str, int], ...]
    "interfaces that lost packets, because the ring or the file was full, and how many"


class CaptureSet:
    """The captures of one run: `start()`, `drain()` a few times a second, `stop()`. Not for several threads at once."""

    def __init__(
        self,
        captures: Sequence[Capture],
        spaces: Mapping[str, Namespace],
        path: Path,
        *,
        ring_bytes: int | None = None,
        max_file_bytes: int = MAX_FILE_BYTES,
    ) -> None:
        self._captures = captures
        self._spaces = spaces
        self._path = path
        self._ring_bytes = ring_size(len(captures)) if ring_bytes is None else ring_bytes
        self._room = max_file_bytes
        self._rings: list[Ring] = []
        self._held: list[Frame] = []
        "Taken out of the rings, too young to be written; bounded by what the rings hold."
        self._written = [0] * len(captures)
        self._surplus = [0] * len(captures)
        "Packets that the file had no room for, by interface."
        self._file: BinaryIO | None = None

    def __enter__(self) -> CaptureSet:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._file is not None:
            self.stop()

    def start(self) -> None:
        """Begin: every packet from the return of this on is recorded. Blocks some 20 ms; raises KernelError."""
        heads = (pcapng.interface(capture.name, SNAPLEN) for capture in self._captures)
        self._file = _open(self._path)
        try:
            self._append(b"".join((pcapng.section_header("punchlab"), *heads)))
            with _pool(self._captures) as pool:
                openings = [pool.submit(self._open_ring, number) for number in range(len(self._captures))]
            self._rings = [opening.result() for opening in openings if opening.exception() is None]
            for opening in openings:
                opening.result()
        except BaseException:
            self._close()
            raise

    def drain(self) -> None:
        """Move what the rings hold to the file, without waiting; some 3 µs a packet. Raises KernelError.

        What is younger than `MARGIN_NS` is left for the next time.
        """
        self._drain(time.time_ns() - MARGIN_NS)

    def stop(self) -> CaptureStats:
        """Take what is left, close the rings and the file. Blocks some 20 ms; raises KernelError."""
        try:
            self._drain(before=None)
            dropped = [ring.dropped() + surplus for ring, surplus in zip(self._rings, self._surplus, strict=True)]
            now = time.time_ns()
            counts = enumerate(zip(self._written, dropped, strict=True))
            self._append(b"".join(pcapng.statistics(n, now, kept + lost, lost) for n, (kept, lost) in counts))
        finally:
            self._close()
        names = (capture.name for capture in self._captures)
        return CaptureStats(sum(self._written), tuple((name, n) for name, n in zip(names, dropped, strict=True) if n))

    def _close(self) -> None:
        with _pool(self._rings) as pool:
            for ring in self._rings:
                pool.submit(ring.close)
        self._rings.clear()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open_ring(self, number: int) -> Ring:
        return _ring(self._spaces[self._captures[number].space], self._captures[number], number, self._ring_bytes)

    def _drain(self, before: int | None) -> None:
        """Write, in order, all packets stamped before that many Unix nanoseconds."""
        for ring in self._rings:
            ring.take(self._held)
        self._held.sort(key=itemgetter(0))
        count = len(self._held) if before is None else bisect_left(self._held, before, key=itemgetter(0))
        if not count:
            return
        ready, self._held = self._held[:count], self._held[count:]
        blocks: list[bytes] = []
        for at, number, length, data, outbound in ready:
            block = pcapng.packet(number, at, data, length, outbound=outbound)
            if len(block) > self._room:
                self._surplus[number] += 1
                continue
            self._room -= len(block)
            self._written[number] += 1
            blocks.append(block)
        self._append(b"".join(blocks))

    def _append(self, blocks: bytes) -> None:
        if self._file is None:
            raise KernelError(f"{self._path}: the capture is not running")
        view = memoryview(blocks)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise KernelError(f"{self._path}: {error.strerror}") from error


def ring_size(interfaces: int) -> int:
    """Bytes for the ring of each of so many interfaces."""
    return min(max(RINGS_BYTES // max(interfaces, 1), RING_BYTES), MAX_RING_BYTES)


class Ring:
    """A packet socket on one interface and the memory that it shares with the kernel; all it sees has that number."""

    def __init__(self, made: socket.socket, port: str, number: int, size: int, name: str) -> None:
        """`made` has protocol 0 and is the ring's from now on; `name` is for messages. Raises KernelError."""
        self._number = number
        blocks = max(size // _BLOCK_BYTES, 1)
        slots = blocks * _SLOTS_PER_BLOCK
        self._offsets = [
            slot // _SLOTS_PER_BLOCK * _BLOCK_BYTES + slot % _SLOTS_PER_BLOCK * _SLOT_BYTES for slot in range(slots)
        ]
        self._next = 0
        with ExitStack() as opened:
            try:
                # Protocol 0: the socket sees nothing until it is bound to its interface.
                self._socket = opened.enter_context(made)
                self._socket.setsockopt(_SOL_PACKET, _VERSION, _TPACKET_V2)
                request = struct.pack("=IIII", _BLOCK_BYTES, blocks, _SLOT_BYTES, slots)
                syscalls.setsockopt(self._socket.fileno(), _SOL_PACKET, _RX_RING, request)
                self._memory = opened.enter_context(mmap.mmap(self._socket.fileno(), blocks * _BLOCK_BYTES))
                self._socket.bind((port, _ETH_P_ALL))
            except OSError as error:
                raise KernelError(f"{name}: no capture: {error.strerror}") from error
            opened.pop_all()

    def take(self, packets: list[Frame]) -> None:
        """Add all packets that the ring holds and give their slots back, once around at most."""
        memory, number, unpack = self._memory, self._number, _SLOT.unpack_from
        for _ in self._offsets:
            at = self._offsets[self._next]
            status, length, kept, start, _, seconds, nanoseconds = unpack(memory, at)
            if not status & _STATUS_USER:
                return
            data = memory[at + start : at + start + kept]
            outbound = memory[at + _PACKET_TYPE_AT] == _OUTGOING
            packets.append((seconds * 1_000_000_000 + nanoseconds, number, length, data, outbound))
            memory[at : at + 4] = _TO_KERNEL
            self._next = (self._next + 1) % len(self._offsets)

    def dropped(self) -> int:
        """Packets that found no free slot; asking resets the kernel's count."""
        _, drops = _STATISTICS.unpack(self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, _STATISTICS.size))
        return int(drops)

    def fileno(self) -> int:
        """Readable while the ring holds packets."""
        return self._socket.fileno()

    def ignore_outgoing(self) -> None:
        """See only what comes in."""
        self._socket.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)

    def send(self, frame: bytes) -> None:
        """Put a frame on the interface. Raises OSError."""
        self._socket.send(frame)

    def overlook_error(self) -> None:
        """Let go of what the interface had to say when it went down, or the ring would be readable ever after."""
        self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def close(self) -> None:
        """Give the memory back; waits for RCU."""
        self._memory.close()
        self._socket.close()


def probe(ns: Namespace) -> None:
    """Open a ring in a namespace and close it again, to see whether this can be done. Raises KernelError."""
    _ring(ns, Capture(ns.name, "lo", ns.name), 0, _BLOCK_BYTES).close()


def _ring(ns: Namespace, capture: Capture, number: int, size: int) -> Ring:
    return Ring(ns.socket(socket.AF_PACKET, socket.SOCK_RAW, 0), capture.port, number, size, capture.name)


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("wb", buffering=0)
    except OSError as error:
        raise KernelError(f"{path}: {error.strerror}") from error


def _pool(work: Sequence[object]) -> ThreadPoolExecutor:
    """As many threads as there is work: each of them only waits for the kernel."""
    return ThreadPoolExecutor(max(len(work), 1), thread_name_prefix="capture")
