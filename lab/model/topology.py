"""A network as it was asked for: routers with their NATs, and peers behind them or on the internet.

Values only: no addresses, no seed (`lab.plan` chooses those). `load` reads one from a TOML file, in which a wrong key,
name or value is one line with its place; the punch matrix makes its own (`lab.model.classical`).

    name    = "two-homes"
    summary = "Two home NATs and a public relay."
    [router.home-a]
    nat = "home"
    [peer.relay]
    at   = "internet"
    role = "relay"
    [peer.alice]
    at   = "home-a"
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from lab.errors import TopologyError
from lab.files import read_asked
from lab.model import lans, placing, runner, uplinks
from lab.model.acquaintance import read_dials
from lab.model.dns import Dns, read_dns
from lab.model.firewall import Firewall, read_firewall
from lab.model.impairment import Link
from lab.model.ipv6 import Guard, Ip, read_guard, read_ip, read_nat66
from lab.model.link_keys import read_distances, read_link, read_region
from lab.model.nat import Nat
from lab.model.nat64 import check_prefixes, read_nat64, read_peer_ip
from lab.model.nat_keys import read_nat
from lab.model.peer_keys import ETH, read_interface, read_program
from lab.model.portmap import PortMapping, read_port_mapping
from lab.model.presets import PRESETS
from lab.model.switch import PLAIN, Switch, read_switches
from lab.model.tables import Table, read
from lab.model.transport import DEFAULT, read_transports

INTERNET: Final = uplinks.INTERNET
"`at` of a peer or a router that is behind no router"
UPSTREAM: Final = "upstream"
"`impl` of a program that was written for libp2p's own test suites"
IMPLS: Final = ("own", "go", "rust", "js", "py", UPSTREAM)
"ours, those whose peers `make peers` builds, and programs of others"
ROLES: Final = ("peer", "relay")
MAX_NEIGHBOURS: Final = 250
"routers and public peers together; each has a network of its own in 11.0.0.0/16"
MAX_HOSTS: Final = lans.MAX_HOSTS
"peers and routers on one LAN"
MAX_FILE: Final = 256 * 1024
"bytes of a topology file"

PORT: Final = 4001
"where a peer listens that does not say"

NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,14}")
"of a router or a peer: an interface of the core is called so, and Linux has 15 bytes for that"
TITLE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"of a topology: part of the name of a run's folder"
RESERVED: Final = frozenset({INTERNET, "core", "dns", "lab", "lo", "all", "default"})


@dataclass(frozen=True, slots=True)
class Router:
    """A NAT between one LAN and the internet, or another router's LAN."""

    name: str
    nat: Nat
    "of IPv4; without meaning in a network that has none"
    preset: str | None = None
    "the name its NAT was given by, if it was"
    line: int = 0
    "where in the topology file; 0: it has none"
    link: Link | None = None
    "its uplink, to the internet or to the LAN that it is on; None: ideal"
    link_preset: str | None = None
    region: str | None = None
    at: str = INTERNET
    "the router on whose LAN it is, or `internet`"
    lan: str = lans.HOME_LAN
    "the prefix of its own LAN"
    firewall: Firewall | None = None
    "what it lets out; None: everything"
    port_mapping: PortMapping | None = None
    "what its hosts may have it open; None: nothing"
    switch: Switch = PLAIN
    "what its LAN does with multicast, and between hosts"
    guard: Guard | None = None
    "its IPv6 firewall; None: the network has no IPv6, or it is a NAT there too"
    nat66: Nat | None = None
    "of IPv6; None: its addresses are not translated, or prefix by prefix alone"
    nat66_preset: str | None = None
    nat64: str | None = None
    "the prefix that stands for IPv4 on its LAN; None: it does not translate between the versions"


MAX_ADDRESSES: Final = 4
"public addresses of one peer"


@dataclass(frozen=True, slots=True)
class Peer:
    """A libp2p node and its place."""

    name: str
    at: str
    "a router's name, or `internet`; of several places the preferred one"
    impl: str = "own"
    role: str = "peer"
    "peer or relay"
    line: int = 0
    link: Link | None = None
    "its cable: to the internet if it is public, else to the router's LAN; None: ideal"
    link_preset: str | None = None
    region: str | None = None
    port: int = PORT
    "where it listens"
    transports: tuple[str, ...] = DEFAULT
    "what it listens on, the preferred one first"
    dials: tuple[str, ...] = ()
    "the peers that it is connected to at first, by dialling them"

    also: tuple[str, ...] = ()
    "further places that it is plugged in at, by preference"
    addresses: int = 1
    "public addresses that it has on the internet"
    ip: Ip | None = None
    "the one version of IP that it has; None: all that the network has"
    program: tuple[str, ...] = ()
    "of `upstream`: what is started, with its arguments; nothing: our own"
    interface: str = ETH
    "what its interface is called; its further ones are called eth1, eth2, …"
    run: str = runner.PROCESS
    "process or container"
    image: str | None = None
    "of its container; None: the project's own"

    @property
    def places(self) -> tuple[str, ...]:
        """Everywhere that it is plugged in, the preferred place first."""
        return (self.at, *self.also)

    @property
    def public(self) -> bool:
        """Whether it has an address that no NAT is in front of."""
        return INTERNET in self.places


