"""Routers behind routers: refused where they make no sense, planned, predicted, and told apart on the wire."""

from __future__ import annotations

import ipaddress
import itertools
from dataclasses import replace

import pytest

from lab.errors import TopologyError
from lab.model import lans, punch
from lab.model.grid import grid
from lab.model.layers import can_hairpin, can_punch, composite, lets_in
from lab.model.nat import Filtering, Hairpinning, Mapping, Nat, Ports
from lab.model.presets import PRESETS
from lab.model.topology import Topology, parse
from lab.observe.facts import Facts, judge
from lab.observe.holepunch import Way
from lab.observe.packets import Packet
from lab.plan.build import build
from lab.plan.plan import Plan, SpaceKind
from lab.run.oracle import Prediction, forecast

FULL_CONE, HOME, SYMMETRIC = (PRESETS[name].nat for name in ("full-cone", "home", "symmetric-random"))
CGNAT = """\
name = "cgnat"
[router.isp]
nat = { mapping = "endpoint", filtering = "address-and-port", hairpin = true }
[router.home-a]
at = "isp"
nat = "home"
[router.home-b]
at = "isp"
nat = "home"
[peer.relay]
at = "internet"
role = "relay"
[peer.alice]
at = "home-a"
[peer.bob]
at = "home-b"
"""


def complaint(text: str) -> str:
    with pytest.raises(TopologyError) as caught:
        parse(text, "t.toml")
    message = str(caught.value)
    assert "\n" not in message
    return message


def routers(*pairs: tuple[str, str], lan: str = "") -> str:
    tables = [f'[router.{name}]\nat = "{at}"\nnat = "home"\n{lan}' for name, at in pairs]
    return 'name = "x"\n' + "".join(tables)


def test_two_routers_in_a_circle_are_refused() -> None:
    message = complaint(routers(("a", "b"), ("b", "a")) + '[peer.p]\nat = "a"\n')
    assert message.startswith("t.toml:3: [router.a] at = 'b': routers in a circle: a → b → a; ")


def test_a_router_behind_itself_is_a_circle() -> None:
    assert "circle: a → a" in complaint(routers(("a", "a")) + '[peer.p]\nat = "a"\n')


def test_a_circle_that_a_chain_leads_into_is_named_without_the_chain() -> None:
    text = routers(("a", "b"), ("b", "c"), ("c", "b")) + '[peer.p]\nat = "a"\n'
    assert "circle: b → c → b" in complaint(text)


def test_more_layers_than_there_are_networks_for_are_refused() -> None:
    chain = [("a", "internet"), ("b", "a"), ("c", "b"), ("d", "c"), ("e", "d")]
    message = complaint(routers(*chain) + '[peer.p]\nat = "e"\n')
    assert "5 routers one behind the other: e → d → c → b → a; allowed: 4" in message
    assert len(build(parse(routers(*chain[:4]) + '[peer.p]\nat = "d"\n', "t.toml"), 1).routers) == 4


def test_a_router_at_no_router_is_told_which_there_are() -> None:
    message = complaint(routers(("a", "ips"), ("isp", "internet")) + '[peer.p]\nat = "a"\n')
    assert "[router.a] at = 'ips': no such router (did you mean 'isp'?); routers: isp, or 'internet'" in message


@pytest.mark.parametrize(
    ("lan", "part"),
    [
        ("192.168.1.0/31", "its prefix has 31 bits; allowed: /8 to /30"),
        ("192.168.1.1/24", "not a network: 192.168.1.1/24 has host bits set"),
        ("8.8.8.0/24", "not a private network; allowed: parts of 10.0.0.0/8"),
        ("home", "not a network"),
        ("192.168.1.0/30", "3 peers are behind it; allowed: 1 on the LAN 192.168.1.0/30"),
    ],
)
def test_a_lan_that_cannot_be_is_refused(lan: str, part: str) -> None:
    peers = "".join(f'[peer.{name}]\nat = "a"\n' for name in ("p", "q", "r"))
    assert part in complaint(routers(("a", "internet"), lan=f'lan = "{lan}"\n') + peers)


def test_a_lan_may_be_as_small_as_its_peers_allow() -> None:
    peers = "".join(f'[peer.{name}]\nat = "a"\n' for name in ("p", "q", "r"))
    plan = build(parse(routers(("a", "internet"), lan='lan = "10.1.0.0/29"\n') + peers, "t.toml"), 1)
    assert [launch.address for launch in plan.launches] == ["10.1.0.2", "10.1.0.3", "10.1.0.4"]


def test_a_router_is_not_on_two_lans_that_overlap() -> None:
    text = CGNAT.replace("hairpin = true }\n", 'hairpin = true }\nlan = "192.168.0.0/16"\n')
    message = complaint(text)
    assert "[router.home-a]" in message
    assert "192.168.1.0/24 overlaps 192.168.0.0/16, the LAN of isp, which it is on itself" in message


