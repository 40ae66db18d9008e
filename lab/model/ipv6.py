"""IPv6: which versions a network has, and what its routers do with the newer one.

ip = "dual-stack"                       # of the whole network; "ipv4" if it does not say
[router.home]
ipv6  = "address"                       # whom it lets in from outside; "address-and-port" if it does not say
nptv6 = true                            # it exchanges its LAN's prefix for another one (RFC 6296)
[router.office]
nat66 = "home"                          # it translates as a NAT does; everything that `nat` says can be said

A router is a stateful firewall (RFC 6092), and every host has a global address; with `nptv6` or `nat66` it has a
unique local one (RFC 4193). Filtering is said as for NATs (RFC 4787 §5): an endpoint that has sent is open to
everybody (RFC 6092 REC-11 and REC-31 recommend it), to those addresses, or to those endpoints; or the router is open
and filters nothing. A NAT filters for itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from lab.model.nat import Filtering, Mapping, Nat, Ports
from lab.model.nat_keys import read_nat
from lab.model.tables import Table
from lab.model.units import format_duration

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
    translates: bool = False
    "its LAN's prefix is exchanged for another one, host by host and port by port (RFC 6296)"

    @property
    def as_nat(self) -> Nat:
        """The NAT that lets in the same packets, where both sides write to each other."""
        filtering = self.filtering or Filtering.ENDPOINT_INDEPENDENT
        return Nat(Mapping.ENDPOINT_INDEPENDENT, filtering, Ports.PRESERVING)

    def __str__(self) -> str:
        return guard_words(OPEN if self.filtering is None else self.filtering.value, self.translates)


def guard_words(filtering: str, translates: bool) -> str:
    """A guard in a few words: whom it lets in, and whether its LAN is seen by another prefix."""
    return f"{filtering}, another prefix" if translates else filtering


KEYS: Final = ("ipv6", "nptv6", "nat66")
"of a router's table"
OPEN: Final = "open"
STRICT: Final = Guard(Filtering.ADDRESS_AND_PORT_DEPENDENT)
"what most routers ship, as conntrack gives it away"


def read_ip(top: Table) -> Ip:
    """The key `ip` of a topology."""
    return Ip(top.choice("ip", [ip.value for ip in Ip], Ip.V4.value))


def read_guard(router: Table, ip: Ip) -> Guard | None:
    """The keys `ipv6` and `nptv6` of a router's table; None without IPv6, and for a NAT, which filters for itself."""
    if ip is Ip.V4:
        for key in KEYS:
            if key in router.values:
                raise router.error(key, 'this network has no IPv6; give it some at the top: ip = "dual-stack"')
        return None
    translates = router.flag("nptv6", default=False)
    if "nat66" in router.values:
        for key in ("ipv6", "nptv6"):
            if key in router.values:
                raise router.error(key, "nat66 makes the router a NAT, which filters for itself; leave one of them out")
        return None
    names = {filtering.value: filtering for filtering in Filtering}
    names |= {name.removesuffix("-independent").removesuffix("-dependent"): each for name, each in names.items()}
    name = router.choice("ipv6", [OPEN, *names], Filtering.ADDRESS_AND_PORT_DEPENDENT.value)
    return Guard(names.get(name), translates)


def read_nat66(router: Table, ip: Ip, nat: Nat) -> tuple[Nat | None, str | None]:
    """The key `nat66` of a router's table whose IPv4 is translated by `nat`, and the preset's name if it is one."""
    if "nat66" not in router.values:
        return None, None
    nat66, preset = read_nat(router, "nat66")
    if ip is Ip.DUAL and (unlike := [word for word in _lifetimes(nat66) if word not in _lifetimes(nat)]):
        allowed = ", ".join(_lifetimes(nat))
        problem = f"{', '.join(unlike)}: a router has one clock for both versions of IP; allowed, as its nat has it:"
        raise router.error("nat66", f"{problem} {allowed}")
    return nat66, preset


def _lifetimes(nat: Nat) -> list[str]:
    lifetimes = {
        "udp-timeout": nat.udp_timeout,
        "udp-new-timeout": nat.udp_new_timeout,
        "tcp-timeout": nat.tcp_timeout,
        "tcp-transitory-timeout": nat.tcp_transitory_timeout,
    }
    return [f"{key} {format_duration(seconds)}" for key, seconds in lifetimes.items()]
