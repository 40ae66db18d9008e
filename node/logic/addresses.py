"""What an address is good for: whether the internet can reach it, whether we may dial it, what a wildcard stands for.

Facts: go-libp2p advertises, observes and punches only addresses that it takes for public, and its list of what is not
goes beyond RFC 1918: shared (100.64/10), documentation, benchmark and reserved ranges as well, and of IPv6 all but
2000::/3 (go-multiaddr, `net/private.go`). A name counts as public unless it can only be local. What a relayed address
starts with is the relay's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TYPE_CHECKING

from node.logic.transports import kind_of

if TYPE_CHECKING:
    from node.names.multiaddr import Multiaddr

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

_NOT_PUBLIC_4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/26",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
_GLOBAL_UNICAST_6 = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
_NOT_PUBLIC_6 = (IPv6Network("2001:db8::/32"),)
_LOCAL_NAMES = ("localhost", "local", "internal", "home.arpa")
"""Names that never leave a host or a site: RFC 6761, RFC 6762, RFC 8375."""
_NAMES = ("dns", "dns4", "dns6", "dnsaddr")


def is_public_ip(ip: IPAddress) -> bool:
    """Return whether the internet routes to `ip`, by go's rules."""
    if isinstance(ip, IPv4Address):
        return not any(ip in network for network in _NOT_PUBLIC_4)
    if ip.ipv4_mapped is not None:
        return is_public_ip(ip.ipv4_mapped)
    if ip in _NAT64:  # a gateway that does not keep to RFC 6052 §3.1 would carry us to a private network of its own
        return is_public_ip(IPv4Address(int(ip) & 0xFFFFFFFF))
    return ip in _GLOBAL_UNICAST_6 and not any(ip in network for network in _NOT_PUBLIC_6)


def is_public(addr: Multiaddr) -> bool:
    """Return whether the first hop of `addr` (its own, or its relay's) is public."""
    ip = addr.ip
    if ip is not None:
        return is_public_ip(ip)
    for name, value in addr:
        if name in _NAMES and value is not None:
            return not any(value == local or value.endswith(f".{local}") for local in _LOCAL_NAMES)
    return False


def has_hole(addr: Multiaddr) -> bool:
    """Return whether the transport of `addr` is one that holes are punched for."""
    kind = kind_of(addr)
    return kind is not None and kind.punchable


def is_punchable(addr: Multiaddr) -> bool:
    """Return whether a hole can be punched to `addr`: public, of such a transport, not relayed."""
    return has_hole(addr) and is_public(addr)


def is_near(addr: Multiaddr) -> bool:
    """Return whether `addr` is an IP address that no router of the internet brings us to: of our LAN, or of a VPN."""
    ip = addr.ip
    return ip is not None and not is_public_ip(ip) and not addr.is_relayed


def of_interfaces(addr: Multiaddr, ips: Sequence[IPAddress]) -> list[Multiaddr]:
    """Return what a listen address stands for: itself, or one address for each of the host's `ips` if a wildcard.

    Loopback stays out as long as there is anything else.
    """
    wildcard = addr.ip
    port = addr.port
    if wildcard is None or port is None or not wildcard.is_unspecified:
        return [addr]
    same_version = [ip for ip in ips if ip.version == wildcard.version and not ip.is_unspecified]
    outward = [ip for ip in same_version if not ip.is_loopback and not ip.is_link_local]
    return [addr.with_ip(ip) for ip in outward or same_version]


def source_for(addr: Multiaddr, listening: Sequence[Multiaddr]) -> Multiaddr | None:
    """Return the listen address whose port a dial of `addr` should leave from, None when none fits.

    A NAT gives one mapping to one port: only a dial from the listen port shows others where the listener is, and only
    to a listener of the same transport. A loopback listener cannot leave the host, and any other cannot stay within it
    but a wildcard.
    """
    target, kind = addr.ip, kind_of(addr)
    if target is None or kind is None:
        return None
    for candidate in listening:
        ip = candidate.ip
        fits = ip is not None and ip.version == target.version and kind_of(candidate) is kind
        if fits and ip is not None and (ip.is_unspecified or ip.is_loopback == target.is_loopback):
            return candidate
    return None


def plausible(addrs: Iterable[Multiaddr], remote: Multiaddr) -> list[Multiaddr]:
    """Return those of a peer's addresses that can mean the peer, seen from where it is connected from (`remote`).

    Somebody's loopback is ours, and a public peer's private addresses belong to a network that we are not in.
    """
    ip = remote.ip
    if ip is None or ip.is_loopback:
        return list(addrs)
    if is_public_ip(ip):
        return [addr for addr in addrs if is_public(addr)]
    return [addr for addr in addrs if addr.ip is None or not addr.ip.is_loopback]


def unique(addrs: Iterable[Multiaddr]) -> list[Multiaddr]:
    """Return the addresses without repetitions, first come first."""
    return list(dict.fromkeys(addrs))