def test_the_internets_address_space_is_exhausted_with_a_number() -> None:
    publics = "".join(f'[peer.p{index}]\nat = "internet"\n' for index in range(251))
    assert "251 routers and public peers; allowed: 250 together" in complaint('name = "x"\n' + publics)
    homes = "".join(f'[router.r{index}]\nat = "isp"\nnat = "home"\n' for index in range(201))
    peers = "".join(f'[peer.p{index}]\nat = "r{index}"\n' for index in range(201))
    message = complaint(f'name = "x"\n[router.isp]\nnat = "home"\n{homes}{peers}')
    assert "201 routers are behind it; allowed: 200 on the LAN 100.64.0.0/10" in message


def test_hosts_of_a_lan_have_its_addresses_and_no_other() -> None:
    for lan in ("192.168.1.0/24", "10.0.0.0/8", "172.16.0.0/29", "100.64.0.0/30"):
        network = ipaddress.IPv4Network(lan)
        held = {lans.gateway(lan), *(lans.host(lan, index) for index in range(min(300, lans.capacity(lan))))}
        assert all(ipaddress.IPv4Address(address) in _Addresses(network) for address in held)
        assert len(held) == 1 + min(300, lans.capacity(lan))
        with pytest.raises(ValueError, match="no room"):
            lans.host(lan, lans.capacity(lan))


class _Addresses:
    def __init__(self, network: ipaddress.IPv4Network) -> None:
        self._network = network

    def __contains__(self, address: object) -> bool:
        outside = (self._network.network_address, self._network.broadcast_address)
        return address in self._network and address not in outside


def plan_of(text: str = CGNAT) -> Plan:
    return build(parse(text, "t.toml"), 1)


def test_homes_behind_a_carrier_are_on_its_lan_and_overlap_each_other() -> None:
    isp, home_a, home_b = plan_of().routers
    assert (isp.lan, home_a.lan, home_b.lan) == ("100.64.0.0/10", "192.168.1.0/24", "192.168.1.0/24")
    assert isp.inner == ("home-a", "home-b")
    assert [(home.above, home.outside) for home in (home_a, home_b)] == [(("isp",), "isp")] * 2
    assert all(ipaddress.ip_address(home.wan) in ipaddress.ip_network(isp.lan) for home in (home_a, home_b))
    assert len({isp.vantages, home_a.vantages}) == 2
    assert home_a.vantages == home_b.vantages


def test_a_carrier_without_peers_has_hosts_to_be_probed_from_that_nobody_records() -> None:
    plan = plan_of()
    assert plan.routers[0].hosts == ("isp.a", "isp.b")
    kinds = {space.name: space.kind for space in plan.spaces}
    assert kinds["isp.a"] is SpaceKind.HOST
    assert not [capture for capture in plan.captures if capture.space.startswith("isp.")]
    assert {"isp/wan", "isp/lan", "home-a/wan", "home-a/lan"} <= {capture.name for capture in plan.captures}


def test_a_peer_knows_all_routers_in_front_of_it() -> None:
    assert [launch.routers for launch in plan_of().launches] == [(), ("home-a", "isp"), ("home-b", "isp")]


def foretell(text: str, transport: str = "tcp") -> Prediction:
    return forecast(parse(text, "t.toml"), "alice", "bob", "relay", transport)


def test_behind_one_carrier_its_hairpin_decides() -> None:
    assert foretell(CGNAT).path == "direct"
    without = foretell(CGNAT.replace(", hairpin = true", ""))
    assert without.path == "relayed"
    assert without.why == "both are behind isp, which does not bring packets to its own address back in"


def test_a_home_need_not_hairpin_for_what_its_carrier_turns_around() -> None:
    text = CGNAT.replace('at = "home-b"', 'at = "home-a"').replace('[router.home-b]\nat = "isp"\nnat = "home"\n', "")
    assert foretell(text).path == "direct"


def test_a_symmetric_home_spoils_a_carrier_that_keeps_ports() -> None:
    text = CGNAT.replace('at = "isp"\nnat = "home"', 'at = "isp"\nnat = "symmetric"')
    prediction = foretell(text)
    assert prediction.path == "relayed"
    assert "home-a behind isp" in prediction.why


def test_a_strict_nat_behind_one_that_moves_ports_and_lets_in_anybody_is_reached() -> None:
    """What the composite of the two would say is wrong here: the permission was given to the port that was kept."""
    moving = Nat(Mapping.ADDRESS_AND_PORT_DEPENDENT, Filtering.ENDPOINT_INDEPENDENT, Ports.RANDOM)
    assert lets_in((HOME, moving), ())
    assert lets_in((HOME, moving), (HOME,))
    both = composite((HOME, moving))
    assert both is not None
    assert (both.mapping, both.filtering) == (moving.mapping, HOME.filtering)


