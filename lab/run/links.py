"""Measure links as NATs are measured: ask for one impairment at a time, send probes, compare (`punchlab links`).

    source of case 1 ── its link ──┐
    source of case 2 ── its link ──┤ core ── sink        all cases at once, each at its own pace
    …                              ┘
    source of case 3 ── its cable ── home ── core ── sink      a link of a private network, behind a router

A probe carries its number, the time it was sent and a checksum; UDP's own is off, so that spoilt probes are seen.
Probes are sent by a process of their own. The load at the end is sent as fast as asked and counted by interfaces, ever
faster until packets are lost or there is no sending as many. How large packets may be is for `lab.run.pathmtu`.
"""

from __future__ import annotations

import os
import platform
import select
import signal
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heapreplace
from pathlib import Path
from typing import Final

from lab.errors import KernelError
from lab.kernel import sandbox, syscalls
from lab.kernel.namespace import Namespace
from lab.kernel.network import Network
from lab.model.impairment import Impairment, Link
from lab.model.presets import PRESETS
from lab.model.topology import INTERNET, Peer, Router, Topology
from lab.observe.quality import UDP_HEADERS, Arrival, LinkReport, Load, Row, Train, compare, delay, sent_at
from lab.plan.build import build
from lab.plan.plan import Plan
from lab.run.pathmtu import measure_sizes

SINK: Final = "sink"
HOME: Final = "home"
"the router that cables are behind"
HERE: Final = "here"
"the sink's region"
PORT: Final = 9000
"the first case's; the others' follow"
SETTLE: Final = 0.3
"seconds after the last probe in which late ones are waited for, beyond what the link is asked to take"
LOAD_LATENCY: Final = 0.02
LOADS: Final = (10_000, 20_000, 30_000, 40_000, 50_000, 60_000, 80_000, 100_000, 120_000, 140_000)
"packets a second"
LOAD_BYTES: Final = 200
LOAD_SECONDS: Final = 1.5
SAMPLE_EVERY: Final = 100
"of the packets of a load one in so many is timed"
RECEIVE_BUFFER: Final = 4 << 20

_PROBE = struct.Struct("!IqI")
"number, nanoseconds it was sent at, CRC of both"
_STAMP = struct.Struct("=qq")
_MEMORY = struct.Struct("=9I")
"what SO_MEMINFO tells; the last is how many packets were dropped"
_SO_NO_CHECK, _SO_TIMESTAMPNS, _SO_MEMINFO = 11, 35, 55


@dataclass(frozen=True, slots=True)
class Case:
    """One link to be measured, and the probes for it."""

    name: str
    asked: Impairment
    count: int
    rate: float
    "probes a second"
    size: int = 100
    "bytes of the IP packet"
    region: bool = False
    "the latency is that between two regions instead of the link's"
    cable: bool = False
    "the link is that of a cable in a private network"


