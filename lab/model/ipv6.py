"""IPv6: which versions a network has, and the stateful firewalls of its routers (RFC 6092), which translate nothing.

ip = "dual-stack"                       # of the whole network; "ipv4" if it does not say
[router.home]
ipv6 = "address"                        # whom it lets in from outside; "address-and-port" if it does not say

Every host has a global address. Filtering is said as for NATs (RFC 4787 §5): an endpoint that has sent is open to
everybody (RFC 6092 REC-11 and REC-31 recommend it), to those addresses, or to those endpoints; or the router is open
and filters nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from lab.model.nat import Filtering, Mapping, Nat, Ports
from lab.model.tables import Table

UDP_TIMEOUT: Final = 120.0
"seconds: RFC 6092 REC-14 asks for two minutes"
TCP_TIMEOUT: Final = 7440.0
"seconds: REC-35 asks for two hours and four minutes"


class Ip(Enum):
    """The versions of IP that the hosts of a network have."""

    V4 = "ipv4"
    V6 = "ipv6"
    DUAL = "dual-stack"


@dataclass(frozen=True, slots=True)
class Guard:
    """A router's stateful IPv6 firewall."""

    filtering: Filtering | None
    "whom an endpoint that has sent is open to; None: nothing is filtered, not even what nobody asked for"

    @property
    def as_nat(self) -> Nat:
        """The NAT that lets in the same packets, where both sides write to each other."""
        filtering = self.filtering or Filtering.ENDPOINT_INDEPENDENT
        return Nat(Mapping.ENDPOINT_INDEPENDENT, filtering, Ports.PRESERVING)

    def __str__(self) -> str:
        return "open" if self.filtering is None else self.filtering.value


OPEN: Final = "open"
STRICT: Final = Guard(Filtering.ADDRESS_AND_PORT_DEPENDENT)
"what most routers ship, as conntrack gives it away"


def read_ip(top: Table) -> Ip:
    """The key `ip` of a topology."""
    return Ip(top.choice("ip", [ip.value for ip in Ip], Ip.V4.value))


def read_guard(router: Table, ip: Ip) -> Guard | None:
    """The key `ipv6` of a router's table; None in a network without IPv6."""
    if ip is Ip.V4:
        if "ipv6" in router.values:
            raise router.error("ipv6", 'this network has no IPv6; give it some at the top: ip = "dual-stack"')
        return None
    names = {filtering.value: filtering for filtering in Filtering}
    names |= {name.removesuffix("-independent").removesuffix("-dependent"): each for name, each in names.items()}
    name = router.choice("ipv6", [OPEN, *names], Filtering.ADDRESS_AND_PORT_DEPENDENT.value)
    return Guard(names.get(name))