def test_a_moving_nat_behind_a_strict_one_is_not_reached() -> None:
    moving = Nat(Mapping.ADDRESS_AND_PORT_DEPENDENT, Filtering.ENDPOINT_INDEPENDENT, Ports.RANDOM)
    assert not lets_in((moving, HOME), (HOME,))


def test_one_nat_in_a_stack_is_that_nat() -> None:
    kinds = (FULL_CONE, HOME, SYMMETRIC)
    for one, other in itertools.product(kinds, kinds):
        assert composite((one,)) == one
        assert can_punch((one,), (other,)) == punch.can_punch(one, other)


def test_no_two_nats_of_the_grid_are_too_much_for_a_stack() -> None:
    for inner in (HOME, SYMMETRIC, PRESETS["full-cone"].nat):
        for outer in grid():
            stack = (inner, outer)
            assert composite(stack) is not None
            assert lets_in(stack, (HOME,)) in (True, False)
            if not outer.hairpin:
                assert not can_hairpin(stack, stack)


def test_only_those_who_let_in_anybody_hear_a_source_from_further_in() -> None:
    outer = replace(FULL_CONE, hairpin=Hairpinning.INTERNAL_SOURCE)
    assert not can_hairpin((FULL_CONE, outer), (FULL_CONE, outer))


class Stage:
    """Packets of a plan with layers, as its recorders see them."""

    def __init__(self, topology: Topology) -> None:
        self.plan = build(topology, 1)
        self.seen: list[Packet] = []

    def exchange(self, *path: tuple[str, str, str]) -> None:
        """A payload there and back, by (interface, source, destination) at each recorder on the way."""
        for number, back in enumerate((False, True)):
            hops = [(at, dst, src) if back else (at, src, dst) for at, src, dst in (path[::-1] if back else path)]
            for hop, (at, src, dst) in enumerate(hops):
                ns = 10**18 + number * 10**6 + hop * 1000
                self.seen.append(
                    Packet(ns / 1e9, ns, at, src, 4001, dst, 4001, "tcp", 0x18, number, 1, 50, 104, number)
                )

    @property
    def facts(self) -> Facts:
        return judge(self.plan, self.seen, [])


def test_a_flow_by_a_carriers_hairpin_passes_the_wan_of_both_homes() -> None:
    stage = Stage(parse(CGNAT, "t.toml"))
    isp, home_a, home_b = stage.plan.routers
    way = (
        ("alice/eth0", "192.168.1.10", isp.wan),
        ("home-a/wan", home_a.wan, isp.wan),
        ("isp/lan", home_a.wan, isp.wan),
        ("isp/lan", isp.wan, home_b.wan),
        ("home-b/wan", isp.wan, home_b.wan),
        ("bob/eth0", isp.wan, "192.168.1.10"),
    )
    stage.exchange(*way)
    flow = stage.facts.direct_flow("alice", "bob")
    assert flow is not None
    assert flow.way is Way.HAIRPIN
    assert {end.address for end in flow.ends} == {isp.wan}
    stage.seen = [packet for packet in stage.seen if packet.interface != "home-b/wan"]
    assert stage.facts.direct_flow("alice", "bob") is None, "it got past home-b"


def test_a_flow_within_the_carriers_network_passes_only_the_homes_nat() -> None:
    text = CGNAT.replace('[peer.bob]\nat = "home-b"', '[peer.bob]\nat = "isp"').replace(
        '[router.home-b]\nat = "isp"\nnat = "home"\n', ""
    )
    stage = Stage(parse(text, "t.toml"))
    _, home_a = stage.plan.routers
    bob = next(launch for launch in stage.plan.launches if launch.peer == "bob")
    stage.exchange(
        ("alice/eth0", "192.168.1.10", bob.address),
        ("home-a/wan", home_a.wan, bob.address),
        ("bob/eth0", home_a.wan, bob.address),
    )
    flow = stage.facts.direct_flow("alice", "bob")
    assert flow is not None
    assert flow.way is Way.WITHIN


def test_a_packet_that_an_inner_nat_drops_is_a_drop_of_that_nat() -> None:
    stage = Stage(parse(CGNAT, "t.toml"))
    isp, home_a, home_b = stage.plan.routers
    hops = (
        ("alice/eth0", "192.168.1.10", isp.wan),
        ("home-a/wan", home_a.wan, isp.wan),
        ("isp/lan", home_a.wan, isp.wan),
        ("isp/lan", isp.wan, home_b.wan),
        ("home-b/wan", isp.wan, home_b.wan),
    )
    for hop, (at, src, dst) in enumerate(hops):
        ns = 10**18 + hop * 1000
        stage.seen.append(Packet(ns / 1e9, ns, at, src, 4001, dst, 4001, "tcp", 0x02, 7, 0, 0, 54, 9))
    (drop,) = stage.facts.punch("alice", "bob").drops
    assert drop.router == "home-b"
    assert "no mapping for TCP port 4001" in drop.why