CASES: Final = (
    Case("latency 1ms", Impairment(latency=0.001), 300, 100),
    Case("latency 5ms", Impairment(latency=0.005), 300, 100),
    Case("latency 20ms", Impairment(latency=0.02), 300, 100),
    Case("latency 100ms", Impairment(latency=0.1), 300, 100),
    Case("latency 300ms", Impairment(latency=0.3), 300, 100),
    Case("regions 40ms", Impairment(latency=0.04), 300, 100, region=True),
    # So many that three standard errors of the median of an even distribution are 0.5 ms.
    Case("jitter 5ms", Impairment(latency=0.02, jitter=0.005), 900, 90),
    Case("loss 0.5%", Impairment(loss=0.005), 10_000, 2000),
    Case("loss 5%", Impairment(loss=0.05), 5000, 1000),
    Case("loss 30%", Impairment(loss=0.3), 2500, 500),
    Case("duplicate 3%", Impairment(latency=0.005, duplicate=0.03), 2500, 500),
    Case("reorder 3%", Impairment(latency=0.02, reorder=0.03), 2500, 500),
    Case("corrupt 3%", Impairment(corrupt=0.03), 2500, 500, size=1000),
    Case("rate 1Mbit", Impairment(rate=1_000_000, buffer=25_000), 540, 180, size=1000),
    Case("rate 10Mbit", Impairment(rate=10_000_000, buffer=62_500), 5400, 1800, size=1000),
)
BURSTS: Final = (Case("loss 2% in bursts", Impairment(loss=0.02, loss_burst=4.0), 60_000, 6000),)
"many, for losses in bursts say less than as many by themselves: the standard error is 2.6 times as large here"
CABLES: Final = tuple(
    replace(case, name=f"cable, {case.name}", cable=True)
    for case in (*CASES, *BURSTS)
    if case.name
    in (
        "latency 5ms",
        "latency 100ms",
        "jitter 5ms",
        "loss 5%",
        "loss 2% in bursts",
        "duplicate 3%",
        "reorder 3%",
        "corrupt 3%",
        "rate 10Mbit",
    )
)
"some of them again, for what carries the packets there is another program"
FAST: Final = (Case("rate 50Mbit", Impairment(latency=0.01, rate=50_000_000, buffer=312_500), 18_000, 6000, size=1400),)
PACE: Final = 12_000.0
"probes a second that one process can send on a machine of today; an emulated one sends a tenth of that"
KEPT: Final = 0.8
"of its own pace a train has to keep that shall overfill a buffer"


def measure_links(
    backend: str | None = None, *, loads: tuple[float, ...] = LOADS, pace: float = PACE, machine: str = ""
) -> LinkReport:
    """Build networks of single impairments, send probes, compare. Blocks a minute. Raises KernelError.

    No more than `pace` probes a second are sent, so cases take turns. `machine` is what the report shall call this one.
    """
    rows: list[Row] = []
    left_out: list[str] = []
    used = ""
    for cases in take_turns((CASES, BURSTS, CABLES, FAST), pace):
        trains, used = measure_cases(cases, backend)
        for case in cases:
            kept = sent_at(trains[case.name])
            if case.asked.rate and kept < KEPT * case.rate:
                left_out.append(f"{case.name}: it takes {case.rate:,.0f} probes/s, of which {kept:,.0f} could be sent")
                continue
            # A bit that flips in UDP's own header costs the datagram as well, and is counted there too.
            if (unread := trains[case.name].missed) and not case.asked.corrupt:
                left_out.append(f"{case.name}: {unread} probes that came were not read in time")
                continue
            rows += compare(case.name, case.asked, trains[case.name])
    rows += measure_sizes(backend)
    return LinkReport(
        backend=used,
        machine=machine,
        kernel=platform.release(),
        python=platform.python_version(),
        processors=os.cpu_count() or 1,
        rows=tuple(rows),
        left_out=tuple(left_out),
        loads=tuple(_loads(loads, backend)),
        load_latency=LOAD_LATENCY,
    )


def _loads(rates: tuple[float, ...], backend: str | None) -> Iterator[Load]:
    """One after the other, until packets are lost or there is no sending as many; that one too."""
    for rate in rates:
        load = bear(rate, backend)
        yield load
        if load.arrived < load.sent or load.sent < KEPT * rate * load.seconds:
            return


def take_turns(parts: tuple[tuple[Case, ...], ...], pace: float) -> Iterator[tuple[Case, ...]]:
    """The cases of each part, as many at once as the pace allows, one at least; none but those of a rate are faster."""
    for part in parts:
        turn: list[Case] = []
        for case in (replace(each, rate=min(each.rate, pace)) if each.asked.rate is None else each for each in part):
            if turn and sum(each.rate for each in (*turn, case)) > pace:
                yield tuple(turn)
                turn = []
            turn.append(case)
        yield tuple(turn)


