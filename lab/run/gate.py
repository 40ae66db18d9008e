"""What must hold before a lab may judge anybody: all NATs and firewalls measure as declared, and nothing leaks."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from lab.lab import Lab
from lab.observe.lan import LanCertificate
from lab.run.certify import Certificate, certify
from lab.run.guards import GuardReport, measure_guard
from lab.run.lan_probe import certify_lans
from lab.run.leaks import check
from lab.run.walls import Wall, measure_wall, take_away


@dataclass(frozen=True, slots=True)
class Gate:
    """The lab's examination of itself."""

    certificates: tuple[Certificate, ...]
    leaks: tuple[str, ...]
    walls: tuple[Wall, ...] = ()
    guards: tuple[GuardReport, ...] = ()
    lans: tuple[LanCertificate, ...] = ()

    @property
    def problems(self) -> tuple[str, ...]:
        """One sentence for each reason not to trust this lab; empty where all is well."""
        wrong = [
            f"{c.router} does not measure as declared: {'; '.join(c.differences)}"
            for c in self.certificates
            if not c.ok
        ]
        wrong += [
            f"{w.router}'s firewall is not as declared: {'; '.join(w.differences)}" for w in self.walls if not w.ok
        ]
        wrong += [f"{g.router}'s IPv6 is not as declared: {'; '.join(g.differences)}" for g in self.guards if not g.ok]
        wrong += [f"{c.router}'s LAN is not as declared: {'; '.join(c.differences)}" for c in self.lans if not c.ok]
        return (*wrong, *(f"leak: {leak}" for leak in self.leaks))


async def examine(lab: Lab) -> Gate:
    """Probe every NAT of the lab and look for ways around them; afterwards the NATs have forgotten the probes."""
    network, plan = lab.network, lab.plan
    found = await check(network, plan)
    certificates: list[Certificate] = []
    for router in plan.routers:
        await take_away(network, router)
    nats = (*plan.routers, *plan.routers6)
    for layer, version in sorted({(len(router.above), ":" in router.wan) for router in nats}):
        # From the outermost inwards: a router that forgets its own probe must not disturb one behind it.
        # One version after the other: forgetting is by router, and both of them at once.
        routers = [router for router in nats if (len(router.above), ":" in router.wan) == (layer, version)]
        probes = [certify(network, router, router.vantages, full=True) for router in routers]
        certificates += await asyncio.gather(*probes)
    # One after the other: they share the vantages' well-known ports.
    walls = [await measure_wall(network, r, r.firewall) for r in plan.routers if r.firewall is not None]
    guards = [await measure_guard(network, guard) for guard in plan.guards]
    lans = await certify_lans(network, plan)
    return Gate(tuple(certificates), tuple(found), tuple(walls), tuple(guards), lans=tuple(lans))
