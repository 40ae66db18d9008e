from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import ConfigError
from node.logic.addresses import (
    is_near,
    is_public,
    is_public_ip,
    is_punchable,
    of_interfaces,
    source_for,
    unique,
)
from node.logic.gating import Gater
from node.logic.transports import TCP, kind_of
from node.names.multiaddr import Multiaddr

PEER = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"


def test_the_lab_internet_and_real_addresses_are_public() -> None:
    for text in (
        "11.0.0.1",
        "8.8.8.8",
        "192.0.1.1",
        "100.128.0.1",
        "2001:4860::8888",
        "::ffff:8.8.8.8",
        "64:ff9b::808:808",
    ):
        assert is_public_ip(ip_address(text)), text


def test_no_special_range_is_public() -> None:
    special = (
        "10.1.2.3 100.64.0.1 127.0.0.1 169.254.1.1 172.31.0.1 192.168.1.1 192.0.2.1 198.18.0.1 198.51.100.1 203.0.113.9"
        " 224.0.0.1 255.255.255.255 0.0.0.0 ::1 :: fe80::1 fd00::1 ff02::1 2001:db8::1 ::ffff:10.0.0.1 64:ff9b::a00:1"
    )
    for text in special.split():
        assert not is_public_ip(ip_address(text)), text


@given(st.ip_addresses())
def test_what_python_takes_for_loopback_multicast_or_link_local_is_never_public(ip: object) -> None:
    parsed = ip_address(str(ip))
    if parsed.is_loopback or parsed.is_multicast or parsed.is_link_local or parsed.is_unspecified:
        assert not is_public_ip(parsed)


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("/dns4/example.com/tcp/4001", True),
        ("/dns/localhost/tcp/4001", False),
        ("/dns/printer.local/tcp/4001", False),
        (f"/ip4/11.0.0.1/tcp/4001/p2p/{PEER}/p2p-circuit", True),
        ("/ip4/10.0.0.1/tcp/4001", False),
    ],
)
def test_an_address_is_as_public_as_its_first_hop(text: str, public: bool) -> None:
    assert is_public(Multiaddr(text)) is public


def test_the_protocols_of_an_address_tell_its_transport_and_only_public_ones_are_punched() -> None:
    assert kind_of(Multiaddr("/ip4/10.0.0.1/tcp/1")) is TCP
    assert kind_of(Multiaddr(f"/ip6/::1/tcp/1/p2p/{PEER}")) is TCP
    assert kind_of(Multiaddr("/ip6zone/eth0/ip6/fe80::1/tcp/1")) is TCP
    assert kind_of(Multiaddr("/ip4/10.0.0.1/udp/1/quic")) is None
    assert kind_of(Multiaddr("/ip4/10.0.0.1/udp/1")) is None
    assert kind_of(Multiaddr("/dns4/example.com/tcp/1")) is None
    assert kind_of(Multiaddr(f"/p2p/{PEER}")) is None
    assert kind_of(Multiaddr("/ip6zone/eth0")) is None
    assert kind_of(Multiaddr(f"/ip4/11.0.0.1/tcp/1/p2p/{PEER}/p2p-circuit")) is None
    assert is_punchable(Multiaddr("/ip4/11.0.0.1/tcp/1"))
    assert not is_punchable(Multiaddr("/ip4/10.0.0.1/tcp/1"))


def test_a_wildcard_stands_for_every_address_of_its_version_that_leaves_the_host() -> None:
    ips = [ip_address(text) for text in ("127.0.0.1", "10.0.0.2", "11.0.0.3", "::1", "fe80::1")]
    assert of_interfaces(Multiaddr("/ip4/0.0.0.0/tcp/5"), ips) == [
        Multiaddr("/ip4/10.0.0.2/tcp/5"),
        Multiaddr("/ip4/11.0.0.3/tcp/5"),
    ]
    assert of_interfaces(Multiaddr("/ip6/::/tcp/5"), ips[:4]) == [Multiaddr("/ip6/::1/tcp/5")]
    assert of_interfaces(Multiaddr("/ip4/9.9.9.9/tcp/5"), ips) == [Multiaddr("/ip4/9.9.9.9/tcp/5")]


def test_a_dial_leaves_from_a_listen_port_that_can_reach_the_target() -> None:
    wildcard, loopback, six = map(Multiaddr, ("/ip4/0.0.0.0/tcp/1", "/ip4/127.0.0.1/tcp/2", "/ip6/::/tcp/3"))
    abroad, home = Multiaddr("/ip4/11.0.0.1/tcp/9"), Multiaddr("/ip4/127.0.0.1/tcp/9")
    assert source_for(abroad, [six, loopback, wildcard]) == wildcard
    assert source_for(home, [six, loopback, wildcard]) == loopback
    assert source_for(abroad, [loopback, six]) is None
    assert source_for(Multiaddr("/dns4/example.com/tcp/9"), [wildcard]) is None


def test_repetitions_go_and_order_stays() -> None:
    one, two = Multiaddr("/ip4/1.1.1.1/tcp/1"), Multiaddr("/ip4/1.1.1.1/tcp/2")
    assert unique([two, one, two]) == [two, one]


def test_the_longest_prefix_decides_and_equal_ones_deny() -> None:
    gater = Gater(deny=("10.0.0.0/8", "10.1.2.3/32", "11.0.0.0/24"), allow=("10.1.0.0/16", "11.0.0.0/24"))
    allowed = {text: gater.allows_ip(ip_address(text)) for text in ("10.2.0.1", "10.1.0.1", "10.1.2.3", "11.0.0.1")}
    assert allowed == {"10.2.0.1": False, "10.1.0.1": True, "10.1.2.3": False, "11.0.0.1": False}
    assert gater.allows_ip(ip_address("9.9.9.9"))
    assert gater.allows_ip(ip_address("2000::1"))


def test_an_address_in_ipv6_clothes_does_not_slip_through() -> None:
    assert not Gater(deny=("10.0.0.0/8",)).allows_ip(ip_address("::ffff:10.0.0.1"))


def test_the_relay_of_a_relayed_address_is_what_the_filter_judges() -> None:
    gater = Gater(deny=("11.0.0.0/8",))
    assert not gater.allows(Multiaddr(f"/ip4/11.0.0.1/tcp/4001/p2p/{PEER}/p2p-circuit"))
    assert gater.allows(Multiaddr("/dns4/example.com/tcp/4001"))


def test_a_filter_that_is_no_network_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match=r"10\.0\.0\.1/8"):
        Gater(deny=("10.0.0.1/8",))


@pytest.mark.parametrize(
    ("addr", "expected"),
    [
        ("/ip4/192.168.1.10/tcp/1", True),
        ("/ip4/100.64.0.1/udp/1/quic-v1", True),
        ("/ip6zone/eth0/ip6/fe80::1/tcp/1", True),
        ("/ip4/11.0.0.1/tcp/1", False),
        ("/ip6/2a00::1/tcp/1", False),
        ("/dns4/printer.local/tcp/1", False),
        (f"/ip4/192.168.1.10/tcp/1/p2p/{PEER}/p2p-circuit", False),
    ],
)
def test_what_is_near_is_an_address_of_our_own_networks(addr: str, expected: bool) -> None:
    assert is_near(Multiaddr(addr)) is expected
