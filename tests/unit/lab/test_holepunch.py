"""What the wire says of two peers: direct or not, how it began, what a NAT dropped and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from lab.errors import LabError
from lab.model.presets import PRESETS
from lab.observe.drops import Drop
from lab.observe.facts import Facts, WirePath, judge
from lab.observe.flows import Endpoint
from lab.observe.holepunch import Opening, Way
from lab.observe.packets import Packet
from lab.plan.plan import Plan, RouterPlan

if TYPE_CHECKING:
    from tests.unit.lab.conftest import Scene

BEGAN = 1_763_719_000.0
SYN, ACK, SYN_ACK, PSH = 0x02, 0x10, 0x12, 0x18
Scenes = Callable[..., "Scene"]


def at(ms: float) -> float:
    return BEGAN + ms / 1000


def simultaneous(stage: Scene, ms: float = 100) -> None:
    """Both SYNs cross in the core, each finds its way open."""
    stage.send(ms, "alice", "bob", SYN, seq=100)
    stage.send(ms + 0.1, "bob", "alice", SYN, seq=500)
    stage.send(ms + 1, "alice", "bob", SYN_ACK, seq=100, ack=501)
    stage.send(ms + 1.1, "bob", "alice", SYN_ACK, seq=500, ack=101)
    stage.talked(ms + 3, "alice", "bob", 300)


def only_drop(facts: Facts) -> Drop:
    (drop,) = facts.drops
    return drop


def test_payload_both_ways_between_the_nats_is_direct(scene: Scenes) -> None:
    stage = scene()
    simultaneous(stage)
    direct = stage.facts().direct_flow("alice", "bob")
    assert direct is not None
    assert (direct.way, direct.proto, direct.payload) == (Way.INTERNET, "tcp", (300, 300))
    assert direct.ends == (Endpoint("11.0.1.2", 4001), Endpoint("11.0.2.2", 4001))
    assert direct.first_byte == at(103)
    assert direct.began is not None
    assert (direct.began.how, direct.began.opener, direct.began.syn) == (Opening.SIMULTANEOUS, "alice", at(100))
    assert at(101.5) < direct.began.established < at(102)


def test_a_flow_is_found_from_either_side(scene: Scenes) -> None:
    stage = scene()
    simultaneous(stage)
    facts = stage.facts()
    one, other = facts.direct_flow("alice", "bob"), facts.direct_flow("bob", "alice")
    assert one is not None
    assert other is not None
    assert one.ends == other.ends[::-1]
    assert (one.payload, one.began) == (other.payload[::-1], other.began)


def second_address(plan: Plan, router: str) -> Plan:
    """The plan with another first address for a router; the one that the scene's packets have is its second one."""

    def pooled(plan: RouterPlan) -> RouterPlan:
        return replace(plan, wan="11.0.2.77", publics=("11.0.2.77", plan.wan)) if plan.name == router else plan

    return replace(plan, routers=tuple(pooled(each) for each in plan.routers))


def test_a_flow_to_any_address_of_a_pool_is_direct(scene: Scenes) -> None:
    stage = scene()
    simultaneous(stage)
    stage.plan = second_address(stage.plan, "home-b")
    facts = stage.facts()
    for pair in (("alice", "bob"), ("bob", "alice")):
        direct = facts.direct_flow(*pair)
        assert direct is not None
        assert Endpoint("11.0.2.2", 4001) in direct.ends
    assert facts.punch("alice", "bob").first_syns == (at(100), at(100.1))


def test_a_syn_that_one_address_of_a_pool_drops_is_the_pairs(scene: Scenes) -> None:
    stage = scene()
    stage.send(100, "alice", "bob", SYN, seq=100, until="home-b/wan")
    stage.plan = second_address(stage.plan, "home-b")
    (drop,) = stage.facts().punch("alice", "bob").drops
    assert drop.router == "home-b"


def test_a_handshake_without_payload_is_not_direct(scene: Scenes) -> None:
    stage = scene()
    stage.opened(100, "alice", "bob")
    assert stage.facts().direct_flow("alice", "bob") is None


def test_payload_one_way_is_not_direct(scene: Scenes) -> None:
    stage = scene()
    stage.opened(100, "alice", "bob")
    stage.send(110, "alice", "bob", PSH, seq=101, ack=501, payload=50)
    assert stage.facts().direct_flow("alice", "bob") is None


