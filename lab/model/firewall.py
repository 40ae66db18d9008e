"""Firewalls as values: which new flows a router lets out, by protocol and port. What may come in is the NAT's to say.

firewall = "udp-blocked"
firewall = { tcp-ports = [80, 443], udp-ports = [] }          # a key left out: all ports

An answer always passes: who has been let in may be answered, on whatever port.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from lab.model.tables import Table, closest

MAX_PORTS: Final = 64
"ports that a firewall can name for one protocol"

PortList = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Firewall:
    """Destination ports that new flows from the LAN may have; None: all, empty: none."""

    tcp_ports: PortList | None = None
    udp_ports: PortList | None = None

    def __post_init__(self) -> None:
        for ports in (self.tcp_ports, self.udp_ports):
            if ports and not all(1 <= port <= 65535 for port in ports):
                raise ValueError(f"ports are 1 to 65535, not {ports}")

    def lets_out(self, proto: str, port: int | None) -> bool:
        """Whether a new flow to that port passes; None is a port that nobody knows before it is drawn."""
        ports = self.tcp_ports if proto == "tcp" else self.udp_ports
        return ports is None or (port is not None and port in ports)

    def __str__(self) -> str:
        return f"lets out {_words('TCP', self.tcp_ports)} and {_words('UDP', self.udp_ports)}"


@dataclass(frozen=True, slots=True)
class FirewallPreset:
    """A named firewall."""

    firewall: Firewall
    summary: str
    source: str


FIREWALLS: Final[Mapping[str, FirewallPreset]] = MappingProxyType(
    {
        "udp-blocked": FirewallPreset(
            Firewall(udp_ports=()),
            "No UDP at all; TCP to every port.",
            "RFC 8489 §2.7 and RFC 8656 §3.1, why TURN has TCP: networks that block UDP",
        ),
        "web-only": FirewallPreset(
            Firewall(tcp_ports=(80, 443), udp_ports=()),
            "TCP to ports 80 and 443, nothing else.",
            "RFC 8835 §3.4, firewalls that only permit web traffic; guest and hotel networks",
        ),
        "corporate": FirewallPreset(
            Firewall(tcp_ports=(80, 443), udp_ports=(53,)),
            "TCP to ports 80 and 443, and DNS.",
            "RFC 8835 §3.4; company networks that resolve names outside",
        ),
    }
)
KEYS: Final = ("tcp-ports", "udp-ports")
ALLOWED: Final = f"allowed: {', '.join(FIREWALLS)}, or a table of {', '.join(KEYS)}"


def read_firewall(router: Table) -> Firewall | None:
    """The key `firewall` of a router's table; None if it has none."""
    value = router.values.get("firewall")
    if value is None:
        return None
    if isinstance(value, dict):
        table = Table(router.places, (*router.path, "firewall"), value, prefix="firewall.")
        table.check_keys(KEYS)
        return Firewall(*(_ports(table, key) for key in KEYS))
    if not isinstance(value, str):
        raise router.error("firewall", f"must be text or a table; {ALLOWED}")
    if value not in FIREWALLS:
        raise router.error("firewall", f"no such preset{closest(value, FIREWALLS)}; {ALLOWED}")
    return FIREWALLS[value].firewall


def _ports(table: Table, key: str) -> PortList | None:
    ports = table.values.get(key)
    if ports is None:
        return None
    if not isinstance(ports, list) or not all(type(port) is int and 1 <= port <= 65535 for port in ports):
        raise table.error(key, "must be a list of ports, each 1 to 65535, such as [80, 443]; [] lets nothing out")
    if len(ports) > MAX_PORTS:
        raise table.error(key, f"{len(ports)} ports; allowed: {MAX_PORTS}")
    return tuple(sorted(set(ports)))


def _words(protocol: str, ports: PortList | None) -> str:
    if ports is None:
        return f"all {protocol}"
    return f"{protocol} to port{'s' * (len(ports) > 1)} {', '.join(map(str, ports))}" if ports else f"no {protocol}"
