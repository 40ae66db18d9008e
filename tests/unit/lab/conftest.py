"""A scene: hand-made packets that travel through the network of a real plan, as its recorders would see them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether

from lab.model.classical import cell_topology
from lab.model.nat import Nat
from lab.observe.facts import Facts, judge
from lab.observe.packets import Packet
from lab.plan.build import build
from lab.plan.plan import Launch, Plan

BEGAN = 1_763_719_000.0
"the scene's zero, in Unix seconds"
HOP_NS, CORE_NS = 10_000, 400_000


class Scene:
    """Alice behind `home-a`, bob behind `home-b`, a relay on the internet; times are milliseconds since BEGAN."""

    def __init__(self, dialer: str = "port-restricted", listener: str = "port-restricted") -> None:
        self.plan: Plan = build(cell_topology(dialer, listener), 1)
        self.seen: list[Packet] = []
        self._marks = 0

    def with_nat(self, router: str, nat: Nat) -> Scene:
        """The same with another NAT."""
        routers = tuple(replace(r, nat=nat) if r.name == router else r for r in self.plan.routers)
        self.plan = replace(self.plan, routers=routers)
        return self

    def send(
        self,
        ms: float,
        source: str,
        target: str,
        flags: int = 0x10,
        *,
        seq: int = 1,
        ack: int = 0,
        payload: int = 0,
        outer: int = 4001,
        dport: int = 4001,
        until: str | None = None,
        proto: str = "tcp",
    ) -> None:
        """One packet from host to host, seen at every recorder on its way up to and including `until`.

        `outer` is the port that the sender's NAT gives it, `dport` the one that it is sent to; inside all have 4001.
        """
        self._marks += 1
        ns = round((BEGAN + ms / 1000) * 1e9)
        router = self._launch(source).router
        edge = f"{source}/eth0" if router is None else f"{router}/wan"
        for interface, src, sport, dst, port in self._way(self._launch(source), self._launch(target), outer, dport):
            self.seen.append(
                Packet(
                    at=ns / 1e9,
                    ns=ns,
                    interface=interface,
                    src=src,
                    sport=sport,
                    dst=dst,
                    dport=port,
                    proto=proto,
                    flags=flags if proto == "tcp" else 0,
                    seq=seq,
                    ack=ack,
                    payload=payload,
                    frame_length=payload + (54 if proto == "tcp" else 42),
                    mark=self._marks,
                )
            )
            if interface == until:
                return
            ns += CORE_NS if interface == edge else HOP_NS

    def opened(self, ms: float, source: str, target: str, *, outer: int = 4001, dport: int = 4001) -> None:
        """An ordinary handshake that takes two milliseconds."""
        self.send(ms, source, target, 0x02, seq=100, outer=outer, dport=dport)
        self.send(ms + 1, target, source, 0x12, seq=500, ack=101, outer=dport, dport=outer)
        self.send(ms + 2, source, target, 0x10, seq=101, ack=501, outer=outer, dport=dport)

    def talked(self, ms: float, source: str, target: str, size: int, *, outer: int = 4001, dport: int = 4001) -> None:
        """A payload there and back."""
        self.send(ms, source, target, 0x18, seq=101, ack=501, payload=size, outer=outer, dport=dport)
        self.send(ms + 1, target, source, 0x18, seq=501, ack=101 + size, payload=size, outer=dport, dport=outer)

    def facts(self, events: Iterable[dict[str, object]] = ()) -> Facts:
        """What the wire shows."""
        return judge(self.plan, sorted(self.seen, key=lambda packet: packet.ns), list(events))

    def capture(self, path: Path) -> Path:
        """The same as a pcapng, the frames made by scapy."""
        names = [capture.name for capture in self.plan.captures]
        frames = [
            (packet.ns, names.index(packet.interface), frame(packet))
            for packet in self.seen
            if packet.interface in names
        ]
        path.write_bytes(pcapng(names, frames))
        return path

    def _launch(self, name: str) -> Launch:
        return next(launch for launch in self.plan.launches if launch.peer == name)

    def _outside(self, launch: Launch) -> str:
        return next((r.wan for r in self.plan.routers if r.name == launch.router), launch.address)

    def _way(self, source: Launch, target: Launch, outer: int, dport: int) -> Iterable[tuple[str, str, int, str, int]]:
        """Interface, source and destination at each recorder."""
        public = self._outside(target)
        yield f"{source.space}/eth0", source.address, 4001, public, dport
        if source.router is not None:
            yield f"{source.router}/lan", source.address, 4001, public, dport
            yield f"{source.router}/wan", self._outside(source), outer, public, dport
        if target.router is not None:
            yield f"{target.router}/wan", self._outside(source), outer, public, dport
            yield f"{target.router}/lan", self._outside(source), outer, target.address, 4001
        yield f"{target.space}/eth0", self._outside(source), outer, target.address, 4001


def frame(packet: Packet) -> bytes:
    """An Ethernet frame with these headers."""
    ip = IP(src=packet.src, dst=packet.dst, id=packet.mark & 0xFFFF)
    if packet.proto == "udp":
        head = UDP(sport=packet.sport, dport=packet.dport)
    else:
        options = [("Timestamp", (packet.mark, 0))]
        head = TCP(
            sport=packet.sport, dport=packet.dport, seq=packet.seq, ack=packet.ack, flags=packet.flags, options=options
        )
    return bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / ip / head / bytes(packet.payload))


def pcapng(names: list[str], frames: Iterable[tuple[int, int, bytes]]) -> bytes:
    """A capture of frames as (Unix nanoseconds, number of the interface, frame)."""
    blocks = [_block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))]
    for name in names:
        resolution = _option(9, b"\x09")
        blocks.append(_block(1, struct.pack("<HHI", 1, 0, 0) + _option(2, name.encode()) + resolution))
    for ns, number, data in frames:
        head = struct.pack("<IIIII", number, ns >> 32, ns & 0xFFFFFFFF, len(data), len(data))
        blocks.append(_block(6, head + data))
    return b"".join(blocks)


def _block(kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    length = struct.pack("<I", len(body) + 12)
    return struct.pack("<I", kind) + length + body + length


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)


@pytest.fixture
def scene() -> Callable[..., Scene]:
    """Makes scenes."""
    return Scene


@pytest.fixture
def write_pcapng() -> Callable[[list[str], Iterable[tuple[int, int, bytes]]], bytes]:
    """Makes captures."""
    return pcapng
