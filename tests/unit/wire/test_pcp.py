import contextlib
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import DecodeError
from node.wire.pcp import MAX_MESSAGE, Mapping, Opcode, Response, announce_request, decode, map_request

NONCE = b"twelve bytes"
CLIENT = IPv4Address("192.168.1.10")
MAPPED = "00000000000000000000ffff"


def head(opcode: str, result: int = 0, lifetime: int = 0, epoch: int = 0) -> str:
    return f"02{opcode}00{result:02x}{lifetime:08x}{epoch:08x}{'00' * 12}"


def test_requests_are_those_of_the_rfc() -> None:
    assert announce_request(CLIENT) == bytes.fromhex(f"0200 0000 00000000 {MAPPED} c0a8010a")
    asked = Mapping(NONCE, "tcp", 4001, 5001, IPv4Address("0.0.0.0"))  # noqa: S104 - any address
    assert map_request(CLIENT, asked, 3600) == bytes.fromhex(
        f"0201 0000 00000e10 {MAPPED} c0a8010a {NONCE.hex()} 06 000000 0fa1 1389 {MAPPED} 00000000"
    )
    assert map_request(IPv6Address("2a00::1"), asked, 1)[8:24] == IPv6Address("2a00::1").packed


def test_a_grant_is_read_with_options_behind_it() -> None:
    body = f"{NONCE.hex()} 11 000000 0fa1 1389 {MAPPED} 0b000102"
    granted = Response(Opcode.MAP, 0, 3600, 7, Mapping(NONCE, "udp", 4001, 5001, IPv4Address("11.0.1.2")))
    assert decode(bytes.fromhex(head("81", 0, 3600, 7) + body)) == granted
    assert decode(bytes.fromhex(head("81", 0, 3600, 7) + body + "02000000")) == granted
    assert decode(bytes.fromhex(head("81", 8, 3600, 7) + body)) == replace(granted, result=8)


def test_a_refusal_may_come_without_a_mapping_and_has_its_name() -> None:
    refused = decode(bytes.fromhex(head("81", 1, 30, 7)))
    assert (refused.mapping, refused.why, replace(refused, result=99).why) == (None, "UNSUPP_VERSION", "result 99")
    assert decode(bytes.fromhex(head("80", 0, 0, 5))).epoch == 5


@pytest.mark.parametrize(
    "data",
    [
        "",
        "0080 0000 00000000",
        head("01"),
        head("82"),
        head("81"),
        head("81") + f"{NONCE.hex()} 84 000000 0fa1 1389 {MAPPED} 0b000102",
        head("80") + "00" * MAX_MESSAGE,
    ],
    ids=["nothing", "NAT-PMP", "a request", "PEER", "a grant of nothing", "SCTP", "too long"],
)
def test_what_is_no_response_is_an_error(data: str) -> None:
    with pytest.raises(DecodeError):
        decode(bytes.fromhex(data))


@given(st.binary(max_size=80) | st.binary(max_size=80).map(lambda data: b"\x02\x81" + data))
def test_random_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        decode(data)


@given(st.binary(min_size=12, max_size=12), st.sampled_from(["tcp", "udp"]), st.integers(0, 65535), st.ip_addresses())
def test_what_is_asked_for_is_read_back(nonce: bytes, transport: str, port: int, ip: IPv4Address | IPv6Address) -> None:
    asked = Mapping(nonce, transport, port, port, ip)
    body = map_request(CLIENT, asked, 1)[24:]
    got = decode(bytes.fromhex(head("81")) + body).mapping
    assert got == replace(asked, ip=getattr(ip, "ipv4_mapped", None) or ip)