@dataclass(frozen=True, slots=True)
class Topology:
    """A network. Names of routers and peers are unique among both."""

    name: str
    summary: str
    routers: tuple[Router, ...]
    peers: tuple[Peer, ...]
    path: Path | None = None
    "the file it came from"
    text: str = ""
    "what that file said, or would say"
    distances: tuple[tuple[str, str, float], ...] = ()
    "seconds one way from region to region"
    dns: Dns | None = None
    "its name service; None: names resolve to nothing"
    ip: Ip = Ip.V4

    def error(self, router: Router, problem: str) -> TopologyError:
        """An error about a router that only shows when everything has an address, with its place in the file."""
        where = f"{self.path}:{router.line}: " if self.path is not None else ""
        return TopologyError(f"{where}[router.{router.name}] {problem}")

    def router(self, name: str) -> Router:
        """The router of that name; KeyError if there is none."""
        for router in self.routers:
            if router.name == name:
                return router
        raise KeyError(name)

    def peer(self, name: str) -> Peer:
        """The peer of that name; KeyError if there is none."""
        for peer in self.peers:
            if peer.name == name:
                return peer
        raise KeyError(name)

    def routers_of(self, peer: str, place: str | None = None) -> tuple[Router, ...]:
        """The routers in front of a peer at its preferred place, or at another, the nearest first; KeyError."""
        return self._up(place or self.peer(peer).at)

    def above(self, router: Router) -> tuple[Router, ...]:
        """The routers that a router is behind, the nearest first."""
        return self._up(router.at)

    def nat_of(self, peer: str) -> Nat | None:
        """The NAT next to a peer at its preferred place; None if that is the internet."""
        at = self.peer(peer).at
        return None if at == INTERNET else self.router(at).nat

    def _up(self, at: str) -> tuple[Router, ...]:
        routers: list[Router] = []
        while at != INTERNET:
            routers.append(self.router(at))
            at = routers[-1].at
        return tuple(routers)


def load(path: Path | str) -> Topology:
    """The topology of a TOML file; TopologyError if it cannot be read or used."""
    path = Path(path)
    return parse(read_asked(path, MAX_FILE, "a topology"), str(path), path)


def parse(text: str, filename: str, path: Path | None = None) -> Topology:
    """The topology of a TOML text; TopologyError names the file, the line, the table and what is allowed."""
    top = read(text.replace("\r\n", "\n"), filename)
    top.check_keys(("name", "summary", "router", "peer", "region", "dns", "ip"))
    name = top.text("name", '"two-homes"')
    if not TITLE.fullmatch(name):
        raise top.error("name", "must be 1 to 64 letters, digits, dots, hyphens and underscores")
    summary = top.text("summary", '"Two home NATs and a public relay."', default="")
    if not summary.isprintable():
        raise top.error("summary", "must be one line of text")
    tables = {kind: top.tables(kind) for kind in ("router", "peer")}
    _check_names(tables["router"], tables["peer"])
    distances, regions = _regions(top.tables("region"))
    ip = read_ip(top)
    routers = tuple(_router(name, table, regions, ip) for name, table in tables["router"])
    peers = tuple(
        _peer(name, table, [router.name for router in routers], regions, ip) for name, table in tables["peer"]
    )
    places = placing.read_places(tables["router"], [peer.places for peer in peers])
    routers = tuple(replace(router, at=places[router.name].at, lan=places[router.name].lan) for router in routers)
    _check_links(tables["router"], routers)
    check_prefixes((table, router.nat64) for (_, table), router in zip(tables["router"], routers, strict=True))
    prefixes = {router.name: router.lan for router in routers}
    uplinks.check_uplinks(tables["peer"], {peer.name: peer.places for peer in peers}, prefixes)
    switches = read_switches(tables["router"])
    routers = tuple(replace(router, switch=switches[router.name]) for router in routers)
    _check_sizes(top, routers, peers)
    peers = _acquainted(tables["peer"], Topology(name, summary, routers, peers))
    dns = read_dns(top, [router.name for router in routers], [peer.name for peer in peers])
    return Topology(name, summary, routers, peers, path, text, distances, dns, ip)


def _acquainted(tables: list[tuple[str, Table]], topology: Topology) -> tuple[Peer, ...]:
    lans = {
        peer.name: {router.name for place in peer.places for router in topology.routers_of(peer.name, place)}
        for peer in topology.peers
    }
    dials = read_dials(tables, {peer.name: peer.places for peer in topology.peers}, lans)
    return tuple(replace(peer, dials=dials[peer.name]) for peer in topology.peers)


