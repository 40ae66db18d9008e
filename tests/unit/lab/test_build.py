"""Plans: the same from the same, complete, and with nothing in them that does not fit together."""

from __future__ import annotations

import ipaddress
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.model.classical import CLASSICAL, cell_topology
from lab.model.nat import Filtering, Mapping, Nat, Ports
from lab.model.topology import INTERNET, MAX_HOSTS, MAX_NEIGHBOURS, Peer, Router, Topology, load
from lab.plan.build import build
from lab.plan.plan import Plan, Port, SpaceKind

LIBRARY = Path(__file__).resolve().parents[3] / "topologies"
CELL = cell_topology("symmetric-sequential", "port-restricted")


def ports(plan: Plan) -> list[Port]:
    return [*plan.loose, *(end for cable in plan.cables for end in (cable.a, cable.b))]


def crowd(routers: int, hosts: int, publics: int) -> Topology:
    nat = Nat(Mapping.ENDPOINT_INDEPENDENT, Filtering.ADDRESS_DEPENDENT, Ports.PRESERVING)
    behind = [Peer(f"p{router}-{host}", f"r{router}") for router in range(routers) for host in range(hosts)]
    outside = [Peer(f"q{index}", INTERNET) for index in range(publics)]
    return Topology("crowd", "", tuple(Router(f"r{index}", nat) for index in range(routers)), (*behind, *outside))


def test_the_same_topology_and_seed_give_the_same_plan() -> None:
    assert build(CELL, 7) == build(CELL, 7)


def test_another_seed_starts_the_sequential_nat_elsewhere() -> None:
    texts = {build(CELL, seed).rules[0].text for seed in range(5)}
    assert len(texts) == 5


def test_a_router_has_its_wan_its_bridge_and_its_rules() -> None:
    plan = build(CELL, 1)
    for router in plan.routers:
        space = next(space for space in plan.spaces if space.name == router.name)
        assert (space.kind, space.bridges) == (SpaceKind.ROUTER, ("lan",))
        named = {port.name: port for port in ports(plan) if port.space == router.name}
        assert set(named) == {"wan", "lan", "lan0"}
        assert named["wan"].addresses == (f"{router.wan}/24",)
        assert named["lan"].addresses == (f"{router.gateway}/24",)
        assert named["lan0"].bridge == "lan"
        assert [rules.space for rules in plan.rules].count(router.name) == 1
        assert f"snat to {router.wan} " in next(rules.text for rules in plan.rules if rules.space == router.name)


def test_a_public_peer_may_have_several_addresses_of_which_the_first_is_its_own() -> None:
    plan = build(Topology("t", "", (), (Peer("server", INTERNET, addresses=2), Peer("other", INTERNET))), 1)
    held = {port.space: port.addresses for port in ports(plan) if port.name == "eth0"}
    assert held == {"server": ("11.0.1.2/24", "11.0.1.3/24"), "other": ("11.0.2.2/24",)}
    assert plan.launches[0].address == "11.0.1.2"


def test_conntrack_forgets_when_the_mapping_does() -> None:
    topology = replace(CELL, routers=tuple(_with_lifetimes(router) for router in CELL.routers))
    sysctls = dict(build(topology, 1).spaces[1].sysctls)
    assert sysctls["netfilter/nf_conntrack_udp_timeout"] == "9"
    assert sysctls["netfilter/nf_conntrack_udp_timeout_stream"] == "9"
    assert sysctls["netfilter/nf_conntrack_tcp_timeout_established"] == "90"
    assert sysctls["netfilter/nf_conntrack_tcp_timeout_syn_sent"] == "90"
    assert sysctls["netfilter/nf_conntrack_tcp_timeout_close"] == "10"


def _with_lifetimes(router: Router) -> Router:
    return replace(router, nat=replace(router.nat, udp_timeout=9.0, tcp_timeout=90.0))


