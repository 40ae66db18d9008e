"""Traps that spring on rule sets known to fall into them; without these a passed trap would prove nothing."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from lab.model.classical import probe_topology
from lab.model.nat import Filtering, Mapping, Nat, Ports
from lab.model.presets import PRESETS
from lab.plan.build import build
from lab.plan.plan import Plan, RuleSet
from lab.run.certify import certify_alone

Inside = Callable[[Callable[[], None]], None]

CLOSED = "iifname wan meta l4proto { udp, tcp } drop"
EARLY_UDP = "UDP: a packet in before the first one out"
EARLY_TCP = "TCP: a packet in before the first one out"
SAME_UDP = "UDP: the same port on two hosts"
SAME_TCP = "TCP: the same port on two hosts"
MASQUERADE = """table ip punchlab {
  chain srcnat { type nat hook postrouting priority srcnat; iifname lan oifname wan masquerade; }
  chain input { type filter hook input priority 0; iifname wan meta l4proto { udp, tcp } drop; }
}"""


def rewritten(name: str, *changes: tuple[str, str]) -> Plan:
    """The network of a preset, its rules changed."""
    plan = build(probe_topology(PRESETS[name].nat), 1)
    text = plan.rules[0].text
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return replace(plan, rules=(RuleSet(plan.rules[0].space, text),))


def fallen_into(plan: Plan) -> dict[str, str]:
    """The traps that this network's NAT falls into, each with its detail; its certificate says so."""
    certificate = asyncio.run(certify_alone(plan))
    fallen = {trap.name: trap.detail for trap in certificate.traps if not trap.ok}
    assert {f"{name}: {detail}" for name, detail in fallen.items()} <= set(certificate.differences)
    return fallen


@pytest.mark.parametrize("name", ["full-cone", "port-restricted", "symmetric-sequential"])
def test_an_open_input_spoils_the_mapping(inside: Inside, name: str) -> None:
    def check() -> None:
        fallen = fallen_into(rewritten(name, (CLOSED, "accept")))
        assert set(fallen) == {EARLY_UDP, EARLY_TCP}
        assert fallen[EARLY_UDP].startswith("it was to be dropped, and unreachable at 11.0.1.2:")
        assert fallen[EARLY_TCP].startswith("it was to be dropped, and refused at 11.0.1.2:")

    inside(check)


def test_a_reset_instead_of_a_drop_meets_the_early_syn(inside: Inside) -> None:
    def check() -> None:
        fallen = fallen_into(rewritten("full-cone", (CLOSED, f"iifname wan reject with tcp reset\n{CLOSED}")))
        assert set(fallen) == {EARLY_TCP}

    inside(check)


def test_plain_masquerade_breaks_the_mappings_of_two_hosts_with_one_port(inside: Inside) -> None:
    def check() -> None:
        plan = build(probe_topology(PRESETS["home"].nat), 1)
        fallen = fallen_into(replace(plan, rules=(RuleSet("router", MASQUERADE),)))
        assert set(fallen) == {SAME_UDP, SAME_TCP}
        assert "share an external port" in fallen[SAME_UDP]

    inside(check)


def test_a_dmz_host_lets_the_early_packet_through(inside: Inside) -> None:
    def check() -> None:
        dmz = "chain dmz { type nat hook prerouting priority -90; iifname wan dnat to 192.168.1.10; }"
        fallen = fallen_into(rewritten("full-cone", ("chain dstnat {", f"{dmz}\nchain dstnat {{")))
        assert "was to be dropped, and passed" in fallen[EARLY_UDP]
        assert "was to be dropped, and passed" in fallen[EARLY_TCP]

    inside(check)


def test_no_early_packet_goes_to_a_port_that_the_probe_itself_has_mapped(inside: Inside) -> None:
    """Where two want one port, this NAT gives the next that it counts; here a host's own ports are among those."""
    counting = Nat(Mapping.ENDPOINT_INDEPENDENT, Filtering.ENDPOINT_INDEPENDENT, Ports.PRESERVING_THEN_SEQUENTIAL)
    plan = build(probe_topology(counting), 1)
    first = re.search(r"map pool .*? elements = \{ 0 : (\d+)", plan.rules[0].text)
    assert first is not None
    few = ("ipv4/ip_local_port_range", f"{first[1]} {int(first[1]) + 14}")
    spaces = tuple(
        replace(each, sysctls=(*each.sysctls, few)) if each.name == "host-a" else each for each in plan.spaces
    )

    async def main() -> None:
        several = (certify_alone(replace(plan, spaces=spaces)) for _ in range(6))
        traps = [trap for certificate in await asyncio.gather(*several) for trap in certificate.traps]
        assert len(traps) == 6 * 4
        assert [trap for trap in traps if not trap.ok] == []

    inside(lambda: asyncio.run(main()))
