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
    4  if ports look random: the router forgets, the same endpoints → A:p      random, a hash, a block

ICMP queries have the first step and the last. Then the router forgets everything: a run starts with a fresh NAT. What
cannot be measured is a difference like any other, so that one broken NAT spoils its own cells and not the matrix.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from lab.errors import LabError, TopologyError
from lab.kernel.network import Network
from lab.model.classical import probe_topology
from lab.model.ipv6 import Ip
from lab.model.nat import Nat, Ports
from lab.model.presets import PRESETS
from lab.observe.certificate import Certificate, Trap
from lab.observe.nat import (
    Allocation,
    Observed,
    classify,
    classify_query,
    differences,
    query_differences,
)
from lab.plan.build import build
from lab.plan.plan import Plan, RouterPlan
from lab.run.icmp_probe import IcmpProbe
from lab.run.measure import Bench, measure, measure_queries, repeat, spring
from lab.run.probes import Probe, UdpProbe
from lab.run.tcp_probe import TcpProbe
from lab.run.versions import V6, Space, Version, version_of
from lab.run.walls import take_away

__all__ = ["Certificate", "certify", "certify_alone", "certify_nat", "certify_presets"]

LIMIT: Final = 20.0
"Seconds for one protocol's probe of one NAT with all traps; the usual is a fraction of one."
LOOKS: Final = 2
"Second looks: copies of the first one's sockets, in programs that are being started, may spoil one."
SEED: Final = 1
"Of the networks that are built only to be measured."


_UNSURE: Final = (Ports.RANDOM, Ports.HASHED, Ports.BLOCK)
"allocations that only differ for certain once the NAT has forgotten them"


@dataclass(frozen=True, slots=True)
class _Findings:
    """What one protocol's probe came to."""

    kind: type[Probe]
    observed: Observed | None = None
    problems: tuple[str, ...] = ()
    traps: tuple[Trap, ...] = ()

    @property
    def unsure(self) -> bool:
        """Whether it takes another look to name the allocation."""
        return self.observed is not None and classify_query(self.observed).ports in _UNSURE


async def certify(network: Network, router: RouterPlan, vantages: tuple[str, str], *, full: bool) -> Certificate:
    """Measure one router of a network, with the traps if `full`, and have it forget the probe.

    Takes a tenth of a second if all is well. Never raises on account of the NAT: the certificate tells what went wrong.
    """
    began = time.monotonic()
    site = _Site(router, network.spaces, vantages)
    findings = await _at_once(site.examine(kind, full=full) for kind in (UdpProbe, TcpProbe, IcmpProbe))
    forgot = await _forget(network, router.name)
    if any(found.unsure for found in findings):
        await take_away(network, router)
        findings = await _at_once(map(site.look_again, findings))
        forgot += await _forget(network, router.name)
    udp, tcp, icmp = findings
    return Certificate(
        router=router.name,
        declared=router.nat,
        udp=classify(udp.observed) if udp.observed else None,
        tcp=classify(tcp.observed) if tcp.observed else None,
        icmp=classify_query(icmp.observed) if icmp.observed else None,
        traps=(*udp.traps, *tcp.traps),
        differences=(*_told(udp, router.nat), *_told(tcp, router.nat), *_told(icmp, router.nat), *forgot),
        seconds=time.monotonic() - began,
        ip=_ip(router),
    )


def _ip(router: RouterPlan) -> Ip:
    return Ip.V6 if version_of(router.wan) is V6 else Ip.V4


async def _at_once(examinations: Iterable[Coroutine[None, None, _Findings]]) -> list[_Findings]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(examination) for examination in examinations]
    return [task.result() for task in tasks]


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


async def certify_nat(name: str, nat: Nat, *, full: bool = True, ip: Ip = Ip.V4) -> Certificate:
    """Measure a NAT in a network of its own, with two hosts on its LAN; the certificate's `router` is `name`."""
    return replace(await certify_alone(build(probe_topology(nat, "probe", ip), SEED), full=full), router=name)


async def certify_alone(plan: Plan, *, full: bool = True) -> Certificate:
    """Make a network, measure its only router and take it down; that it cannot be made is in the certificate."""
    (router,) = plan.routers or plan.routers6
    began = time.monotonic()
    try:
        network = await asyncio.to_thread(Network.build, plan)
    except LabError as error:
        reason = f"it could not be built: {error}"
        seconds, ip = time.monotonic() - began, _ip(router)
        return Certificate(router.name, router.nat, None, None, None, (), (reason,), seconds, ip)
    try:
        return await certify(network, router, plan.vantages, full=full)
    finally:
        await asyncio.to_thread(network.close)


@dataclass(frozen=True, slots=True)
class _Site:
    """A router where it stands."""

    router: RouterPlan
    spaces: Mapping[str, Space]
    vantages: tuple[str, str]

    @property
    def version(self) -> Version:
        return version_of(self.router.wan)

    @property
    def hosts(self) -> tuple[Space, ...]:
        return tuple(self.spaces[host] for host in self.router.hosts)

    @property
    def outside(self) -> Space:
        return self.spaces[self.router.outside]

    async def examine(self, kind: type[Probe], *, full: bool) -> _Findings:
        """What a protocol's probe comes to, problems included."""
        if not self.hosts:
            return _Findings(kind, problems=(f"{kind.protocol} was not probed: no host is on its LAN",))
        try:
            async with asyncio.timeout(LIMIT), kind(self.version) as probe:
                bench = Bench.around(probe, self.hosts, self.router.publics, self.outside, self.vantages)
                if isinstance(probe, IcmpProbe):
                    return _Findings(kind, await measure_queries(bench, probe))
                return _Findings(kind, await measure(bench), (), await spring(bench, self.router.nat) if full else ())
        except TimeoutError:
            return _Findings(kind, problems=(f"the {kind.protocol} probe was not done after {LIMIT:g} s",))
        except (LabError, OSError) as error:
            return _Findings(kind, problems=(f"the {kind.protocol} probe failed: {error}",))

    async def look_again(self, found: _Findings) -> _Findings:
        """The same findings, with the ports that the same endpoints get now, if that tells anything."""
        if found.observed is None or not found.unsure:
            return found
        for _ in range(LOOKS):
            problem, again = await self._repeated(found.kind, found.observed)
            if not problem:
                return replace(found, observed=replace(found.observed, again=again))
        return replace(found, problems=(f"the second {found.kind.protocol} probe {problem}",))

    async def _repeated(self, kind: type[Probe], observed: Observed) -> tuple[str, tuple[Allocation, ...]]:
        try:
            async with asyncio.timeout(LIMIT), kind(self.version) as probe:
                return "", await repeat(probe, self.hosts, self.outside, observed)
        except TimeoutError:
            return f"was not done after {LIMIT:g} s", ()
        except (LabError, OSError) as error:
            return f"failed: {error}", ()


def _told(found: _Findings, nat: Nat) -> tuple[str, ...]:
    """A sentence for everything that is not as declared."""
    unlike: tuple[str, ...] = ()
    if found.observed is not None:
        queries = found.kind is IcmpProbe
        protocol = found.kind.protocol
        unlike = query_differences(nat, found.observed) if queries else differences(protocol, nat, found.observed)
    fell_in = tuple(f"{trap.name}: {trap.detail}" for trap in found.traps if not trap.ok)
    return (*found.problems, *unlike, *fell_in)


async def _forget(network: Network, router: str) -> tuple[str, ...]:
    try:
        await asyncio.to_thread(network.forget, router)
    except LabError as error:
        return (f"it did not forget the probe: {error}",)
    return ()
