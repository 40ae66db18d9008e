"""The grid: every kind of NAT that has rules, each once, for measuring them all.

The full product of all that a NAT's value can say is thousands of kinds, most of which differ in what does not touch.
The grid has the whole product of what does (mapping × filtering × ports × hairpinning), and for each further thing the
product with what it touches:

    unsolicited (reset, icmp)       × mapping × filtering
    two public addresses × pooling  × mapping × filtering, with preserving ports, and × ports
    one-to-one                      × filtering × hairpinning × unsolicited
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Final

from lab.model.nat import Filtering, Hairpinning, ImpossibleNat, Mapping, Nat, Pooling, Ports, Unsolicited

ADDRESSES: Final = 2
"public addresses of a NAT of the grid that has several"
_REFUSING: Final = (Unsolicited.RESET, Unsolicited.ICMP)


def grid() -> tuple[Nat, ...]:
    """Every NAT of the grid, once."""
    return tuple(dict.fromkeys(nat for nat, _ in _tried() if nat is not None))


def refused() -> tuple[str, ...]:
    """Why the others have no rules: each reason once."""
    return tuple(dict.fromkeys(reason for nat, reason in _tried() if nat is None))


def _tried() -> Iterator[tuple[Nat | None, str]]:
    for plain in product(Mapping, Filtering, Ports, Hairpinning):
        yield _made(*plain)
    for mapping, filtering, unsolicited in product(Mapping, Filtering, _REFUSING):
        yield _made(mapping, filtering, unsolicited=unsolicited)
    for mapping, filtering, ports, pooling in product(Mapping, Filtering, Ports, Pooling):
        if ports is Ports.PRESERVING_THEN_SEQUENTIAL:
            continue  # on addresses of their own, two hosts do not meet at a port, and nothing follows
        if ports is Ports.PRESERVING or filtering is Filtering.ADDRESS_AND_PORT_DEPENDENT:
            yield _made(mapping, filtering, ports, pooling=pooling, public_addresses=ADDRESSES)
    every = product(Mapping, Filtering, Ports, Hairpinning, Unsolicited)
    for mapping, filtering, ports, hairpin, unsolicited in every:
        yield _made(mapping, filtering, ports, hairpin, unsolicited=unsolicited, one_to_one=True)


def _made(
    mapping: Mapping,
    filtering: Filtering,
    ports: Ports = Ports.PRESERVING,
    hairpin: Hairpinning = Hairpinning.NONE,
    *,
    unsolicited: Unsolicited = Unsolicited.DROP,
    public_addresses: int = 1,
    pooling: Pooling = Pooling.PAIRED,
    one_to_one: bool = False,
) -> tuple[Nat | None, str]:
    try:
        nat = Nat(
            mapping,
            filtering,
            ports,
            hairpin,
            unsolicited=unsolicited,
            public_addresses=public_addresses,
            pooling=pooling,
            one_to_one=one_to_one,
        )
    except ImpossibleNat as error:
        return None, f"{error.key}: {error}"
    return nat, ""