def test_payload_outside_the_interval_does_not_count(scene: Scenes) -> None:
    stage = scene()
    simultaneous(stage)
    facts = stage.facts()
    assert facts.direct_flow("alice", "bob", after=at(50), before=at(103)) is None
    assert facts.direct_flow("alice", "bob", after=at(103), before=at(200)) is not None


def test_what_does_not_pass_the_other_nats_recorder_is_not_direct(scene: Scenes) -> None:
    """A leak: the hosts talk, the NATs see nothing of it."""
    stage = scene()
    simultaneous(stage)
    stage.seen = [packet for packet in stage.seen if packet.interface != "home-b/wan"]
    assert stage.facts().direct_flow("alice", "bob") is None


def test_a_relayed_conversation_is_relayed_and_counted(scene: Scenes) -> None:
    stage = scene()
    stage.opened(10, "alice", "relay")
    stage.opened(20, "bob", "relay")
    stage.talked(100, "alice", "relay", 1000)
    stage.talked(100.5, "relay", "bob", 1000)
    facts = stage.facts()
    assert facts.bytes(via="relay", after=at(50)) == 4000
    assert facts.bytes(via="relay", before=at(50)) == 0
    assert facts.path("alice", "bob", "relay", after=at(90)) is WirePath.RELAYED
    assert facts.path("alice", "bob", "relay", after=at(900)) is WirePath.SILENT


def test_direct_needs_the_relay_to_stand_still(scene: Scenes) -> None:
    stage = scene()
    stage.talked(90, "alice", "relay", 10)
    simultaneous(stage)
    facts = stage.facts()
    assert facts.path("alice", "bob", "relay", after=at(95)) is WirePath.DIRECT
    assert facts.path("alice", "bob", "relay", after=at(80)) is WirePath.BOTH


def test_a_peer_is_named_by_anything_that_has_its_name(scene: Scenes) -> None:
    stage = scene()
    stage.talked(90, "alice", "relay", 10)
    (relay,) = [Named(launch.peer) for launch in stage.plan.launches if launch.role == "relay"]
    assert stage.facts().bytes(via=relay) == 20
    with pytest.raises(LabError, match=r"no peer 'carol'.*relay, alice, bob"):
        stage.facts().bytes(via="carol")


class Named:
    def __init__(self, name: str) -> None:
        self.name = name


def test_a_syn_that_met_a_waiting_one_is_told_from_a_simultaneous_open(scene: Scenes) -> None:
    stage = scene()
    stage.send(100, "alice", "bob", SYN, seq=100, until="home-b/wan")
    stage.send(105, "bob", "alice", SYN, seq=500)
    stage.send(106, "alice", "bob", SYN_ACK, seq=100, ack=501)
    stage.send(107, "bob", "alice", ACK, seq=501, ack=101)
    stage.talked(110, "alice", "bob", 30)
    punch = stage.facts().punch("alice", "bob")
    assert punch.first_syns == (at(100), at(105))
    assert punch.direct is not None
    assert punch.direct.began is not None
    assert (punch.direct.began.how, punch.direct.began.opener) == (Opening.MET, "bob")
    (drop,) = punch.drops
    assert (drop.router, drop.packet.interface) == ("home-b", "home-b/wan")
    assert drop.why == "home-b: no mapping for TCP port 4001 yet: the first packet from that port left 4.6 ms later"


def test_an_accepted_connection_names_who_opened_it(scene: Scenes) -> None:
    stage = scene("port-restricted", "full-cone")
    stage.opened(100, "bob", "alice")
    stage.talked(110, "bob", "alice", 30)
    direct = stage.facts().direct_flow("alice", "bob")
    assert direct is not None
    assert direct.began is not None
    assert (direct.began.how, direct.began.opener) == (Opening.ACCEPTED, "bob")


def test_a_direct_flow_through_a_symmetric_nat_has_the_port_that_the_peer_sees(scene: Scenes) -> None:
    stage = scene("symmetric-random", "full-cone")
    stage.opened(100, "alice", "bob", outer=40001)
    stage.talked(110, "alice", "bob", 30, outer=40001)
    direct = stage.facts().direct_flow("alice", "bob")
    assert direct is not None
    assert direct.ends == (Endpoint("11.0.1.2", 40001), Endpoint("11.0.2.2", 4001))


