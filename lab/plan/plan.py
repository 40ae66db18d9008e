"""What must exist: the values that `build` makes of a topology and `kernel` makes real.

Interface names are short and fixed per kind of space, so that rules and captures can name them: a router has `wan`
(towards the core) and the bridge `lan`; a host has `eth0`; the core has one port per neighbour. All addresses are text,
with prefix length where an interface holds them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from lab.model.firewall import Firewall
from lab.model.ipv6 import Guard
from lab.model.nat import Nat
from lab.model.runner import PROCESS
from lab.model.transport import DEFAULT
from lab.plan.names import ETH, capture
from lab.plan.shaping import NOT_SHAPED, Shaping
from lab.plan.switching import LanPlan
from lab.plan.zone import DnsPlan


class SpaceKind(Enum):
    CORE = "core"
    ROUTER = "router"
    HOST = "host"
    "a peer, or what a NAT is probed from that has only routers behind it"


@dataclass(frozen=True, slots=True)
class Space:
    """One network namespace."""

    name: str
    kind: SpaceKind
    bridges: tuple[str, ...] = ()
    "bridge interfaces to create in it"
    sysctls: tuple[tuple[str, str], ...] = ()
    """Path below /proc/sys/net (e.g. `ipv4/ip_forward`) and value.

    Written before the space gets interfaces, which take them over from `default`; those below `netfilter/` once the
    rules are loaded, for the files come with the module. One that this kernel has no file for is left out.
    """


@dataclass(frozen=True, slots=True)
class Port:
    """An interface in a space. A bridge's own address is a Port too, one that no cable ends in."""

    space: str
    name: str
    addresses: tuple[str, ...] = ()
    "`11.0.1.2/24`"
    bridge: str | None = None
    "the bridge of the same space that it is plugged into"
    mac: str | None = None
    mtu: int | None = None
    "None: Ethernet's 1500"


@dataclass(frozen=True, slots=True)
class Cable:
    """A veth pair."""

    a: Port
    b: Port


@dataclass(frozen=True, slots=True)
class Route:
    space: str
    destination: str
    "`default` or a prefix"
    gateway: str | None
    port: str
    metric: int = 0
    "the lower one is taken, of several to the same destination"
    table: int | None = None
    "one that only a `Policy` leads to; None: the one for everything"


@dataclass(frozen=True, slots=True)
class Policy:
    """What a host sends from that address is routed by a table of its own (RFC 1122 §3.3.4.2, strong end system)."""

    space: str
    source: str
    "without prefix length"
    table: int


@dataclass(frozen=True, slots=True)
class RuleSet:
    """nftables text for one space; loading it again replaces it."""

    space: str
    text: str


@dataclass(frozen=True, slots=True)
class RouterPlan:
    """All that probing and judging need to know about one router and one version of IP."""

    name: str
    nat: Nat
    wan: str
    "its outer address, without prefix length: public, or on the LAN of the router that it is behind"
    publics: tuple[str, ...]
    "all its outer addresses, `wan` first"
    lan: str
    "the LAN's prefix, `192.168.1.0/24`"
    gateway: str
    "its own address on the LAN"
    hosts: tuple[str, ...]
    "the spaces on its LAN that it can be probed from; its peers, if it has any"
    inner: tuple[str, ...]
    "the routers on its LAN"
    guests: tuple[str, ...]
    "the peers on its LAN that have other uplinks too, and so are nothing to probe it from"
    above: tuple[str, ...]
    "the routers that it is behind, the nearest first"
    outside: str
    "the space next to its WAN: the core, or the router that it is behind"
    vantages: tuple[str, str]
    "two addresses of that space from which it is probed"
    firewall: Firewall | None


@dataclass(frozen=True, slots=True)
class GuardPlan:
    """All that probing and judging need to know about one router's IPv6 firewall."""

    name: str
    guard: Guard
    wan: str
    "its outer address"
    lan: str
    "the LAN's prefix, `2a11:1:1::/64`"
    outer: str
    "the prefix that it has outside; another one if the router exchanges them"
    hosts: tuple[str, ...]
    "the spaces on its LAN that it can be probed from"
    above: tuple[str, ...]
    "the routers that it is behind, the nearest first"
    outside: str
    "the space next to its WAN"
    vantages: tuple[str, str]
    "two addresses of that space from which it is probed"


@dataclass(frozen=True, slots=True)
class Translator:
    """What translates between IPv6 and IPv4 beside a router, address by address."""

    space: str
    device: str
    "the interface by which packets go to the program and come back"
    prefix: str
    "of IPv6, which stands for all of IPv4"
    pool: str
    "of IPv4, an address of it for each host"
    config: str


