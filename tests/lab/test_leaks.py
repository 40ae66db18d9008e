"""The leak check on networks that leak, each by one hole, and on some that do not."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from dataclasses import replace

from lab.kernel import conntrack
from lab.kernel.network import Network
from lab.model.classical import cell_topology, probe_topology
from lab.model.nat import Filtering, Hairpinning, Mapping, Nat, Ports
from lab.model.topology import load, parse
from lab.plan.build import build
from lab.plan.names import CORE
from lab.plan.plan import Cable, Plan, Port, Route, RuleSet
from lab.run import leaks
from lab.run.library import OURS

Inside = Callable[[Callable[[], None]], None]

ROUTED = "iifname wan ct state new ct status & dnat == 0 drop"
FULL_CONE = Nat(
    Mapping.ENDPOINT_INDEPENDENT, Filtering.ENDPOINT_INDEPENDENT, Ports.PRESERVING, Hairpinning.EXTERNAL_SOURCE
)


def two_homes() -> Plan:
    return build(cell_topology("full-cone", "port-restricted"), 1)


def with_rules(plan: Plan, router: str, old: str, new: str) -> Plan:
    """The plan with one line of a router's rules changed."""

    def changed(rules: RuleSet) -> RuleSet:
        if rules.space != router:
            return rules
        assert old in rules.text
        return replace(rules, text=rules.text.replace(old, new))

    return replace(plan, rules=tuple(map(changed, plan.rules)))


async def leaks_of(real: Plan, believed: Plan, harm: Callable[[Network], None] = lambda _: None) -> list[str]:
    with await asyncio.to_thread(Network.build, real) as network:
        harm(network)
        return await leaks.check(network, believed)


def test_two_homes_leak_nothing(inside: Inside) -> None:
    def check() -> None:
        assert asyncio.run(leaks_of(two_homes(), two_homes())) == []

    inside(check)


def test_what_the_check_leaves_in_a_nat_is_on_no_port_that_a_socket_of_a_probe_is_given(inside: Inside) -> None:
    """Two hosts with one port are a NAT's reason to move one of them, and it would not measure as declared."""

    async def main() -> None:
        lans = (("a", "192.168.1.0/24"), ("b", "10.0.0.0/24"))
        homes = (f'[router.{name}]\nnat = "home"\nlan = "{lan}"\n[peer.of-{name}]\nat = "{name}"' for name, lan in lans)
        plan = build(parse("\n".join(['name = "apart"', *homes]), "apart.toml"), 1)
        with await asyncio.to_thread(Network.build, plan) as network:
            assert await leaks.check(network, plan) == []
            inner = {launch.address for launch in plan.launches}
            for router in plan.routers:
                entries = conntrack.entries(network.spaces[router.name])
                left = [entry.orig[1] for entry in entries if entry.orig[0] in inner]
                assert left
                assert set(left) <= set(leaks.OWN_PORTS)

    inside(lambda: asyncio.run(main()))


def test_translated_networks_of_ipv6_leak_nothing(inside: Inside) -> None:
    def check() -> None:
        for name in ("nat66-pair", "npt-pair"):
            plan = build(load(OURS / f"{name}.toml"), 1)
            assert asyncio.run(leaks_of(plan, plan)) == []

    inside(check)


def test_a_nat_of_ipv6_that_routes_straight_into_its_lan_is_found(inside: Inside) -> None:
    def check() -> None:
        plan = build(load(OURS / "nat66-pair.toml"), 1)
        found = asyncio.run(leaks_of(with_rules(plan, "home-a", ROUTED, "counter"), plan))
        assert found == [f"home-a routes {kind} from the internet straight to alice" for kind in ("UDP", "a TCP SYN")]

    inside(check)


def test_a_router_that_lets_the_internet_use_its_inner_prefix_is_found(inside: Inside) -> None:
    def check() -> None:
        text = (OURS / "npt-pair.toml").read_text().replace('ipv6  = "address-and-port"', 'ipv6 = "open"')
        plan = build(parse(text, "open.toml"), 1)
        assert asyncio.run(leaks_of(plan, plan)) == []
        found = asyncio.run(leaks_of(with_rules(plan, "home-a", ROUTED, "counter"), plan))
        assert found == [f"home-a routes {kind} from the internet straight to alice" for kind in ("UDP", "a TCP SYN")]

    inside(check)


def test_a_way_to_a_private_ipv6_address_is_found(inside: Inside) -> None:
    def check() -> None:
        plan = build(load(OURS / "nat66-pair.toml"), 1)
        route = Route(CORE, "fd11:1:2::/64", "2a11:0:2::2", "home-b")
        real = with_rules(replace(plan, routes=(*plan.routes, route)), "home-b", ROUTED, "counter")
        found = asyncio.run(leaks_of(real, plan))
        assert "a packet of alice to fd11:1:2::10 arrives at bob, past home-b" in found

    inside(check)


