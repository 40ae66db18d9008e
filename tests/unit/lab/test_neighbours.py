"""Who knows whose hardware address beforehand."""

from __future__ import annotations

from lab.model.topology import parse
from lab.plan.amend import with_address, with_move
from lab.plan.build import build
from lab.plan.neighbours import MAX_PAIRED, neighbours
from lab.plan.plan import Plan

TEXT = """
name = "x"
ip   = "{ip}"
[router.home]
nat = "home"
[router.away]
nat = "home"
[peer.alice]
at = "home"
[peer.ann]
at = "home"
[peer.bob]
at = "away"
"""


def plan(ip: str = "ipv4") -> Plan:
    return build(parse(TEXT.format(ip=ip), "x.toml"), 1)


def known(plan: Plan, space: str) -> dict[str, str]:
    """The space whose hardware address each of its neighbours has."""
    ends = [end for cable in plan.cables for end in (cable.a, cable.b)]
    owners = {port.mac: port.space for port in (*plan.loose, *ends)}
    return {each.address: owners[each.mac] for each in neighbours(plan) if each.space == space}


def test_everybody_knows_who_shares_a_cable_or_a_lan_and_nobody_else() -> None:
    made = plan()
    assert known(made, "alice") == {"192.168.1.1": "home", "192.168.1.11": "ann"}
    assert known(made, "home") == {"11.0.1.1": "core", "192.168.1.10": "alice", "192.168.1.11": "ann"}
    assert known(made, "core") == {"11.0.1.2": "home", "11.0.2.2": "away"}


def test_ipv6_addresses_are_known_by_those_that_have_ipv6() -> None:
    addresses = known(plan("dual-stack"), "alice")
    assert {owner for address, owner in addresses.items() if address.startswith("fe80::")} == {"home", "ann"}
    assert {owner for address, owner in addresses.items() if address.startswith("2a11:")} == {"home", "ann"}


def test_who_moves_or_is_called_otherwise_is_another_neighbour() -> None:
    moved = with_move(plan(), "alice", "away")
    assert known(moved, "alice") == {"192.168.1.1": "away", "192.168.1.10": "bob"}
    assert "192.168.1.10" not in known(moved, "home")
    assert known(with_address(plan(), "home", "11.0.9.2"), "core")["11.0.9.2"] == "home"


def test_on_a_large_lan_hosts_know_the_router_alone() -> None:
    crowd = "".join(f'[peer.p{number}]\nat = "home"\n' for number in range(MAX_PAIRED))
    large = build(parse(TEXT.format(ip="ipv4") + crowd, "x.toml"), 1)
    assert known(large, "alice") == {"192.168.1.1": "home"}
    assert len([address for address in known(large, "home") if address.startswith("192.")]) == 2 + MAX_PAIRED
