"""Mappings live as long as they are declared to, and no longer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from lab.kernel.network import Network
from lab.model.classical import probe_topology
from lab.model.nat import Filtering, Mapping, Nat, Ports
from lab.model.presets import PRESETS
from lab.plan.build import build
from lab.run.lifetimes import Lifetime, lifetimes

Inside = Callable[[Callable[[], None]], None]

EI = Filtering.ENDPOINT_INDEPENDENT
TIERS = (
    Nat(Mapping.ENDPOINT_INDEPENDENT, EI, Ports.PRESERVING, udp_timeout=4, udp_new_timeout=2, tcp_timeout=4),
    Nat(Mapping.ADDRESS_AND_PORT_DEPENDENT, EI, Ports.RANDOM, udp_timeout=5, udp_new_timeout=2, tcp_timeout=5),
)


async def measured(nat: Nat) -> tuple[Lifetime, ...]:
    plan = build(probe_topology(nat), 1)
    with await asyncio.to_thread(Network.build, plan) as network:
        return await lifetimes(network, plan.routers[0], plan.vantages)


def test_a_mapping_is_there_before_its_time_and_gone_after_it(inside: Inside) -> None:
    async def main() -> None:
        short = [replace(nat, tcp_transitory_timeout=2.0) for nat in TIERS]
        results = await asyncio.gather(*map(measured, short))
        kinds = ["UDP, new", "UDP, assured", "TCP, transitory", "TCP, established"]
        for found in results:
            assert [lifetime.kind for lifetime in found] == kinds
            assert [str(lifetime) for lifetime in found if not lifetime.ok] == []

    inside(lambda: asyncio.run(main()))


def test_one_lifetime_is_enough_for_a_nat_that_does_not_tell_flows_apart(inside: Inside) -> None:
    async def main() -> None:
        found = await measured(Nat(Mapping.ADDRESS_DEPENDENT, EI, Ports.SEQUENTIAL, udp_timeout=2, tcp_timeout=2))
        assert [str(lifetime) for lifetime in found if not lifetime.ok] == []
        assert [lifetime.seconds for lifetime in found] == [2, 2, 2, 2]

    inside(lambda: asyncio.run(main()))


def test_a_nat_that_lets_no_stranger_in_is_not_measured_by_one() -> None:
    plan = build(probe_topology(PRESETS["home"].nat), 1)
    with pytest.raises(ValueError, match="does not let a stranger knock"):
        asyncio.run(lifetimes(None, plan.routers[0], plan.vantages))  # type: ignore[arg-type]
