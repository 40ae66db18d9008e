"""What a topology may say of a LAN, and what it is told when that cannot be."""

from __future__ import annotations

import pytest

from lab.errors import TopologyError
from lab.model.switch import PLAIN, Snooping, Switch
from lab.model.topology import Topology, parse

HOMES = """name = "homes"
[router.home]
nat = "home"
lan = {home}
[router.guest]
nat = "home"
lan = {guest}
[router.iot]
nat = "home"
lan = {iot}
[peer.alice]
at = "home"
[peer.bob]
at = "guest"
[peer.carol]
at = "iot"
"""
PREFIX = '"192.168.1.0/24"'


def homes(home: str = PREFIX, guest: str = PREFIX, iot: str = PREFIX) -> Topology:
    return parse(HOMES.format(home=home, guest=guest, iot=iot), "homes.toml")


def test_a_lan_that_says_nothing_passes_everything_to_everybody() -> None:
    assert homes().router("home").switch == PLAIN


def test_a_lan_says_all_that_it_is_in_one_table() -> None:
    told = '{ prefix = "10.9.0.0/16", snooping = "broken", isolation = true, reflector = "home", link-local = true }'
    guest = homes(guest=told).router("guest")
    assert guest.lan == "10.9.0.0/16"
    assert guest.switch == Switch(Snooping.BROKEN, isolation=True, reflector="home", link_local=True)


def test_a_table_without_a_prefix_has_the_lan_that_it_would_have_without_a_table() -> None:
    assert homes(guest="{ isolation = true }").router("guest").lan == "192.168.1.0/24"


@pytest.mark.parametrize(
    ("lan", "complaint"),
    [
        ("{ snooping = true }", r"homes.toml:7: \[router.guest\] lan.snooping = true: must be text"),
        ('{ snooping = "onn" }', r"lan.snooping = 'onn': not known.*did you mean 'on'.*allowed: off, no-querier, on"),
        ('{ isolated = "yes" }', r"lan.isolated = 'yes': unknown key.*did you mean 'isolation'.*allowed: prefix"),
        ("{ isolation = 1 }", r"lan.isolation = 1: must be true or false"),
        ('{ prefix = "8.8.8.0/24" }', r"lan.prefix = '8.8.8.0/24': not a private network"),
        ('{ reflector = "guest" }', r"lan.reflector = 'guest': no other router.*other routers: home, iot"),
        ('{ reflector = "hom" }', r"lan.reflector = 'hom': no other router \(did you mean 'home'\?\)"),
        ("7", r"\[router.guest\] lan = 7: must be text"),
    ],
)
def test_what_a_lan_cannot_be_is_refused_with_its_place(lan: str, complaint: str) -> None:
    with pytest.raises(TopologyError, match=complaint):
        homes(guest=lan)


def test_reflectors_that_would_pass_a_question_round_for_ever_are_refused() -> None:
    with pytest.raises(TopologyError, match=r"homes.toml:7: .*lan.reflector = 'home': .*round for ever"):
        homes(home='{ reflector = "guest" }', guest='{ reflector = "home" }')
    with pytest.raises(TopologyError, match=r"homes.toml:10: .*round for ever"):
        homes(*(f'{{ reflector = "{other}" }}' for other in ("guest", "iot", "home")))


def test_reflectors_in_a_chain_are_no_circle() -> None:
    chain = homes(guest='{ reflector = "home" }', iot='{ reflector = "guest" }')
    assert [router.switch.reflector for router in chain.routers] == [None, "home", "guest"]
