"""Prove that no peer reaches another but through its NAT. A lab that leaks passes tests that it should fail.

Tokens are sent on every way that must not exist, and every space listens to all that comes in by any interface,
ahead of its rules:

    around      a peer's own packet to the private address of a host on another LAN
    straight    a frame to a router's WAN side, for a host or a router on its LAN: UDP, and a TCP SYN
    unasked     the same, for the port that the peers listen on, at the router's public address
    segments    a broadcast on every segment, heard by those whom the plan puts there, and by nobody else

The broadcasts come last and double as the control: those who must hear them prove that listening works, and that what
was sent before on these cables has had its time. A check that cannot be made is reported like a leak.

It leaves traces in the NATs: measure them afterwards, which has them forget (`lab.run.certify`).
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import secrets
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from lab.errors import KernelError
from lab.kernel.namespace import Namespace
from lab.kernel.network import Network
from lab.plan.names import CORE, LOOPBACK
from lab.plan.plan import Launch, Plan, Port, RouterPlan

CONTROL_WITHIN: Final = 3.0
"Seconds for the broadcasts to be heard by all who must."
QUIET: Final = 0.04
"Seconds for stragglers after that."
PORT: Final = 9
"The discard port, for packets whose port does not matter."
MAX_FRAMES: Final = 4096
"Frames read from one space: more is a storm, and a broadcast that loops is a leak of its own."

_MAGIC: Final = b"punchlab leak check "
_TOKEN: Final = len(_MAGIC) + 8
_ETH_P_IP: Final = 0x0800
_SIOCGIFFLAGS, _SIOCGIFHWADDR, _IFF_UP = 0x8913, 0x8927, 0x1
_BROADCAST: Final = b"\xff" * 6
_UDP, _TCP, _SYN = 17, 6, 0x02
_UNREACHABLE: Final = (errno.ENETUNREACH, errno.EHOSTUNREACH)

Node = tuple[str, str]
"A space and an interface in it."


async def check(network: Network, plan: Plan) -> list[str]:
    """Look for ways past the NATs; one sentence for each that was found, or for what kept the check from being made."""
    wires: dict[str, socket.socket] = {}
    try:
        for name, space in network.spaces.items():
            wires[name] = space.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_IP))
            wires[name].setblocking(False)
        return await _Check(network.spaces, plan, wires).run()
    except (OSError, KernelError) as error:
        return [f"the leak check could not be made: {error}"]
    finally:
        # A packet socket's close waits for all CPUs to pass a point (synchronize_net); together they wait once.
        await asyncio.gather(*(asyncio.to_thread(wire.close) for wire in wires.values()))


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A packet that must not arrive in some spaces, and what it means if it does."""

    victims: frozenset[str]
    meaning: str
    "`{}` is the space where it arrived"


@dataclass(frozen=True, slots=True)
class _Broadcast:
    """A frame sent to all of a segment."""

    sender: Node
    hearers: frozenset[str]


