"""Firewalls: read from a topology, as rules, and in what the oracle makes of them."""

from __future__ import annotations

import pytest

from lab.errors import TopologyError
from lab.model.firewall import FIREWALLS, Firewall
from lab.model.topology import Topology, parse
from lab.plan.build import build
from lab.plan.firewall import firewall_rules
from lab.run.oracle import Prediction, predict, side_of

TWO = """\
name = "x"
[router.office]
nat = "{office}"
firewall = {firewall}
[router.home]
nat = "{home}"
[peer.relay]
at = "internet"
role = "relay"
port = {port}
[peer.alice]
at = "office"
[peer.bob]
at = "{bob}"
"""


def network(firewall: str, *, port: int = 443, office: str = "home", home: str = "home", bob: str = "home") -> Topology:
    text = TWO.format(firewall=firewall, port=port, office=office, home=home, bob=bob)
    return parse(text.replace('[router.home]\nnat = "home"\n', "") if bob == "internet" else text, "t.toml")


def path(asked: Topology, transport: str = "tcp") -> Prediction:
    alice, bob, relay = (side_of(asked, name) for name in ("alice", "bob", "relay"))
    there, back = predict(alice, bob, transport, relay), predict(bob, alice, transport, relay)
    assert there.path == back.path
    return there


def test_a_firewall_lets_out_what_it_names() -> None:
    web = FIREWALLS["web-only"].firewall
    assert [web.lets_out("tcp", port) for port in (80, 443, 4001, None)] == [True, True, False, False]
    assert not web.lets_out("udp", 443)
    assert Firewall().lets_out("udp", None)


@pytest.mark.parametrize("name", FIREWALLS)
def test_a_preset_is_its_values(name: str) -> None:
    assert network(f'"{name}"').router("office").firewall == FIREWALLS[name].firewall


def test_a_firewall_may_be_spelled_out() -> None:
    asked = network("{ tcp-ports = [443, 80, 443], udp-ports = [] }")
    assert asked.router("office").firewall == FIREWALLS["web-only"].firewall
    assert network("{ udp-ports = [53] }").router("office").firewall == Firewall(None, (53,))


@pytest.mark.parametrize(
    ("firewall", "part"),
    [
        ('"web-onyl"', "did you mean 'web-only'?"),
        ("3", "must be text or a table; allowed: udp-blocked"),
        ("{ tcp = [80] }", "firewall.tcp = […]: unknown key"),
        ("{ tcp-ports = [0] }", "firewall.tcp-ports = […]: must be a list of ports, each 1 to 65535"),
        ("{ tcp-ports = [true] }", "each 1 to 65535"),
        ("{ udp-ports = 53 }", "such as [80, 443]"),
        (f"{{ udp-ports = {list(range(1, 99))} }}", "98 ports; allowed: 64"),
    ],
)
def test_a_wrong_firewall_is_one_line(firewall: str, part: str) -> None:
    with pytest.raises(TopologyError) as caught:
        network(firewall)
    assert str(caught.value).startswith("t.toml:4: [router.office] firewall")
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("port", ["0", "65536", '"443"', "true"])
def test_a_peers_port_is_one(port: str) -> None:
    with pytest.raises(TopologyError, match=r"t\.toml:10: \[peer\.relay\] port = "):
        network('"web-only"', port=port)  # type: ignore[arg-type]


def test_the_nats_rules_do_not_know_of_the_firewall() -> None:
    walled, open_ = build(network('"web-only"'), 1), build(network("{ }"), 1)
    tables = {rules.space: [] for rules in walled.rules}  # type: dict[str, list[str]]
    for rules in walled.rules:
        tables[rules.space].append(rules.text)
    assert [len(tables[space]) for space in ("office", "home")] == [2, 1]
    assert tables["office"][0] == next(rules.text for rules in open_.rules if rules.space == "office")


def test_a_protocol_without_a_list_has_no_rule() -> None:
    assert "tcp" not in firewall_rules(FIREWALLS["udp-blocked"].firewall)
    assert "tcp dport != { 80, 443 }" in firewall_rules(FIREWALLS["web-only"].firewall)


def test_a_relay_out_of_reach_leaves_no_path() -> None:
    prediction = path(network('"web-only"', port=4001))
    assert prediction.path == "none"
    assert prediction.why == (
        "alice does not reach the relay's port 4001: office lets out TCP to ports 80, 443 and no UDP"
    )


def test_a_relay_at_443_is_all_that_web_only_reaches() -> None:
    prediction = path(network('"web-only"'))
    assert prediction.path == "relayed"
    assert "office lets out TCP to ports 80, 443 and no UDP" in prediction.why


def test_blocking_udp_changes_nothing_for_tcp() -> None:
    asked = network('"udp-blocked"')
    assert path(asked).path == "direct"
    assert path(asked, "udp").path == "none"


def test_a_full_cone_is_reached_from_outside_although_nothing_gets_out() -> None:
    assert path(network('"web-only"', office="full-cone")).path == "direct"


def test_a_full_cone_at_the_other_side_does_not_help() -> None:
    assert path(network('"web-only"', home="full-cone")).path == "relayed"


def test_a_public_peer_cannot_be_written_to_at_a_closed_port() -> None:
    assert path(network('"web-only"', bob="internet")).path == "relayed"
    assert path(network('"udp-blocked"', bob="internet")).path == "direct"