@dataclass(frozen=True, slots=True)
class PortMapper:
    """A router's port-mapping daemon."""

    space: str
    gateway: str
    "where it listens on the LAN"
    config: str
    rules: str
    "nftables text: the table that it writes into"
    udp_port: int | None
    "of NAT-PMP and PCP; None: neither is offered"
    tcp_port: int | None
    "of UPnP's descriptions and control; None: it is not offered"


@dataclass(frozen=True, slots=True)
class Attachment:
    """A further uplink of a peer that has several."""

    interface: str
    address: str
    "without prefix length; IPv4 if it has such a one"
    router: str | None
    "the router it is next to; None: it is on the internet"
    routers: tuple[str, ...]
    "all that it is behind, the nearest first"
    address6: str | None = None
    "its IPv6 address; None: it has none"


@dataclass(frozen=True, slots=True)
class Launch:
    """A peer to start. What is said of its place is said of the preferred one, where it has several."""

    peer: str
    space: str
    address: str
    "its address, without prefix length; IPv4 if it has such a one"
    impl: str
    "own, go, rust, js, py, upstream"
    role: str
    "peer or relay"
    router: str | None
    "the router it is next to; None: it is on the internet"
    routers: tuple[str, ...]
    "all that it is behind, the nearest first"
    port: int = 4001
    address6: str | None = None
    "its IPv6 address; None: it has none"
    transports: tuple[str, ...] = DEFAULT
    "what it listens on, the preferred one first"
    dials: tuple[str, ...] = ()
    "the peers that it is connected to at first, by dialling them"

    program: tuple[str, ...] = ()
    "of `upstream`: what is started, with its arguments; nothing: our own"
    run: str = PROCESS
    "process or container"
    image: str | None = None
    "of its container; None: the project's own"
    interface: str = ETH
    further: tuple[Attachment, ...] = ()
    "its other uplinks, by preference"

    @property
    def addresses(self) -> tuple[str, ...]:
        """All its addresses."""
        held = (address for way in self.ways for address in (way.address, way.address6))
        return tuple(dict.fromkeys(filter(None, held)))

    @property
    def ways(self) -> tuple[Launch, ...]:
        """The peer by each of its uplinks alone, the preferred one first."""
        return (replace(self, further=()), *(self._by(uplink) for uplink in self.further))

    def address_for(self, other: Launch) -> str:
        """The address that another peer can write to unasked, if there is one: public, or on a LAN in front of both."""
        reached = {None, *(router for way in other.ways for router in way.routers)}
        return next((way.address for way in self.ways if way.router in reached), self.address)

    @property
    def captures(self) -> tuple[str, ...]:
        """What its interfaces are called in the pcapng."""
        return tuple(capture(self.space, way.interface) for way in self.ways)

    def _by(self, uplink: Attachment) -> Launch:
        return replace(
            self,
            interface=uplink.interface,
            address=uplink.address,
            address6=uplink.address6,
            router=uplink.router,
            routers=uplink.routers,
            further=(),
        )


@dataclass(frozen=True, slots=True)
class Capture:
    """An interface to record, and the name it has in the pcapng."""

    space: str
    port: str
    name: str
    "`home-a/wan`, `alice/eth0`"


@dataclass(frozen=True, slots=True)
class Plan:
    """A topology made exact. Same topology and seed, same plan."""

    topology: str
    seed: int
    spaces: tuple[Space, ...]
    loose: tuple[Port, ...]
    "ports without a cable: bridges' own addresses, the core's vantage addresses on `lo`"
    cables: tuple[Cable, ...]
    routes: tuple[Route, ...]
    rules: tuple[RuleSet, ...]
    routers: tuple[RouterPlan, ...]
    launches: tuple[Launch, ...]
    captures: tuple[Capture, ...]
    vantages: tuple[str, str]
    "two addresses of the core from which routers on the internet are probed"
    shaping: Shaping = NOT_SHAPED
    lans: tuple[LanPlan, ...] = ()
    "those that are more than a plain switch"
    port_mappers: tuple[PortMapper, ...] = ()
    guards: tuple[GuardPlan, ...] = ()
    "IPv6 firewalls, one a router that is no NAT, in a network with IPv6"
    routers6: tuple[RouterPlan, ...] = ()
    "NATs of IPv6"
    translators: tuple[Translator, ...] = ()
    "NAT64s, one a router that has one"
    policies: tuple[Policy, ...] = ()
    "which table routes what peers with several uplinks send"
    dns: DnsPlan | None = None
    "the name server, if there is one"