def _regions(tables: list[tuple[str, Table]]) -> tuple[tuple[tuple[str, str, float], ...], list[str]]:
    for name, table in tables:
        if not NAME.fullmatch(name):
            rule = "must begin with a letter and have 1 to 15 lower-case letters, digits and hyphens"
            raise table.error(None, f"the name {rule}")
    return read_distances(tables), [name for name, _ in tables]


def _check_links(tables: list[tuple[str, Table]], routers: tuple[Router, ...]) -> None:
    for (_, table), router in zip(tables, routers, strict=True):
        if router.at != INTERNET:
            _check_cable(table, router.at, router.link)


def _check_cable(table: Table, router: str, link: Link | None) -> None:
    """Refuse what a cable within a private network does not have."""
    if "region" in table.values:
        raise table.error("region", f"it is where its router is; put the key into [router.{router}]")
    if link is not None and link.mtu is not None:
        problem = "all on a LAN have one MTU, for a switch tells nobody that a packet was too large"
        raise table.error("link", f"mtu: {problem}; put it into [router.{router}], whose uplink has one")


def _check_names(routers: list[tuple[str, Table]], peers: list[tuple[str, Table]]) -> None:
    taken: dict[str, Table] = {}
    for name, table in [*routers, *peers]:
        if not NAME.fullmatch(name):
            rule = "must begin with a letter and have 1 to 15 lower-case letters, digits and hyphens"
            raise table.error(None, f"the name {rule}")
        if name in RESERVED:
            raise table.error(None, f"the name is the lab's own; not allowed: {', '.join(sorted(RESERVED))}")
        if name in taken:
            other = taken[name]
            where = f"[{other.path[0]}.{name}] in line {other.line}"
            raise table.error(None, f"duplicate name, taken by {where}; a router and a peer may not share one either")
        taken[name] = table


def _router(name: str, table: Table, regions: list[str], ip: Ip) -> Router:
    table.check_keys(
        ("nat", "at", "lan", "firewall", "ipv6", "nptv6", "nat66", "nat64", "port-mapping", "link", "region")
    )
    nat, preset = _nat(table, ip)
    link, link_preset = read_link(table, ip)
    region = read_region(table, regions)
    firewall, port_mapping = read_firewall(table), read_port_mapping(table)
    guard = read_guard(table, ip)
    nat66, nat66_preset = read_nat66(table, ip, nat)
    return Router(
        name,
        nat,
        preset,
        table.line,
        link,
        link_preset,
        region,
        firewall=firewall,
        port_mapping=port_mapping,
        guard=guard,
        nat66=nat66,
        nat66_preset=nat66_preset,
        nat64=read_nat64(table, ip, nat),
    )


def _nat(table: Table, ip: Ip) -> tuple[Nat, str | None]:
    if ip is not Ip.V6:
        return read_nat(table)
    for key in ("nat", "firewall", "lan", "port-mapping"):
        if key in table.values:
            raise table.error(key, 'this network has no IPv4; give it some at the top: ip = "dual-stack"')
    return PRESETS["full-cone"].nat, None


def _peer(name: str, table: Table, routers: list[str], regions: list[str], ip: Ip) -> Peer:
    table.check_keys(
        (
            *("at", "impl", "role", "port", "transports", "dials", "link", "region", "addresses", "ip"),
            *("program", "interface"),
            *runner.KEYS,
        ),
    )
    at, *also = uplinks.read_at(table, routers)
    if INTERNET not in (at, *also) and "addresses" in table.values:
        raise table.error("addresses", "a peer behind a router has one address; only the internet has several for one")
    link, link_preset = read_link(table, ip)
    if INTERNET not in (at, *also):
        if also and link is not None:
            raise table.error("link", f"it has several uplinks, {' and '.join((at, *also))}; give those routers links")
        _check_cable(table, at, link)
    run, image = runner.read_runner(table)
    return Peer(
        name,
        at,
        table.choice("impl", IMPLS, IMPLS[0], "no such implementation"),
        table.choice("role", ROLES, ROLES[0]),
        table.line,
        link,
        link_preset,
        read_region(table, regions),
        table.whole("port", 1, 65535, PORT),
        read_transports(table),
        also=tuple(also),
        addresses=table.whole("addresses", 1, MAX_ADDRESSES, 1),
        ip=read_peer_ip(table, ip, len((at, *also))),
        program=read_program(table),
        interface=read_interface(table),
        run=run,
        image=image,
    )


def _check_sizes(top: Table, routers: tuple[Router, ...], peers: tuple[Peer, ...]) -> None:
    if not peers:
        raise top.error(None, 'no peers; add [peer.NAME] with at = "internet" or a router')
    neighbours = [*(router.at for router in routers), *(place for p in peers for place in p.places)].count(INTERNET)
    if neighbours > MAX_NEIGHBOURS:
        raise top.error(None, f"{neighbours} routers and public peers; allowed: {MAX_NEIGHBOURS} together")
