"""Prove that no peer reaches another but through its NAT. A lab that leaks passes tests that it should fail.

Tokens are sent on every way that must not exist, and every space listens to all that comes in by any interface,
ahead of its rules:

    around      a peer's own packet to the private address of a host on another LAN
    straight    a frame to a router's WAN side, for a host or a router on its LAN: UDP, and a TCP SYN
    unasked     the same, for the port that the peers listen on, at each of the router's public addresses
    through     a frame to a peer with several uplinks, for those on the others: it is a host and forwards nothing
    segments    a broadcast on every segment, heard by those whom the plan puts there, and by nobody else

The broadcasts come last and double as the control: those who must hear them prove that listening works, and that what
was sent before on these cables has had its time. A check that cannot be made is reported like a leak.

It leaves traces in the NATs: measure them afterwards, which has them forget (`lab.run.certify`). The ports that it has
mapped by then are none that the kernel gives to the sockets of that probe, or a NAT would seem not to keep a port.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import secrets
import socket
import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import cycle, permutations
from typing import Final

from lab.errors import KernelError
from lab.kernel.namespace import Namespace
from lab.kernel.network import Network
from lab.plan import amend
from lab.plan.names import CORE, LOOPBACK
from lab.plan.plan import Cable, GuardPlan, Launch, Plan, Port, RouterPlan
from lab.plan.seen import seen_at

CONTROL_WITHIN: Final = 3.0
"Seconds for the broadcasts to be heard by all who must."
QUIET: Final = 0.04
"Seconds for stragglers after that."
PORT: Final = 9
"The discard port, for packets whose port does not matter."
OWN_PORTS: Final = range(10_000, 20_000)
"From where peers' packets leave, a port for each: below those of NATs' runs, and of sockets that are given some."
TOLD: Final = 10
"Of those who do not hear what they must, so many are named."
MAX_FRAMES: Final = 4096
"Frames read from one space: more is a storm, and a broadcast that loops is a leak of its own."

_MAGIC: Final = b"punchlab leak check "
_TOKEN: Final = len(_MAGIC) + 8
_ETH_P_IP, _ETH_P_IPV6 = 0x0800, 0x86DD
_SIOCGIFFLAGS, _SIOCGIFHWADDR, _IFF_UP = 0x8913, 0x8927, 0x1
_BROADCAST: Final = b"\xff" * 6
_UDP, _TCP, _SYN = 17, 6, 0x02
_UNREACHABLE: Final = (errno.ENETUNREACH, errno.EHOSTUNREACH)

Node = tuple[str, str]
"A space and an interface in it."


async def check(network: Network, plan: Plan) -> list[str]:
    """Look for ways past the NATs; one sentence for each that was found, or for what kept the check from being made."""
    wires: dict[str, socket.socket] = {}
    wires6: dict[str, socket.socket] = {}
    try:
        for opened, protocol in ((wires, _ETH_P_IP), *([(wires6, _ETH_P_IPV6)] if _hides_ipv6(plan) else [])):
            for name, space in network.spaces.items():
                opened[name] = space.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol))
                opened[name].setblocking(False)
        return await _Check(network.spaces, plan, wires, wires6).run()
    except (OSError, KernelError) as error:
        return [f"the leak check could not be made: {error}"]
    finally:
        # A packet socket's close waits for all CPUs to pass a point (synchronize_net); together they wait once.
        await asyncio.gather(*(asyncio.to_thread(wire.close) for wire in (*wires.values(), *wires6.values())))


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A packet that must not arrive in some spaces, and what it means if it does."""

    victims: Mapping[str, str]
    "the spaces, and what they are behind where the meaning tells"
    meaning: str
    "`{}` is the space where it arrived, `{past}` what that is behind"


@dataclass(frozen=True, slots=True)
class _Broadcast:
    """A frame sent to all of a segment."""

    sender: Node
    hearers: frozenset[str]


