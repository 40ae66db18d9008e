import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import DecodeError
from node.names.keys import PrivateKey
from node.names.multiaddr import Multiaddr
from node.wire import autonat, autonat_v1
from node.wire.autonat import (
    DialDataRequest,
    DialDataResponse,
    DialRequest,
    DialResponse,
    DialStatus,
    ResponseStatus,
    decode,
    encode,
)
from node.wire.schema import autonat_pb2, autonat_v1_pb2

ADDR = Multiaddr("/ip4/11.0.0.7/tcp/4001")
ADDRS = st.lists(st.builds(Multiaddr.tcp, st.ip_addresses(), st.integers(0, 65535)), max_size=6).map(tuple)
NONCES = st.integers(0, 2**64 - 1)
MESSAGES = st.one_of(
    st.builds(DialRequest, ADDRS, NONCES),
    st.builds(DialResponse, st.sampled_from(ResponseStatus), st.integers(0, 2**32 - 1), st.sampled_from(DialStatus)),
    st.builds(DialDataRequest, st.integers(0, 2**32 - 1), NONCES),
    st.builds(DialDataResponse, st.binary(max_size=200)),
)
PEER = PrivateKey.generate().peer_id()


@given(MESSAGES)
def test_a_message_is_read_back(message: autonat.Message) -> None:
    assert decode(encode(message)) == message


def test_messages_have_the_bytes_of_the_specification() -> None:
    request = encode(DialRequest((ADDR,), 0x0102030405060708))
    assert request.hex() == "0a13" + "0a08040b000007060fa1" + "110807060504030201"
    assert (
        encode(DialResponse(ResponseStatus.OK, 1, DialStatus.E_DIAL_ERROR)).hex() == "1207" + "08c801" + "1001" + "1864"
    )
    assert encode(DialDataRequest(2, 30_000)).hex() == "1a06" + "0802" + "10b0ea01"
    assert encode(DialDataResponse(b"ab")).hex() == "2204" + "0a026162"
    assert autonat.encode_dial_back(7).hex() == "090700000000000000"
    assert autonat.encode_dial_back_response() == b""


def test_a_failure_inside_the_server_is_told_though_all_its_fields_are_zero() -> None:
    response = DialResponse(ResponseStatus.E_INTERNAL_ERROR)
    assert decode(encode(response)) == response


def test_an_address_that_cannot_be_read_keeps_its_index() -> None:
    request = autonat_pb2.DialRequest(addrs=[b"\xff\x7f", ADDR.to_bytes()], nonce=1)
    wrapped = autonat_pb2.Message(dial_request=request).SerializeToString()
    assert decode(wrapped) == DialRequest((None, ADDR), 1)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "without content"),
        (b"\x0a", "malformed"),
        (bytes.fromhex("1202080a"), "10 is not a valid ResponseStatus"),
        (bytes.fromhex("1205 08c801 1801"), "1 is not a valid DialStatus"),
        (encode(DialDataResponse(bytes(4097))), "at most 4096"),
        (b"\x0a\x82\x40" + b"\x0a\x00" * 4097, "at most"),
    ],
)
def test_malformed_messages_are_refused(data: bytes, why: str) -> None:
    with pytest.raises(DecodeError, match=why):
        decode(data)


@given(st.binary(max_size=60))
def test_random_bytes_raise_nothing_but_decode_errors(data: bytes) -> None:
    for parse in (
        decode,
        autonat.decode_dial_back,
        autonat.decode_dial_back_response,
        autonat_v1.Dial.from_bytes,
        autonat_v1.DialResponse.from_bytes,
    ):
        try:
            parse(data)
        except DecodeError:
            continue


def test_a_dial_back_is_read_back_and_its_answer_must_say_ok() -> None:
    assert autonat.decode_dial_back(autonat.encode_dial_back(2**64 - 1)) == 2**64 - 1
    autonat.decode_dial_back_response(autonat.encode_dial_back_response())
    with pytest.raises(DecodeError, match="unknown status 1"):
        autonat.decode_dial_back_response(b"\x08\x01")


# ── version 1 ────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(ADDRS)
def test_a_request_of_version_1_is_read_back(addrs: tuple[Multiaddr, ...]) -> None:
    request = autonat_v1.Dial(PEER, addrs)
    assert autonat_v1.Dial.from_bytes(request.to_bytes()) == request


@given(st.builds(autonat_v1.DialResponse, st.sampled_from(autonat_v1.Status), st.text(max_size=50), st.none()))
def test_an_answer_of_version_1_is_read_back(response: autonat_v1.DialResponse) -> None:
    assert autonat_v1.DialResponse.from_bytes(response.to_bytes()) == response


def test_version_1_has_the_bytes_of_the_specification() -> None:
    response = autonat_v1.DialResponse(autonat_v1.Status.OK, addr=ADDR)
    assert response.to_bytes().hex() == "0801" + "1a0c" + "0800" + "1a08040b000007060fa1"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x08\x00",
        b"\x08\x01",
        b"\x08\x01\x1a\x02\x08\x07",
        autonat_v1_pb2.Message(type="DIAL").SerializeToString(),
    ],
    ids=["empty", "no peer", "no response", "unknown status", "dial without peer"],
)
def test_incomplete_messages_of_version_1_are_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        autonat_v1.Dial.from_bytes(data)
    with pytest.raises(DecodeError):
        autonat_v1.DialResponse.from_bytes(data)