def test_a_public_peer_is_direct_without_a_nat_of_its_own(scene: Scenes) -> None:
    stage = scene()
    stage.opened(100, "alice", "relay")
    stage.talked(110, "alice", "relay", 30)
    direct = stage.facts().direct_flow("alice", "relay")
    assert direct is not None
    assert (direct.way, direct.ends[1]) == (Way.INTERNET, Endpoint("11.0.3.2", 4001))


@pytest.mark.parametrize(
    ("listener", "earlier", "arriving", "later", "why"),
    [
        (
            "port-restricted",
            None,
            4001,
            None,
            "home-b: no mapping for TCP port 4001: no packet ever left from that port",
        ),
        (
            "port-restricted",
            "relay",
            4001,
            None,
            "home-b lets in only endpoints that TCP port 4001 has written to; 11.0.1.2:4001 was not one of them",
        ),
        (
            "port-restricted",
            "relay",
            4001,
            4001,
            "home-b lets in only endpoints that TCP port 4001 has written to; 11.0.1.2:4001 was not one of them yet: "
            "the first packet there left 49.6 ms later",
        ),
        (
            "port-restricted",
            "alice",
            41000,
            None,
            "home-b lets in only endpoints that TCP port 4001 has written to; 11.0.1.2:41000 was not one of them "
            "(it writes to 11.0.1.2:4001)",
        ),
        (
            "address-restricted",
            "relay",
            4001,
            None,
            "home-b lets in only addresses that TCP port 4001 has written to; 11.0.1.2 was not one of them",
        ),
        (
            "full-cone",
            "relay",
            4001,
            None,
            "home-b dropped it against its declaration: TCP port 4001 is mapped and open to 11.0.1.2:4001",
        ),
        (
            "address-restricted",
            "alice",
            41000,
            None,
            "home-b dropped it against its declaration: TCP port 4001 is mapped and open to 11.0.1.2:41000",
        ),
    ],
)
def test_a_drop_has_its_reason(
    scene: Scenes, listener: str, earlier: str | None, arriving: int, later: int | None, why: str
) -> None:
    stage = scene("port-restricted", listener)
    if earlier:
        stage.send(50, "bob", earlier, SYN, seq=500)
    stage.send(100, "alice", "bob", SYN, seq=100, outer=arriving, until="home-b/wan")
    if later:
        stage.send(150, "bob", "alice", SYN, seq=500, dport=later)
    drop = only_drop(stage.facts())
    assert drop.why == why
    assert (drop.router, drop.packet.sport, drop.hairpin) == ("home-b", arriving, False)


def test_a_symmetric_nat_is_told_by_the_port_it_used_instead(scene: Scenes) -> None:
    stage = scene("port-restricted", "symmetric-random")
    stage.send(50, "bob", "relay", SYN, seq=500, outer=20000)
    stage.send(90, "bob", "alice", SYN, seq=500, outer=30000, until="home-a/wan")
    stage.send(100, "alice", "bob", SYN, seq=100, dport=20000, until="home-b/wan")
    at_b = [drop for drop in stage.facts().drops if drop.router == "home-b"]
    assert [drop.why for drop in at_b] == [
        "home-b lets in only endpoints that TCP port 20000 has written to; 11.0.1.2:4001 was not one of them "
        "(what is written to 11.0.1.2 leaves from port 30000)"
    ]


def test_an_expired_mapping_is_told(scene: Scenes) -> None:
    stage = scene().with_nat("home-b", replace(PRESETS["home"].nat, udp_timeout=5.0))
    stage.send(0, "bob", "alice", proto="udp", payload=10, until="home-a/wan")
    stage.send(9000, "alice", "bob", proto="udp", payload=10, until="home-b/wan")
    why = [drop.why for drop in stage.facts().drops if drop.router == "home-b"]
    assert why == ["home-b: the mapping for UDP port 4001 had expired, 9.0 s after its last packet (lifetime 5 s)"]


def test_an_answer_without_a_connection_is_no_failed_punch(scene: Scenes) -> None:
    stage = scene()
    stage.send(100, "alice", "bob", SYN_ACK, seq=1, ack=2, until="home-b/wan")
    facts = stage.facts()
    assert "belongs to none" in only_drop(facts).why
    assert facts.punch("alice", "bob").drops == ()


