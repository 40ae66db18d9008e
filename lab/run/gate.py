"""What must hold before a lab may judge anybody: every NAT measures as declared, and nothing leaks past the NATs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from lab.lab import Lab
from lab.run.certify import Certificate, certify
from lab.run.leaks import check


@dataclass(frozen=True, slots=True)
class Gate:
    """The lab's examination of itself."""

    certificates: tuple[Certificate, ...]
    leaks: tuple[str, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """One sentence for each reason not to trust this lab; empty where all is well."""
        wrong = [
            f"{c.router} does not measure as declared: {'; '.join(c.differences)}"
            for c in self.certificates
            if not c.ok
        ]
        return (*wrong, *(f"leak: {leak}" for leak in self.leaks))


async def examine(lab: Lab) -> Gate:
    """Probe every NAT of the lab and look for ways around them; afterwards the NATs have forgotten the probes."""
    network, plan = lab.network, lab.plan
    found = await check(network, plan)
    certificates: list[Certificate] = []
    for layer in sorted({len(router.above) for router in plan.routers}):
        # From the outermost inwards: a router that forgets its own probe must not disturb one behind it.
        routers = [router for router in plan.routers if len(router.above) == layer]
        probes = [certify(network, router, router.vantages, full=True) for router in routers]
        certificates += await asyncio.gather(*probes)
    return Gate(tuple(certificates), tuple(found))
