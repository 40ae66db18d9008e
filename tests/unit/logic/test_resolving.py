from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.logic.resolving import ADDRESSES, DEPTH, Kind, Question, Resolving, is_name
from node.names.multiaddr import Multiaddr
from node.names.peerid import PeerId

BOB = PeerId.parse("12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA")
CAROL = PeerId.parse("12D3KooWJY5gE18Hk41ahfxUJX21865i6SHAmxocAkMn8EqaDHdz")


def packed(*ips: str) -> list[bytes]:
    return [ip_address(ip).packed for ip in ips]


def texts(*addrs: str) -> list[bytes]:
    return [f"dnsaddr={addr}".encode() for addr in addrs]


def found(resolving: Resolving) -> list[str]:
    return [str(addr) for addr in resolving.addrs]


def test_an_address_without_a_name_is_found_at_once() -> None:
    resolving = Resolving([Multiaddr("/ip4/11.0.0.1/tcp/1")])
    assert found(resolving) == ["/ip4/11.0.0.1/tcp/1"]
    assert resolving.questions() == []


@pytest.mark.parametrize(
    ("name", "kinds", "addrs"),
    [
        ("dns4", [Kind.A], ["/ip4/11.0.0.1/tcp/1"]),
        ("dns6", [Kind.AAAA], ["/ip6/2a00::1/tcp/1"]),
        ("dns", [Kind.A, Kind.AAAA], ["/ip4/11.0.0.1/tcp/1", "/ip6/2a00::1/tcp/1"]),
    ],
)
def test_each_kind_of_name_asks_for_its_records(name: str, kinds: list[Kind], addrs: list[str]) -> None:
    resolving = Resolving([Multiaddr(f"/{name}/relay.lab/tcp/1")])
    assert resolving.questions() == [Question("relay.lab", kind) for kind in kinds]
    for kind in kinds:
        resolving.answered(Question("relay.lab", kind), packed("11.0.0.1" if kind is Kind.A else "2a00::1"))
    assert found(resolving) == addrs


@pytest.mark.parametrize(
    ("rest", "resolved"),
    [
        ("tcp/443/tls/ws", "tcp/443/tls/sni/relay.lab/ws"),
        ("tcp/443/wss", "tcp/443/tls/sni/relay.lab/ws"),
        (f"tcp/443/wss/p2p/{BOB}/p2p-circuit", f"tcp/443/tls/sni/relay.lab/ws/p2p/{BOB}/p2p-circuit"),
        ("tcp/443/tls/sni/other.lab/ws", "tcp/443/tls/sni/other.lab/ws"),
        ("tcp/80/ws", "tcp/80/ws"),
    ],
)
def test_the_name_that_a_certificate_must_bear_outlives_its_resolution(rest: str, resolved: str) -> None:
    resolving = Resolving([Multiaddr(f"/dns4/relay.lab/{rest}")])
    resolving.answered(resolving.questions()[0], packed("11.0.0.1"))
    assert found(resolving) == [f"/ip4/11.0.0.1/{resolved}"]


def test_a_name_that_stands_in_several_addresses_is_asked_for_once() -> None:
    resolving = Resolving([Multiaddr("/dns4/relay.lab/tcp/1"), Multiaddr("/dns4/relay.lab/udp/1/quic-v1")])
    assert resolving.questions() == [Question("relay.lab", Kind.A)]
    resolving.answered(Question("relay.lab", Kind.A), packed("11.0.0.1"))
    assert found(resolving) == ["/ip4/11.0.0.1/tcp/1", "/ip4/11.0.0.1/udp/1/quic-v1"]


def test_what_is_relayed_keeps_all_that_follows_the_name() -> None:
    beyond = f"tcp/1/p2p/{BOB}/p2p-circuit/p2p/{CAROL}"
    resolving = Resolving([Multiaddr(f"/dns4/relay.lab/{beyond}")])
    resolving.answered(resolving.questions()[0], packed("11.0.0.1"))
    assert found(resolving) == [f"/ip4/11.0.0.1/{beyond}"]


def test_a_dnsaddr_stands_for_the_records_that_end_as_it_does() -> None:
    resolving = Resolving([Multiaddr(f"/dnsaddr/lab/p2p/{BOB}")])
    assert resolving.questions() == [Question("_dnsaddr.lab", Kind.TXT)]
    bobs, carols = f"/ip4/11.0.0.1/tcp/1/p2p/{BOB}", f"/ip4/11.0.0.2/tcp/1/p2p/{CAROL}"
    others = [b"v=spf1 -all", b"dnsaddr=", b"dnsaddr=/nonsense", b"dnsaddr=\xff"]
    resolving.answered(Question("_dnsaddr.lab", Kind.TXT), [*others, *texts(carols, bobs)])
    assert found(resolving) == [bobs]
    assert resolving.failures == ()


def test_a_dnsaddr_of_a_relay_is_followed_by_its_circuit_again() -> None:
    resolving = Resolving([Multiaddr(f"/dnsaddr/lab/p2p/{BOB}/p2p-circuit/p2p/{CAROL}")], CAROL)
    resolving.answered(resolving.questions()[0], texts(f"/ip4/11.0.0.1/tcp/1/p2p/{BOB}"))
    assert found(resolving) == [f"/ip4/11.0.0.1/tcp/1/p2p/{BOB}/p2p-circuit"]


