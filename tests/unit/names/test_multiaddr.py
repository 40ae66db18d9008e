import ipaddress
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import DecodeError
from node.names.components import BY_CODE, BY_NAME, PROTOCOLS
from node.names.multiaddr import MAX_BYTES, Multiaddr, parse_known
from node.names.peerid import PeerId

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "vectors/multiaddr.json").read_text())
RELAY = PeerId.parse("12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA")
PEER = PeerId.parse("QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N")
DIRECT = Multiaddr(f"/ip4/11.0.0.7/tcp/4001/p2p/{PEER}")
RELAYED = Multiaddr(f"/ip4/11.0.0.9/tcp/4002/p2p/{RELAY}/p2p-circuit/p2p/{PEER}")

NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="/", exclude_categories=("C", "Z")), min_size=1, max_size=20
)
COMPONENTS = st.one_of(
    st.ip_addresses(v=4).map(lambda ip: f"/ip4/{ip}"),
    st.ip_addresses(v=6).map(lambda ip: f"/ip6/{ip}"),
    st.tuples(st.sampled_from(["tcp", "udp", "dccp", "sctp"]), st.integers(0, 65535)).map(lambda c: f"/{c[0]}/{c[1]}"),
    st.tuples(st.sampled_from(["dns", "dns4", "dns6", "dnsaddr", "sni", "ip6zone"]), NAMES).map(
        lambda c: f"/{c[0]}/{c[1]}"
    ),
    st.sampled_from([f"/{protocol.name}" for protocol in PROTOCOLS if protocol.size == 0]),
    st.sampled_from([RELAY, PEER]).map(lambda peer: f"/p2p/{peer}"),
    st.integers(0, 2**64 - 1).map(lambda number: f"/memory/{number}"),
)
MULTIADDRS = st.lists(COMPONENTS, min_size=1, max_size=6).map(lambda parts: Multiaddr("".join(parts)))


@pytest.mark.parametrize(("text", "binary"), VECTORS["binary"])
def test_text_and_bytes_agree_with_the_vectors(text: str, binary: str) -> None:
    assert Multiaddr(text).to_bytes().hex() == binary
    assert str(Multiaddr.from_bytes(bytes.fromhex(binary))) == text


@pytest.mark.parametrize("text", VECTORS["canonical"])
def test_canonical_text_is_kept(text: str) -> None:
    assert str(Multiaddr(text)) == text
    assert Multiaddr.from_bytes(Multiaddr(text).to_bytes()) == Multiaddr(text)


@pytest.mark.parametrize(("text", "canonical"), VECTORS["equal"])
def test_other_texts_of_an_address_are_equal_to_it(text: str, canonical: str) -> None:
    assert Multiaddr(text) == Multiaddr(canonical)
    assert hash(Multiaddr(text)) == hash(Multiaddr(canonical))
    assert str(Multiaddr(text)) == canonical


@pytest.mark.parametrize("text", VECTORS["invalid"])
def test_texts_that_are_no_multiaddr_are_refused(text: str) -> None:
    with pytest.raises(DecodeError):
        Multiaddr(text)


@pytest.mark.parametrize("binary", VECTORS["invalid_binary"])
def test_bytes_that_are_no_multiaddr_are_refused(binary: str) -> None:
    with pytest.raises(DecodeError):
        Multiaddr.from_bytes(bytes.fromhex(binary))


@given(MULTIADDRS)
def test_a_multiaddr_is_read_back_from_text_and_bytes(addr: Multiaddr) -> None:
    assert Multiaddr(str(addr)) == addr
    assert Multiaddr.from_bytes(addr.to_bytes()) == addr
    assert len(list(addr)) == len(addr)


@given(MULTIADDRS, MULTIADDRS)
def test_joined_addresses_hold_the_components_of_both(first: Multiaddr, second: Multiaddr) -> None:
    assert list(first / second) == [*first, *second]
    assert first / str(second) == first / second
    assert first / str(second)[1:] == first / second


@given(st.binary(max_size=60))
def test_random_bytes_raise_nothing_but_decode_errors(data: bytes) -> None:
    try:
        addr = Multiaddr.from_bytes(data)
    except DecodeError:
        return
    assert addr.to_bytes() == data
    assert Multiaddr(str(addr)) == addr


@given(
    st.one_of(
        st.text(max_size=40), st.lists(st.sampled_from([*BY_NAME, "1.2.3.4", "::1", "80", "", "x"])).map("/".join)
    )
)
def test_random_text_raises_nothing_but_decode_errors(text: str) -> None:
    for candidate in (text, "/" + text):
        try:
            addr = Multiaddr(candidate)
        except DecodeError:
            continue
        assert Multiaddr(str(addr)) == addr


@pytest.mark.parametrize("protocol", [p for p in PROTOCOLS if p.size != 0], ids=lambda protocol: protocol.name)
def test_random_values_of_a_protocol_raise_nothing_but_decode_errors(protocol: Any) -> None:
    @given(st.text(max_size=30), st.binary(max_size=40))
    def check(text: str, data: bytes) -> None:
        with suppress(DecodeError):
            Multiaddr(f"/{protocol.name}/{text}")
        with suppress(DecodeError):
            Multiaddr.from_bytes(_prefix(protocol) + data)

    check()


def _prefix(protocol: Any) -> bytes:
    code: int = protocol.code
    return bytes([code]) if code < 128 else bytes([code & 0x7F | 0x80, code >> 7])


def test_codes_and_names_are_unique() -> None:
    assert len(BY_CODE) == len(PROTOCOLS)
    assert len(BY_NAME) == len(PROTOCOLS) + 1


