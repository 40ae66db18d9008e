"""What kind of NAT is in front of us, put together from what STUN and other peers say.

The words are RFC 4787's (mapping §4.1, filtering §5); the classical names RFC 3489's, with the symmetric NAT in two
kinds, since ports in sequence can be predicted and random ones cannot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from typing import TYPE_CHECKING

from node.logic import observed

if TYPE_CHECKING:
    from node.wire.stun import Endpoint

SEQUENCE = 32
"""Ports by which one mapping may differ from the one before it and still be next in a sequence: others map, too."""


class Mapping(Enum):
    """When two packets from one port of ours leave from the same external port."""

    UNKNOWN = "unknown"
    NONE = "none"
    """We are seen as we see ourselves."""
    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_DEPENDENT = "address"
    ADDRESS_AND_PORT_DEPENDENT = "address-and-port"
    ENDPOINT_DEPENDENT = "endpoint-dependent"
    """One of the two before: peers cannot tell which."""


class Filtering(Enum):
    """Whom the external port lets in."""

    UNKNOWN = "unknown"
    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_DEPENDENT = "address"
    ADDRESS_AND_PORT_DEPENDENT = "address-and-port"


class Ports(Enum):
    """Which external port a new mapping gets."""

    UNKNOWN = "unknown"
    PRESERVING = "preserving"
    SEQUENTIAL = "sequential"
    RANDOM = "random"


@dataclass(frozen=True, slots=True)
class NatKind:
    """What is known; `external` as the server saw us first."""

    mapping: Mapping = Mapping.UNKNOWN
    filtering: Filtering = Filtering.UNKNOWN
    ports: Ports = Ports.UNKNOWN
    external: Endpoint | None = None

    @property
    def name(self) -> str | None:
        """The classical name, None where too little is known for one."""
        if self.mapping is Mapping.NONE:
            return "none"
        if self.mapping is Mapping.ENDPOINT_INDEPENDENT:
            return _CONES.get(self.filtering)
        if self.mapping is Mapping.UNKNOWN:
            return None
        return _SYMMETRIC.get(self.ports, "symmetric")


_CONES = {
    Filtering.ENDPOINT_INDEPENDENT: "full-cone",
    Filtering.ADDRESS_DEPENDENT: "address-restricted",
    Filtering.ADDRESS_AND_PORT_DEPENDENT: "port-restricted",
}
_SYMMETRIC = {Ports.SEQUENTIAL: "symmetric-sequential", Ports.RANDOM: "symmetric-random"}


def ports_of(local: int, external: Sequence[int]) -> Ports:
    """Return how a NAT chooses ports, from those of mappings made one after the other for one port of ours."""
    external = list(dict.fromkeys(external))
    if not external:
        return Ports.UNKNOWN
    if all(port == local for port in external):
        return Ports.PRESERVING
    if len(external) < 3:  # two are next to each other by chance often enough
        return Ports.UNKNOWN
    steps = [after - before for before, after in pairwise(external)]
    return Ports.SEQUENTIAL if all(1 <= step <= SEQUENCE for step in steps) else Ports.RANDOM


_OBSERVED = {
    observed.Mapping.NONE: Mapping.NONE,
    observed.Mapping.ENDPOINT_INDEPENDENT: Mapping.ENDPOINT_INDEPENDENT,
    observed.Mapping.ENDPOINT_DEPENDENT: Mapping.ENDPOINT_DEPENDENT,
}


def merge(measured: NatKind, seen: observed.Mapping) -> NatKind:
    """Return what was measured, and where nothing was, what peers have seen of our listen port.

    Who measures has asked two addresses on purpose; who is seen has been dialled by chance, and may be seen by liars.
    """
    if measured.mapping is not Mapping.UNKNOWN:
        return measured
    return NatKind(_OBSERVED.get(seen, Mapping.UNKNOWN), measured.filtering, measured.ports, measured.external)
