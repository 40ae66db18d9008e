"""Measure what links do with packets that are too large, as `lab.run.links` measures what they do to all others.

    near ── home, whose link is narrow ───────────┐
    near-hole ── home-hole, which tells nobody ───┤ core ── far        over IPv4 and over IPv6

Towards the internet the router is the one that a packet is too large for, and tells; from it, it is the core. Of UDP
one datagram of every size is sent, the smallest first, and a small one behind them: when that has been answered, all
that comes of the others has come. TCP is left to the kernel, before anybody else has learnt of the limit; what it sends
is read from its packets.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from errno import EMSGSIZE
from typing import Final

from lab.errors import KernelError
from lab.kernel.namespace import Namespace
from lab.kernel.network import Network
from lab.model.impairment import MAX_MTU, Impairment, Link
from lab.model.ipv6 import STRICT, Ip
from lab.model.presets import PRESETS
from lab.model.topology import INTERNET, Peer, Router, Topology
from lab.observe.pathmtu import NONE, OneWay, size_rows, tcp_size, told_limit
from lab.observe.quality import Row
from lab.plan.build import build
from lab.plan.plan import Launch
from lab.run.versions import V4, V6, Version

MTU: Final = 1280
"bytes; the least that IPv6 takes"
FAR: Final = "far"
LATENCY: Final = 0.001
"of the links, so that whatever makes links carries the packets"
PORT: Final = 9000
ANSWER_WITHIN: Final = 10.0
RETRANSMISSIONS: Final = 2
"after which a TCP connection is stuck"
_STREAM: Final = 20_000
"bytes: more than TCP sends before it is answered"
_SMALLEST: Final = 1200
"bytes of the first IP packet"
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PROBE = 10, 23, 3
"never fragment, and heed no limit that was told, or there would be but one to be told of"
_SOL_PACKET, _PACKET_VNET_HDR, _ETH_P_ALL = 263, 15, 3
_TCP_INFO, _RETRANSMITS_AT = 11, 2
"of tcp_info: how often in a row the oldest data was sent again"
_PACKET: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class _Path:
    """One version of IP from a host behind a narrow link to one on the internet."""

    version: Version
    near: Namespace
    far: Namespace
    address: str
    "the far one's"

    @property
    def headers(self) -> int:
        """Bytes of IP and UDP."""
        return 28 if self.version is V4 else 48


def measure_sizes(backend: str | None = None) -> tuple[Row, ...]:
    """Rows for a narrow link and a black hole, both versions of IP, both directions. Blocks 5 s. Raises KernelError."""
    rows: list[Row] = []
    with Network.build(build(_topology(), seed=1)) as network:
        network.shape(backend)
        far = next(launch for launch in network.plan.launches if launch.peer == FAR)
        for name, hole in (("near", False), ("near-hole", True)):
            for version, address in _addresses(far):
                path = _Path(version, network.spaces[name], network.spaces[FAR], address)
                link = f"{'black hole' if hole else f'mtu {MTU}'}, {version}"
                for way, found in (("up", _one_way(path, up=True)), ("down", _one_way(path, up=False))):
                    rows += size_rows(link, way, MTU, found, black_hole=hole)
        problems = network.links.problems() if network.links is not None else ()
        if problems:
            raise KernelError("; ".join(problems))
    return tuple(rows)


def _topology() -> Topology:
    side = Impairment(latency=LATENCY)
    nat = PRESETS["full-cone"].nat
    routers = tuple(
        Router(name, nat, link=Link(side, side, MTU, pmtu_black_hole=hole), guard=STRICT)
        for name, hole in (("home", False), ("home-hole", True))
    )
    peers = (Peer("near", "home"), Peer("near-hole", "home-hole"), Peer(FAR, INTERNET))
    return Topology("path-mtu", "", routers, peers, ip=Ip.DUAL)


def _addresses(far: Launch) -> Iterator[tuple[Version, str]]:
    yield V4, far.address
    if far.address6 is not None:
        yield V6, far.address6


def _one_way(path: _Path, *, up: bool) -> OneWay:
    try:
        tcp = _tcp(path, up=up)
        largest, told = _udp(path, up=up)
    except TimeoutError as error:
        raise KernelError(f"{path.near.name}: nothing came of {path.version} within {ANSWER_WITHIN:.0f} s") from error
    return OneWay(largest, told, tcp)


def _udp(path: _Path, *, up: bool) -> tuple[int, int]:
    """The largest packet that came, and the limit that was told of."""
    with ExitStack() as opened:
        near, far = (opened.enter_context(_datagrams(path.version, space)) for space in (path.near, path.far))
        far.bind((path.version.anywhere, PORT))
        near.connect((path.address, PORT))
        near.send(b"")
        far.connect(far.recvfrom(1)[1])
        sender, receiver = (near, far) if up else (far, near)
        told = NONE
        for size in range(_SMALLEST, MAX_MTU + 1):
            _send(sender, bytes(size - path.headers))
            # What is told takes room where the answer has to come.
            told = _told(sender) or told
        _send(sender, b"?")
        largest = NONE
        while (length := len(receiver.recv(_PACKET))) != 1:
            largest = max(largest, length + path.headers)
        receiver.send(b"!")
        while not _answered(sender):
            told = _told(sender) or told
        return largest, told or _told(sender)


def _datagrams(version: Version, space: Namespace) -> socket.socket:
    made = version.new_socket(space, socket.SOCK_DGRAM)
    made.settimeout(ANSWER_WITHIN)
    version.keep_errors(made)
    if version is V4:
        made.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PROBE)
    else:
        made.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PROBE)
    return made


def _send(sender: socket.socket, data: bytes) -> None:
    """Send a datagram; an error that has come for another one is told in its stead, once."""
    try:
        sender.send(data)
    except OSError as error:
        if error.errno != EMSGSIZE:
            raise
        sender.send(data)


def _answered(sender: socket.socket) -> bool:
    """Whether the answer has come, rather than an error first. Raises TimeoutError."""
    try:
        return sender.recv(1) == b"!"
    except OSError as error:
        if error.errno != EMSGSIZE:
            raise
        return False


def _told(sender: socket.socket) -> int:
    """The limit that the first ICMP message names which has come; all are taken off the socket."""
    told = NONE
    sender.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            limit = told_limit(sender.recvmsg(1, 512, socket.MSG_ERRQUEUE)[1])
            told = told or limit
    sender.settimeout(ANSWER_WITHIN)
    return told


def _tcp(path: _Path, *, up: bool) -> int:
    """The largest packet with data that came, when all has come or the sender does not get on."""
    with ExitStack() as opened:
        listener, near = (
            opened.enter_context(path.version.new_socket(space, socket.SOCK_STREAM)) for space in (path.far, path.near)
        )
        listener.settimeout(ANSWER_WITHIN)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((path.version.anywhere, PORT))
        listener.listen()
        near.settimeout(ANSWER_WITHIN)
        captured = opened.enter_context(_captured(path.far if up else path.near))
        near.connect((path.address, PORT))
        far = opened.enter_context(listener.accept()[0])
        sender, receiver = (near, far) if up else (far, near)
        _stream(sender, receiver)
        largest = NONE
        with suppress(BlockingIOError):
            while True:
                packet, (_, _, kind, *_) = captured.recvfrom(_PACKET)
                if kind != socket.PACKET_OUTGOING:
                    largest = max(largest, tcp_size(packet, PORT))
        return largest


def _captured(space: Namespace) -> socket.socket:
    """All packets of a host from now on, with virtio's header."""
    made = space.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    made.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    made.setblocking(False)
    return made


def _stream(sender: socket.socket, receiver: socket.socket) -> None:
    """Send a stream until it has come, or until its beginning has been sent again in vain. Raises TimeoutError."""
    sender.sendall(bytes(_STREAM))
    deadline, left = time.monotonic() + ANSWER_WITHIN, _STREAM
    while left and sender.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, 8)[_RETRANSMITS_AT] < RETRANSMISSIONS:
        if time.monotonic() > deadline:
            raise TimeoutError
        if select.select([receiver], (), (), 0.02)[0]:
            left -= len(receiver.recv(left))
