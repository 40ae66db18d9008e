"""Certify that a NAT is what it was declared to be, by measuring it: RFC 5780's tests for UDP, the same idea for TCP.

The probe is independent of how the NAT is made. It has sockets on the LAN's hosts and at the two vantage addresses next
to the NAT's outside (in the core, or in the router that it is behind), two ports each; it sends and receives, and reads
no state of the router. UDP and TCP are probed at once:

    1  fresh endpoints, one after another → A:p          which ports are allocated
       the first of them → A:q, B:p, B:q                 mapping
    2  A:q, B:p, B:q → the second one's external port    filtering
       the third ⇄ the fourth by external ports          hairpinning, from both sides
       controls on every one of these ways               whatever has not arrived by now is not coming
    3  the traps, if asked for (`lab.run.measure`)

Then the router forgets everything: a run starts with a fresh NAT. What cannot be measured is a difference like any
other, so that one broken NAT spoils its own cells and not the matrix.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from lab.errors import LabError, TopologyError
from lab.kernel.network import Network
from lab.model.classical import probe_topology
from lab.model.nat import Nat
from lab.model.presets import PRESETS
from lab.observe.nat import (
    Behaviour,
    Certificate,
    Trap,
    certificate_from_json,
    certificate_to_json,
    classify,
    differences,
    expected,
)
from lab.plan.build import build
from lab.plan.plan import Plan, RouterPlan
from lab.run.measure import Bench, measure, spring
from lab.run.probes import Probe, Space, UdpProbe
from lab.run.tcp_probe import TcpProbe

__all__ = [
    "Behaviour",
    "Certificate",
    "Trap",
    "certificate_from_json",
    "certificate_to_json",
    "certify",
    "certify_alone",
    "certify_nat",
    "certify_presets",
    "expected",
]

LIMIT: Final = 20.0
"Seconds for one protocol's probe of one NAT with all traps; the usual is a fraction of one."
SEED: Final = 1
"Of the networks that are built only to be measured."


@dataclass(frozen=True, slots=True)
class _Findings:
    """What one protocol's probe came to."""

    behaviour: Behaviour | None
    differences: tuple[str, ...]
    traps: tuple[Trap, ...] = ()


async def certify(network: Network, router: RouterPlan, vantages: tuple[str, str], *, full: bool) -> Certificate:
    """Measure one router of a network, with the traps if `full`, and have it forget the probe.

    Takes a tenth of a second if all is well. Never raises on account of the NAT: the certificate tells what went wrong.
    """
    began = time.monotonic()
    spaces = network.spaces
    hosts = tuple(spaces[host] for host in router.hosts)
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(_examine(probe, router, hosts, spaces[router.outside], vantages, full=full))
            for probe in (UdpProbe(), TcpProbe())
        ]
    udp, tcp = (task.result() for task in tasks)
    return Certificate(
        router=router.name,
        declared=router.nat,
        udp=udp.behaviour,
        tcp=tcp.behaviour,
        traps=(*udp.traps, *tcp.traps),
        differences=(*udp.differences, *tcp.differences, *await _forget(network, router.name)),
        seconds=time.monotonic() - began,
    )


async def certify_presets(names: Iterable[str], *, full: bool = True) -> list[Certificate]:
    """Measure presets, each in a network of its own, all at once; a certificate's `router` is the preset's name.

    Has to run where networks can be built (`lab.kernel.sandbox`). Raises `TopologyError` for a name that is none.
    """
    names = tuple(names)
    if unknown := [name for name in names if name not in PRESETS]:
        raise TopologyError(f"no NAT preset {unknown[0]!r}; there are: {', '.join(PRESETS)}")
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(certify_nat(name, PRESETS[name].nat, full=full)) for name in names]
    return [task.result() for task in tasks]


async def certify_nat(name: str, nat: Nat, *, full: bool = True) -> Certificate:
    """Measure a NAT in a network of its own, with two hosts on its LAN; the certificate's `router` is `name`."""
    return replace(await certify_alone(build(probe_topology(nat, name), SEED), full=full), router=name)


async def certify_alone(plan: Plan, *, full: bool = True) -> Certificate:
    """Make a network, measure its only router and take it down; that it cannot be made is in the certificate."""
    (router,) = plan.routers
    began = time.monotonic()
    try:
        network = await asyncio.to_thread(Network.build, plan)
    except LabError as error:
        reason = f"it could not be built: {error}"
        return Certificate(router.name, router.nat, None, None, (), (reason,), time.monotonic() - began)
    try:
        return await certify(network, router, plan.vantages, full=full)
    finally:
        await asyncio.to_thread(network.close)


async def _examine(
    probe: Probe, router: RouterPlan, hosts: tuple[Space, ...], outside: Space, vantages: tuple[str, str], *, full: bool
) -> _Findings:
    if not hosts:
        return _Findings(None, (f"{probe.protocol} was not probed: no host is on its LAN",))
    try:
        async with asyncio.timeout(LIMIT), probe:
            bench = Bench.around(probe, hosts, router.wan, outside, vantages)
            observed = await measure(bench)
            traps = await spring(bench, router.nat) if full else ()
    except TimeoutError:
        return _Findings(None, (f"the {probe.protocol} probe was not done after {LIMIT:g} s",))
    except (LabError, OSError) as error:
        return _Findings(None, (f"the {probe.protocol} probe failed: {error}",))
    fell_in = tuple(f"{trap.name}: {trap.detail}" for trap in traps if not trap.ok)
    return _Findings(classify(observed), differences(probe.protocol, router.nat, observed) + fell_in, traps)


async def _forget(network: Network, router: str) -> tuple[str, ...]:
    try:
        await asyncio.to_thread(network.forget, router)
    except LabError as error:
        return (f"it did not forget the probe: {error}",)
    return ()
