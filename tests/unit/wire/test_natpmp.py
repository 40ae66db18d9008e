import contextlib
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import DecodeError
from node.wire.natpmp import External, Mapped, Refused, decode, external_request, map_request


def test_requests_are_those_of_the_rfc() -> None:
    assert external_request() == b"\x00\x00"
    assert map_request("udp", 4001, 5001, 3600) == bytes.fromhex("0001 0000 0fa1 1389 00000e10")
    assert map_request("tcp", 4001, 0, 0) == bytes.fromhex("0002 0000 0fa1 0000 00000000")


@pytest.mark.parametrize(
    ("data", "meant"),
    [
        ("0080 0000 0000000b 0b000102", External(11, IPv4Address("11.0.1.2"))),
        ("0081 0000 00000001 0fa1 1389 00000e10", Mapped(1, "udp", 4001, 5001, 3600)),
        ("0082 0000 00000001 0fa1 0000 00000000", Mapped(1, "tcp", 4001, 0, 0)),
        ("0082 0003 00000001 0fa1 0000 00000000", Refused("tcp", 3, 1)),
        ("0081 0002", Refused("udp", 2, None)),
        ("0080 0001 00000009", Refused(None, 1, 9)),
    ],
)
def test_responses_are_read(data: str, meant: object) -> None:
    assert decode(bytes.fromhex(data)) == meant


@pytest.mark.parametrize(
    "data",
    ["", "0080", "0000 0000", "0280 0000 00000000", "0080 0000 00000000 0b0001", "0083 0000 00000000", "0081 0000"],
)
def test_what_is_no_response_is_an_error(data: str) -> None:
    with pytest.raises(DecodeError):
        decode(bytes.fromhex(data))


def test_a_refusal_has_its_name() -> None:
    assert (Refused("tcp", 3, 1).why, Refused("tcp", 77, 1).why) == ("NETWORK_FAILURE", "result 77")


@given(st.binary(max_size=40) | st.binary(max_size=40).map(lambda data: b"\x00\x80" + data))
def test_random_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        decode(data)