class _Check:
    def __init__(
        self,
        spaces: Mapping[str, Namespace],
        plan: Plan,
        wires: Mapping[str, socket.socket],
        wires6: Mapping[str, socket.socket],
    ) -> None:
        self._spaces = spaces
        self._plan = plan
        self._wires = wires
        self._wires6 = wires6
        "the same for IPv6; empty where nobody's address is hidden"
        self._attempts: dict[bytes, _Attempt] = {}
        self._broadcasts: dict[bytes, _Broadcast] = {}
        self._heard: dict[bytes, set[str]] = {}
        self._own_ports = cycle(OWN_PORTS)
        # A global address is for everybody: who may write to it is what guards are measured for.
        self._hidden = [
            (way.address, way.router, way.space)
            for launch in plan.launches
            for way in launch.ways
            if way.router is not None and ":" not in way.address
        ]

    async def run(self) -> list[str]:
        """Send everything, wait for the controls, and tell what arrived where it must not."""
        for launch in self._plan.launches:
            self._try_around(launch)
            self._try_around_by_ipv6(launch)
            self._try_through(launch)
            self._listen()
        for router in (*self._plan.routers, *self._plan.routers6):
            self._try_router(router)
            self._listen()
        for guard in self._plan.guards:
            if guard.guard.translates:
                self._try_exchange(guard)
                self._listen()
        self._broadcast_everywhere()
        deaf = await self._controls()
        leaks = [*strangers(self._spaces, self._plan), *deaf]
        for token, heard in sorted(self._heard.items(), key=lambda item: sorted(item[1])):
            if token in self._attempts:
                attempt = self._attempts[token]
                arrived = sorted(heard & attempt.victims.keys())
                leaks += [attempt.meaning.format(space, past=attempt.victims[space]) for space in arrived]
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
        reached = {router for way in launch.ways for router in way.routers}
        victims: defaultdict[str, dict[str, str]] = defaultdict(dict)
        for address, router, space in self._hidden:
            if router not in reached:
                victims[address][space] = router
        for way in (each for each in launch.ways if ":" not in each.address):
            with self._spaces[launch.space].socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.bind((way.address, next(self._own_ports)))
                for address, past in victims.items():
                    meaning = f"a packet of {launch.peer} to {address} arrives at {{}}, past {{past}}"
                    token = self._token(_Attempt(past, meaning))
                    try:
                        sender.sendto(token, (address, PORT))
                    except OSError as error:
                        if error.errno not in _UNREACHABLE:
                            raise  # no route is what the plan wants

    def _try_around_by_ipv6(self, launch: Launch) -> None:
        """The same to whom the internet knows by another address, or by a NAT's."""
        if launch.address6 is None:
            return
        ways = [way for other in self._plan.launches for way in other.ways if _is_hidden(self._plan, way)]
        reached = {None, *(router for way in launch.ways for router in way.routers)}
        victims = [way for way in ways if way.router not in reached]
        for victim in victims:
            meaning = f"a packet of {launch.peer} to {victim.address6} arrives at {{}}, past {victim.router}"
            token = self._token(_Attempt({victim.space: ""}, meaning))
            with self._spaces[launch.space].socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
                sender.bind(("::", next(self._own_ports)))
                try:
                    sender.sendto(token, (victim.address6, PORT))
                except OSError as error:
                    if error.errno not in _UNREACHABLE:
                        raise

    def _try_through(self, launch: Launch) -> None:
        """From next to one of a peer's uplinks to what is next to another, as frames that the peer might forward."""
        places = [amend.cable_of(self._plan, capture) for capture in launch.captures if launch.further]
        for here, there in permutations(places, 2):
            header = _mac(self._spaces[launch.space], here.b.name) + _mac(self._spaces[here.a.space], here.a.name)
            header += struct.pack("!H", _ETH_P_IP)
            source, target = (_beside(self._plan, cable) for cable in (here, there))
            if source is not None and target is not None:
                meaning = f"{launch.peer} forwards from {here.a.space} to {there.a.space}: it arrives at {{}}"
                token = self._token(_Attempt({there.a.space: ""}, meaning))
                frame = header + _packet(_UDP, (source, PORT), (target, PORT), token)
                self._wires[here.a.space].sendto(frame, (here.a.name, 0))

    def _try_router(self, router: RouterPlan) -> None:
        """From next to its WAN, as frames, which need no route to be handed to the router."""
        inside = frozenset((*router.hosts, *router.inner, *router.guests))
        ways = [way for launch in self._plan.launches for way in launch.ways]
        behind = [way for way in ways if router.name in way.routers]
        held = {address for way in behind if way.router == router.name for address in (way.address, way.address6 or "")}
        held |= {other.wan for other in (*self._plan.routers, *self._plan.routers6) if other.name in router.inner}
        same = (address for address in sorted(held - {""}) if (":" in address) is (":" in router.wan))
        targets = [(address, PORT, _straight(router)) for address in same]
        unasked = f"{router.name} lets {{kind}} that nobody asked for in to {{{{}}}}"
        ports = sorted({launch.port for launch in behind})
        targets += [(address, port, unasked) for address in router.publics for port in ports]
        self._try_frames(router, inside, targets)

    def _try_exchange(self, guard: GuardPlan) -> None:
        """The same at a router that exchanges prefixes: nobody outside is to know the inner one."""
        targets = [
            (way.address6, PORT, _straight(guard))
            for launch in self._plan.launches
            for way in launch.ways
            if way.router == guard.name and way.address6 is not None
        ]
        self._try_frames(guard, frozenset(guard.hosts), targets)

    def _try_frames(
        self, router: RouterPlan | GuardPlan, inside: frozenset[str], targets: Iterable[tuple[str, int, str]]
    ) -> None:
        near, wan = _link(self._plan, router.outside, router.name)
        header = _mac(self._spaces[router.name], wan.name) + _mac(self._spaces[router.outside], near.name)
        header += struct.pack("!H", _ETH_P_IPV6 if ":" in router.wan else _ETH_P_IP)
        for address, port, meaning in targets:
            for kind, protocol in (("UDP", _UDP), ("a TCP SYN", _TCP)):
                token = self._token(_Attempt(dict.fromkeys(inside, ""), meaning.format(kind=kind)))
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
            self._listen()

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
            more = [f"the leak check could not be made: {len(pairs) - TOLD} more are deaf"] if len(pairs) > TOLD else []
            deaf = [f"the leak check could not be made: {space} does not hear {s}/{port}" for s, port, space in pairs]
            return [*deaf[:TOLD], *more]
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
        for space, wire in (*self._wires.items(), *self._wires6.items()):
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


