"""The NATs that have names. A preset is a value and nothing else: writing its keys out in a topology is the same.

The four classical names are those of RFC 3489 §5; their values are in the words of RFC 4787, which replaced them. The
timeouts are those of the default: 30 s for UDP, as most home routers have it (RFC 4787 REQ-5 asks for 2 min), and
2 h 4 min for TCP (RFC 5382 REQ-5).
"""

from __future__ import annotations

from collections.abc import Mapping as ReadOnly
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from lab.model.nat import Filtering, Mapping, Nat, Ports


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
    }
)