class _Check:
    def __init__(self, spaces: Mapping[str, Namespace], plan: Plan, wires: Mapping[str, socket.socket]) -> None:
        self._spaces = spaces
        self._plan = plan
        self._wires = wires
        self._attempts: dict[bytes, _Attempt] = {}
        self._broadcasts: dict[bytes, _Broadcast] = {}
        self._heard: dict[bytes, set[str]] = {}

    async def run(self) -> list[str]:
        """Send everything, wait for the controls, and tell what arrived where it must not."""
        for launch in self._plan.launches:
            self._try_around(launch)
        for router in self._plan.routers:
            self._try_router(router)
        self._broadcast_everywhere()
        deaf = await self._controls()
        leaks = [*strangers(self._spaces, self._plan), *deaf]
        for token, heard in sorted(self._heard.items(), key=lambda item: sorted(item[1])):
            if token in self._attempts:
                attempt = self._attempts[token]
                leaks += [attempt.meaning.format(space) for space in sorted(heard & attempt.victims)]
            elif token in self._broadcasts:
                sent = self._broadcasts[token]
                who = "/".join(sent.sender)
                leaks += [
                    f"{space} hears {who}, with which it shares no segment" for space in sorted(heard - sent.hearers)
                ]
        return list(dict.fromkeys(leaks))

    def _try_around(self, launch: Launch) -> None:
        """From a peer's space, as the peer itself would send it."""
        # A global address is for everybody: who may write to it is what guards are measured for.
        hidden = [other for other in self._plan.launches if ":" not in other.address]
        victims = [other for other in hidden if other.router not in (None, *launch.routers)]
        with self._spaces[launch.space].socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for victim in victims:
                way = f"a packet of {launch.peer} to {victim.address} arrives at {{}}, past {victim.router}"
                token = self._token(_Attempt(frozenset({victim.space}), way))
                try:
                    sender.sendto(token, (victim.address, PORT))
                except OSError as error:
                    if error.errno not in _UNREACHABLE:
                        raise  # no route is what the plan wants

    def _try_router(self, router: RouterPlan) -> None:
        """From next to its WAN, as frames, which need no route to be handed to the router."""
        near, wan = _link(self._plan, router.outside, router.name)
        header = _mac(self._spaces[router.name], wan.name) + _mac(self._spaces[router.outside], near.name)
        header += struct.pack("!H", _ETH_P_IP)
        inside = frozenset((*router.hosts, *router.inner))
        origin = "the internet" if router.outside == CORE else router.outside
        straight = f"{router.name} routes {{kind}} from {origin} straight to {{{{}}}}"
        behind = [launch for launch in self._plan.launches if router.name in launch.routers]
        addresses = {launch.address for launch in behind if launch.router == router.name}
        addresses |= {other.wan for other in self._plan.routers if other.name in router.inner}
        unasked = f"{router.name} lets {{kind}} that nobody asked for in to {{{{}}}}"
        targets = [(address, PORT, straight) for address in sorted(addresses)]
        targets += [(router.wan, port, unasked) for port in sorted({launch.port for launch in behind})]
        for address, port, meaning in targets:
            for kind, protocol in (("UDP", _UDP), ("a TCP SYN", _TCP)):
                token = self._token(_Attempt(inside, meaning.format(kind=kind)))
                frame = header + _packet(protocol, (router.vantages[0], PORT), (address, port), token)
                self._wires[router.outside].sendto(frame, (near.name, 0))

    def _broadcast_everywhere(self) -> None:
        isolated = {
            (station.space, station.interface)
            for lan in self._plan.lans
            for station in lan.stations
            if lan.switch.isolation
        }
        for segment in segments(self._plan):
            for space, port in sorted(segment):
                token = _MAGIC + secrets.token_bytes(8)
                apart = isolated if (space, port) in isolated else set()
                hearers = frozenset(other for other, _ in segment - apart if other != space)
                self._broadcasts[token] = _Broadcast((space, port), hearers)
                self._shout(token)

    def _shout(self, token: bytes) -> None:
        space, port = self._broadcasts[token].sender
        header = _BROADCAST + _mac(self._spaces[space], port) + struct.pack("!H", _ETH_P_IP)
        packet = _packet(_UDP, ("0.0.0.0", PORT), ("255.255.255.255", PORT), token)  # noqa: S104 -- RFC 919's source
        self._wires[space].sendto(header + packet, (port, 0))

    async def _controls(self) -> list[str]:
        """Wait for all broadcasts to be heard; a sentence for each that was not."""
        try:
            async with asyncio.timeout(CONTROL_WITHIN):
                while self._unheard():
                    await asyncio.sleep(0.001)
                    self._listen()
        except TimeoutError:
            pairs = sorted((*sent.sender, space) for sent, space in self._unheard())
            return [f"the leak check could not be made: {space} does not hear {s}/{port}" for s, port, space in pairs]
        await asyncio.sleep(QUIET)
        self._listen()
        return []

    def _unheard(self) -> list[tuple[_Broadcast, str]]:
        return [
            (sent, space)
            for token, sent in self._broadcasts.items()
            for space in sent.hearers - self._heard.get(token, set())
        ]

    def _listen(self) -> None:
        for space, wire in self._wires.items():
            for frame in _frames(wire):
                if (at := frame.find(_MAGIC)) >= 0:
                    self._heard.setdefault(frame[at : at + _TOKEN], set()).add(space)

    def _token(self, attempt: _Attempt) -> bytes:
        token = _MAGIC + secrets.token_bytes(8)
        self._attempts[token] = attempt
        return token


