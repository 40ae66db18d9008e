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
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from lab.errors import TopologyError
from lab.model import lans, placing
from lab.model.dns import Dns, read_dns
from lab.model.firewall import Firewall, read_firewall
from lab.model.impairment import Link
from lab.model.ipv6 import Guard, Ip, read_guard, read_ip
from lab.model.link_keys import read_distances, read_link, read_region
from lab.model.nat import Nat
from lab.model.nat_keys import read_nat
from lab.model.portmap import PortMapping, read_port_mapping
from lab.model.presets import PRESETS
from lab.model.switch import PLAIN, Switch, read_switches
from lab.model.tables import Table, closest, read

INTERNET: Final = placing.INTERNET
"`at` of a peer or a router that is behind no router"
IMPLS: Final = ("own",)
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

PEER_KEYS_LATER: Final[Mapping[str, str]] = MappingProxyType(
    {
        "run": "every peer runs as a process in this version; leave the key out",
    }
)


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
    "its uplink; None: ideal"
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
    "its IPv6 firewall; None: the network has no IPv6"


@dataclass(frozen=True, slots=True)
class Peer:
    """A libp2p node and its place."""

    name: str
    at: str
    "a router's name, or `internet`"
    impl: str = "own"
    role: str = "peer"
    "peer or relay"
    line: int = 0
    link: Link | None = None
    "only if it is public; None: ideal"
    link_preset: str | None = None
    region: str | None = None
    port: int = PORT
    "where it listens"

    @property
    def public(self) -> bool:
        """Whether no NAT is in front of it."""
        return self.at == INTERNET


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

    def routers_of(self, peer: str) -> tuple[Router, ...]:
        """The routers in front of a peer, the nearest first; KeyError if there is no such peer."""
        return self._up(self.peer(peer).at)

    def above(self, router: Router) -> tuple[Router, ...]:
        """The routers that a router is behind, the nearest first."""
        return self._up(router.at)

    def nat_of(self, peer: str) -> Nat | None:
        """The NAT next to a peer; None if it is on the internet."""
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
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise TopologyError(f"{path}: {error.strerror or error}") from None
    if len(data) > MAX_FILE:
        raise TopologyError(f"{path}: longer than a topology may be, {MAX_FILE // 1024} KiB")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TopologyError(f"{path}:{line}: not text in UTF-8, which TOML is") from None
    return parse(text, str(path), path)


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
    peers = tuple(_peer(name, table, [router.name for router in routers], regions) for name, table in tables["peer"])
    places = placing.read_places(tables["router"], tables["peer"])
    routers = tuple(replace(router, at=places[router.name].at, lan=places[router.name].lan) for router in routers)
    _check_links(tables["router"], routers)
    switches = read_switches(tables["router"])
    routers = tuple(replace(router, switch=switches[router.name]) for router in routers)
    _check_sizes(top, routers, peers)
    dns = read_dns(top, [router.name for router in routers], [peer.name for peer in peers], ip)
    return Topology(name, summary, routers, peers, path, text, distances, dns, ip)


def _regions(tables: list[tuple[str, Table]]) -> tuple[tuple[tuple[str, str, float], ...], list[str]]:
    for name, table in tables:
        if not NAME.fullmatch(name):
            rule = "must begin with a letter and have 1 to 15 lower-case letters, digits and hyphens"
            raise table.error(None, f"the name {rule}")
    return read_distances(tables), [name for name, _ in tables]


def _check_links(tables: list[tuple[str, Table]], routers: tuple[Router, ...]) -> None:
    for (_, table), router in zip(tables, routers, strict=True):
        for key in ("link", "region"):
            if router.at != INTERNET and key in table.values:
                problem = f"only links to the internet are shaped, and it is behind {router.at}"
                raise table.error(key, f"{problem}; put the key into [router.{router.at}]")


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
    table.check_keys(("nat", "at", "lan", "firewall", "ipv6", "port-mapping", "link", "region"))
    nat, preset = _nat(table, ip)
    link, link_preset = read_link(table)
    region = read_region(table, regions)
    firewall, port_mapping = read_firewall(table), read_port_mapping(table)
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
        guard=read_guard(table, ip),
    )


def _nat(table: Table, ip: Ip) -> tuple[Nat, str | None]:
    if ip is not Ip.V6:
        return read_nat(table)
    for key in ("nat", "firewall", "lan"):
        if key in table.values:
            raise table.error(key, 'this network has no IPv4; give it some at the top: ip = "dual-stack"')
    return PRESETS["full-cone"].nat, None


def _peer(name: str, table: Table, routers: list[str], regions: list[str]) -> Peer:
    table.check_keys(("at", "impl", "role", "port", "link", "region"), PEER_KEYS_LATER)
    places = f"routers: {', '.join(routers)}, or {INTERNET!r}" if routers else f"there are none, only {INTERNET!r}"
    if "at" not in table.values:
        raise table.error("at", f"there is none; {places}")
    at = table.text("at", f'"{INTERNET}"')
    if at not in (*routers, INTERNET):
        raise table.error("at", f"no such router{closest(at, [*routers, INTERNET])}; {places}")
    for key in ("link", "region"):
        if at != INTERNET and key in table.values:
            raise table.error(key, f"a peer behind a router has that of its router; put it into [router.{at}]")
    link, link_preset = read_link(table)
    return Peer(
        name,
        at,
        table.choice("impl", IMPLS, IMPLS[0], "no adapter for it in this version"),
        table.choice("role", ROLES, ROLES[0]),
        table.line,
        link,
        link_preset,
        read_region(table, regions),
        table.whole("port", 1, 65535, PORT),
    )


def _check_sizes(top: Table, routers: tuple[Router, ...], peers: tuple[Peer, ...]) -> None:
    if not peers:
        raise top.error(None, 'no peers; add [peer.NAME] with at = "internet" or a router')
    neighbours = [*(router.at for router in routers), *(peer.at for peer in peers)].count(INTERNET)
    if neighbours > MAX_NEIGHBOURS:
        raise top.error(None, f"{neighbours} routers and public peers; allowed: {MAX_NEIGHBOURS} together")
