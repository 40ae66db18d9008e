"""Measure whom a router's IPv6 firewall lets in: RFC 5780's filtering test, where ports stay what they are.

    host ── token ──▶ A:p                    arrives from the host's own endpoint, or something translates
    A:q, B:p, B:q ──▶ that endpoint          who gets in?
    A:p ──▶ an endpoint that has not sent    only an open router lets that in
    A:p ──▶ the first endpoint               the control: what has not arrived by now is not coming
    host ──▶ its own outer endpoint          turns around, where the router exchanges prefixes
    host ── echo request ──▶ A               arrives from the host's own address, and the reply comes back

Where it does, the host's endpoint has to have the router's outer prefix, and all else as the host has it. The probes
are those of NATs (`lab.run.probes`).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from typing import Any, Final

from lab.errors import KernelError, LabError
from lab.kernel.network import Network
from lab.model.ipv6 import OPEN, Guard, guard_words
from lab.model.nat import Filtering
from lab.observe.nat import Address, Knock, classify_filtering
from lab.plan.plan import GuardPlan
from lab.plan.seen import exchanged
from lab.run.icmp_probe import IcmpProbe
from lab.run.probes import Arrival, End, Probe, ProbeError, UdpProbe
from lab.run.tcp_probe import TcpProbe
from lab.run.versions import V6

LIMIT: Final = 15.0
"Seconds for one protocol."


@dataclass(frozen=True, slots=True)
class GuardReport:
    """A guard as declared and as measured."""

    router: str
    declared: Guard
    measured: tuple[tuple[str, str], ...]
    "protocol, and the filtering it has: `open`, a name of RFC 4787's, or `none that has a name`"
    differences: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether everything was measured, and measured as declared."""
        return not self.differences

    def to_json(self) -> dict[str, Any]:
        """As an entry of `guards.json`."""
        return {
            "router": self.router,
            "ok": self.ok,
            "declared": str(self.declared),
            "measured": dict(self.measured),
            "differences": list(self.differences),
        }


async def measure_guard(network: Network, plan: GuardPlan) -> GuardReport:
    """Measure one guard and have its router forget the probe. Never raises on account of the guard."""
    measured: list[tuple[str, str]] = []
    differences: list[str] = []
    for probe in (UdpProbe(V6), TcpProbe(V6), IcmpProbe(V6)):
        try:
            async with asyncio.timeout(LIMIT), probe:
                if isinstance(probe, IcmpProbe):
                    await _try_echo(probe, network, plan)
                else:
                    measured.append((probe.protocol, await _filtering(probe, network, plan)))
        except TimeoutError:
            differences.append(f"the {probe.protocol} probe by IPv6 was not done after {LIMIT:g} s")
        except (LabError, OSError) as error:
            differences.append(f"the {probe.protocol} probe by IPv6 failed: {error}")
    declared = str(plan.guard)
    differences += [
        f"{protocol} filtering by IPv6: declared {declared}, measured {seen}"
        for protocol, seen in measured
        if seen != declared
    ]
    try:
        await asyncio.to_thread(network.forget, plan.name)
    except KernelError as error:
        differences.append(f"it did not forget the probe: {error}")
    return GuardReport(plan.name, plan.guard, tuple(measured), tuple(differences))


async def _filtering(probe: Probe, network: Network, plan: GuardPlan) -> str:
    inside, outside = network.spaces[plan.hosts[0]], network.spaces[plan.outside]
    contacted, *others = (probe.end(outside, address) for address in plan.vantages for _ in range(2))
    guest = probe.end(inside)
    [arrival] = await probe.delivered([guest.send(contacted.address)])
    _check_source(arrival, guest, plan)
    address, port = arrival.source
    # Only the host that holds an address can bind it: nobody else's is what has been seen.
    silent = probe.end(inside, exchanged(address, plan.outer, plan.lan))
    knocks = [(end.address, end.send((address, port))) for end in others]
    unasked = contacted.send((address, silent.address[1]))
    await probe.settle((contacted, (address, port)))
    if plan.guard.translates:
        [turned] = await probe.delivered([silent.send((address, port))])
        if turned.source != (address, silent.address[1]):
            raise ProbeError(f"from the LAN, {address} was seen as {turned.source[0]}")
    return guard_words(_name_of(probe, contacted, knocks, unasked), plan.guard.translates)


async def _try_echo(probe: IcmpProbe, network: Network, plan: GuardPlan) -> None:
    """An echo request gets out from the host's address, and its reply back. Raises `ProbeError`."""
    contacted = probe.end(network.spaces[plan.outside], plan.vantages[0])
    host = probe.end(network.spaces[plan.hosts[0]])
    token = host.send(contacted.address)
    [arrival] = await probe.delivered([token])
    _check_source(arrival, host, plan)
    await probe.answered(token)


def _check_source(arrival: Arrival, end: End, plan: GuardPlan) -> None:
    """What a host sends comes from its own port, or identifier, and from the prefix that its LAN has outside."""
    address, port = arrival.source
    if port != end.address[1]:
        raise ProbeError(f"port {end.address[1]} of the host was seen as {port}: something translates")
    if IPv6Address(address) not in IPv6Network(plan.outer):
        raise ProbeError(f"the host was seen as {address}, which is not in {plan.outer}")


def _name_of(probe: Probe, contacted: End, knocks: list[tuple[Address, bytes]], unasked: bytes) -> str:
    if probe.arrival(unasked) is not None:
        return OPEN
    results = [(remote, _knock(probe, token)) for remote, token in knocks]
    filtering: Filtering | None = classify_filtering(contacted.address, results)
    return "none that has a name" if filtering is None else filtering.value


def _knock(probe: Probe, token: bytes) -> Knock:
    if probe.arrival(token) is not None:
        return Knock.PASSED
    return Knock.REFUSED if probe.refused(token) else Knock.DROPPED
