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
from lab.plan.guard import guard_rules
from lab.plan.plan import Plan, SpaceKind
from lab.plan.seen import seen_at
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
        (
            BASE[: BASE.index("[router.home]")],
            'name = "x"\nip = "ipv6"\n[router.isp]\nport-mapping = "pcp"\n',
            "port-mapping = 'pcp': this network has no IPv4",
        ),
        ('"address"', '"adress"', "ipv6 = 'adress': not known (did you mean 'address'?); allowed: open, endpoint"),
        ('"address"', '"address"\nnptv6 = "yes"', "[router.home] nptv6 = 'yes': must be true or false"),
        ('"address"', '"address"\nnat66 = "home"', "ipv6 = 'address': nat66 makes the router a NAT, which filters"),
        ('ipv6 = "address"', 'nptv6 = true\nnat66 = "home"', "nptv6 = true: nat66 makes the router a NAT"),
        ('ipv6 = "address"', 'nat66 = "hume"', "nat66 = 'hume': no such preset (did you mean 'home'?)"),
        (
            'ipv6 = "address"',
            'nat66 = { mapping = "endpoint", filtering = "address", block-size = 9 }',
            'nat66.block-size = 9: only ports = "block" come in blocks',
        ),
        (
            'ipv6 = "address"',
            'nat66 = "cgnat"',
            "udp-timeout 35s, udp-new-timeout 35s: a router has one clock for both versions of IP",
        ),
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


TRANSLATED = BASE.replace('ipv6 = "address"', 'nat66 = "home"').replace('nat = "home"', 'nat = "home"\nnptv6 = true', 1)


def test_who_is_translated_has_a_unique_local_address_that_nobody_outside_has_a_route_to() -> None:
    plan = build(parse(TRANSLATED, "t.toml"), 1)
    inner = ipaddress.ip_network("fd11::/16")
    assert {launch.peer for launch in plan.launches if ipaddress.ip_address(launch.address6 or "") in inner} == {
        "alice",
        "bob",
    }
    delegated = {(route.space, route.destination) for route in plan.routes if ":" in route.destination}
    assert delegated == {("core", "2a11:1:1::/64")}
    [guard] = plan.guards
    [nat] = plan.routers6
    assert (guard.lan, guard.outer) == ("fd11:1:1::/64", "2a11:1:1::/64")
    assert (nat.wan, nat.lan, nat.hosts, nat.above) == ("fd11:1:1::11", "fd11:1:2::/64", ("alice",), ("isp",))


def test_a_peer_is_seen_by_what_the_routers_on_the_way_make_of_its_address() -> None:
    plan = build(parse(TRANSLATED, "t.toml"), 1)
    seen = {launch.peer: seen_at(plan, launch) for launch in plan.launches}
    assert seen["alice"] == (("fd11:1:2::10",), ("fd11:1:1::11",), ("2a11:1:1::11",))
    assert seen["bob"] == (("fd11:1:1::10",), ("2a11:1:1::10",))
    assert len(seen["relay"]) == 1


def test_a_nat_with_several_ipv6_addresses_has_to_be_on_the_internet() -> None:
    text = BASE.replace('nat = "home"\nipv6', 'nat = { mapping = "endpoint", filtering = "endpoint" }\nipv6')
    pool = 'nat66 = { mapping = "endpoint", filtering = "endpoint", public-addresses = 2 }'
    with pytest.raises(
        TopologyError, match="it is behind isp, which gives it one IPv6 address, and its NAT66 asks for 2"
    ):
        build(parse(text.replace('ipv6 = "address"', pool), "t.toml"), 1)


@pytest.mark.parametrize(
    ("here", "there", "path"),
    [
        ('nat66 = "home"', 'nat66 = "home"', "direct"),
        ('nat66 = "symmetric"', 'nat66 = "home"', "relayed"),
        ('nat66 = "symmetric"', 'ipv6 = "address"', "direct"),
        ('nat66 = "symmetric"', 'ipv6 = "address-and-port"', "relayed"),
        ("nptv6 = true", "nptv6 = true", "direct"),
        ("nptv6 = true", 'nat66 = "symmetric"', "relayed"),
    ],
)
def test_translation_of_ipv6_is_predicted_as_that_of_ipv4(here: str, there: str, path: str) -> None:
    text = (OURS / "v6-firewalls.toml").read_text()
    text = text.replace('ipv6 = "address-and-port"', here, 1)
    first, second = text.split("[router.home-b]")
    second = second.replace('ipv6 = "address-and-port"', there)
    assert forecast(parse(f"{first}[router.home-b]{second}", "t.toml"), "alice", "bob", "relay", "tcp").path == path


@pytest.mark.parametrize(
    ("keys", "path"),
    [
        ("nptv6 = true", "direct"),
        ('nat66 = "full-cone"', "relayed"),
        ('nat66 = { mapping = "endpoint", filtering = "address", hairpin = true }', "direct"),
    ],
)
def test_two_behind_one_router_meet_by_its_outer_address_if_it_turns_packets_around(keys: str, path: str) -> None:
    text = f'name = "x"\nip = "ipv6"\n[router.home]\n{keys}\n'
    text += "".join(f'[peer.{peer}]\nat = "home"\n' for peer in ("alice", "bob"))
    text += '[peer.relay]\nat = "internet"\nrole = "relay"\n'
    assert forecast(parse(text, "t.toml"), "alice", "bob", "relay", "tcp").path == path


