"""The two versions of IP in nftables' words, so that one value becomes the same rules in both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Family:
    """What rules call the things of one version of IP."""

    ip: str
    "its header, and the family of its tables"
    address: str
    "the type of its addresses"
    icmp: str
    "the header of its ICMP"
    icmp_proto: str
    "the same as a transport protocol"


IPV4: Final = Family("ip", "ipv4_addr", "icmp", "icmp")
IPV6: Final = Family("ip6", "ipv6_addr", "icmpv6", "ipv6-icmp")


def family_of(address: str) -> Family:
    """The family that an address, as text, belongs to."""
    return IPV6 if ":" in address else IPV4
