"""Observed addresses: who counts, who is believed, and what several observers tell about the NAT."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.logic.observed import EXTERNALS_PER_LOCAL, Mapping, ObservedAddresses, observer_group
from node.names.multiaddr import Multiaddr

LOCAL = Multiaddr("/ip4/192.168.1.2/tcp/4001")
EXTERNAL = Multiaddr("/ip4/11.0.0.9/tcp/4001")


def see(
    book: ObservedAddresses, connection: int, observer: str, observed: Multiaddr = EXTERNAL, local: Multiaddr = LOCAL
) -> bool:
    return book.record(
        connection, observer=ip_address(observer), local=local, observed=observed, listening=[LOCAL, EXTERNAL]
    )


def external(port: int) -> Multiaddr:
    return Multiaddr.tcp("11.0.0.9", port)


def test_an_address_is_confirmed_by_four_observers_and_good_enough_for_a_punch_with_one() -> None:
    book = ObservedAddresses()
    for n in range(3):
        assert see(book, n, f"11.1.0.{n + 1}")
    assert (book.addrs(), book.addrs(observers=1)) == ([], [EXTERNAL])
    see(book, 3, "11.1.0.4")
    assert book.addrs() == [EXTERNAL]


def test_many_connections_to_one_host_are_one_opinion() -> None:
    book = ObservedAddresses()
    assert see(book, 0, "11.1.0.1")
    assert [see(book, n, "11.1.0.1") for n in range(1, 10)] == [False] * 9
    assert book.addrs(observers=2) == []


def test_one_liar_cannot_crowd_out_what_an_honest_observer_saw() -> None:
    book = ObservedAddresses()
    for n in range(1, 10):
        see(book, n, "11.66.0.1", external(n))
    see(book, 10, "11.1.0.1")
    assert book.addrs(observers=1) == [external(9), EXTERNAL]


def test_hosts_of_one_ipv6_prefix_of_56_bits_are_one_observer() -> None:
    near, same, far = (IPv6Address(text) for text in ("2600::1", "2600:0:0:ff::1", "2600:0:0:100::1"))
    assert observer_group(near) == observer_group(same) != observer_group(far)
    assert observer_group(IPv6Address("::ffff:11.0.0.1")) == observer_group(ip_address("11.0.0.1"))


@pytest.mark.parametrize(
    ("local", "observed"),
    [
        ("/ip4/192.168.1.2/tcp/50123", "/ip4/11.0.0.9/tcp/50123"),
        ("/ip4/192.168.1.2/tcp/4001", "/ip6/2600::9/tcp/4001"),
        ("/ip4/192.168.1.2/tcp/4001", "/ip4/11.0.0.9/udp/4001"),
        ("/ip4/192.168.1.2/tcp/4001", "/ip4/127.0.0.1/tcp/4001"),
        ("/ip4/192.168.1.2/tcp/4001", "/ip4/0.0.0.0/tcp/4001"),
        ("/ip4/192.168.1.2/tcp/4001", "/ip4/11.0.0.9/tcp/0"),
        ("/ip4/192.168.1.2/tcp/4001", "/dns4/relay.example/tcp/4001"),
    ],
    ids=["ephemeral port", "IP version", "transport", "loopback", "unspecified", "port 0", "name"],
)
def test_an_observation_that_tells_nothing_is_not_recorded(local: str, observed: str) -> None:
    book = ObservedAddresses()
    assert not see(book, 0, "11.1.0.1", Multiaddr(observed), Multiaddr(local))
    assert len(book) == 0


def test_an_address_made_by_nat64_tells_nothing() -> None:
    local = Multiaddr("/ip6/2600::2/tcp/4001")
    book = ObservedAddresses()
    for observed, is_told in (("/ip6/64:ff9b::b00:9/tcp/4001", False), ("/ip6/2600::9/tcp/4001", True)):
        told = book.record(
            0, observer=ip_address("2600:1::1"), local=local, observed=Multiaddr(observed), listening=[local]
        )
        assert told is is_told


def test_a_relays_address_is_never_taken_for_ours() -> None:
    book = ObservedAddresses()
    relayed = EXTERNAL / "/p2p/12D3KooWGRUvh6YHm1gHYvzvrhjnPpxBQYWkTGpqCBZ8u4fUpTBZ/p2p-circuit"
    assert not see(book, 0, "11.1.0.1", relayed)


def test_what_a_connection_told_is_forgotten_with_it() -> None:
    book = ObservedAddresses(confirmed=2)
    see(book, 0, "11.1.0.1")
    see(book, 1, "11.1.0.2")
    book.forget(1)
    book.forget("never recorded")
    assert book.addrs() == []
    assert len(book) == 1


def test_the_most_agreed_on_address_comes_first() -> None:
    book = ObservedAddresses(confirmed=1)
    see(book, 0, "11.1.0.1", external(5000))
    see(book, 1, "11.1.0.2", external(6000))
    see(book, 2, "11.1.0.3", external(6000))
    assert book.addrs() == [external(6000), external(5000)]


@pytest.mark.parametrize(
    ("ports", "expected"),
    [
        ([], Mapping.UNKNOWN),
        ([5000], Mapping.UNKNOWN),
        ([5000, 5000], Mapping.ENDPOINT_INDEPENDENT),
        ([5000, 5001], Mapping.ENDPOINT_DEPENDENT),
        ([5000, 5000, 5001], Mapping.ENDPOINT_INDEPENDENT),
        ([5000, 5001, 5002, 5003], Mapping.ENDPOINT_DEPENDENT),
    ],
)
def test_the_mapping_is_told_by_what_several_observers_saw(ports: list[int], expected: Mapping) -> None:
    book = ObservedAddresses()
    for n, port in enumerate(ports):
        see(book, n, f"11.1.0.{n + 1}", external(port))
    assert book.mapping(LOCAL) is expected


def test_seen_by_two_as_it_sees_itself_a_node_has_no_mapping_in_front_of_it() -> None:
    book = ObservedAddresses()
    see(book, 0, "11.1.0.1", EXTERNAL, EXTERNAL)
    assert book.mapping(EXTERNAL) is Mapping.UNKNOWN
    see(book, 1, "11.1.0.2", EXTERNAL, EXTERNAL)
    assert book.mapping(EXTERNAL) is Mapping.NONE


def test_a_neighbour_on_the_same_lan_says_nothing_about_the_nat() -> None:
    book = ObservedAddresses()
    see(book, 0, "192.168.1.3", LOCAL)
    see(book, 1, "11.1.0.1", external(5000))
    see(book, 2, "11.1.0.2", external(5000))
    assert book.mapping(LOCAL) is Mapping.ENDPOINT_INDEPENDENT


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9), st.integers(1, 20)), max_size=60))
def test_whatever_is_seen_stays_within_its_bounds(seen: list[tuple[int, int, int]]) -> None:
    book = ObservedAddresses(confirmed=1, bound=5)
    for connection, host, port in seen:
        see(book, connection, f"11.1.0.{host}", external(port))
        assert len(book) <= 5
        assert len(book.addrs()) <= EXTERNALS_PER_LOCAL
    for connection in range(10):
        book.forget(connection)
    assert (len(book), book.addrs()) == (0, [])


def test_what_is_spoken_over_the_port_is_ours_to_say() -> None:
    local, seen_as = Multiaddr("/ip4/192.168.1.2/tcp/4001/ws"), Multiaddr("/ip4/11.0.0.9/tcp/61000")
    book = ObservedAddresses()
    assert book.record(0, observer=ip_address("11.1.0.1"), local=local, observed=seen_as, listening=[LOCAL])
    assert book.addrs(observers=1) == [Multiaddr("/ip4/11.0.0.9/tcp/61000/ws")]
