"""A router's port mapping as the configuration and the nftables table of a miniupnpd.

miniupnpd writes its rules into chains that exist already, in a table of its own beside the NAT's. The three modes
differ in that table and in nothing else, so the program answers as it always does:

    honest    prerouting (-101, just before the NAT's own translation) jumps to miniupnpd's chain
    lie       the chains are there, and no hook leads to them
    refuse    there are no chains: each rule fails, and each protocol says so in its own way

Flows that came in by such a rule are marked, and the NAT's own records leave marked flows alone. Otherwise the first
packet by a port map would make an ordinary mapping and a permission, and both would outlive the lease.

NAT-PMP and PCP share UDP port 5351, and miniupnpd has one switch for both. Of the one that is not offered, the requests
are dropped by their first byte, the version.
"""

from __future__ import annotations

import random
import uuid
from dataclasses import replace
from typing import Final

from lab.model.portmap import Mode, PortMapping, Protocol
from lab.model.topology import Topology
from lab.plan.names import LAN, PORT_MAP_TABLE, PORT_MAPPED, WAN
from lab.plan.plan import Plan, PortMapper

NAT_PMP_PORT: Final = 5351
"of NAT-PMP and PCP (RFC 6887 §19.2)"
HTTP_PORT: Final = 5000
"where a router's UPnP device is described and controlled"
VERSIONS: Final = {Protocol.NAT_PMP: 0, Protocol.PCP: 2}
LEASE_MAX: Final = 86400
NEVER: Final = 86400
"seconds between two announcements or clean-ups that nobody asked for: longer than a lab lives"


def offer_ports(topology: Topology, plan: Plan) -> Plan:
    """The plan, with the daemons of those routers that offer port mapping."""
    return replace(
        plan,
        port_mappers=tuple(
            port_mapper(router.name, asked.port_mapping, router.gateway, router.lan, plan.seed)
            for asked, router in zip(topology.routers, plan.routers, strict=True)
            if asked.port_mapping is not None
        ),
    )


def port_mapper(router: str, offer: PortMapping, gateway: str, lan: str, seed: int) -> PortMapper:
    """The daemon of one router, whose LAN has that prefix and that gateway address."""
    device = uuid.UUID(int=random.Random(f"{seed}/{router}/upnp").getrandbits(128), version=4)
    return PortMapper(
        space=router,
        gateway=gateway,
        config=_config(offer, lan, device),
        rules=_rules(offer),
        udp_port=NAT_PMP_PORT if _offers_udp(offer) else None,
        tcp_port=HTTP_PORT if Protocol.UPNP in offer.protocols else None,
    )


def _config(offer: PortMapping, lan: str, device: uuid.UUID) -> str:
    settings = {
        "ext_ifname": WAN,
        "listening_ip": LAN,
        "http_port": HTTP_PORT,
        "enable_upnp": _yes(Protocol.UPNP in offer.protocols),
        "enable_natpmp": _yes(_offers_udp(offer)),
        "ipv6_disable": "yes",
        # A host may open ports for itself only.
        "secure_mode": "yes",
        "min_lifetime": 1,
        "max_lifetime": LEASE_MAX if offer.lease_max is None else round(offer.lease_max),
        "notify_interval": NEVER,
        "clean_ruleset_interval": NEVER,
        "uuid": device,
        "upnp_table_name": PORT_MAP_TABLE,
        "upnp_nat_table_name": PORT_MAP_TABLE,
        "upnp_forward_chain": "allowed",
        "upnp_nat_chain": "mapped",
        "upnp_nat_postrouting_chain": "peered",
    }
    return "".join(f"{key}={value}\n" for key, value in settings.items()) + f"allow 1-65535 {lan} 1-65535\n"


def _rules(offer: PortMapping) -> str:
    chains = [_versions(offer)]
    if offer.mode is not Mode.REFUSE:
        chains += [_chain(name, None) for name in ("allowed", "mapped", "peered")]
    if offer.mode is Mode.HONEST:
        here = f"iifname {WAN} ct mark set ct mark"
        jump = [f"{here} | {PORT_MAPPED:#x}", "jump mapped", f"{here} & {~PORT_MAPPED & 0xFFFFFFFF:#x}"]
        chains.append(_chain("prerouting", "nat hook prerouting priority -101", *jump))
        chains.append(_chain("postrouting", "nat hook postrouting priority 99", "jump peered"))
    return f"table inet {PORT_MAP_TABLE} {{\n{''.join(chains)}}}\n"


def _versions(offer: PortMapping) -> str:
    """The chain that keeps the protocols apart that share a port."""
    silent = [version for protocol, version in VERSIONS.items() if protocol not in offer.protocols]
    drops = [f"iifname {LAN} udp dport {NAT_PMP_PORT} @th,64,8 {version} drop" for version in silent]
    return _chain("input", "filter hook input priority 0", *drops)


def _chain(name: str, hook: str | None, *rules: str) -> str:
    lines = [f"type {hook}; policy accept;"] if hook else []
    return "".join([f"  chain {name} {{\n", *(f"    {line}\n" for line in (*lines, *rules)), "  }\n"])


def _offers_udp(offer: PortMapping) -> bool:
    return any(protocol in offer.protocols for protocol in VERSIONS)


def _yes(value: bool) -> str:
    return "yes" if value else "no"
