"""Peers with several uplinks: their addresses, routes and places in a plan, and what the oracle says of them."""

from __future__ import annotations

from lab.model.plain import from_plain, to_plain
from lab.model.topology import Topology, parse
from lab.plan.amend import launch_of, router_of
from lab.plan.build import build
from lab.plan.plan import Plan, Policy, Route
from lab.run.oracle import forecast

TEXT = """
name = "x"
ip   = "{ip}"
[router.wifi]
nat  = "symmetric"
[router.cell]
nat  = "{cell}"
lan  = "10.0.0.0/24"
[router.home]
nat  = "symmetric"
[peer.relay]
at   = "internet"
role = "relay"
[peer.alice]
at = {at}
[peer.bob]
at = "home"
[peer.ann]
at = "wifi"
[peer.cy]
at = "cell"
"""


def topology(at: str = '["wifi", "cell"]', cell: str = "full-cone", ip: str = "ipv4") -> Topology:
    return parse(TEXT.format(at=at, cell=cell, ip=ip), "x.toml")


def routes(plan: Plan, space: str) -> list[Route]:
    return [route for route in plan.routes if route.space == space]


def test_each_uplink_has_an_address_a_table_and_a_default_route_by_preference() -> None:
    plan = build(topology(), 1)
    assert routes(plan, "alice") == [
        Route("alice", "default", "192.168.1.1", "eth0", metric=100),
        Route("alice", "192.168.1.0/24", None, "eth0", table=101),
        Route("alice", "default", "192.168.1.1", "eth0", table=101),
        Route("alice", "default", "10.0.0.1", "eth1", metric=200),
        Route("alice", "10.0.0.0/24", None, "eth1", table=102),
        Route("alice", "default", "10.0.0.1", "eth1", table=102),
    ]
    assert plan.policies == (Policy("alice", "192.168.1.11", 101), Policy("alice", "10.0.0.11", 102))
    assert routes(plan, "bob") == [Route("bob", "default", "192.168.1.1", "eth0")]


def test_a_launch_knows_all_its_uplinks_and_the_preferred_one_first() -> None:
    launch = launch_of(build(topology(), 1), "alice")
    assert launch.addresses == ("192.168.1.11", "10.0.0.11")
    assert launch.captures == ("alice/eth0", "alice/eth1")
    assert [(way.interface, way.router) for way in launch.ways] == [("eth0", "wifi"), ("eth1", "cell")]
    public = launch_of(build(topology('["wifi", "internet"]', ip="ipv4"), 1), "alice")
    assert public.address_for(launch_of(build(topology(), 1), "bob")) == public.ways[1].address
    assert public.address_for(launch_of(build(topology(), 1), "ann")) == public.address, "on the LAN of both"


def test_routers_are_measured_from_hosts_that_are_on_no_other_lan() -> None:
    plan = build(topology(), 1)
    wifi, cell = router_of(plan, "wifi"), router_of(plan, "cell")
    assert (wifi.hosts, wifi.guests) == (("ann",), ("alice",))
    assert (cell.hosts, cell.guests) == (("cy",), ("alice",))


def test_a_plan_with_several_uplinks_reads_back() -> None:
    for ip in ("ipv4", "dual-stack"):
        plan = build(topology(ip=ip), 1)
        assert from_plain(to_plain(plan), Plan, "plan") == plan


def test_in_a_network_with_ipv6_each_uplink_has_a_global_address_and_a_table() -> None:
    plan = build(topology(ip="dual-stack"), 1)
    addresses = [way.address6 for way in launch_of(plan, "alice").ways]
    assert None not in addresses
    assert len(set(addresses)) == 2
    assert [(policy.source, policy.table) for policy in plan.policies if ":" in policy.source] == [
        (addresses[0], 101),
        (addresses[1], 102),
    ]
    assert [guard.hosts for guard in plan.guards if guard.name == "wifi"] == [("ann",)]


def test_the_preferred_uplink_and_public_addresses_decide() -> None:
    by_cell = forecast(topology('["cell", "wifi"]'), "alice", "bob", "relay", "tcp")
    by_wifi = forecast(topology('["wifi", "cell"]'), "alice", "bob", "relay", "tcp")
    public = forecast(topology('["wifi", "internet"]'), "alice", "bob", "relay", "tcp")
    assert (by_cell.path, by_wifi.path, public.path) == ("direct", "relayed", "direct")
    assert "alice is on the internet" in public.why