def test_records_of_another_peer_than_the_one_wanted_are_left_out_and_what_is_found_loses_its_id() -> None:
    resolving = Resolving([Multiaddr("/dnsaddr/lab")], BOB)
    records = texts(f"/ip4/11.0.0.1/tcp/1/p2p/{BOB}", f"/ip4/11.0.0.2/tcp/1/p2p/{CAROL}", "/ip4/11.0.0.3/tcp/1")
    resolving.answered(resolving.questions()[0], records)
    assert found(resolving) == ["/ip4/11.0.0.1/tcp/1", "/ip4/11.0.0.3/tcp/1"]


def test_a_dnsaddr_may_lead_to_names_and_to_others_of_its_kind() -> None:
    resolving = Resolving([Multiaddr("/dnsaddr/a")])
    resolving.answered(resolving.questions()[0], texts("/dnsaddr/b", "/dns4/relay.lab/tcp/1"))
    assert resolving.questions() == [Question("_dnsaddr.b", Kind.TXT), Question("relay.lab", Kind.A)]
    resolving.answered(Question("relay.lab", Kind.A), packed("11.0.0.1"))
    resolving.answered(Question("_dnsaddr.b", Kind.TXT), texts("/ip4/11.0.0.2/tcp/1"))
    assert found(resolving) == ["/ip4/11.0.0.1/tcp/1", "/ip4/11.0.0.2/tcp/1"]


def test_a_chain_of_dnsaddrs_ends_after_four() -> None:
    resolving = Resolving([Multiaddr("/dnsaddr/0")])
    for step in range(DEPTH):
        assert resolving.questions() == [Question(f"_dnsaddr.{step}", Kind.TXT)]
        resolving.answered(Question(f"_dnsaddr.{step}", Kind.TXT), texts(f"/dnsaddr/{step + 1}"))
    assert resolving.questions() == []
    assert [str(failure.error) for failure in resolving.failures] == ["more than 4 /dnsaddr in a row"]


def test_names_that_lead_to_each_other_come_to_an_end() -> None:
    resolving = Resolving([Multiaddr("/dnsaddr/a")])
    resolving.answered(Question("_dnsaddr.a", Kind.TXT), texts("/dnsaddr/b"))
    resolving.answered(Question("_dnsaddr.b", Kind.TXT), texts("/dnsaddr/a"))
    assert resolving.addrs == ()
    assert len(resolving.failures) == 1


def test_a_zone_that_fans_out_costs_a_hundred_addresses_and_no_more() -> None:
    """Each name of which leads to a hundred others: 100⁴ questions for whoever does not count."""
    resolving = Resolving([Multiaddr("/dnsaddr/root")])
    asked = 0
    while questions := resolving.questions():
        asked += len(questions)
        for question in questions:
            resolving.answered(question, texts(*(f"/dnsaddr/{n}.{question.name[-200:]}" for n in range(100))))
    assert asked <= ADDRESSES


def test_what_a_name_fails_by_is_told_for_each_of_its_addresses() -> None:
    wanted = [Multiaddr("/dns4/gone.lab/tcp/1"), Multiaddr("/dns4/gone.lab/tcp/2"), Multiaddr("/dns4/empty.lab/tcp/1")]
    resolving = Resolving(wanted)
    resolving.failed(Question("gone.lab", Kind.A), "there is no such name")
    resolving.answered(Question("empty.lab", Kind.A), [])
    assert [failure.addr for failure in resolving.failures] == wanted
    assert str(resolving.failures[0].error) == "A gone.lab: there is no such name"
    assert str(resolving.failures[2].error) == "A empty.lab: no record that fits"


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST.", "node.localhost"])
def test_localhost_is_never_asked_for(name: str) -> None:
    resolving = Resolving([Multiaddr(f"/dns/{name}/tcp/1")])
    assert resolving.questions() == []
    assert found(resolving) == ["/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/1"]


def test_an_address_that_is_too_long_once_resolved_is_none() -> None:
    resolving = Resolving([Multiaddr("/dns4/lab/tcp/1")])
    resolving.answered(resolving.questions()[0], [b"\1\2\3"])
    assert resolving.addrs == ()


_record = st.one_of(
    st.binary(max_size=40),
    st.binary(max_size=40).map(lambda data: b"dnsaddr=" + data),
    st.sampled_from(texts("/dnsaddr/a", "/dnsaddr/b", "/dns4/c/tcp/1", f"/ip4/11.0.0.1/tcp/1/p2p/{BOB}", "/dns/d")),
)


@given(st.lists(st.lists(_record, max_size=8), max_size=40), st.sampled_from([None, BOB]))
def test_whatever_a_zone_says_a_resolution_ends_with_addresses_that_have_no_name(
    answers: list[list[bytes]], peer: PeerId | None
) -> None:
    resolving = Resolving([Multiaddr("/dnsaddr/a"), Multiaddr("/dns6/c/tcp/1")], peer)
    given_out = iter(answers)
    asked: set[Question] = set()
    while questions := resolving.questions():
        assert asked.isdisjoint(questions)
        asked |= set(questions)
        for question in questions:
            resolving.answered(question, next(given_out, []))
    assert len(resolving.addrs) <= ADDRESSES
    assert not any(is_name(addr) for addr in resolving.addrs)
