"""IPv6: read, planned, its rules, and its packets."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from lab.errors import TopologyError
from lab.model.ipv6 import Guard, Ip
from lab.model.nat import Filtering
from lab.model.topology import Topology, load, parse
from lab.observe.packets import read
from lab.plan.build import build
from lab.plan.codec import plan_from_json, plan_to_json
from lab.plan.ipv6 import guard_rules
from lab.plan.plan import Plan, SpaceKind
from lab.run.library import OURS
from lab.run.oracle import forecast

WritePcapng = Callable[[list[str], Iterable[tuple[int, int, bytes]]], bytes]
BASE = """\
name = "x"
ip = "dual-stack"
[router.isp]
nat = "home"
[router.home]
at = "isp"
nat = "home"
ipv6 = "address"
[peer.relay]
at = "internet"
role = "relay"
[peer.alice]
at = "home"
[peer.bob]
at = "isp"
"""


def dual() -> Topology:
    return parse(BASE, "t.toml")


def alone() -> Topology:
    return load(OURS / "v6-firewalls.toml")


def held(plan: Plan) -> dict[str, list[str]]:
    """The addresses of each space, without link-local ones."""
    addresses: dict[str, list[str]] = {}
    for port in (*plan.loose, *(end for cable in plan.cables for end in (cable.a, cable.b))):
        addresses.setdefault(port.space, []).extend(a for a in port.addresses if not a.startswith("fe80:"))
    return addresses


def test_a_network_has_ipv4_alone_if_it_does_not_say() -> None:
    text = BASE.replace('ip = "dual-stack"\n', "").replace('ipv6 = "address"\n', "")
    topology = parse(text, "t.toml")
    assert topology.ip is Ip.V4
    assert build(topology, 1).guards == ()
    assert not [address for addresses in held(build(topology, 1)).values() for address in addresses if ":" in address]


def test_guards_are_what_the_file_says_and_strict_if_it_does_not() -> None:
    isp, home = dual().routers
    assert (isp.guard, home.guard) == (
        Guard(Filtering.ADDRESS_AND_PORT_DEPENDENT),
        Guard(Filtering.ADDRESS_DEPENDENT),
    )
    assert parse(BASE.replace('"address"', '"open"'), "t.toml").router("home").guard == Guard(None)


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ('"dual-stack"', '"ipv5"', "top level: ip = 'ipv5': not known (did you mean"),
        ('ip = "dual-stack"\n', "", "this network has no IPv6; give it some at the top"),
        ('"dual-stack"', '"ipv6"', "nat = 'home': this network has no IPv4"),
        ('"address"', '"adress"', "ipv6 = 'adress': not known (did you mean 'address'?); allowed: open, endpoint"),
    ],
)
def test_a_mistake_is_one_line(old: str, new: str, part: str) -> None:
    with pytest.raises(TopologyError) as caught:
        parse(BASE.replace(old, new), "t.toml")
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("topology", [dual(), alone()], ids=["dual-stack", "ipv6"])
def test_every_global_address_is_one_hosts_and_looks_public(topology: Topology) -> None:
    plan = build(topology, 1)
    own = [ipaddress.ip_interface(a) for addresses in held(plan).values() for a in addresses if ":" in a]
    assert own
    assert all(address.is_global for address in own)
    assert all(address.ip in ipaddress.ip_network("2000::/3") for address in own)
    assert max(Counter(address.ip for address in own).values()) == 1


def test_every_gateway_is_next_to_who_uses_it_and_every_lan_has_a_route_from_the_core() -> None:
    plan = build(dual(), 1)
    held_by = held(plan)
    routes = [route for route in plan.routes if route.gateway is not None and ":" in route.gateway]
    for route in routes:
        networks = [ipaddress.ip_interface(address).network for address in held_by[route.space]]
        assert any(ipaddress.ip_address(route.gateway or "") in network for network in networks)
    delegated = {(route.space, route.destination) for route in routes if route.destination != "default"}
    assert delegated == {
        ("core", "2a11:1:1::/64"),
        ("core", "2a11:1:2::/64"),
        ("isp", "2a11:1:2::/64"),
    }


def test_a_network_of_ipv6_alone_has_no_ipv4_left() -> None:
    plan = build(alone(), 1)
    assert not [address for addresses in held(plan).values() for address in addresses if ":" not in address]
    assert plan.routers == ()
    assert [rules.text.split()[:3] for rules in plan.rules] == [["table", "ip6", "punchlab"]] * 2
    assert all(":" in launch.address and launch.addresses == (launch.address6,) for launch in plan.launches)
    assert plan.vantages[0].startswith("2a11:")


def test_a_dual_stack_keeps_its_ipv4_as_it_was() -> None:
    plan = build(dual(), 1)
    before = build(replace(dual(), ip=Ip.V4), 1)
    assert plan.routers == before.routers
    assert [rules for rules in plan.rules if rules.text.startswith("table ip ")] == list(before.rules)
    assert [launch.address for launch in plan.launches] == [launch.address for launch in before.launches]
    assert all(len(launch.addresses) == 2 for launch in plan.launches)


def test_only_routers_and_the_core_forward() -> None:
    for space in build(dual(), 1).spaces:
        sysctls = dict(space.sysctls)
        assert sysctls["ipv6/conf/all/disable_ipv6"] == "0"
        assert (sysctls.get("ipv6/conf/all/forwarding") == "1") is (space.kind is not SpaceKind.HOST)


def test_a_plan_with_ipv6_reads_back() -> None:
    for topology in (dual(), alone()):
        plan = build(topology, 3)
        assert plan_from_json(plan_to_json(plan)) == plan


def test_an_open_guard_has_no_rules() -> None:
    assert guard_rules(Guard(None)) == "table ip6 punchlab {\n}\n"
    assert "policy drop" in guard_rules(Guard(Filtering.ENDPOINT_INDEPENDENT))


@pytest.mark.parametrize(
    ("guard", "path"), [("open", "direct"), ("address-and-port", "direct"), ("endpoint", "direct")]
)
def test_guards_translate_nothing_so_a_punch_by_ipv6_succeeds(guard: str, path: str) -> None:
    topology = parse(BASE.replace('"address"', f'"{guard}"'), "t.toml")
    assert forecast(topology, "alice", "relay", "relay", "tcp").path == path


def test_ipv6_is_the_way_where_ipv4_has_none() -> None:
    prediction = forecast(load(OURS / "dual-stack.toml"), "alice", "bob", "relay", "tcp")
    assert prediction.path == "direct"
    assert prediction.why.startswith("by IPv6 ")


def test_packets_of_ipv6_are_read_like_those_of_ipv4(tmp_path: Path, write_pcapng: WritePcapng) -> None:
    ethernet = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    ip = IPv6(src="2a11:1:1::10", dst="2a11:1:2::10", fl=7)
    syn = ethernet / ip / TCP(sport=4001, dport=4002, seq=5, flags="S", options=[("Timestamp", (1, 0))])
    datagram = ethernet / ip / UDP(sport=1, dport=2) / bytes(30)
    cut = bytes(syn)[:60]
    fragment = ethernet / IPv6(src="2a11::1", dst="2a11::2", nh=44) / bytes(60)
    frames = [(number, 0, bytes(frame)) for number, frame in enumerate((syn, datagram, cut, fragment))]
    path = tmp_path / "capture.pcapng"
    path.write_bytes(write_pcapng(["home/wan"], frames))
    first, second = read(path)
    assert str(first) == "SYN 2a11:1:1::10:4001 → 2a11:1:2::10:4002"
    assert (first.payload, first.seq, first.is_syn) == (0, 5, True)
    assert (second.proto, second.payload, second.src) == ("udp", 30, "2a11:1:1::10")
    assert first.identity != second.identity