def test_a_direct_address_names_its_peer_host_and_port() -> None:
    assert (DIRECT.ip, DIRECT.port, DIRECT.peer_id) == (ipaddress.IPv4Address("11.0.0.7"), 4001, PEER)
    assert not DIRECT.is_relayed
    assert DIRECT.target is None
    assert DIRECT.value("tcp") == "4001"
    assert DIRECT.value("udp") is None
    assert DIRECT.names == ("ip4", "tcp", "p2p")
    assert "tcp" in DIRECT
    assert "udp" not in DIRECT
    with pytest.raises(DecodeError, match="does not lead through a relay"):
        DIRECT.relay_part()


def test_a_relayed_address_splits_at_the_circuit() -> None:
    assert RELAYED.is_relayed
    assert RELAYED.relay_part() == Multiaddr(f"/ip4/11.0.0.9/tcp/4002/p2p/{RELAY}")
    assert RELAYED.relay_part().peer_id == RELAY
    assert RELAYED.target == RELAYED.peer_id == PEER
    assert (RELAYED.ip, RELAYED.port) == (ipaddress.IPv4Address("11.0.0.9"), 4002)


def test_a_circuit_that_leaves_the_peer_open_does_not_name_the_relay_as_the_peer() -> None:
    assert RELAYED.without("p2p").peer_id is None
    assert RELAYED.without("p2p").target is None
    assert RELAYED.without("p2p").relay_part().peer_id == RELAY


def test_a_circuit_of_an_open_relay_has_no_relay_part() -> None:
    with pytest.raises(DecodeError):
        Multiaddr(f"/p2p-circuit/p2p/{PEER}").relay_part()


def test_without_removes_only_the_last_component() -> None:
    assert DIRECT.without("p2p") == Multiaddr("/ip4/11.0.0.7/tcp/4001")
    assert DIRECT.without("tcp") == DIRECT
    assert Multiaddr("/tcp/1").without("tcp") == Multiaddr("/tcp/1")


def test_decapsulate_cuts_before_the_last_component_of_that_name() -> None:
    assert RELAYED.decapsulate("p2p") == RELAYED.without("p2p")
    assert RELAYED.decapsulate("p2p-circuit") == RELAYED.relay_part()
    assert RELAYED.decapsulate("udp") == RELAYED
    with pytest.raises(DecodeError):
        DIRECT.decapsulate("ip4")


def test_a_peer_is_added_once() -> None:
    bare = DIRECT.without("p2p")
    assert bare.with_peer(PEER) == DIRECT
    assert DIRECT.with_peer(PEER) == DIRECT
    assert RELAYED.without("p2p").with_peer(PEER) == RELAYED


def test_tcp_addresses_are_made_of_ip_and_port() -> None:
    assert str(Multiaddr.tcp("11.0.0.7", 4001)) == "/ip4/11.0.0.7/tcp/4001"
    assert str(Multiaddr.tcp(ipaddress.ip_address("2001:500::1"), 1)) == "/ip6/2001:500::1/tcp/1"
    assert str(Multiaddr.tcp("fe80::1%eth0", 1)) == "/ip6zone/eth0/ip6/fe80::1/tcp/1"
    with pytest.raises(DecodeError):
        Multiaddr.tcp("11.0.0.7", 65536)


def test_the_ip_of_an_address_can_be_replaced() -> None:
    listening = Multiaddr("/ip4/0.0.0.0/udp/4001/quic-v1")
    assert str(listening.with_ip("11.0.0.7")) == "/ip4/11.0.0.7/udp/4001/quic-v1"
    linked = listening.with_ip(ipaddress.ip_address("fe80::1%eth0"))
    assert str(linked) == "/ip6zone/eth0/ip6/fe80::1/udp/4001/quic-v1"
    assert linked.with_ip("11.0.0.7") == listening.with_ip("11.0.0.7")
    with pytest.raises(DecodeError):
        Multiaddr("/dns4/example.org/tcp/1").with_ip("11.0.0.7")


def test_the_zone_of_a_link_local_address_belongs_to_its_ip() -> None:
    assert str(Multiaddr("/ip6zone/eth0/ip6/fe80::1/tcp/1").ip) == "fe80::1%eth0"


@pytest.mark.parametrize("text", ["/dns4/example.org/tcp/1", "/p2p-circuit", "/ip6zone/eth0", "/udp/1"])
def test_an_address_without_ip_has_none(text: str) -> None:
    assert Multiaddr(text).ip is None


def test_a_name_has_no_port_and_a_circuit_no_value() -> None:
    assert Multiaddr("/dns/example.org").port is None
    assert RELAYED.value("p2p-circuit") is None


def test_oversize_addresses_are_refused() -> None:
    with pytest.raises(DecodeError, match="at most"):
        Multiaddr.from_bytes(b"\xa2\x02" * (MAX_BYTES // 2 + 1))
    with pytest.raises(DecodeError, match="at most"):
        Multiaddr("/p2p-circuit" * 1000)


def test_unknown_addresses_are_left_out_of_a_list() -> None:
    assert parse_known([b"", DIRECT.to_bytes(), b"\xff\x7f", RELAYED.to_bytes()]) == (DIRECT, RELAYED)


def test_addresses_sort_and_compare_by_their_bytes() -> None:
    assert sorted([Multiaddr("/tcp/2"), Multiaddr("/tcp/1")]) == [Multiaddr("/tcp/1"), Multiaddr("/tcp/2")]
    assert str(DIRECT) != DIRECT
    assert repr(Multiaddr("/tcp/1")) == "Multiaddr('/tcp/1')"
