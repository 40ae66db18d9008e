"""A plan's links, and what nft and tc are told about them."""

from __future__ import annotations

import pytest

from lab.model.impairment import Impairment
from lab.model.topology import parse
from lab.plan.build import build
from lab.plan.codec import plan_from_json, plan_to_json
from lab.plan.names import CORE
from lab.plan.netem import commands, distance_devices, distance_rules, netem, tbf
from lab.plan.plan import Plan
from lab.plan.shaping import Shaping, link_rules, membership_rules

TOPOLOGY = """\
name = "x"
[region.eu]
latency = { us = "40ms" }
[region.us]
[router.home]
nat = "home"
region = "eu"
link = { latency = "20ms", mtu = 1400, pmtu-black-hole = true, down = { rate = "10Mbit", buffer = "50ms" } }
[router.plain]
nat = "home"
[peer.alice]
at = "home"
[peer.bob]
at = "plain"
[peer.relay]
at = "internet"
region = "us"
"""


def plan(text: str = TOPOLOGY) -> Plan:
    return build(parse(text, "x.toml"), seed=7)


def shaping() -> Shaping:
    return plan().shaping


def test_every_neighbour_of_the_core_has_a_link_that_may_be_ideal() -> None:
    links = {link.name: link for link in shaping().uplinks}
    assert list(links) == ["home", "plain", "relay"]
    assert (links["home"].space, links["home"].far, links["relay"].far) == ("home", "wan", "eth0")
    assert links["home"].up == Impairment(0.02)
    assert links["home"].down == Impairment(0.02, rate=10_000_000, buffer=62_500)
    assert links["plain"].up.does_nothing
    assert shaping().seed == 7


def test_a_topology_without_links_shapes_nothing() -> None:
    bare = parse('name = "x"\n[peer.a]\nat = "internet"\n', "x.toml")
    assert build(bare, 1).shaping.ideal
    assert not shaping().ideal


def test_only_those_are_looked_at_whose_packets_something_may_happen_to() -> None:
    assert shaping().sources == ("home", "relay")
    assert shaping().targets == ("home",)


def test_a_distance_is_between_regions_and_nobody_else() -> None:
    home, plain, relay = shaping().uplinks
    assert shaping().distance(home, relay) == shaping().distance(relay, home) == 0.04
    assert shaping().distance(home, plain) == 0.0


def test_a_changed_link_is_the_only_change() -> None:
    changed = shaping().changed("plain", Impairment(0.3), Impairment(0.1))
    assert changed.uplink("plain").up == Impairment(0.3)
    assert changed.uplink("home") == shaping().uplink("home")
    with pytest.raises(KeyError):
        shaping().changed("nobody", Impairment(), Impairment())


def test_a_plan_with_links_is_read_back_as_it_was_written() -> None:
    assert plan_from_json(plan_to_json(plan())) == plan()


def test_both_ends_of_a_cable_have_the_links_mtu() -> None:
    sizes = {cable.b.space: (cable.a.mtu, cable.b.mtu) for cable in plan().cables if cable.a.space == CORE}
    assert sizes == {"home": (1400, 1400), "plain": (None, None), "relay": (None, None)}


def test_a_black_hole_silences_its_router_and_the_core() -> None:
    told = {rules.space: rules.text for rules in plan().rules if "frag-needed" in rules.text}
    assert set(told) == {"home", CORE}
    assert "@th,192,24 0xb0001" in told[CORE]


def test_a_black_hole_is_silent_over_ipv6_too() -> None:
    dual = plan(f'ip = "dual-stack"\n{TOPOLOGY}')
    networks = dual.shaping.uplink("home").networks
    assert networks == ("11.0.1.0/24", "2a11:0:1::/64", "2a11:1:1::/64"), "none that every link has"
    (told,) = (rules.text for rules in dual.rules if rules.space == CORE and "frag-needed" in rules.text)
    for prefix in ("2a11000000010000", "2a11000100010000"):
        assert f"icmpv6 type packet-too-big @th,256,64 0x{prefix} drop" in told
    assert told.count("drop") == len(networks)


