"""NATs as values, in the words of RFC 4787 and RFC 5382: mapping, filtering, port allocation, hairpinning, timeouts.

The classical names (`full-cone`, `home`, `symmetric-random`, …) are presets of these values and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

UDP_TIMEOUT: Final = 30.0
TCP_TIMEOUT: Final = 7440.0
SHORTEST: Final = 1.0
LONGEST: Final = 432000.0
"bounds of a lifetime; conntrack counts whole seconds and forgets an established flow after five days"


class Mapping(Enum):
    """Which packets of one inner endpoint share an external port (RFC 4787 §4.1)."""

    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_DEPENDENT = "address-dependent"
    ADDRESS_AND_PORT_DEPENDENT = "address-and-port-dependent"


class Filtering(Enum):
    """Who may send to a mapped port (RFC 4787 §5)."""

    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_DEPENDENT = "address-dependent"
    ADDRESS_AND_PORT_DEPENDENT = "address-and-port-dependent"


class Ports(Enum):
    """How the external port of a new mapping is chosen (RFC 4787 §4.2)."""

    PRESERVING = "preserving"
    SEQUENTIAL = "sequential"
    RANDOM = "random"


@dataclass(frozen=True, slots=True)
class Nat:
    """One NAT's behaviour, for UDP and TCP alike."""

    mapping: Mapping
    filtering: Filtering
    ports: Ports
    hairpin: bool = False
    "packets from the LAN to the external address come back in (RFC 4787 §6), with their external source"
    udp_timeout: float = UDP_TIMEOUT
    "seconds without a packet after which a UDP mapping is gone"
    tcp_timeout: float = TCP_TIMEOUT
    "seconds, likewise, for TCP"

    def __post_init__(self) -> None:
        for seconds in (self.udp_timeout, self.tcp_timeout):
            if not (SHORTEST <= seconds <= LONGEST and float(seconds).is_integer()):
                raise ValueError(
                    f"a mapping's lifetime is {SHORTEST:.0f} to {LONGEST:.0f} whole seconds, not {seconds}"
                )
