"""Routers behind routers, end to end: what the library's layered topologies promise, seen on the wire."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest

from lab.errors import PeerError
from lab.kernel.network import Network
from lab.lab import Lab
from lab.model.layers import composite
from lab.model.nat import Filtering, Hairpinning, Mapping, Nat, Ports
from lab.model.presets import PRESETS
from lab.model.topology import INTERNET, Peer, Router, Topology
from lab.observe.facts import WirePath
from lab.observe.holepunch import Way
from lab.observe.nat import Behaviour
from lab.plan.build import build
from lab.run import leaks
from lab.run.certify import certify
from lab.run.plugin import topology

Inside = Callable[[Callable[[], None]], None]
PUNCHED = ("succeeded", "gave-up")


async def meet(lab: Lab) -> str:
    """Bob reserves, alice reaches him through the relay, both punch; the path they say they have in the end."""
    relay, alice, bob = lab.peers("relay", "alice", "bob")
    async with lab.step("bob reserves a slot"):
        await bob.reserve(relay)
    async with lab.step("alice reaches bob through the relay"):
        assert (await alice.dial(bob.through(relay))).path == "relayed"
    async with lab.step("both punch"):
        await bob.saw("punch", within=40, where=lambda stage="", **_: stage in PUNCHED)
    return (await alice.echo(bob)).path


@topology("cgnat")
async def test_two_homes_behind_one_carrier_meet_by_its_hairpin(lab: Lab) -> None:
    assert await meet(lab) == "direct"
    flow = (await lab.facts()).direct_flow("alice", "bob")
    assert flow is not None
    assert flow.way is Way.HAIRPIN
    isp = next(router for router in lab.plan.routers if router.name == "isp")
    assert {end.address for end in flow.ends} == {isp.wan}


@topology("double-nat")
async def test_a_punch_opens_two_nats_on_one_side(lab: Lab) -> None:
    assert await meet(lab) == "direct"
    flow = (await lab.facts()).direct_flow("alice", "bob")
    assert flow is not None
    assert flow.way is Way.INTERNET
    wan = {router.name: router.wan for router in lab.plan.routers}
    assert {end.address for end in flow.ends} == {wan["modem"], wan["home-b"]}


@topology("double-nat-pair")
async def test_a_punch_opens_two_nats_on_either_side(lab: Lab) -> None:
    assert await meet(lab) == "direct"
    flow = (await lab.facts()).direct_flow("alice", "bob")
    assert flow is not None
    assert flow.way is Way.INTERNET
    wan = {router.name: router.wan for router in lab.plan.routers}
    assert {end.address for end in flow.ends} == {wan["isp-a"], wan["isp-b"]}


@topology("cgnat-symmetric")
async def test_a_symmetric_carrier_undoes_what_homes_keep(lab: Lab) -> None:
    assert await meet(lab) == "relayed"
    facts = await lab.facts()
    assert facts.path("alice", "bob", "relay") is WirePath.RELAYED
    assert {drop.router for drop in facts.punch("alice", "bob").drops} <= {"isp-a", "isp-b"}


@topology("overlapping-lans")
async def test_an_address_of_another_home_leads_to_a_stranger_and_the_punch_to_bob(lab: Lab) -> None:
    alice, carol, bob = lab.peers("alice", "carol", "bob")
    assert bob.launch.address == carol.launch.address
    with pytest.raises(PeerError):
        await alice.dial(bob.address)
    facts = await lab.facts()
    assert facts.direct_flow(alice, carol) is not None, "alice has talked to the one who has bob's address at home"
    assert facts.direct_flow(alice, bob) is None

    assert await meet(lab) == "direct"
    assert (await lab.facts()).direct_flow(alice, bob) is not None


@topology("same-lan")
async def test_peers_of_one_lan_need_no_router(lab: Lab) -> None:
    alice, bob = lab.peers("alice", "bob")
    assert (await alice.dial(bob.address)).path == "direct"
    assert (await alice.echo(bob)).path == "direct"
    facts = await lab.facts()
    flow = facts.direct_flow(alice, bob)
    assert flow is not None
    assert flow.way is Way.LAN
    assert not [packet for packet in facts.packets if packet.interface == "home/wan"]


@topology("several-lans")
async def test_a_peer_on_the_outer_lan_is_reached_within_it(lab: Lab) -> None:
    alice, bob = lab.peers("alice", "bob")
    assert (await alice.dial(bob.address)).path == "direct"
    assert (await alice.echo(bob)).path == "direct"
    facts = await lab.facts()
    flow = facts.direct_flow(alice, bob)
    assert flow is not None
    assert flow.way is Way.WITHIN
    assert not [packet for packet in facts.packets if packet.interface == "house/wan"]


@topology("flat")
async def test_public_peers_need_no_relay(lab: Lab) -> None:
    relay, alice, bob = lab.peers("relay", "alice", "bob")
    assert (await alice.dial(bob.address)).path == "direct"
    assert (await bob.echo(alice)).path == "direct"
    facts = await lab.facts()
    assert facts.path(alice, bob, relay) is WirePath.DIRECT


FULL_CONE, ADDRESS, PORT, SYMMETRIC = (
    PRESETS[name].nat for name in ("full-cone", "address-restricted", "port-restricted", "symmetric-random")
)


def in_series(outer: Nat, inner: Nat) -> Topology:
    return Topology(
        "series",
        "",
        (
            Router("isp", replace(outer, hairpin=Hairpinning.EXTERNAL_SOURCE), lan="100.64.0.0/10"),
            Router("home", inner, at="isp"),
        ),
        (Peer("relay", INTERNET, role="relay"), Peer("alice", "home"), Peer("bob", "home")),
    )


def test_each_of_two_nats_in_series_is_measured_by_itself_and_together_they_are_the_stricter(inside: Inside) -> None:
    """The rows are those of a bare probe: a carrier's NAT, a home's, and what both come to."""
    symmetric = PRESETS["symmetric-sequential"].nat
    pairs = [(FULL_CONE, PORT), (FULL_CONE, FULL_CONE), (PORT, FULL_CONE), (ADDRESS, FULL_CONE), (SYMMETRIC, PORT)]

    async def one(outer: Nat, inner: Nat) -> None:
        asked = in_series(outer, inner)
        plan = build(asked, 1)
        network = await asyncio.to_thread(Network.build, plan)
        try:
            assert await leaks.check(network, plan) == []
            for router in plan.routers:
                certificate = await certify(network, router, router.vantages, full=True)
                assert certificate.differences == ()
            isp, home = plan.routers
            nat = composite((home.nat, isp.nat))
            assert nat is not None
            as_one = replace(isp, nat=nat, hosts=home.hosts)
            certificate = await certify(network, as_one, plan.vantages, full=False)
            assert certificate.differences == ()
            assert certificate.udp == certificate.tcp
            assert isinstance(certificate.udp, Behaviour)
        finally:
            await asyncio.to_thread(network.close)

    async def main() -> None:
        for outer, inner in [*pairs, (PORT, symmetric)]:
            await one(outer, inner)

    inside(lambda: asyncio.run(main()))


def test_every_mapping_and_filtering_in_series_has_the_stricter_composite() -> None:
    kinds = [Nat(mapping, filtering, Ports.PRESERVING) for mapping in Mapping for filtering in Filtering]
    for inner, outer in itertools.product(kinds, kinds):
        both = composite((inner, outer))
        assert both is not None
        assert list(Mapping).index(both.mapping) == max(list(Mapping).index(nat.mapping) for nat in (inner, outer))
        assert list(Filtering).index(both.filtering) == max(
            list(Filtering).index(nat.filtering) for nat in (inner, outer)
        )
