"""Certify that a LAN is what it was declared to be: packets from one host, looked for at the interfaces of the others.

    1  nobody has joined anything    alice → 224.0.0.251, ff02::fb, another group of each family, bob, carol
    2  the others have joined all    the same again, and by the reflector on the LANs that it exchanges mDNS with

Interfaces are listened to below any socket, so it is the switch that decides what is heard and not the host. A switch
that has just been switched on prunes nothing yet (`lab.kernel.switch`), so a phase is repeated until it comes out as
declared, for some seconds; what then still differs does differ.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from lab.errors import KernelError
from lab.kernel.network import Network
from lab.observe.lan import LanCertificate, Shot, To, arrives, certificate, differences
from lab.plan.plan import Plan
from lab.plan.switching import LanPlan, Station, exchanges

SETTLED_WITHIN: Final = 3.0
"Seconds for a LAN to be as declared; the usual is a fifth of one."
HEARD_WITHIN: Final = 0.2
"Seconds for one round's packets to be heard by all who must."
QUIET: Final = 0.02
"Seconds for stragglers after that."
PORT: Final = 5353
MAX_FRAMES: Final = 4096
"Frames read from one interface at once."

_MAGIC: Final = bytes(12) + b"punchlab lan "
"behind the header of a DNS message that asks nothing, or a reflector would not take it for one"
_TOKEN: Final = len(_MAGIC) + 8
_ETH_P_ALL: Final = 0x0003
_MREQN = struct.Struct("@4s4si")
_MREQ6 = struct.Struct("@16si")


async def certify_lans(network: Network, plan: Plan, *, settled_within: float = SETTLED_WITHIN) -> list[LanCertificate]:
    """Measure every LAN of a plan that is more than a plain switch; never raises on account of a LAN."""
    if not plan.lans:
        return []
    try:
        with ExitStack() as opened:
            probe = _Probe(network, plan, settled_within, opened)
            shots = [*await probe.phase(joined=False), *await probe.phase(joined=True)]
    except (OSError, KernelError) as error:
        why = f"it could not be measured: {error}"
        return [LanCertificate(lan.router, lan.switch, (), (why,)) for lan in plan.lans]
    return [certificate(lan.router, lan.switch, (s for s in shots if s.lan == lan.router)) for lan in plan.lans]


@dataclass(frozen=True, slots=True)
class _Aim:
    """A shot before it is fired."""

    lan: LanPlan
    by: Station
    reflected: bool
    to: To
    joined: bool
    listeners: tuple[Station, ...]
    fire: Callable[[bytes], None]

    @property
    def expected(self) -> bool:
        return arrives(self.lan.switch, self.to, joined=self.joined, reflected=self.reflected)

    def shot(self, heard: Iterable[str]) -> Shot:
        spaces = tuple(station.space for station in self.listeners)
        present = set(heard)
        return Shot(
            lan=self.lan.router,
            by=self.by.space,
            reflected=self.reflected,
            to=self.to,
            joined=self.joined,
            listeners=spaces,
            heard_by=tuple(space for space in spaces if space in present),
        )


class _Probe:
    def __init__(self, network: Network, plan: Plan, settled_within: float, opened: ExitStack) -> None:
        self._settled_within = settled_within
        self._network = network
        self._plan = plan
        self._opened = opened
        self._wires = {
            (lan.router, station.space): self._wire(station) for lan in plan.lans for station in lan.stations
        }

    async def phase(self, *, joined: bool) -> list[Shot]:
        """Fire all shots, again and again until they come out as declared or time is up."""
        if joined:
            for lan in self._plan.lans:
                for station in lan.stations[1:] if not self._reflects(lan) else lan.stations:
                    self._join(lan, station)
        aims = list(self._aims(joined=joined))
        deadline = time.monotonic() + self._settled_within
        while True:
            shots = await self._round(aims)
            switches = {lan.router: lan.switch for lan in self._plan.lans}
            wrong = any(differences(switches[shot.lan], shot) for shot in shots)
            if not wrong or time.monotonic() > deadline:
                return shots

    def _aims(self, *, joined: bool) -> Iterator[_Aim]:
        for lan in self._plan.lans:
            by, *others = lan.stations
            groups = [to for to in To if to is not To.ITSELF and (lan.switch.link_local or not to.ipv6)]
            for to in groups if others else ():
                yield _Aim(lan, by, False, to, joined, tuple(others), self._at_group(by, to))
            for other in others if not joined else ():
                yield _Aim(lan, by, False, To.ITSELF, joined, (other,), self._at_host(by, other))
        for group in exchanges(self._plan.lans):
            yield from self._reflected(group, joined=joined)

    def _reflected(self, group: Sequence[LanPlan], *, joined: bool) -> Iterator[_Aim]:
        for source in group:
            by = source.stations[0]
            for target in group:
                for to in (To.MDNS, To.MDNS6) if target is not source else ():
                    if not to.ipv6 or (source.switch.link_local and target.switch.link_local):
                        yield _Aim(target, by, True, to, joined, target.stations, self._at_group(by, to))

    def _reflects(self, lan: LanPlan) -> bool:
        return any(lan in group for group in exchanges(self._plan.lans))

    async def _round(self, aims: Sequence[_Aim]) -> list[Shot]:
        tokens = {_MAGIC + secrets.token_bytes(8): aim for aim in aims}
        heard: dict[bytes, set[str]] = {token: set() for token in tokens}
        self._listen(heard)
        for token, aim in tokens.items():
            aim.fire(token)
        deadline = time.monotonic() + HEARD_WITHIN
        while time.monotonic() < deadline and any(
            aim.expected and len(heard[token]) < len(aim.listeners) for token, aim in tokens.items()
        ):
            await asyncio.sleep(0.001)
            self._listen(heard)
        await asyncio.sleep(QUIET)
        self._listen(heard)
        return [aim.shot(heard[token]) for token, aim in tokens.items()]

    def _listen(self, heard: dict[bytes, set[str]]) -> None:
        for (_, space), wire in self._wires.items():
            for frame in _frames(wire):
                token = frame[at : at + _TOKEN] if (at := frame.find(_MAGIC)) >= 0 else b""
                if token in heard:
                    heard[token].add(space)

    def _wire(self, station: Station) -> socket.socket:
        space = self._network.spaces[station.space]
        wire = self._opened.enter_context(space.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
        wire.setblocking(False)
        wire.bind((station.interface, _ETH_P_ALL))
        return wire

    def _at_group(self, by: Station, to: To) -> Callable[[bytes], None]:
        sender = self._socket(by, to)
        return lambda token: _send(sender, token, to.value)

    def _at_host(self, by: Station, other: Station) -> Callable[[bytes], None]:
        sender = self._socket(by, To.ITSELF)
        return lambda token: _send(sender, token, other.address)

    def _join(self, lan: LanPlan, station: Station) -> None:
        index = self._index(station)
        for to in (To.MDNS, To.GROUP):
            group = _MREQN.pack(socket.inet_aton(to.value), bytes(4), index)
            self._socket(station, to).setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
        for to in (To.MDNS6, To.GROUP6) if lan.switch.link_local else ():
            group = _MREQ6.pack(socket.inet_pton(socket.AF_INET6, to.value), index)
            self._socket(station, to).setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)

    def _socket(self, station: Station, to: To) -> socket.socket:
        """A socket that sends from mDNS's port by the station's interface."""
        family = socket.AF_INET6 if to.ipv6 else socket.AF_INET
        made = self._opened.enter_context(self._network.spaces[station.space].socket(family, socket.SOCK_DGRAM))
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        index = self._index(station)
        if to.ipv6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        else:
            made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, _MREQN.pack(bytes(4), bytes(4), index))
        made.bind(("", PORT))
        return made

    def _index(self, station: Station) -> int:
        with self._network.spaces[station.space].entered():
            return socket.if_nametoindex(station.interface)


def _send(sender: socket.socket, token: bytes, address: str) -> None:
    sender.sendto(token, (address, PORT))


def _frames(wire: socket.socket) -> Iterator[bytes]:
    """Frames that came in; a packet socket also sees its own interface send."""
    for _ in range(MAX_FRAMES):
        try:
            frame, address = wire.recvfrom(2048)
        except BlockingIOError:
            return
        if address[2] != socket.PACKET_OUTGOING:
            yield frame
