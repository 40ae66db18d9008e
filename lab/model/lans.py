"""The private networks behind routers: which one each has, and whether what is plugged into it has room there.

    internet ── isp ── 100.64.0.0/10 ── home-a ── 192.168.1.0/24 ── alice
                                     └─ home-b ── 192.168.1.0/24 ── bob

Homes overlap, as they do. Two networks that one router is on may not: it could not tell them apart.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from ipaddress import IPv4Network
from typing import Final

from lab.model.switch import lan_table
from lab.model.tables import Table

HOME_LAN: Final = "192.168.1.0/24"
"the LAN of a router with nothing but peers behind it"
CARRIER_LANS: Final = ("100.64.0.0/10", "10.0.0.0/8", "172.16.0.0/12")
"the LAN of a router with routers behind it, by the number of routers in front of it; the first is RFC 6598's"
MAX_LAYERS: Final = len(CARRIER_LANS) + 1
"routers one behind the other"
PRIVATE: Final = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")
"RFC 1918 and RFC 6598; what a LAN may be a part of"
SHORTEST, LONGEST = 8, 30
"bounds of a LAN's prefix length"
MAX_HOSTS: Final = 200
"peers and routers on one LAN"
FIRST_HOST: Final = 10
"of a LAN with at least 256 addresses; in a smaller one hosts begin after the gateway"


def default_lan(layer: int, carrier: bool) -> str:
    """The LAN of a router that does not say: `layer` counts the routers in front of it."""
    return CARRIER_LANS[layer] if carrier else HOME_LAN


def read_lan(table: Table, default: str) -> str:
    """The prefix in the key `lan` of a router's table: its text, or the key `prefix` where it is a table itself."""
    inner = lan_table(table)
    table, key = (table, "lan") if inner is None else (inner, "prefix")
    text = table.text(key, f'"{HOME_LAN}"', default)
    try:
        lan = IPv4Network(text)
    except ValueError as error:
        raise table.error(key, f"not a network: {error}; such as {HOME_LAN!r}") from None
    if not any(lan.subnet_of(IPv4Network(prefix)) for prefix in PRIVATE):
        raise table.error(key, f"not a private network; allowed: parts of {', '.join(PRIVATE)}")
    if not SHORTEST <= lan.prefixlen <= LONGEST:
        raise table.error(key, f"its prefix has {lan.prefixlen} bits; allowed: /{SHORTEST} to /{LONGEST}")
    return str(lan)


def check_room(table: Table, lan: str, peers: int, routers: Sequence[str]) -> None:
    """Refuse a LAN with more on it than it has addresses for, or than the lab carries."""
    room = min(MAX_HOSTS, capacity(lan))
    if peers + len(routers) > room:
        what = f"{peers} peers" + (f" and {len(routers)} routers" if routers else "")
        raise table.error(None, f"{what} are behind it; allowed: {room} on the LAN {lan}")


def check_apart(table: Table, lan: str, outer: str, outer_router: str) -> None:
    """Refuse a LAN that overlaps the one that the router's own uplink is on."""
    if IPv4Network(lan).overlaps(IPv4Network(outer)):
        problem = f"overlaps {outer}, the LAN of {outer_router}, which it is on itself"
        raise table.error("lan", f"{lan} {problem}; give one of the two another: lan = {PRIVATE[1]!r}")


def capacity(lan: str) -> int:
    """How many hosts a LAN has addresses for, beside its gateway."""
    network = IPv4Network(lan)
    return network.num_addresses - 1 - _first(network)


def gateway(lan: str) -> str:
    """The router's own address on its LAN."""
    return str(ipaddress.IPv4Address(IPv4Network(lan).network_address + 1))


def host(lan: str, index: int) -> str:
    """The address of a LAN's host number `index`, counted from 0; ValueError if the LAN has no such address."""
    if not 0 <= index < capacity(lan):
        raise ValueError(f"{lan} has no room for host {index}")
    network = IPv4Network(lan)
    return str(network.network_address + _first(network) + index)


def length(lan: str) -> int:
    """Bits of a LAN's prefix."""
    return IPv4Network(lan).prefixlen


def _first(network: IPv4Network) -> int:
    return FIRST_HOST if network.num_addresses >= 256 else 2