def segments(plan: Plan) -> list[frozenset[Node]]:
    """The broadcast domains of a plan, as the interfaces in them that are not merely plugged into a bridge."""
    joined: dict[Node, set[Node]] = {}
    plugged: set[Node] = set()
    for cable in plan.cables:
        group: set[Node] = set()
        for end in (cable.a, cable.b):
            node = (end.space, end.name)
            nodes = {node}
            if end.bridge is not None:
                plugged.add(node)
                nodes.add((end.space, end.bridge))
            for member in nodes:
                group |= joined.get(member, {member})
        joined |= dict.fromkeys(group, group)
    return [frozenset(group - plugged) for group in {id(group): group for group in joined.values()}.values()]


def strangers(spaces: Mapping[str, Namespace], plan: Plan) -> Iterator[str]:
    """A sentence for each interface that is up in a space and not in the plan."""
    ends = [end for cable in plan.cables for end in (cable.a, cable.b)]
    planned = {(port.space, port.name) for port in (*plan.loose, *ends)}
    planned |= {(space.name, bridge) for space in plan.spaces for bridge in space.bridges}
    for name, space in spaces.items():
        with space.entered():
            present = [interface for _, interface in socket.if_nameindex()]
        for interface in present:
            if interface != LOOPBACK and (name, interface) not in planned and _is_up(space, interface):
                yield f"{name} has an interface {interface} that is not in the plan"


def _link(plan: Plan, a: str, b: str) -> tuple[Port, Port]:
    """The two ends of the cable between two spaces, `a`'s first."""
    for cable in plan.cables:
        match (cable.a.space, cable.b.space):
            case (first, second) if (first, second) == (a, b):
                return cable.a, cable.b
            case (first, second) if (first, second) == (b, a):
                return cable.b, cable.a
    raise KernelError(f"the plan has no cable between {a} and {b}")


def _frames(wire: socket.socket) -> Iterable[bytes]:
    for _ in range(MAX_FRAMES):
        try:
            yield wire.recv(2048)
        except BlockingIOError:
            return


def _is_up(space: Namespace, interface: str) -> bool:
    flags: int = struct.unpack_from("=H", _ask(space, interface, _SIOCGIFFLAGS), 16)[0]
    return bool(flags & _IFF_UP)


def _mac(space: Namespace, interface: str) -> bytes:
    return _ask(space, interface, _SIOCGIFHWADDR)[18:24]


def _ask(space: Namespace, interface: str, request: int) -> bytes:
    """An ioctl of netdevice(7) about one interface; returns the struct ifreq."""
    with space.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        return fcntl.ioctl(control, request, struct.pack("16s24x", interface.encode()))


def _packet(protocol: int, source: tuple[str, int], target: tuple[str, int], payload: bytes) -> bytes:
    """An IPv4 packet with a UDP datagram, or a TCP SYN, that carries a payload."""
    ports = struct.pack("!HH", source[1], target[1])
    ends = socket.inet_aton(source[0]) + socket.inet_aton(target[0])
    if protocol == _UDP:
        segment = ports + struct.pack("!HH", 8 + len(payload), 0) + payload  # RFC 768: 0 is no checksum
    else:
        head = ports + struct.pack("!IIBBH", 1, 0, 5 << 4, _SYN, 65535)
        length = len(head) + 4 + len(payload)
        pseudo = ends + struct.pack("!BBH", 0, protocol, length)
        segment = head + struct.pack("!HH", _checksum(pseudo + head + bytes(4) + payload), 0) + payload
    header = struct.pack("!BBHHHBB", 0x45, 0, 20 + len(segment), 0, 0, 64, protocol)
    return header + struct.pack("!H", _checksum(header + bytes(2) + ends)) + ends + segment


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