def test_a_plan_with_ipv6_reads_back() -> None:
    for topology in (dual(), alone(), parse(TRANSLATED, "t.toml")):
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
    assert str(first) == "SYN [2a11:1:1::10]:4001 → [2a11:1:2::10]:4002"
    assert (first.payload, first.seq, first.is_syn) == (0, 5, True)
    assert (second.proto, second.payload, second.src) == ("udp", 30, "2a11:1:1::10")
    assert first.identity != second.identity


NAT64 = (OURS / "ipv6-only-nat64.toml").read_text()


def test_a_translator_is_a_host_beside_its_router_and_what_it_translates_is_routed_to_it() -> None:
    plan = build(parse(NAT64, "t.toml"), 1)
    [translator] = plan.translators
    addresses = held(plan)[translator.space]
    assert addresses == ["192.168.1.13/24", "2a11:1:1::13/64"]
    routes = {(route.destination, route.gateway) for route in plan.routes if route.space == "carrier"}
    assert {(translator.pool, "192.168.1.13"), ("64:ff9b::/96", "2a11:1:1::13")} <= routes
    [router] = plan.routers
    assert set(router.guests) == {"phone", translator.space}
    assert not {"phone", translator.space} & set(router.hosts)


def test_a_peer_with_one_version_of_ip_has_no_address_or_route_of_the_other() -> None:
    plan = build(parse(NAT64, "t.toml"), 1)
    for name, wanted in (("phone", True), ("server", False)):
        assert {":" in address for address in held(plan)[name]} == {wanted}
        assert {":" in (route.gateway or "") for route in plan.routes if route.space == name} == {wanted}
        [launch] = [launch for launch in plan.launches if launch.peer == name]
        assert [":" in address for address in launch.addresses] == [wanted]


def test_a_plan_with_a_translator_reads_back() -> None:
    plan = build(parse(NAT64, "t.toml"), 3)
    assert plan_from_json(plan_to_json(plan)) == plan


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ("dual-stack", "ipv4", "[router.carrier] nat64 = true: this network has no IPv6; give it some"),
        ("true", "1", "nat64 = 1: allowed: true, for 64:ff9b::/96, or a prefix of 96 bits in 2000::/3, such as"),
        ("true", '"2a11:64::/64"', "nat64 = '2a11:64::/64': allowed: true, for 64:ff9b::/96, or a prefix of 96 bits"),
        ("true", '"fd00::/96"', "nat64 = 'fd00::/96': allowed: true, for 64:ff9b::/96, or a prefix of 96 bits in"),
        ("true", '"2a11:1:1::/96"', "2a11:1:1::/96 is a part of what the lab gives to others"),
        ("true", '"x"', "nat64 = 'x': not a prefix:"),
        (
            '"home"\n',
            '{ one-to-one = true, filtering = "endpoint" }\n',
            "nat64 = true: its nat is one-to-one, and has no address for whom nat64 translates",
        ),
        ('ip = "ipv6"', 'ip = "ipv5"', "[peer.phone] ip = 'ipv5': not known"),
        (
            "[dns]",
            '[router.other]\nnat = "home"\nnat64 = "2a11:64::/96"\n[peer.x]\nat = "other"',
            "[router.other] nat64 = '2a11:64::/96': another router translates 64:ff9b::/96; the lab's name server",
        ),
    ],
)
def test_a_mistake_about_nat64_is_one_line(old: str, new: str, part: str) -> None:
    assert old in NAT64
    with pytest.raises(TopologyError) as caught:
        parse(NAT64.replace(old, new), "t.toml")
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("network", "peer", "part"),
    [
        (
            "ipv6",
            "ipv4",
            "ip = 'ipv4': the network has ipv6; for peers that have another, ip = \"dual-stack\" at the top",
        ),
        ("ipv4", "dual-stack", "ip = 'dual-stack': the network has ipv4; for peers that have another"),
    ],
)
def test_a_peer_has_no_version_of_ip_that_its_network_has_not(network: str, peer: str, part: str) -> None:
    text = f'name = "x"\nip = "{network}"\n[peer.relay]\nat = "internet"\nip = "{peer}"\n'
    with pytest.raises(TopologyError) as caught:
        parse(text, "t.toml")
    assert part in str(caught.value)


@pytest.mark.parametrize(("relay", "path"), [("", "relayed"), ('ip = "ipv4"', "none"), ('ip = "ipv6"', "none")])
def test_peers_without_a_version_of_ip_in_common_punch_nothing(relay: str, path: str) -> None:
    text = NAT64 + f'[peer.relay]\nat = "internet"\nrole = "relay"\n{relay}\n'
    assert forecast(parse(text, "t.toml"), "phone", "server", "relay", "tcp").path == path
