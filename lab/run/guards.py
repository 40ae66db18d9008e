"""Measure whom a router's IPv6 firewall lets in: RFC 5780's filtering test, where nothing is translated.

    host ── token ──▶ A:p                    arrives from the host's own endpoint, or something translates
    A:q, B:p, B:q ──▶ that endpoint          who gets in?
    A:p ──▶ an endpoint that has not sent    only an open router lets that in
    A:p ──▶ the first endpoint               the control: what has not arrived by now is not coming

The probes are those of NATs (`lab.run.probes`), whose sockets a `Space6` turns into IPv6 ones.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from typing import Any, Final, Self, cast

from lab.errors import KernelError, LabError
from lab.kernel.network import Network
from lab.model.ipv6 import Guard
from lab.model.nat import Filtering
from lab.observe.nat import Knock, classify_filtering
from lab.plan.plan import GuardPlan
from lab.run.probes import Probe, ProbeError, Space, UdpProbe
from lab.run.tcp_probe import TcpProbe

LIMIT: Final = 15.0
"Seconds for one protocol."
ANYWHERE: Final = "::"


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
    for probe in (UdpProbe(), TcpProbe()):
        try:
            async with asyncio.timeout(LIMIT), probe:
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
    inside, outside = Space6(network.spaces[plan.hosts[0]]), Space6(network.spaces[plan.outside])
    contacted, *others = (probe.end(outside, address) for address in plan.vantages for _ in range(2))
    guest, silent = probe.end(inside, ANYWHERE), probe.end(inside, ANYWHERE)
    [arrival] = await probe.delivered([guest.send(contacted.address)])
    address, port = arrival.source
    if port != guest.address[1]:
        raise ProbeError(f"port {guest.address[1]} of the host was seen as {port}: something translates")
    knocks = [(end.address, end.send((address, port))) for end in others]
    unasked = contacted.send((address, silent.address[1]))
    await probe.settle((contacted, (address, port)))
    if probe.arrival(unasked) is not None:
        return str(Guard(None))
    results = [(remote, _knock(probe, token)) for remote, token in knocks]
    filtering: Filtering | None = classify_filtering(contacted.address, results)
    return "none that has a name" if filtering is None else filtering.value


def _knock(probe: Probe, token: bytes) -> Knock:
    if probe.arrival(token) is not None:
        return Knock.PASSED
    return Knock.REFUSED if probe.refused(token) else Knock.DROPPED


class Space6:
    """A space whose sockets are of IPv6, and say endpoints as an address and a port alone."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self.name = space.name

    def socket(self, family: int, kind: int, proto: int = 0) -> socket.socket:
        """An IPv6 socket, whatever the family asked for."""
        made = self._space.socket(socket.AF_INET6, kind, proto)
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        return _Socket6(fileno=made.detach())


class _Socket6(socket.socket):
    """Flow labels and zones are no part of the endpoints that a probe compares."""

    def recvfrom(self, bufsize: int, flags: int = 0) -> tuple[bytes, Any]:
        data, source = super().recvfrom(bufsize, flags)
        return data, source[:2]

    def accept(self) -> tuple[Self, Any]:
        accepted, remote = super().accept()
        return cast("Self", accepted), remote[:2]

    def getsockname(self) -> Any:
        return super().getsockname()[:2]
