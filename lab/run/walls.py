"""Measure what a router's firewall lets out, as its NAT is measured: by sending, from its LAN to next to its WAN.

The NAT is measured without the firewall, or its probe would not get out; both are tables of their own (`lab.plan`).
`take_away` empties the one, and what brings it back is the forgetting that ends every measurement.

    LAN ── TCP, UDP to each of some ports ──▶ (firewall) ──▶ vantage that listens there

A port that must be open is its own control. For one that must be closed the packet has had its time once those of the
open ones have arrived, and a little more; a firewall that is closed altogether has only that little.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from lab.errors import KernelError, LabError
from lab.kernel import nft
from lab.kernel.network import Network
from lab.model.firewall import Firewall
from lab.plan.names import FIREWALL_TABLE
from lab.plan.plan import RouterPlan
from lab.run.probes import Probe, ProbeError, UdpProbe
from lab.run.tcp_probe import TcpProbe

USUAL: Final = (53, 80, 443, 3478, 4001, 50000)
"Ports that every firewall is asked for: DNS, the web, STUN, libp2p, and one that nobody names."
MOST: Final = 16
"Ports that one protocol is asked for."
PATIENCE: Final = 0.2
"Seconds for what must not arrive; on these cables a packet takes some 0.0001."
LIMIT: Final = 10.0
"Seconds for one protocol."

LetOut = tuple[tuple[str, int, bool], ...]


@dataclass(frozen=True, slots=True)
class Wall:
    """A firewall as declared and as measured."""

    router: str
    declared: Firewall
    measured: LetOut
    "protocol, port, and whether a flow to it was let out"
    differences: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether everything was measured, and measured as declared."""
        return not self.differences

    def to_json(self) -> dict[str, Any]:
        """As an entry of `walls.json`."""
        return {
            "router": self.router,
            "ok": self.ok,
            "declared": str(self.declared),
            "let_out": [list(one) for one in self.measured],
            "differences": list(self.differences),
        }


async def take_away(network: Network, router: RouterPlan) -> None:
    """Let everything out of a router until it forgets. Raises `KernelError`."""
    if router.firewall is not None:
        await asyncio.to_thread(nft.load, network.spaces[router.name], f"table ip {FIREWALL_TABLE} {{\n}}\n")


async def measure_wall(network: Network, router: RouterPlan, firewall: Firewall) -> Wall:
    """Measure one firewall and have its router forget the probe. Never raises on account of the firewall."""
    measured: list[tuple[str, int, bool]] = []
    differences: list[str] = []
    for probe in (UdpProbe(), TcpProbe()):
        try:
            async with asyncio.timeout(LIMIT), probe:
                measured += await _let_out(probe, network, router, firewall)
        except TimeoutError:
            differences.append(f"the {probe.protocol} probe of the firewall was not done after {LIMIT:g} s")
        except (LabError, OSError) as error:
            differences.append(f"the {probe.protocol} probe of the firewall failed: {error}")
    for proto, port, passed in measured:
        if passed is not firewall.lets_out(proto, port):
            declared, seen = ("closed", "open") if passed else ("open", "closed")
            differences.append(f"{proto.upper()} port {port}: declared {declared}, measured {seen}")
    try:
        await asyncio.to_thread(network.forget, router.name)
    except KernelError as error:
        differences.append(f"it did not forget the probe: {error}")
    return Wall(router.name, firewall, tuple(measured), tuple(differences))


async def _let_out(probe: Probe, network: Network, router: RouterPlan, firewall: Firewall) -> LetOut:
    proto = probe.protocol.lower()
    outside, host = network.spaces[router.outside], network.spaces[router.hosts[0]]
    inner = probe.end(host)
    tokens: dict[int, bytes] = {}
    for port in _ports(firewall, proto):
        tokens[port] = inner.send(probe.end(outside, router.vantages[0], port).address)
    with suppress(ProbeError):  # which of them did not arrive is about to be told, port by port
        await probe.delivered([token for port, token in tokens.items() if firewall.lets_out(proto, port)])
    await asyncio.sleep(PATIENCE)
    return tuple((proto, port, probe.arrival(token) is not None) for port, token in tokens.items())


def _ports(firewall: Firewall, proto: str) -> list[int]:
    named = (firewall.tcp_ports if proto == "tcp" else firewall.udp_ports) or ()
    return sorted({*USUAL, *named[: MOST - len(USUAL)]})