def test_every_space_but_the_core_has_one_way_out_and_it_is_next_to_it() -> None:
    plan = build(CELL, 1)
    routes = Counter(route.space for route in plan.routes)
    assert routes == Counter(space.name for space in plan.spaces if space.kind is not SpaceKind.CORE)
    for route in plan.routes:
        port = next(port for port in ports(plan) if (port.space, port.name) == (route.space, route.port))
        assert route.gateway is not None
        assert ipaddress.ip_address(route.gateway) in ipaddress.ip_interface(port.addresses[0]).network


def test_launches_are_where_their_addresses_are() -> None:
    plan = build(CELL, 1)
    held = {(port.space, address.split("/")[0]) for port in ports(plan) for address in port.addresses}
    assert [(launch.peer, launch.router, launch.role) for launch in plan.launches] == [
        ("relay", None, "relay"),
        ("alice", "home-a", "peer"),
        ("bob", "home-b", "peer"),
    ]
    assert all((launch.space, launch.address) in held for launch in plan.launches)


def test_every_side_of_every_nat_and_every_peer_is_captured() -> None:
    names = {capture.name for capture in build(CELL, 1).captures}
    assert names == {"home-a/wan", "home-a/lan", "home-b/wan", "home-b/lan", "relay/eth0", "alice/eth0", "bob/eth0"}


def test_both_vantages_are_addresses_of_the_core() -> None:
    plan = build(CELL, 1)
    [loopback] = [port for port in plan.loose if port.space == "core"]
    assert loopback.addresses == tuple(f"{address}/32" for address in plan.vantages)


@pytest.mark.parametrize("topology", [load(file) for file in sorted(LIBRARY.glob("*.toml"))], ids=lambda t: t.name)
def test_a_library_topology_fits_together(topology: Topology) -> None:
    _check(build(topology, 3))


@pytest.mark.parametrize("shape", [(0, 0, 1), (1, MAX_HOSTS, 0), (MAX_NEIGHBOURS, 1, 0), (1, 1, MAX_NEIGHBOURS - 1)])
def test_the_largest_topologies_still_have_addresses(shape: tuple[int, int, int]) -> None:
    _check(build(crowd(*shape), 1))


@settings(max_examples=40)
@given(st.integers(), st.integers(0, 6), st.integers(1, 6), st.integers(0, 6))
def test_any_plan_fits_together(seed: int, routers: int, hosts: int, publics: int) -> None:
    _check(build(crowd(routers, hosts, publics), seed))


def _check(plan: Plan) -> None:
    spaces = [space.name for space in plan.spaces]
    assert len(set(spaces)) == len(spaces)
    every = ports(plan)
    places = [(port.space, port.name) for port in every]
    assert len(set(places)) == len(places)
    assert {space for space, _ in places} == set(spaces)
    assert all(len(name) <= 15 for _, name in places)
    macs = [port.mac for port in every if port.mac]
    assert len(set(macs)) == len(macs)
    assert all(int(mac[:2], 16) & 3 == 2 for mac in macs)
    inner = [router.lan for router in (*plan.routers, *plan.routers6)]
    lans = [ipaddress.ip_network(lan) for lan in (*inner, *(g.lan for g in plan.guards if g.guard.translates))]
    held = [ipaddress.ip_interface(address) for port in every for address in port.addresses]
    public = [address for address in held if not address.is_link_local and not any(address in lan for lan in lans)]
    assert len(set(public)) == len(public)
    assert all(address.is_global for address in public)
    assert {(capture.space, capture.port) for capture in plan.captures} <= set(places)


@pytest.mark.parametrize("name", CLASSICAL)
def test_a_cell_has_its_nats_on_their_sides(name: str) -> None:
    routers = build(cell_topology(name, "full-cone"), 1).routers
    topology = cell_topology(name, "full-cone")
    assert [router.nat for router in routers] == [router.nat for router in topology.routers]
    assert [router.hosts for router in routers] == [("alice",), ("bob",)]


def test_only_the_core_and_routers_forward_whatever_the_machine_does() -> None:
    spaces = build(CELL, 1).spaces
    forwards = {space.name: dict(space.sysctls)["ipv4/ip_forward"] for space in spaces}
    assert forwards == {space.name: "0" if space.kind is SpaceKind.HOST else "1" for space in spaces}
    assert set(forwards.values()) == {"0", "1"}