def test_a_packet_at_the_end_of_a_growing_capture_is_not_judged_yet(scene: Scenes) -> None:
    stage = scene()
    stage.send(100, "alice", "bob", SYN, seq=100, until="home-b/wan")
    assert judge(stage.plan, stage.seen, growing=True).drops == ()
    assert len(judge(stage.plan, stage.seen).drops) == 1


def test_a_drop_is_not_claimed_where_the_lan_was_not_recorded(scene: Scenes) -> None:
    stage = scene()
    captures = tuple(capture for capture in stage.plan.captures if capture.name != "home-b/lan")
    stage.plan = replace(stage.plan, captures=captures)
    stage.send(100, "alice", "bob", SYN, seq=100, until="home-b/wan")
    assert stage.facts().drops == ()


def test_an_empty_capture_has_no_facts(scene: Scenes) -> None:
    facts = judge(scene().plan, [])
    assert facts.drops == ()
    assert facts.direct_flow("alice", "bob") is None
    assert facts.punch("alice", "bob").first_syns == (None, None)


def one_home(plan: Plan) -> Plan:
    """Both peers behind home-a, bob at .11."""
    launches = tuple(
        replace(launch, router="home-a", routers=("home-a",), address="192.168.1.11")
        if launch.peer == "bob"
        else launch
        for launch in plan.launches
    )
    return replace(plan, launches=launches)


def lan_talk(hops: list[tuple[str, str, int, str, int]], back: list[tuple[str, str, int, str, int]]) -> list[Packet]:
    packets = []
    for mark, way in enumerate((hops, back)):
        for hop, (interface, src, sport, dst, dport) in enumerate(way):
            ns = round(at(100 + mark) * 1e9) + hop * 1000
            packets.append(Packet(ns / 1e9, ns, interface, src, sport, dst, dport, "tcp", PSH, 1, 1, 70, 124, mark))
    return packets


def test_two_peers_on_one_lan_are_direct_without_their_nat(scene: Scenes) -> None:
    ends = ("192.168.1.10", 4001, "192.168.1.11", 4001)
    hops = [("alice/eth0", *ends), ("bob/eth0", *ends)]
    back = [("bob/eth0", *ends[2:], *ends[:2]), ("alice/eth0", *ends[2:], *ends[:2])]
    direct = judge(one_home(scene().plan), lan_talk(hops, back)).direct_flow("alice", "bob")
    assert direct is not None
    assert direct.way is Way.LAN


def test_a_hairpinned_flow_is_direct_through_its_own_nat(scene: Scenes) -> None:
    outside, a, b = "11.0.1.2", "192.168.1.10", "192.168.1.11"
    hops = [
        ("alice/eth0", a, 4001, outside, 4002),
        ("home-a/lan", a, 4001, outside, 4002),
        ("home-a/lan", outside, 4001, b, 4001),
        ("bob/eth0", outside, 4001, b, 4001),
    ]
    back = [
        ("bob/eth0", b, 4001, outside, 4001),
        ("home-a/lan", b, 4001, outside, 4001),
        ("home-a/lan", outside, 4002, a, 4001),
        ("alice/eth0", outside, 4002, a, 4001),
    ]
    facts = judge(one_home(scene().plan), lan_talk(hops, back))
    direct = facts.direct_flow("alice", "bob")
    assert direct is not None
    assert direct.way is Way.HAIRPIN
    assert direct.ends == (Endpoint(outside, 4001), Endpoint(outside, 4002))
    assert facts.drops == ()


def test_a_nat_that_does_not_hairpin_says_so(scene: Scenes) -> None:
    stage = scene()
    stage.plan = one_home(stage.plan)
    ns = round(at(100) * 1e9)
    for hop, interface in enumerate(("alice/eth0", "home-a/lan")):
        ends = ("192.168.1.10", 4001, "11.0.1.2", 4001)
        stage.seen.append(Packet((ns + hop) / 1e9, ns + hop, interface, *ends, "tcp", SYN, 1, 0, 0, 54, 999))
    facts = stage.facts()
    drop = only_drop(facts)
    assert drop.hairpin
    assert drop.why == "home-a does not hairpin: packets from its LAN to its own public address go nowhere"
    assert facts.punch("alice", "bob").drops == (drop,)