def measure_cases(cases: tuple[Case, ...], backend: str | None = None, seed: int = 1) -> tuple[dict[str, Train], str]:
    """Send the probes of all cases at once; what came of them, by case, and what made the links. Raises KernelError."""
    with _network(cases, backend, seed) as network, ExitStack() as opened:
        sinks, sources = [], []
        for number in range(len(cases)):
            sinks.append(opened.enter_context(_listener(network.spaces[SINK], PORT + number)))
            source = network.spaces[_source(number)]
            sources.append(opened.enter_context(_sender(source, _address(network.plan, SINK), PORT + number)))
        _warm(sources)
        with _child(lambda: _send_all(cases, sources)) as sender:
            arrivals = _receive(sinks, sender, max(_patience(case.asked) for case in cases))
        assert network.links is not None
        _check(network)
        trains = {case.name: Train(case.count, tuple(arrivals[n]), missed(sinks[n])) for n, case in enumerate(cases)}
        return trains, network.links.name


def bear(rate: float, backend: str | None = None, seconds: float = LOAD_SECONDS, *, cable: bool = False) -> Load:
    """Send that many packets a second through one link, and count those that come. Raises KernelError."""
    case = Case("load", Impairment(latency=LOAD_LATENCY), round(rate * seconds), rate, LOAD_BYTES, cable=cable)
    with _network((case,), backend, 1) as network, ExitStack() as opened:
        sink, source = network.spaces[SINK], network.spaces[_source(0)]
        unread = opened.enter_context(_sender(source, _address(network.plan, SINK), PORT))
        timed = opened.enter_context(_sender(source, _address(network.plan, SINK), PORT + 1))
        opened.enter_context(_listener(sink, PORT))
        samples = opened.enter_context(_listener(sink, PORT + 1))
        _warm((unread, timed))
        time.sleep(LOAD_LATENCY * 2)
        before = _packets(sink)
        began = time.monotonic()
        with _child(lambda: _send_load(case, unread, timed)) as sender:
            arrivals = _receive([samples], sender, LOAD_LATENCY)[0]
            took = sender.ended - began
        train = Train(case.count, tuple(arrivals))
        return Load(
            offered=rate,
            seconds=took,
            sent=case.count,
            arrived=_packets(sink) - before,
            delay=delay(train, 0.5),
            late=delay(train, 0.99),
        )


def _network(cases: tuple[Case, ...], backend: str | None, seed: int) -> Network:
    network = Network.build(build(_topology(cases), seed))
    try:
        network.shape(backend)
    except BaseException:
        network.close()
        raise
    return network


def _topology(cases: tuple[Case, ...]) -> Topology:
    sources = [_peer(number, case) for number, case in enumerate(cases)]
    distances = tuple(("far", HERE, case.asked.latency) for case in cases if case.region)
    home = (Router(HOME, PRESETS["full-cone"].nat),) if any(case.cable for case in cases) else ()
    return Topology("links", "", home, (Peer(SINK, INTERNET, region=HERE), *sources), distances=distances)


def _peer(number: int, case: Case) -> Peer:
    if case.region:
        return Peer(_source(number), INTERNET, region="far")
    return Peer(_source(number), HOME if case.cable else INTERNET, link=Link(up=case.asked))


def _source(number: int) -> str:
    return f"source-{number}"


def _address(plan: Plan, peer: str) -> str:
    return next(launch.address for launch in plan.launches if launch.peer == peer)


def _patience(asked: Impairment) -> float:
    """Seconds that a packet may take on the link."""
    waiting = asked.queue * 8 / asked.rate if asked.rate else 0.0
    return asked.latency + asked.jitter + waiting


def _check(network: Network) -> None:
    problems = network.links.problems() if network.links is not None else ()
    if problems:
        raise KernelError("; ".join(problems))


def _listener(ns: Namespace, port: int) -> socket.socket:
    sock = ns.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    sock.bind(("", port))
    return sock


def missed(sink: socket.socket) -> int:
    """Datagrams that came and found no room."""
    return _MEMORY.unpack(sink.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMORY.size))[-1]  # type: ignore[no-any-return]


def _sender(ns: Namespace, address: str, port: int) -> socket.socket:
    sock = ns.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, _SO_NO_CHECK, 1)
    sock.connect((address, port))
    return sock


def _warm(sources: Iterable[socket.socket]) -> None:
    """The first packet on each way waits for ARP, which no link delays; it is empty and not counted."""
    for source in sources:
        source.send(b"")


