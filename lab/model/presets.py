"""The NATs that have names. A preset is a value and nothing else: writing its keys out in a topology is the same.

The four classical names are those of RFC 3489 §5; their values are in the words of RFC 4787, which replaced them. Where
a source names no timeouts they are those of the default: 30 s for UDP, as most home routers have it (RFC 4787 REQ-5
asks for 2 min), and for TCP 4 min, or 2 h 4 min once established (RFC 5382 REQ-5).
"""

from __future__ import annotations

from collections.abc import Mapping as ReadOnly
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from lab.model.nat import Filtering, Hairpinning, Mapping, Nat, Ports, Unsolicited


@dataclass(frozen=True, slots=True)
class Preset:
    """A named NAT."""

    nat: Nat
    summary: str
    source: str
    "the RFC or the class of products it stands for"


FULL_CONE: Final = Nat(Mapping.ENDPOINT_INDEPENDENT, Filtering.ENDPOINT_INDEPENDENT, Ports.PRESERVING)
ADDRESS_RESTRICTED: Final = Nat(Mapping.ENDPOINT_INDEPENDENT, Filtering.ADDRESS_DEPENDENT, Ports.PRESERVING)
PORT_RESTRICTED: Final = Nat(Mapping.ENDPOINT_INDEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT, Ports.PRESERVING)
SYMMETRIC_SEQUENTIAL: Final = Nat(
    Mapping.ADDRESS_AND_PORT_DEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT, Ports.SEQUENTIAL
)
SYMMETRIC_RANDOM: Final = Nat(Mapping.ADDRESS_AND_PORT_DEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT, Ports.RANDOM)
CGNAT: Final = Nat(
    Mapping.ENDPOINT_INDEPENDENT,
    Filtering.ADDRESS_AND_PORT_DEPENDENT,
    Ports.BLOCK,
    Hairpinning.EXTERNAL_SOURCE,
    udp_timeout=35.0,
    udp_new_timeout=35.0,
    public_addresses=2,
)
MOBILE: Final = Nat(
    Mapping.ADDRESS_AND_PORT_DEPENDENT,
    Filtering.ADDRESS_AND_PORT_DEPENDENT,
    Ports.RANDOM,
    udp_timeout=65.0,
    udp_new_timeout=65.0,
    public_addresses=2,
)
CORPORATE: Final = replace(SYMMETRIC_RANDOM, tcp_timeout=3600.0)
HOTEL: Final = Nat(
    Mapping.ADDRESS_AND_PORT_DEPENDENT,
    Filtering.ADDRESS_AND_PORT_DEPENDENT,
    Ports.PRESERVING_THEN_SEQUENTIAL,
    tcp_timeout=900.0,
    unsolicited=Unsolicited.RESET,
)
CLOUD: Final = Nat(
    Mapping.ADDRESS_AND_PORT_DEPENDENT,
    Filtering.ADDRESS_AND_PORT_DEPENDENT,
    Ports.BLOCK,
    tcp_timeout=1200.0,
    tcp_transitory_timeout=30.0,
)

PRESETS: Final[ReadOnly[str, Preset]] = MappingProxyType(
    {
        "full-cone": Preset(
            FULL_CONE,
            "One external port for every destination, open to everybody.",
            "RFC 3489 §5 “full cone”; routers with a full-cone or gaming switch",
        ),
        "address-restricted": Preset(
            ADDRESS_RESTRICTED,
            "One external port for every destination, open to the addresses it has written to.",
            "RFC 3489 §5 “restricted cone”; RFC 4787 REQ-8, where transparency gives way to filtering",
        ),
        "port-restricted": Preset(
            PORT_RESTRICTED,
            "One external port for every destination, open to the endpoints it has written to.",
            "RFC 3489 §5 “port restricted cone”",
        ),
        "home": Preset(
            PORT_RESTRICTED,
            "What most home routers do: the same as port-restricted.",
            "Linux netfilter's masquerade with a closed input chain, as home routers ship it",
        ),
        "symmetric-sequential": Preset(
            SYMMETRIC_SEQUENTIAL,
            "A new external port, the next one, for every destination; open to that destination only.",
            "RFC 3489 §5 “symmetric”; RFC 5128 §3.5, the NATs that port prediction is for",
        ),
        "symmetric-random": Preset(
            SYMMETRIC_RANDOM,
            "A new external port, any one, for every destination; open to that destination only.",
            "RFC 3489 §5 “symmetric”; pf without static-port, netfilter's masquerade random, many company firewalls",
        ),
        "symmetric": Preset(
            SYMMETRIC_RANDOM,
            "The same as symmetric-random.",
            "RFC 3489 §5 “symmetric”",
        ),
        "cgnat": Preset(
            CGNAT,
            "A carrier's NAT as the RFCs want it: a block of ports for each subscriber, on one of two addresses.",
            "RFC 6888 REQ-1 (RFC 4787's behaviours), REQ-2 (paired), REQ-4 (ports of a subscriber); RFC 7422 (fixed"
            " blocks); Richter et al., IMC 2016: UDP timeouts of such NATs have a median of 35 s",
        ),
        "mobile": Preset(
            MOBILE,
            "A mobile carrier's NAT that gives every flow a port of its own.",
            "Richter et al., IMC 2016: carriers' NATs are often more restrictive than homes', and UDP timeouts of"
            " cellular ones have a median of 65 s",
        ),
        "corporate": Preset(
            CORPORATE,
            "A company's firewall: a port at random for every session.",
            "Cisco ASA configuration guide, “Dynamic PAT”: ports are assigned dynamically, for each session;"
            " the timeouts are assumed",
        ),
        "hotel": Preset(
            HOTEL,
            "A guest network's gateway: keeps the first port, counts on from there, refuses what it does not know.",
            "assumed: no measurement of such gateways is known to us",
        ),
        "cloud": Preset(
            CLOUD,
            "A cloud's NAT gateway: a port of the machine's block for every flow.",
            "Google Cloud NAT: ports reserved for each machine; UDP 30 s, TCP 30 s and 20 min by default (RouterNat"
            " API). Tailscale, “NAT traversal improvements, pt. 2”, 2025: large clouds' gateways are symmetric",
        ),
    }
)
