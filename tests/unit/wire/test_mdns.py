import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.names.multiaddr import Multiaddr
from node.names.peerid import PeerId
from node.wire.mdns import ADDRESSES, MAX_STRING, MAX_TEXT, decode, encode, is_of_lan

BOB = PeerId.parse("12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA")
CAROL = PeerId.parse("12D3KooWJY5gE18Hk41ahfxUJX21865i6SHAmxocAkMn8EqaDHdz")
TCP = Multiaddr("/ip4/192.168.1.10/tcp/4001")
QUIC = Multiaddr("/ip6/fd00::1/udp/4001/quic-v1")


def strings(*texts: bytes) -> bytes:
    return b"".join(bytes([len(text)]) + text for text in texts)


def test_each_address_is_a_string_of_its_own_with_our_id() -> None:
    text = encode([TCP, QUIC], BOB)
    assert text == strings(f"dnsaddr={TCP}/p2p/{BOB}".encode(), f"dnsaddr={QUIC}/p2p/{BOB}".encode())
    assert decode(text) == {BOB: [TCP, QUIC]}


@pytest.mark.parametrize(
    ("addr", "expected"),
    [
        ("/ip4/192.168.1.10/tcp/4001", True),
        (f"/ip4/192.168.1.10/tcp/4001/p2p/{BOB}", True),
        ("/ip4/11.0.0.1/udp/4001/quic-v1", True),
        ("/ip6/2a00::1/tcp/4001", True),
        ("/ip4/127.0.0.1/tcp/4001", False),
        ("/ip4/0.0.0.0/tcp/4001", False),
        ("/ip4/224.0.0.251/udp/5353/quic-v1", False),
        ("/ip6zone/eth0/ip6/fe80::1/tcp/4001", False),
        ("/ip6/fe80::1/tcp/4001", False),
        ("/ip4/192.168.1.10/tcp/4001/ws", False),
        ("/ip4/192.168.1.10/tcp/4001/tls/ws", False),
        ("/ip4/192.168.1.10/udp/4001", False),
        ("/dns4/relay.lab/tcp/4001", False),
        (f"/ip4/192.168.1.10/tcp/4001/p2p/{CAROL}/p2p-circuit/p2p/{BOB}", False),
    ],
)
def test_direct_addresses_that_others_have_are_told_and_believed_and_no_others(addr: str, expected: bool) -> None:
    multiaddr = Multiaddr(addr)
    assert is_of_lan(multiaddr) is expected
    assert bool(encode([multiaddr], BOB)) is expected
    told = strings(f"dnsaddr={multiaddr.with_peer(BOB)}".encode())
    assert bool(decode(told)) is expected


def test_strings_that_are_something_else_are_left_out() -> None:
    text = strings(b"", b"txtvers=1", b"dnsaddr=", b"dnsaddr=/ip4/1", b"dnsaddr=\xff", f"dnsaddr={TCP}".encode())
    assert decode(text + encode([TCP], BOB)) == {BOB: [TCP]}


def test_a_string_that_ends_before_its_length_is_read_as_far_as_it_goes() -> None:
    assert decode(encode([TCP, QUIC], BOB)[:-1]) == {BOB: [TCP]}


@given(st.lists(st.sampled_from([TCP, QUIC, Multiaddr("/ip4/127.0.0.1/tcp/1")]), max_size=100))
def test_what_is_told_fits_into_a_packet_and_is_read_back(addrs: list[Multiaddr]) -> None:
    text = encode(addrs, BOB)
    assert len(text) <= MAX_TEXT
    told = decode(text).get(BOB, [])
    assert told == [addr for addr in addrs if is_of_lan(addr)][: len(told)]


@given(st.binary(max_size=10000))
def test_random_bytes_raise_nothing(data: bytes) -> None:
    assert sum(map(len, decode(data).values())) <= ADDRESSES


@given(st.lists(st.binary(max_size=MAX_STRING - 8).map(lambda data: b"dnsaddr=" + data), max_size=40))
def test_random_addresses_raise_nothing(texts: list[bytes]) -> None:
    assert sum(map(len, decode(strings(*texts)).values())) <= ADDRESSES
