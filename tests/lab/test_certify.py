"""Certificates from real NATs: all that are declared right, and as a control some that are not what they say."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lab.errors import TopologyError
from lab.kernel import nft
from lab.kernel.network import Network
from lab.model.classical import cell_topology, probe_topology
from lab.model.grid import grid
from lab.model.nat import Filtering, Hairpinning, Mapping, Nat, Ports, Unsolicited
from lab.model.presets import PRESETS
from lab.observe.nat import Behaviour, Hairpin, expected, expected_query
from lab.plan.build import build
from lab.plan.plan import Plan, RuleSet
from lab.run.certify import certify, certify_alone, certify_presets
from lab.run.grid import certify_grid

Inside = Callable[[Callable[[], None]], None]

EIM, ADM, APDM = Mapping
EIF, ADF, APDF = Filtering
PRESERVING, SEQUENTIAL, RANDOM = Ports.PRESERVING, Ports.SEQUENTIAL, Ports.RANDOM
SOURCE_NAT = """table ip punchlab {{
  {state};
  chain dstnat {{ type nat hook prerouting priority dstnat; {inbound}; }}
  chain srcnat {{ type nat hook postrouting priority srcnat; iifname lan oifname wan {outbound}; }}
  chain input {{ type filter hook input priority 0; iifname wan meta l4proto {{ udp, tcp }} drop; }}
}}"""


def rules(outbound: str, *, inbound: str = "counter", state: str = "map none { type mark : mark; }") -> str:
    return SOURCE_NAT.format(outbound=outbound, inbound=inbound, state=state)


def pool(step: int) -> str:
    elements = ", ".join(f"{index} : {30000 + step * index}" for index in range(100))
    return f"map pool {{ typeof numgen inc mod 100 : udp sport; elements = {{ {elements} }} }}"


FROM_POOL = """meta l4proto udp snat to 11.0.1.2 : numgen inc mod 100 map @pool
    iifname lan oifname wan meta l4proto tcp snat to 11.0.1.2 : numgen inc mod 100 map @pool"""


def declared(name: str) -> Plan:
    return build(probe_topology(PRESETS[name].nat), 1)


def with_rules(plan: Plan, text: str) -> Plan:
    return replace(plan, rules=tuple(RuleSet(ruleset.space, text) for ruleset in plan.rules))


def test_every_combination_of_a_nats_values_measures_as_declared(inside: Inside) -> None:
    async def main() -> None:
        certificates = await certify_grid(grid())
        assert [(c.router, c.differences) for c in certificates if not c.ok] == []
        for certificate in certificates:
            nat = certificate.declared
            assert certificate.udp == expected(nat, "UDP")
            assert certificate.tcp == expected(nat, "TCP")
            assert certificate.icmp == expected_query(nat)

    inside(lambda: asyncio.run(main()))


def test_every_preset_passes_with_all_traps(inside: Inside) -> None:
    def check() -> None:
        certificates = asyncio.run(certify_presets(PRESETS))
        assert [(c.router, c.differences) for c in certificates if not c.ok] == []
        assert [c.router for c in certificates] == list(PRESETS)
        assert {len(c.traps) for c in certificates} == {4}

    inside(check)


def test_two_routers_are_certified_at_once(inside: Inside) -> None:
    async def main() -> None:
        plan = build(cell_topology("full-cone", "symmetric-sequential"), 1)
        with await asyncio.to_thread(Network.build, plan) as network:
            probes = [certify(network, router, plan.vantages, full=True) for router in plan.routers]
            certificates = await asyncio.gather(*probes)
        assert [(c.router, c.differences) for c in certificates] == [("home-a", ()), ("home-b", ())]
        assert {len(c.traps) for c in certificates} == {2}, "the trap of two hosts needs two"

    inside(lambda: asyncio.run(main()))


@pytest.mark.parametrize(
    ("text", "mapping", "filtering", "ports"),
    [
        (rules("masquerade"), EIM, APDF, PRESERVING),
        (rules("masquerade random"), APDM, APDF, RANDOM),
        (rules("masquerade fully-random"), APDM, APDF, RANDOM),
        (rules("meta l4proto { udp, tcp } snat to 11.0.1.2:1024-32000"), EIM, APDF, RANDOM),
        (rules("meta l4proto { udp, tcp } snat to 11.0.1.2:1024-32000 fully-random"), APDM, APDF, RANDOM),
        (rules("masquerade", inbound="iifname wan dnat to 192.168.1.10"), EIM, EIF, PRESERVING),
        (rules(FROM_POOL, state=pool(1)), APDM, APDF, SEQUENTIAL),
        (rules(FROM_POOL, state=pool(256)), APDM, APDF, None),
    ],
    ids=["masquerade", "random", "fully-random", "range", "range-random", "dmz", "numgen", "byte-swapped"],
)
def test_the_probe_reports_what_netfilter_does_and_not_what_was_declared(
    inside: Inside, text: str, mapping: Mapping, filtering: Filtering, ports: Ports | None
) -> None:
    def check() -> None:
        # On one host: netfilter's own way with two of them is a trap of its own.
        plan = with_rules(declared("full-cone"), text)
        plan = replace(plan, routers=(replace(plan.routers[0], hosts=plan.routers[0].hosts[:1]),))
        certificate = asyncio.run(certify_alone(plan, full=False))
        measured = Behaviour(mapping, filtering, ports, Hairpin.NONE)
        dmz = "dnat to 192.168.1.10" in text  # the host answers for itself
        udp, tcp = (Unsolicited.ICMP, Unsolicited.RESET) if dmz else (Unsolicited.DROP, Unsolicited.DROP)
        assert certificate.udp == replace(measured, unsolicited=udp)
        assert certificate.tcp == replace(measured, unsolicited=tcp)

    inside(check)


def test_a_masquerade_that_is_declared_a_full_cone_is_not_certified(inside: Inside) -> None:
    def check() -> None:
        plan = with_rules(declared("full-cone"), rules("masquerade fully-random"))
        certificate = asyncio.run(certify_alone(plan, full=False))
        assert not certificate.ok
        told = [text.split(", measured")[0] for text in certificate.differences]
        assert told[-2:] == ["ICMP mapping: declared endpoint-independent", "ICMP identifiers: declared preserving"]
        assert told[:-2] == [
            f"{protocol} {what}"
            for protocol in ("UDP", "TCP")
            for what in (
                "mapping: declared endpoint-independent",
                "filtering: declared endpoint-independent",
                "ports: declared preserving",
            )
        ]

    inside(check)


def test_a_nat_that_rejects_instead_of_dropping_is_not_certified(inside: Inside) -> None:
    def check() -> None:
        plan = declared("port-restricted")
        plan = with_rules(
            plan,
            plan.rules[0].text.replace(
                "iifname wan meta l4proto { udp, tcp } drop", "iifname wan reject with tcp reset"
            ),
        )
        certificate = asyncio.run(certify_alone(plan, full=False))
        assert certificate.differences == (
            "UDP unsolicited: declared drop, measured icmp (a stray packet was unreachable)",
            "UDP that the filter does not let in is unreachable instead of dropped",
            "TCP unsolicited: declared drop, measured reset (a stray packet was refused)",
            "TCP that the filter does not let in is refused instead of dropped",
        )

    inside(check)


def test_a_hairpin_that_shows_the_inner_source_is_told_from_a_right_one(inside: Inside) -> None:
    def check() -> None:
        nat = Nat(EIM, EIF, PRESERVING, Hairpinning.EXTERNAL_SOURCE)
        plan = build(probe_topology(nat), 1)
        text = plan.rules[0].text
        wrong = "\n".join(line for line in text.splitlines() if "iifname lan oifname lan" not in line)
        assert wrong != text
        certificate = asyncio.run(certify_alone(with_rules(plan, wrong), full=False))
        assert certificate.udp is not None
        assert certificate.udp.hairpin is Hairpin.INTERNAL

    inside(check)


def test_a_router_that_passes_nothing_gets_a_certificate_that_says_so(inside: Inside) -> None:
    def check() -> None:
        block = "chain closed { type filter hook forward priority -10; drop; };"
        plan = with_rules(declared("home"), f"table ip punchlab {{ {block} }}")
        certificate = asyncio.run(certify_alone(plan))
        assert (certificate.ok, certificate.udp, certificate.tcp, certificate.icmp) == (False, None, None, None)
        assert len(certificate.differences) == 3
        for protocol, text in zip(("UDP", "TCP", "ICMP"), certificate.differences, strict=True):
            assert text.startswith(f"the {protocol} probe failed: {protocol} ")
            assert "did not arrive within" in text

    inside(check)


def test_a_router_that_does_not_translate_is_not_certified(inside: Inside) -> None:
    def check() -> None:
        certificate = asyncio.run(certify_alone(with_rules(declared("home"), "table ip punchlab { };"), full=False))
        assert not certificate.ok
        assert certificate.differences[0] == (
            "the UDP probe failed: packets leave from 192.168.1.10, 192.168.1.11, not from 11.0.1.2"
        )

    inside(check)


def test_rules_that_do_not_load_are_a_certificate_that_says_so(inside: Inside) -> None:
    def check() -> None:
        certificate = asyncio.run(certify_alone(with_rules(declared("home"), "table ip punchlab {")))
        assert not certificate.ok
        assert certificate.differences[0].startswith("it could not be built: router: ")

    inside(check)


def test_a_router_without_hosts_cannot_be_certified(inside: Inside) -> None:
    def check() -> None:
        plan = declared("home")
        plan = replace(plan, routers=(replace(plan.routers[0], hosts=()),))
        certificate = asyncio.run(certify_alone(plan, full=False))
        assert certificate.differences == (
            "UDP was not probed: no host is on its LAN",
            "TCP was not probed: no host is on its LAN",
            "ICMP was not probed: no host is on its LAN",
        )

    inside(check)


def test_an_unknown_preset_is_an_error_that_names_those_there_are() -> None:
    with pytest.raises(TopologyError, match="no NAT preset 'half-cone'; there are: full-cone, "):
        asyncio.run(certify_presets(["home", "half-cone"]))


def test_after_a_probe_nothing_of_it_is_left(inside: Inside) -> None:
    async def main() -> None:
        plan = declared("symmetric-sequential")
        with await asyncio.to_thread(Network.build, plan) as network:
            fresh = nft.listing(network.spaces["router"])
            certificate = await certify(network, plan.routers[0], plan.vantages, full=True)
            assert certificate.ok, certificate.differences
            assert nft.listing(network.spaces["router"]) == fresh
            for space in network.spaces.values():
                with space.entered():
                    for table in ("tcp", "udp"):
                        text = Path("/proc/thread-self/net", table).read_text()  # noqa: ASYNC240 -- procfs
                        assert text.count("\n") == 1, f"{space.name} has {table} sockets:\n{text}"

    inside(lambda: asyncio.run(main()))