def test_two_hosts_of_one_lan_may_hear_each_other(inside: Inside) -> None:
    def check() -> None:
        plan = build(probe_topology(FULL_CONE), 1)
        assert asyncio.run(leaks_of(plan, plan)) == []

    inside(check)


def test_a_router_that_routes_straight_into_its_lan_is_found(inside: Inside) -> None:
    def check() -> None:
        plan = with_rules(two_homes(), "home-b", ROUTED, "accept")
        assert asyncio.run(leaks_of(plan, two_homes())) == [
            "home-b routes UDP from the internet straight to bob",
            "home-b routes a TCP SYN from the internet straight to bob",
        ]

    inside(check)


def test_a_forwarded_port_is_found(inside: Inside) -> None:
    def check() -> None:
        forwarded = (
            "chain dstnat {\n type nat hook prerouting priority -90; iifname wan tcp dport 4001 dnat to 192.168.1.10;"
        )
        plan = with_rules(two_homes(), "home-a", "chain dstnat {", f"{forwarded}}}\nchain others {{")
        assert asyncio.run(leaks_of(plan, two_homes())) == [
            "home-a lets a TCP SYN that nobody asked for in to alice",
        ]

    inside(check)


def test_a_port_forwarded_from_another_address_of_a_pool_is_found(inside: Inside) -> None:
    def check() -> None:
        plan = build(probe_topology(replace(FULL_CONE, public_addresses=2)), 1)
        second = plan.routers[0].publics[1]
        rule = f"iifname wan ip daddr {second} udp dport 4001 dnat to 192.168.1.10;"
        forwarded = f"chain dstnat {{\n type nat hook prerouting priority -90; {rule}}}\nchain others {{"
        leaking = with_rules(plan, "router", "chain dstnat {", forwarded)
        assert asyncio.run(leaks_of(plan, plan)) == []
        assert asyncio.run(leaks_of(leaking, plan)) == ["router lets UDP that nobody asked for in to host-a"]

    inside(check)


def test_a_route_of_the_internet_to_a_lan_is_found(inside: Inside) -> None:
    def check() -> None:
        open_router = with_rules(two_homes(), "home-b", ROUTED, "accept")
        home_b = next(router for router in open_router.routers if router.name == "home-b")
        route = Route(CORE, home_b.lan, home_b.wan, "home-b")
        found = asyncio.run(leaks_of(replace(open_router, routes=(*open_router.routes, route)), two_homes()))
        assert "a packet of relay to 192.168.1.10 arrives at bob, past home-b" in found

    inside(check)


def test_a_cable_between_two_lans_is_found(inside: Inside) -> None:
    def check() -> None:
        plan = two_homes()
        secret = Cable(Port("home-a", "secret", bridge="lan"), Port("home-b", "secret", bridge="lan"))
        found = asyncio.run(leaks_of(replace(plan, cables=(*plan.cables, secret)), plan))
        assert "home-a has an interface secret that is not in the plan" in found
        assert "bob hears alice/eth0, with which it shares no segment" in found
        assert "alice hears bob/eth0, with which it shares no segment" in found

    inside(check)


def test_a_peer_with_a_second_way_to_the_internet_is_found(inside: Inside) -> None:
    def check() -> None:
        plan = two_homes()
        back_door = Cable(Port(CORE, "back", ("11.0.99.1/24",)), Port("alice", "eth1", ("11.0.99.2/24",)))
        found = asyncio.run(leaks_of(replace(plan, cables=(*plan.cables, back_door)), plan))
        assert "alice has an interface eth1 that is not in the plan" in found
        assert "core has an interface back that is not in the plan" in found

    inside(check)


def test_a_check_that_cannot_be_made_is_reported_and_not_passed(inside: Inside) -> None:
    def cut(network: Network) -> None:
        with network.spaces["bob"].entered():
            subprocess.run(["ip", "link", "set", "eth0", "down"], check=True)

    def check() -> None:
        (found,) = asyncio.run(leaks_of(two_homes(), two_homes(), cut))
        assert found.startswith("the leak check could not be made: ")

    inside(check)


def test_segments_are_what_cables_and_bridges_join() -> None:
    assert {frozenset(segment) for segment in leaks.segments(build(probe_topology(FULL_CONE), 1))} == {
        frozenset({("core", "router"), ("router", "wan")}),
        frozenset({("router", "lan"), ("host-a", "eth0"), ("host-b", "eth0")}),
    }
