"""A firewall's value as nftables text: a table of its own, so that the NAT's rules are the same with and without it.

    forward  -10   a new flow from the LAN to a port that is not let out is dropped

Ahead of the NAT's own chain at 0, and long before postrouting: what is dropped here makes no mapping. Packets of a flow
that began outside pass whatever their port, as answers do.
"""

from __future__ import annotations

from lab.model.firewall import Firewall, PortList
from lab.plan.names import FIREWALL_TABLE, LAN, WAN


def firewall_rules(firewall: Firewall) -> str:
    """The whole table."""
    rules = [*_blocked("udp", firewall.udp_ports), *_blocked("tcp", firewall.tcp_ports)]
    lines = ["chain out {", "  type filter hook forward priority -10; policy accept;", *(f"  {r}" for r in rules), "}"]
    return "\n".join([f"table ip {FIREWALL_TABLE} {{", *(f"  {line}" for line in lines), "}", ""])


def _blocked(proto: str, ports: PortList | None) -> list[str]:
    if ports is None:
        return []
    but = f" {proto} dport != {{ {', '.join(map(str, ports))} }}" if ports else ""
    return [f"iifname {LAN} oifname {WAN} ct direction original meta l4proto {proto}{but} counter drop"]
