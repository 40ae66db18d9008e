"""Port mapping as a value: what a router lets its hosts open for themselves, by which protocols, and how it keeps its
word.

port-mapping = "upnp"                                         # honestly, by that protocol alone
port-mapping = { protocols = ["nat-pmp", "pcp"], mode = "lie" }

The protocols are UPnP's Internet Gateway Device, NAT-PMP (RFC 6886) and PCP (RFC 6887). A protocol that is not offered
is silence: whoever asks in it gets no answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from lab.model.tables import Table, closest
from lab.model.units import format_duration, parse_duration

SHORTEST_LEASE: Final = 1.0
LONGEST_LEASE: Final = 86400.0
"bounds of `lease-max`; RFC 6887 §15 wants no lease to exceed 24 hours"
KEYS: Final = ("protocols", "mode", "lease-max")


class Protocol(Enum):
    """How a host asks for a port."""

    UPNP = "upnp"
    NAT_PMP = "nat-pmp"
    PCP = "pcp"


class Mode(Enum):
    """What an answer is worth."""

    HONEST = "honest"
    "what is granted works for as long as it was granted"
    REFUSE = "refuse"
    "every mapping is refused, each protocol by its own error"
    LIE = "lie"
    "every mapping is granted, and no packet comes in"


@dataclass(frozen=True, slots=True)
class PortMapping:
    """What a router offers."""

    protocols: tuple[Protocol, ...]
    mode: Mode = Mode.HONEST
    lease_max: float | None = None
    "seconds; longer leases are granted for this long. Only where PCP is all there is"

    def __post_init__(self) -> None:
        if not self.protocols or len(set(self.protocols)) != len(self.protocols):
            raise ValueError("port mapping needs a protocol, and each but once")
        if self.lease_max is None:
            return
        if not (SHORTEST_LEASE <= self.lease_max <= LONGEST_LEASE and float(self.lease_max).is_integer()):
            raise ValueError(f"a lease is {SHORTEST_LEASE:.0f} to {LONGEST_LEASE:.0f} whole seconds")
        if self.protocols != (Protocol.PCP,):
            raise ValueError("only PCP's leases can be bounded")


PROTOCOLS: Final = {protocol.value: protocol for protocol in Protocol}
ALLOWED: Final = f"allowed: {', '.join(PROTOCOLS)}, or a table of {', '.join(KEYS)}"


def read_port_mapping(router: Table) -> PortMapping | None:
    """The key `port-mapping` of a router's table; None if it has none."""
    value = router.values.get("port-mapping")
    if value is None:
        return None
    if isinstance(value, str):
        if value not in PROTOCOLS:
            raise router.error("port-mapping", f"no such protocol{closest(value, PROTOCOLS)}; {ALLOWED}")
        return PortMapping((PROTOCOLS[value],))
    if not isinstance(value, dict):
        raise router.error("port-mapping", f"must be text or a table; {ALLOWED}")
    table = Table(router.places, (*router.path, "port-mapping"), value, prefix="port-mapping.")
    table.check_keys(KEYS)
    protocols = _protocols(table)
    mode = Mode(table.choice("mode", [mode.value for mode in Mode], Mode.HONEST.value))
    return PortMapping(protocols, mode, _lease_max(table, protocols))


def _protocols(table: Table) -> tuple[Protocol, ...]:
    example = f"such as protocols = {list(PROTOCOLS)}".replace("'", '"')
    if "protocols" not in table.values:
        raise table.error(None, f"no key 'port-mapping.protocols'; {example}")
    names = table.values["protocols"]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise table.error("protocols", f"must be a list with at least one protocol, {example}")
    for name in names:
        if name not in PROTOCOLS:
            raise table.error("protocols", f"{name!r}: not known{closest(name, PROTOCOLS)}; {example}")
    if len(set(names)) != len(names):
        raise table.error("protocols", "a protocol stands in it twice")
    return tuple(protocol for name, protocol in PROTOCOLS.items() if name in names)


def _lease_max(table: Table, protocols: tuple[Protocol, ...]) -> float | None:
    if "lease-max" not in table.values:
        return None
    try:
        seconds = parse_duration(table.text("lease-max", '"1h"'))
    except ValueError as error:
        raise table.error("lease-max", str(error)) from None
    if not (SHORTEST_LEASE <= seconds <= LONGEST_LEASE and seconds.is_integer()):
        bounds = f"{format_duration(SHORTEST_LEASE)} to {format_duration(LONGEST_LEASE)}"
        raise table.error("lease-max", f"a lease is whole seconds, {bounds}")
    if protocols != (Protocol.PCP,):
        raise table.error(
            "lease-max", 'miniupnpd bounds only the leases of PCP; allowed with protocols = ["pcp"] alone'
        )
    return seconds