class _Child:
    """A forked process that sends."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.ended = 0.0
        "monotonic seconds; 0 while it runs"

    def poll(self) -> bool:
        """Whether it has ended. Raises KernelError if it failed."""
        if not self.ended:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                self.ended = time.monotonic()
                if status:
                    raise KernelError(f"the sender of probes failed with status {os.waitstatus_to_exitcode(status)}")
        return self.ended > 0.0

    def kill(self) -> None:
        if not self.ended:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)


@contextmanager
def _child(work: Callable[[], None]) -> Iterator[_Child]:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    child = _Child(pid)
    try:
        yield child
    finally:
        child.kill()


def _send_all(cases: tuple[Case, ...], sources: list[socket.socket]) -> None:
    """Every case's probes at its own pace, in one loop."""
    _be_on_time()
    begin = time.monotonic() + 0.01
    due = [(begin + number / 10_000, number, 0) for number in range(len(cases))]
    heapify(due)
    while due:
        at, number, probe = due[0]
        if (pause := at - time.monotonic()) > 0:
            time.sleep(pause)
        case = cases[number]
        sources[number].send(_datagram(probe, case.size))
        if probe + 1 < case.count:
            heapreplace(due, (at + 1 / case.rate, number, probe + 1))
        else:
            heappop(due)


def _send_load(case: Case, unread: socket.socket, timed: socket.socket) -> None:
    """As many packets as are due, then a look at the clock."""
    _be_on_time()
    filler = bytes(case.size - UDP_HEADERS)
    begin, sent = time.monotonic(), 0
    while sent < case.count:
        due = min(int((time.monotonic() - begin) * case.rate) + 1, case.count)
        while sent < due:
            if sent % SAMPLE_EVERY == 0:
                timed.send(_datagram(sent, case.size))
            else:
                unread.send(filler)
            sent += 1
        time.sleep(50e-6)


def _be_on_time() -> None:
    """Not the sender is measured: where that is allowed, it gets the processor when it wants it, as the link does."""
    syscalls.wake_exactly()
    sandbox.hurry(os.getpid())


def _datagram(number: int, size: int) -> bytes:
    now = time.time_ns()
    head = _PROBE.pack(number, now, 0)[:-4]
    filler = bytes(size - UDP_HEADERS - _PROBE.size)
    return head + zlib.crc32(head + filler).to_bytes(4, "big") + filler


def _receive(sinks: list[socket.socket], sender: _Child, patience: float) -> list[list[Arrival]]:
    """All that arrives until the sender has ended and the slowest link has let go of its last probe."""
    arrivals: list[list[Arrival]] = [[] for _ in sinks]
    numbers = {sock.fileno(): number for number, sock in enumerate(sinks)}
    while not sender.poll() or time.monotonic() < sender.ended + patience + SETTLE:
        ready, _, _ = select.select(sinks, (), (), 0.05)
        for sock in ready:
            _drain(sock, arrivals[numbers[sock.fileno()]])
    return arrivals


def _drain(sock: socket.socket, arrivals: list[Arrival]) -> None:
    while True:
        try:
            data, ancillary, _, _ = sock.recvmsg(2048, 64, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        if data:
            seconds, nanoseconds = _STAMP.unpack(ancillary[0][2][: _STAMP.size])
            arrivals.append(_arrival(data, seconds + nanoseconds / 1e9))


def _arrival(data: bytes, at: float) -> Arrival:
    length = len(data) + UDP_HEADERS
    if len(data) < _PROBE.size:
        return Arrival(-1, at, at, length)
    number, sent, crc = _PROBE.unpack_from(data)
    if zlib.crc32(data[: _PROBE.size - 4] + data[_PROBE.size :]) != crc:
        return Arrival(-1, at, at, length)
    return Arrival(number, sent / 1e9, at, length)


def _packets(ns: Namespace) -> int:
    """Packets that its cables have brought."""
    with ns.entered():
        lines = Path("/proc/thread-self/net/dev").read_text("ascii").splitlines()[2:]
    return sum(int(line.split(":")[1].split()[1]) for line in lines if not line.strip().startswith("lo:"))
