"""Names of spaces, interfaces, the rules' table and captures, all in one place because others rely on them.

An interface name has at most 15 bytes in Linux. The core's ports are called after their neighbours, which is why a
router or a peer may not have a longer name than that, nor one that the core has already (`lo`).
"""

from __future__ import annotations

import hashlib
from typing import Final

from lab.model import peer_keys

CORE: Final = "core"
WAN: Final = "wan"
LAN: Final = "lan"
ETH: Final = peer_keys.ETH
"of a host; those of its further uplinks count on"
DNS: Final = "dns"
"the space of the name server"
LOOPBACK: Final = "lo"
TABLE: Final = "punchlab"
FIREWALL_TABLE: Final = "punchlab-wall"
PORT_MAP_TABLE: Final = "punchlab-portmap"
PORT_MAPPED: Final = 0x100
"of a flow (`ct mark`) that a port map let in, which the NAT has no part in"


def eth(index: int) -> str:
    """The interface of a host's uplink number `index`, counted from 0."""
    return f"eth{index}"


def lan_port(index: int) -> str:
    """The port of a router's bridge that number `index` of what is on its LAN is plugged into."""
    return f"{LAN}{index}"


def probe_hosts(router: str) -> tuple[str, str]:
    """The spaces from which a router is probed that has no peers next to it; no router or peer can be called so."""
    return f"{router}.a", f"{router}.b"


def translator(router: str) -> str:
    """The space of what translates between the versions of IP on a router's LAN; nobody else can be called so."""
    return f"{router}.64"


def is_probe_host(space: str) -> bool:
    """Whether a space is one of those."""
    return "." in space


def capture(space: str, port: str) -> str:
    """What an interface is called in the pcapng: `home-a/wan`."""
    return f"{space}/{port}"


def mac(seed: int, space: str, port: str) -> str:
    """A locally administered unicast address that depends on nothing but its arguments."""
    digest = hashlib.sha256(f"{seed}/{space}/{port}".encode()).digest()
    return ":".join(f"{byte:02x}" for byte in (0x02, *digest[:5]))
