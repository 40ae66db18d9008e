"""Plans as events change them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.errors import EventError
from lab.life import check
from lab.model.event import Exhaust, Rebind, Reboot
from lab.model.topology import parse
from lab.plan.amend import cable_of, core_port, launch_of, router_of, with_address, with_move
from lab.plan.build import build
from lab.plan.plan import Plan
from lab.plan.replay import plans

TWO_HOMES = """
name = "two"
summary = "Two homes and a relay."
[router.home-a]
nat = "home"
[router.home-b]
nat = "symmetric-random"
[peer.relay]
at = "internet"
role = "relay"
[peer.alice]
at = "home-a"
[peer.bob]
at = "home-b"
"""
LAYERS = """
name = "layers"
summary = "A home behind a carrier."
[router.isp]
nat = "home"
[router.home]
at = "isp"
nat = "home"
[peer.alice]
at = "home"
"""


def plan_of(text: str) -> Plan:
    return build(parse(text, "two.toml"), 1)


def test_an_address_of_a_network_of_its_own_moves_the_cores_side_and_the_route() -> None:
    before = plan_of(TWO_HOMES)
    after = with_address(before, "home-a", "11.0.9.2")
    cable = cable_of(after, "home-a")
    assert router_of(after, "home-a").wan == "11.0.9.2"
    assert (cable.a.addresses, cable.b.addresses) == (("11.0.9.1/24",), ("11.0.9.2/24",))
    assert [route.gateway for route in after.routes if route.space == "home-a"] == ["11.0.9.1"]
    rules = "".join(rules.text for rules in after.rules if rules.space == "home-a")
    assert "11.0.9.2" in rules
    assert "11.0.1.2" not in rules
    assert [rules for rules in after.rules if rules.space == "home-b"] == [
        rules for rules in before.rules if rules.space == "home-b"
    ]
    assert {link.name: link.networks for link in after.shaping.uplinks}["home-a"] == ("11.0.9.0/24",)


def test_an_address_of_the_same_network_leaves_the_core_alone() -> None:
    before = plan_of(TWO_HOMES)
    after = with_address(before, "home-a", "11.0.1.22")
    assert cable_of(after, "home-a").a == cable_of(before, "home-a").a
    assert after.routes == before.routes
    assert "11.0.1.2 " not in "".join(rules.text for rules in after.rules)


@given(st.integers(0, 255), st.integers(2, 254))
def test_an_address_that_goes_and_comes_back_leaves_no_trace(network: int, host: int) -> None:
    before = plan_of(TWO_HOMES)
    address = f"11.9.{network}.{host}"
    assert with_address(with_address(before, "home-a", address), "home-a", "11.0.1.2") == before


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("11.0.1.2", "has the address 11.0.1.2 already"),
        ("11.0.1.1", "11.0.1.1 is core's"),
        ("11.0.1.255", "not a host's address"),
        ("11.0.3.7", "in a network of relay's"),
        ("11.255.1.9", "in a network of core's"),
        ("192.168.7.7", "does not look public"),
        ("203.0.113.7", "does not look public"),
        ("11.0.9.0", "not a host's address"),
    ],
)
def test_an_address_that_cannot_be_is_refused(address: str, complaint: str) -> None:
    with pytest.raises(EventError, match=complaint):
        with_address(plan_of(TWO_HOMES), "home-a", address)


def test_one_of_several_addresses_changes_within_their_network_only() -> None:
    pool = 'nat = { mapping = "endpoint", filtering = "address", ports = "random", public-addresses = 3 }'
    plan = plan_of(TWO_HOMES.replace('nat = "home"', pool))
    after = with_address(plan, "home-a", "11.0.1.77")
    assert router_of(after, "home-a").publics == ("11.0.1.77", "11.0.1.3", "11.0.1.4")
    assert cable_of(after, "home-a").b.addresses[:2] == ("11.0.1.77/24", "11.0.1.3/24")
    with pytest.raises(EventError, match=r"11\.0\.1\.3 is home-a's"):
        with_address(plan, "home-a", "11.0.1.3")
    with pytest.raises(EventError, match=r"several addresses in 11\.0\.1\.0/24"):
        with_address(plan, "home-a", "11.0.9.2")


def test_a_one_to_one_nat_takes_no_guests_and_draws_no_ports() -> None:
    one_to_one = 'nat = { mapping = "endpoint", filtering = "address", ports = "preserving", one-to-one = true }'
    plan = plan_of(TWO_HOMES.replace('nat = "symmetric-random"', one_to_one))
    with pytest.raises(EventError, match="none for a guest"):
        with_move(plan, "alice", "home-b")
    for target, event in (("home-b", Exhaust()), ("home-b", Rebind()), ("home-b", Reboot(other_ports=True))):
        with pytest.raises(EventError, match="allocates no ports"):
            check(plan, target, event)
    with pytest.raises(EventError, match="bob has a public address at home-b"):
        check(plan, "bob", Rebind())
    check(plan, "home-b", Reboot())


def test_a_router_behind_another_stays_on_its_lan() -> None:
    plan = plan_of(LAYERS)
    was = router_of(plan, "home").wan
    other = was.rpartition(".")[0] + ".77"
    after = with_address(plan, "home", other)
    assert router_of(after, "home").wan == other
    assert cable_of(after, "home").a == cable_of(plan, "home").a
    with pytest.raises(EventError, match="on isp's LAN"):
        with_address(plan, "home", "11.0.9.2")
    assert core_port(plan, "alice") == "isp"


def test_a_peer_that_moves_is_the_new_routers_in_every_part_of_the_plan() -> None:
    before = plan_of(TWO_HOMES)
    after = with_move(before, "alice", "home-b")
    alice, cable = launch_of(after, "alice"), cable_of(after, "alice")
    assert (alice.router, alice.routers, alice.address) == ("home-b", ("home-b",), "192.168.1.11")
    assert (cable.a.space, cable.a.name, cable.a.bridge) == ("home-b", "lan1", "lan")
    assert cable.b.addresses == ("192.168.1.11/24",)
    assert "alice" in router_of(after, "home-b").hosts
    assert "alice" not in router_of(after, "home-a").hosts
    assert replace(after, launches=(), cables=(), routers=()) == replace(before, launches=(), cables=(), routers=())
    assert with_move(after, "alice", "home-a") == before


def test_a_move_to_an_address_that_is_taken_or_elsewhere_is_refused() -> None:
    plan = plan_of(TWO_HOMES)
    assert launch_of(with_move(plan, "alice", "home-b", "192.168.1.200"), "alice").address == "192.168.1.200"
    for router, address, complaint in (
        ("home-b", "192.168.1.10", "is bob's"),
        ("home-b", "192.168.1.1", "is home-b's"),
        ("home-b", "192.168.1.0", "not a host's address"),
        ("home-b", "192.168.2.9", "not on home-b's LAN"),
        ("home-c", None, "no router 'home-c' in two; its routers: home-a, home-b"),
        ("home-a", None, "behind home-a already"),
    ):
        with pytest.raises(EventError, match=complaint):
            with_move(plan, "alice", router, address)


def test_ports_and_places_are_found_or_named() -> None:
    plan = plan_of(TWO_HOMES)
    assert cable_of(plan, "home-a/lan0") is cable_of(plan, "alice") is cable_of(plan, "alice/eth0")
    assert cable_of(plan, "core/relay") is cable_of(plan, "relay")
    assert (core_port(plan, "alice"), core_port(plan, "relay")) == ("home-a", "relay")
    with pytest.raises(EventError, match="cables end at: core/home-a, home-a/wan"):
        cable_of(plan, "home-a/lan7")


def test_the_lines_of_a_run_give_its_plans_again_and_failures_change_nothing() -> None:
    first = plan_of(TWO_HOMES)
    lines: list[dict[str, object]] = [
        {"who": "lab", "event": "step", "name": "x", "stage": "begin"},
        {"who": "lab", "event": "event", "target": "home-a", "what": "reboot"},
        {"who": "lab", "event": "event", "target": "home-a", "what": "address 11.0.9.2", "detail": "was 11.0.1.2"},
        {"who": "lab", "event": "event", "target": "home-b", "what": "address 11.0.8.2", "error": "no"},
        {"who": "lab", "event": "event", "target": "alice", "what": "move home-b"},
        {"who": "lab", "event": "event", "target": "alice", "what": "become a butterfly"},
        {"who": "lab", "event": "event", "target": 7, "what": None},
    ]
    told = plans(first, lines)
    assert told[0] == first
    assert [router_of(plan, "home-a").wan for plan in told] == ["11.0.1.2", "11.0.9.2", "11.0.9.2"]
    assert router_of(told[-1], "home-b").wan == "11.0.2.2"
    assert launch_of(told[-1], "alice").router == "home-b"


def test_a_peer_with_ipv6_gets_an_address_of_the_new_lan_too() -> None:
    before = plan_of('ip = "dual-stack"\n' + TWO_HOMES.lstrip())
    after = with_move(before, "alice", "home-b")
    alice, bob = launch_of(after, "alice"), launch_of(after, "bob")
    assert alice.address6 is not None
    assert bob.address6 is not None
    assert alice.address6 != bob.address6
    assert alice.address6.rpartition("::")[0] == bob.address6.rpartition("::")[0]
    held = [one for peer in ("alice", "bob") for one in cable_of(after, peer).b.addresses]
    assert len(held) == len(set(held)), "two on one LAN have the same address"
    gateways = {r.gateway for r in after.routes if r.space == "alice"}
    assert gateways == {r.gateway for r in after.routes if r.space == "bob"}


def test_an_outer_address_changes_for_ipv4_and_leaves_ipv6_as_it_was() -> None:
    before = plan_of('ip = "dual-stack"\n' + TWO_HOMES.lstrip())
    after = with_address(before, "home-a", "11.0.9.2")

    def ipv6(plan: Plan) -> list[str]:
        ends = [cable_of(plan, "home-a").a, cable_of(plan, "home-a").b]
        return [one for end in ends for one in end.addresses if ":" in one]

    assert ipv6(after) == ipv6(before) != []
    changed = [(was, now) for was, now in zip(before.routes, after.routes, strict=True) if was != now]
    assert [(was.gateway, now.gateway) for was, now in changed] == [("11.0.1.1", "11.0.9.1")]


VERSIONS = """
name = "versions"
ip = "dual-stack"
[router.here]
nat = "home"
[router.there]
nat = "home"
nat66 = "home"
[peer.six]
at = "here"
ip = "ipv6"
[peer.four]
at = "here"
ip = "ipv4"
[peer.both]
at = "here"
[peer.other]
at = "there"
"""


def test_a_peer_takes_along_the_versions_of_ip_that_it_has() -> None:
    plan = plan_of(VERSIONS)
    four, both = (launch_of(with_move(plan, peer, "there"), peer) for peer in ("four", "both"))
    assert (four.address, four.address6) == ("192.168.1.11", None)
    assert (both.address, both.address6) == ("192.168.1.11", "fd11:1:2::11")
    with pytest.raises(EventError, match="six has IPv6 alone; only peers with IPv4 move"):
        with_move(plan, "six", "there")


def test_a_nat_of_ipv6_is_probed_from_who_has_come_to_it() -> None:
    [there] = with_move(plan_of(VERSIONS), "both", "there").routers6
    assert there.hosts == ("other", "both")