def _straight(router: RouterPlan | GuardPlan) -> str:
    origin = "the internet" if router.outside == CORE else router.outside
    return f"{router.name} routes {{kind}} from {origin} straight to {{{{}}}}"


def _hides_ipv6(plan: Plan) -> bool:
    return bool(plan.routers6) or any(guard.guard.translates for guard in plan.guards)


def _is_hidden(plan: Plan, way: Launch) -> bool:
    """Whether the internet knows it by another IPv6 address than its own."""
    seen = seen_at(plan, way)
    return bool(seen) and seen[0] != seen[-1]


def _beside(plan: Plan, cable: Cable) -> str | None:
    """The IPv4 address of who is at the other end of a host's uplink; None if it has none."""
    holder = cable.a.bridge or cable.a.name
    held = [port for port in (*plan.loose, cable.a) if (port.space, port.name) == (cable.a.space, holder)]
    return next((one.partition("/")[0] for port in held for one in port.addresses if ":" not in one), None)


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
    """A packet of either version with a UDP datagram, or a TCP SYN, that carries a payload."""
    six = ":" in target[0]
    ends = b"".join(socket.inet_pton(socket.AF_INET6 if six else socket.AF_INET, end[0]) for end in (source, target))
    head = struct.pack("!HH", source[1], target[1])
    if protocol == _UDP:
        head += struct.pack("!H", 8 + len(payload))
        rest = payload
    else:
        head += struct.pack("!IIBBH", 1, 0, 5 << 4, _SYN, 65535)
        rest = bytes(2) + payload
    length = len(head) + 2 + len(rest)
    pseudo = ends + (struct.pack("!I3xB", length, protocol) if six else struct.pack("!BBH", 0, protocol, length))
    segment = head + struct.pack("!H", _checksum(pseudo + head + bytes(2) + rest)) + rest
    if six:
        return struct.pack("!IHBB", 6 << 28, length, protocol, 64) + ends + segment
    header = struct.pack("!BBHHHBB", 0x45, 0, 20 + len(segment), 0, 0, 64, protocol)
    return header + struct.pack("!H", _checksum(header + bytes(2) + ends)) + ends + segment


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