def test_the_rules_send_each_neighbours_packets_to_a_queue_of_its_own() -> None:
    rules = link_rules(shaping())
    assert 'elements = { "home" : goto queue_1, "plain" : goto queue_2, "relay" : goto queue_3 }' in rules
    assert 'set sources { type ifname; elements = { "home", "relay" };' in rules


def test_changing_who_is_looked_at_deletes_no_chain() -> None:
    told = membership_rules(shaping())
    assert "delete" not in told
    assert 'add element inet punchlab_link targets { "home" }' in told


@pytest.mark.parametrize(
    ("impairment", "arguments"),
    [
        (Impairment(0.02), "netem limit 100000 delay 20000us corrupt 0% rate 0bit"),
        (Impairment(0.02, 0.005), "netem limit 100000 delay 20000us 5000us corrupt 0% rate 100gbit"),
        (Impairment(loss=0.005), "netem limit 100000 delay 0us loss random 0.5% corrupt 0% rate 0bit"),
        (
            Impairment(loss=0.02, loss_burst=4.0),
            "netem limit 100000 delay 0us loss gemodel 0.510204% 25% corrupt 0% rate 0bit",
        ),
        (
            Impairment(0.02, duplicate=0.01, corrupt=0.02, reorder=0.03),
            "netem limit 100000 delay 20000us duplicate 1% reorder 3% corrupt 2% rate 0bit",
        ),
    ],
)
def test_netem_is_told_the_same_values(impairment: Impairment, arguments: str) -> None:
    assert " ".join(netem(impairment)) == arguments


def test_tbf_is_told_the_rate_and_the_buffer() -> None:
    told = " ".join(tbf(Impairment(rate=10_000_000, buffer=62_500)))
    assert told == "tbf rate 10000000bit burst 6500 limit 62500", "a burst is a full packet and 4 ms at the rate"


def test_a_neighbours_own_port_shapes_what_goes_up() -> None:
    lines = commands(shaping(), "home")
    assert all(" dev wan " in line for line in lines)
    assert lines[-1].endswith("parent 1:2 handle 2: netem limit 100000 delay 20000us corrupt 0% rate 0bit")
    assert commands(shaping(), "plain") == ()


def test_the_cores_port_shapes_what_goes_down_and_a_rate_is_a_bucket_below_netem() -> None:
    lines = [line for line in commands(shaping(), CORE) if line.startswith("qdisc") and " dev home " in line]
    assert [line.split(" handle ")[0] for line in lines] == [
        "qdisc replace dev home root",
        "qdisc replace dev home parent 1:2",
        "qdisc replace dev home parent 2:1",
        "qdisc replace dev home clsact",
    ]
    assert lines[2].endswith("handle 3: tbf rate 10000000bit burst 6500 limit 62500")


def test_neighbours_are_found_past_every_link() -> None:
    exempt = [line for line in commands(shaping(), "home") if "classid 1:1" in line]
    assert ["protocol arp" in line for line in exempt] == [True, False, False]
    assert [line.partition(" type ")[2].split()[0] for line in exempt[1:]] == ["135", "136"]


def test_a_distance_is_a_device_that_marked_packets_go_by() -> None:
    lines = commands(shaping(), CORE)
    assert distance_devices(shaping()) == ("away.1",)
    assert "qdisc replace dev away.1 root handle 1: netem limit 100000 delay 40000us" in lines
    ways = [line.split()[3] for line in lines if line.endswith("handle 1 fw action mirred egress redirect dev away.1")]
    assert ways == ["home", "relay"]
    assert '"home" . "relay" : 1, "relay" . "home" : 1' in distance_rules(shaping())
    assert "plain" not in distance_rules(shaping())


def test_a_link_that_changes_is_told_again_and_others_are_not() -> None:
    before = shaping()
    slow = before.changed("home", Impairment(0.3), Impairment(0.3))
    assert commands(before, "home", before) == ()
    assert "delay 300000us" in commands(slow, "home", before)[-1]
    lines = commands(slow, CORE, before)
    assert all(" dev home " in line for line in lines)
    assert lines[-1] == "qdisc del dev home parent 2:1", "the rate has ended"
    assert commands(before.changed("home", Impairment(), Impairment()), "home", before)[-1].endswith(
        "netem limit 100000 delay 0us corrupt 0% rate 0bit"
    )
