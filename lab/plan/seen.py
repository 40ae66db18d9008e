"""Which IPv6 address a peer has where: the same everywhere, unless a router on the way exchanges or translates it."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv6Address, IPv6Network

from lab.plan.plan import Launch, Plan


def seen_at(plan: Plan, launch: Launch) -> tuple[tuple[str, ...], ...]:
    """A peer's IPv6 addresses on the LAN of each router that it is behind, the nearest first, then on the internet.

    They are one, or those of a NAT that has several. Empty if the peer has none.
    """
    return () if launch.address6 is None else seen_through(plan, launch.address6, launch.routers)


def seen_through(plan: Plan, address: str, routers: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """The same of anybody with that address behind these routers, the nearest first."""
    nats = {router.name: router.publics for router in plan.routers6}
    guards = {guard.name: guard for guard in plan.guards}
    seen: list[tuple[str, ...]] = [(address,)]
    for router in routers:
        addresses = nats.get(router, seen[-1])
        if router in guards:
            addresses = tuple(exchanged(one, guards[router].lan, guards[router].outer) for one in addresses)
        seen.append(addresses)
    return tuple(seen)


def exchanged(address: str, inner: str, outer: str) -> str:
    """The address with one prefix in place of the other, if it has that one."""
    within, instead = IPv6Network(inner), IPv6Network(outer)
    if IPv6Address(address) not in within:
        return address
    host = int(IPv6Address(address)) & int(within.hostmask)
    return str(instead[host])
