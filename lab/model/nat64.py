"""NAT64 (RFC 6146): peers with one version of IP alone, and a router that translates between the two for them.

ip = "dual-stack"
[router.home]
nat   = "home"
nat64 = true                            # or a prefix of its own, "2a11:64::/96"
[peer.alice]
at = "home"
ip = "ipv6"                             # and no IPv4
[peer.server]
at = "internet"
ip = "ipv4"

What such a peer sends to the prefix and an IPv4 address leaves the router by its `nat`, mapped and filtered as that
says. The lab's name server gives addresses of the prefix to who asks it by IPv6 (DNS64, RFC 6147).
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv6Network
from typing import Final

from lab.model.ipv6 import Ip
from lab.model.nat import Nat
from lab.model.tables import Table

WELL_KNOWN: Final = "64:ff9b::/96"
"RFC 6052 §2.1"
LENGTH: Final = 96
"bits of a prefix; RFC 6052 has shorter ones, in which the address is not at the end"
GLOBAL: Final = IPv6Network("2000::/3")
THE_LABS: Final = tuple(map(IPv6Network, ("2a11:0::/32", "2a11:1::/32", "2a11:53::/32", "2a11:f0::/28")))
"what the lab gives to others"
_ALLOWED: Final = f"allowed: true, for {WELL_KNOWN}, or a prefix of {LENGTH} bits in {GLOBAL}, such as '2a11:64::/96'"


def read_nat64(router: Table, ip: Ip, nat: Nat) -> str | None:
    """The key `nat64` of a router's table: the prefix that stands for IPv4; None: it does not translate."""
    value = router.values.get("nat64", False)
    if value is False:
        return None
    if ip is not Ip.DUAL:
        missing = "IPv6" if ip is Ip.V4 else "IPv4"
        raise router.error("nat64", f'this network has no {missing}; give it some at the top: ip = "dual-stack"')
    if nat.one_to_one:
        raise router.error("nat64", "its nat is one-to-one, and has no address for whom nat64 translates")
    if value is True:
        return WELL_KNOWN
    if not isinstance(value, str):
        raise router.error("nat64", _ALLOWED)
    try:
        prefix = IPv6Network(value)
    except ValueError as error:
        raise router.error("nat64", f"not a prefix: {error}; {_ALLOWED}") from None
    if prefix == IPv6Network(WELL_KNOWN):
        return WELL_KNOWN
    if prefix.prefixlen != LENGTH or not prefix.subnet_of(GLOBAL):
        raise router.error("nat64", _ALLOWED)
    if any(prefix.subnet_of(own) for own in THE_LABS):
        raise router.error("nat64", f"{prefix} is a part of what the lab gives to others; {_ALLOWED}")
    return str(prefix)


def check_prefixes(tables: Iterable[tuple[Table, str | None]]) -> None:
    """Refuse a second prefix: the one name server would not know which of them its answers are for."""
    first: str | None = None
    for table, prefix in tables:
        if prefix is not None and first not in (None, prefix):
            raise table.error("nat64", f"another router translates {first}; the lab's name server knows one prefix")
        first = first or prefix


def read_peer_ip(peer: Table, ip: Ip, places: int) -> Ip | None:
    """The key `ip` of a peer's table: the one version that it has; None: all that the network has."""
    if "ip" not in peer.values:
        return None
    asked = Ip(peer.choice("ip", [each.value for each in Ip]))
    if asked is ip:
        return None
    if ip is not Ip.DUAL:
        raise peer.error("ip", f'the network has {ip.value}; for peers that have another, ip = "dual-stack" at the top')
    if places > 1:
        raise peer.error("ip", "a peer with several uplinks has both versions")
    return asked
