"""STUN messages, with the test vectors of RFC 5769."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import DecodeError
from node.wire.stun import (
    MAX_MESSAGE,
    Attribute,
    Class,
    Endpoint,
    Message,
    Method,
    address,
    change_request,
    decode,
    error_code,
    is_stun,
    long_term_key,
    read_change_request,
    xor_mapped,
)

PASSWORD = b"VOkJxbRl1RmTxUk/WvJxBt"
REQUEST = bytes.fromhex(
    "000100582112a442b7e7a701bc34d686fa87dfae802200105354554e207465737420636c69656e74002400046e0001ff"
    "80290008932ff9b151263b36000600096576746a3a68367659202020"
    "000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a280280004e57a3bcf"
)
RESPONSE_4 = bytes.fromhex(
    "0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000080001a147e112a643"
    "000800142b91f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96"
)
RESPONSE_6 = bytes.fromhex(
    "010100482112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220"
    "002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9"
    "00080014a382954e4be67bf11784c97c8292c275bfe3ed4180280004c8fb0b4c"
)
LONG_TERM = bytes.fromhex(
    "000100602112a44278ad3433c6ad72c029da412e00060012e3839ee38388e383aae38383e382afe382b90000"
    "0015001c662f2f3439396b39353464364f4c33346f4c394653547679363473410014000b6578616d706c652e6f726700"
    "00080014f67024656dd64a3e02b8e0712e85c9a28ca89666"
)
TRANSACTION = bytes.fromhex("b7e7a701bc34d686fa87dfae")
ENDPOINTS = st.builds(Endpoint, st.ip_addresses(), st.integers(0, 65535))
TRANSACTIONS = st.binary(min_size=12, max_size=12)


def test_the_request_of_rfc_5769_is_read_and_its_integrity_holds() -> None:
    message = decode(REQUEST, key=PASSWORD)
    assert (message.method, message.kind, message.transaction) == (Method.BINDING, Class.REQUEST, TRANSACTION)
    assert message.value(Attribute.SOFTWARE) == b"STUN test client"
    assert message.value(Attribute.USERNAME) == b"evtj:h6vY"
    assert message.unknown() == (0x0024,)


@pytest.mark.parametrize(
    ("data", "ip"), [(RESPONSE_4, "192.0.2.1"), (RESPONSE_6, "2001:db8:1234:5678:11:2233:4455:6677")]
)
def test_the_responses_of_rfc_5769_tell_the_mapped_address(data: bytes, ip: str) -> None:
    message = decode(data, key=PASSWORD)
    assert message.kind is Class.SUCCESS
    assert message.mapped == Endpoint(ip_address(ip), 32853)


def test_the_long_term_credentials_of_rfc_5769_hold() -> None:
    message = decode(LONG_TERM, key=long_term_key("マトリックス", "example.org", "TheMatrIX"))
    assert message.value(Attribute.NONCE) == b"f//499k954d6OL34oL9FSTvy64sA"


@pytest.mark.parametrize("data", [REQUEST, RESPONSE_4, RESPONSE_6], ids=["request", "ipv4", "ipv6"])
def test_what_rfc_5769_makes_with_zeros_for_padding_is_made_alike(data: bytes) -> None:
    message = decode(data, key=PASSWORD)
    made = message.to_bytes(key=PASSWORD, fingerprint=True)
    assert len(made) == len(data)
    assert decode(made, key=PASSWORD) == message


@pytest.mark.parametrize("data", [REQUEST, RESPONSE_4, RESPONSE_6], ids=["request", "ipv4", "ipv6"])
def test_any_changed_byte_is_noticed(data: bytes) -> None:
    type_of_fingerprint = range(len(data) - 8, len(data) - 6)  # with another, it is an attribute that means nothing
    for index in set(range(len(data))).difference(type_of_fingerprint):
        changed = bytearray(data)
        changed[index] ^= 0x01
        with pytest.raises(DecodeError):
            decode(changed, key=PASSWORD)


def test_a_message_that_must_be_protected_and_is_not_is_refused() -> None:
    with pytest.raises(DecodeError, match="without message integrity"):
        decode(Message(Method.BINDING, Class.REQUEST, TRANSACTION).to_bytes(), key=PASSWORD)
    with pytest.raises(DecodeError, match="wrong message integrity"):
        decode(REQUEST, key=b"another password")


def test_what_follows_the_integrity_is_left_out() -> None:
    message = Message(Method.BINDING, Class.REQUEST, TRANSACTION)
    protected = message.to_bytes(key=PASSWORD)
    smuggled = Message(Method.BINDING, Class.REQUEST, TRANSACTION, (change_request(ip=True, port=True),)).to_bytes()[
        20:
    ]
    longer = protected[:2] + (len(protected) - 20 + len(smuggled)).to_bytes(2, "big") + protected[4:] + smuggled
    assert decode(longer, key=PASSWORD).attributes == ()


@given(st.sampled_from(Class), st.integers(0, 0xFFF), TRANSACTIONS, ENDPOINTS, ENDPOINTS, st.booleans(), st.booleans())
def test_a_message_is_read_back(
    kind: Class, method: int, transaction: bytes, mapped: Endpoint, other: Endpoint, ip: bool, port: bool
) -> None:
    attributes = (
        xor_mapped(mapped, transaction),
        address(Attribute.OTHER_ADDRESS, other),
        change_request(ip=ip, port=port),
        error_code(420, "Unknown Attribute"),
    )
    message = decode(Message(method, kind, transaction, attributes).to_bytes(fingerprint=True))
    assert message == Message(method, kind, transaction, attributes)
    assert (message.mapped, message.endpoint(Attribute.OTHER_ADDRESS)) == (mapped, other)
    change = message.value(Attribute.CHANGE_REQUEST)
    assert change is not None
    assert read_change_request(change) == (ip, port)


@given(st.one_of(st.binary(max_size=80), st.binary(max_size=80).map(lambda tail: REQUEST[:20] + tail)))
def test_random_bytes_raise_nothing_but_decode_errors(data: bytes) -> None:
    framed = data[:2] + max(0, len(data) - 20).to_bytes(2, "big") + data[4:]
    for datagram in (data, framed):
        try:
            message = decode(datagram)
            assert is_stun(datagram)
            _ = message.mapped, message.endpoint(Attribute.OTHER_ADDRESS)
        except DecodeError:
            continue


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no STUN message"),
        (b"\x40" + REQUEST[1:], "no STUN message"),
        (REQUEST + b"\0\0\0\0", "says 88 follow"),
        (REQUEST[:2] + (MAX_MESSAGE).to_bytes(2, "big") + REQUEST[4:20] + bytes(MAX_MESSAGE), "no STUN message"),
        (REQUEST[:2] + b"\x00\x04" + REQUEST[4:20] + b"\x80\x22\x00\x10", "16 bytes, 0 left"),
        (REQUEST[:2] + b"\x00\x84" + REQUEST[4:20] + b"\x80\x22\x00\x00" * 33, "more than 32"),
    ],
)
def test_malformed_messages_are_refused(data: bytes, why: str) -> None:
    with pytest.raises(DecodeError, match=why):
        decode(data)
