"""NATs one behind the other: who is let in through all of them, and what they come to, measured as one.

A stack is the NATs in front of a peer, innermost first. A packet in must pass every one of them, and each asks for
itself: the outer ones see the port that the inner ones gave, so a mapping that moves moves all those further out.

    alice ── home-a ── isp ── internet          stack (home-a, isp)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from enum import Enum
from typing import Final, TypeAlias, TypeVar

from lab.model import punch
from lab.model.nat import Filtering, Hairpinning, Mapping, Nat, Ports

Stack: TypeAlias = tuple[Nat, ...]
"innermost first; empty: no NAT"

_MAPPINGS: Final = tuple(Mapping)
_FILTERINGS: Final = tuple(Filtering)
"from the most to the least permissive, as RFC 4787 lists them"

_E = TypeVar("_E", bound=Enum)


def composite(stack: Stack) -> Nat | None:
    """The NAT that a probe measures through the whole stack: the strictest of each behaviour; None if there is none."""
    if len(stack) < 2:
        return stack[0] if stack else None
    outermost = stack[-1]
    return replace(
        outermost,
        mapping=_strictest(_MAPPINGS, (nat.mapping for nat in stack)),
        filtering=_strictest(_FILTERINGS, (nat.filtering for nat in stack)),
        ports=_ports(stack),
        udp_timeout=min(nat.udp_timeout for nat in stack),
        tcp_timeout=min(nat.tcp_timeout for nat in stack),
        one_to_one=all(nat.one_to_one for nat in stack),
    )


def lets_in(listener: Stack, dialer: Stack) -> bool:
    """Whether a packet from behind `dialer` to the advertised endpoint behind `listener` arrives.

    Not the same as asking the composite: an inner NAT that is strict and keeps its port lets in whom it has written to
    even if an outer one moves, as long as that one is open to everybody.
    """
    return all(punch.lets_in(nat, composite(dialer)) for nat in as_reached(listener))


def keeps_its_port(stack: Stack) -> bool:
    """Whether a peer behind it writes to everybody from the endpoint that it is known by."""
    return punch.keeps_its_port(composite(stack))


def can_punch(one: Stack, other: Stack) -> bool:
    """Whether two peers without a router in common reach each other: one packet that arrives is enough."""
    return lets_in(one, other) or lets_in(other, one)


def can_hairpin(one: Stack, other: Stack) -> bool:
    """Whether two peers with the same outermost NAT reach each other by the endpoints that the internet sees.

    Only that NAT turns packets around; those further in see packets that come from outside like any other.
    """
    return one[-1].hairpin is Hairpinning.EXTERNAL_SOURCE and can_punch(one, other)


def as_reached(stack: Stack) -> Iterator[Nat]:
    """Each NAT with the mapping of what is behind it: what it permits, it permits to the port it was written from."""
    for depth, nat in enumerate(stack, 1):
        mapping = _strictest(_MAPPINGS, (inner.mapping for inner in stack[:depth]))
        yield replace(nat, mapping=mapping, one_to_one=nat.one_to_one and mapping is nat.mapping)


def _ports(stack: Stack) -> Ports:
    """The allocation of the outermost NAT that does not keep the port; an inner one's block is no block out there."""
    for nat in reversed(stack):
        if nat.ports is not Ports.PRESERVING:
            return Ports.RANDOM if nat.ports is Ports.BLOCK and nat is not stack[-1] else nat.ports
    return Ports.PRESERVING


def _strictest(order: tuple[_E, ...], values: Iterable[_E]) -> _E:
    return max(values, key=order.index)
