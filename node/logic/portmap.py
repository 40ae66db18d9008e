"""Ports that a router keeps open for us: which protocol to ask in, when to ask again, and when a lease is gone.

    probe ─► Choice ─► map each Port ─► Lease ─► check, renew at half its life ─► … ─► gone: ask anew

Facts: the three protocols are probed at once, as one that is not spoken is silence; PCP is preferred to NAT-PMP, it to
UPnP. A router that has forgotten everything goes on answering: PCP and NAT-PMP tell by an epoch that does not go with
the time (RFC 6887 §8.5, RFC 6886 §3.6), UPnP when asked for the entry. Retransmission: NAT-PMP 250 ms, doubling, nine
times (RFC 6886 §3.1); PCP 3 s, doubling up to 1024 s, each ± 10 % (RFC 6887 §8.1.1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from node.logic.addresses import is_public_ip
from node.names.multiaddr import Multiaddr

if TYPE_CHECKING:
    from node.logic.addresses import IPAddress

LIFETIME: Final = 3600
"""Seconds that we ask for, as rust does."""
FOREVER: Final = 86400
"""Seconds after which a lease without an end is looked at as if it had one."""
PORTS: Final = 16
"""Ports that a router is asked for."""
PREFERENCE: Final = 0.3
"""Seconds by which a better protocol may be later than a worse one."""
DISCOVERY: Final = 10.0
"""Seconds until a router that has not answered has no port mapping, as in go."""
CHECK: Final = 60.0
"""Seconds between two looks at a lease."""
RETRY: Final = (30.0, 120.0, 600.0)
"""Seconds until a router that does not map ports is asked again: the first time, the second, from then on."""

_NATPMP_FIRST, _NATPMP_TIMES = 0.25, 9
_PCP_FIRST, _PCP_LONGEST, _PCP_SPREAD = 3.0, 1024.0, 0.1


class Protocol(Enum):
    """How a router is asked, the best first."""

    PCP = "pcp"
    NAT_PMP = "nat-pmp"
    UPNP = "upnp"


@dataclass(frozen=True, slots=True)
class Port:
    """A port of ours, and the transport that listens there: `tcp` or `udp`."""

    transport: str
    number: int


@dataclass(frozen=True, slots=True)
class Granted:
    """What a router says it has opened, and for how many seconds."""

    ip: IPAddress
    number: int
    lifetime: float


@dataclass(frozen=True, slots=True)
class Lease:
    """An open port; times are seconds of the caller's clock."""

    port: Port
    granted: Granted
    since: float

    @property
    def renew_at(self) -> float:
        """When to renew it at the latest."""
        return self.since + self.granted.lifetime / 2

    @property
    def ends_at(self) -> float:
        """When the router closes the port."""
        return self.since + self.granted.lifetime

    @property
    def is_public(self) -> bool:
        """Whether the internet can reach it, as far as its address says."""
        return is_public_ip(self.granted.ip)


def wanted(listening: Iterable[Multiaddr]) -> dict[Port, list[Multiaddr]]:
    """Return the ports to have opened, and the listeners at each: IPv4, and not on loopback."""
    ports: dict[Port, list[Multiaddr]] = {}
    for addr in listening:
        ip, names = addr.ip, addr.names
        if ip is None or ip.version != 4 or ip.is_loopback or not addr.port or names[1] not in ("tcp", "udp"):
            continue
        port = Port(names[1], addr.port)
        if port in ports or len(ports) < PORTS:
            ports.setdefault(port, []).append(addr)
    return ports


def outside(addr: Multiaddr, granted: Granted) -> Multiaddr:
    """Return the address of a listener as the internet has it."""
    parts = list(addr)
    parts[0] = (f"ip{granted.ip.version}", str(granted.ip))
    parts[1] = (parts[1][0], str(granted.number))
    return Multiaddr("".join(f"/{name}" if value is None else f"/{name}/{value}" for name, value in parts))


def natpmp_timeouts() -> Iterator[float]:
    """Seconds to wait for an answer after each request."""
    return (_NATPMP_FIRST * 2**n for n in range(_NATPMP_TIMES))


def pcp_timeouts(chance: Callable[[], float]) -> Iterator[float]:
    """Seconds to wait for an answer after each request, without end; `chance` gives numbers from 0 to 1."""
    wait = 0.0
    while True:
        spread = 1 + _PCP_SPREAD * (2 * chance() - 1)
        wait = spread * (min(2 * wait, _PCP_LONGEST) if wait else _PCP_FIRST)
        yield wait


class Choice:
    """Which of the protocols that a router speaks to use; times are seconds of the caller's clock."""

    def __init__(self, now: float) -> None:
        self._began = now
        self._answered: dict[Protocol, float] = {}
        self._silent: set[Protocol] = set()

    def answered(self, protocol: Protocol, now: float) -> None:
        """The router speaks it."""
        self._answered.setdefault(protocol, now)

    def silent(self, protocol: Protocol) -> None:
        """The router does not speak it, or refuses all it is asked in it."""
        self._silent.add(protocol)
        self._answered.pop(protocol, None)

    def best(self, now: float) -> Protocol | None:
        """Return the protocol to use; None as long as a better one may still answer, and when there is none."""
        if not self._answered:
            return None
        best = min(self._answered, key=list(Protocol).index)
        better = list(Protocol)[: list(Protocol).index(best)]
        waited = now - min(self._answered.values()) >= PREFERENCE
        return best if waited or self._silent.issuperset(better) else None

    def is_over(self, now: float) -> bool:
        """Whether nothing is to be hoped for any more."""
        return not self._answered and (len(self._silent) == len(Protocol) or now - self._began >= DISCOVERY)

    def get_timer(self) -> float:
        """Return when `best` or `is_over` may have another answer without news."""
        return min(self._answered.values()) + PREFERENCE if self._answered else self._began + DISCOVERY


class Epoch:
    """A router's epoch: whether it goes with the time, or has begun anew."""

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol
        self._last: tuple[int, float] | None = None

    def goes_on(self, epoch: int, now: float, *, told: bool = False) -> bool:
        """Take an epoch heard at `now`; False if the router has lost its state since the one before.

        `told`: by an announcement, which a router makes when it begins anew; then no second of tolerance hides it.
        """
        last, self._last = self._last, (epoch, now)
        if last is None:
            return True
        if told and epoch < last[0]:
            return False
        client, server = now - last[1], epoch - last[0]
        if self._protocol is Protocol.NAT_PMP:
            return server >= client * 7 / 8 - 2
        if server < -1:
            return False
        return not (client + 2 < server - server / 16 or server + 2 < client - client / 16)


def retry_after(failures: int) -> float:
    """Return the seconds to leave a router alone after that many failures in a row (≥ 1)."""
    return RETRY[min(failures, len(RETRY)) - 1]
