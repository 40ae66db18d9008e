from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.errors import DecodeError, LocalProtocolError
from node.names.keys import KeyType, PrivateKey
from node.names.multiaddr import Multiaddr
from node.wire import identify
from node.wire.identify import Identify, merge
from node.wire.schema import identify_pb2

KEYS = [PrivateKey.generate(kind).public for kind in (KeyType.ED25519, KeyType.SECP256K1, KeyType.ECDSA)]
ADDRS = st.builds(Multiaddr.tcp, st.ip_addresses(), st.integers(0, 65535))
TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
MESSAGES = st.builds(
    Identify,
    public_key=st.none() | st.sampled_from(KEYS),
    listen_addrs=st.lists(ADDRS, max_size=5).map(tuple),
    protocols=st.lists(TEXT, max_size=5).map(tuple),
    observed_addr=st.none() | ADDRS,
    protocol_version=st.none() | TEXT,
    agent_version=st.none() | TEXT,
    signed_peer_record=st.none() | st.binary(max_size=40),
)
ADDR = Multiaddr("/ip4/11.0.0.7/tcp/4001")


@given(MESSAGES)
def test_a_message_is_read_back(message: Identify) -> None:
    assert Identify.from_bytes(message.to_bytes()) == message


def test_the_fields_have_the_numbers_of_the_specification() -> None:
    message = Identify(None, (ADDR,), ("/x",), ADDR, "v", "a", b"r")
    binary = ADDR.to_bytes()
    assert message.to_bytes() == (
        b"\x12\x08" + binary + b"\x1a\x02/x" + b"\x22\x08" + binary + b"\x2a\x01v" + b"\x32\x01a" + b"\x42\x01r"
    )
    assert Identify(KEYS[0]).to_bytes() == b"\x0a\x24" + KEYS[0].to_bytes()


def test_what_is_absent_stays_absent_and_what_is_empty_stays_empty() -> None:
    assert Identify.from_bytes(b"") == Identify()
    assert Identify.from_bytes(Identify(agent_version="").to_bytes()).agent_version == ""


def test_addresses_of_unknown_protocols_are_left_out() -> None:
    raw = identify_pb2.Identify(listen_addrs=[b"\xff\x7f", ADDR.to_bytes(), b""], observed_addr=b"\xff\x7f")
    message = Identify.from_bytes(raw.SerializeToString())
    assert message.listen_addrs == (ADDR,)
    assert message.observed_addr is None


@given(st.binary(max_size=100))
def test_random_bytes_raise_nothing_but_decode_errors(data: bytes) -> None:
    try:
        Identify.from_bytes(data)
    except DecodeError:
        return


@given(MESSAGES, st.data())
@settings(max_examples=50)
def test_a_damaged_message_raises_nothing_but_decode_errors(message: Identify, data: st.DataObject) -> None:
    damaged = bytearray(message.to_bytes() or b"\x00")
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        Identify.from_bytes(damaged)
    except DecodeError:
        return


@pytest.mark.parametrize(
    "data",
    [b"\x0a\x02\x08\x01", b"\x1a\x02\xff\xfe", b"\x2a\x01\xff", b"\x0a\x7f", b"\xff", b"\x0a\x00"],
    ids=["key without data", "protocol not UTF-8", "version not UTF-8", "cut short", "half a tag", "empty key"],
)
def test_malformed_messages_are_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        Identify.from_bytes(data)


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (lambda: identify_pb2.Identify(listen_addrs=[b""] * (identify.MAX_ADDRS + 1)), "501 listen addresses"),
        (lambda: identify_pb2.Identify(protocols=[""] * (identify.MAX_PROTOCOLS + 1)), "1025 protocols"),
        (lambda: identify_pb2.Identify(agent_version="x" * identify.MAX_MESSAGE), "at most 8192"),
    ],
)
def test_messages_beyond_the_bounds_are_refused(raw: Callable[[], identify_pb2.Identify], why: str) -> None:
    with pytest.raises(DecodeError, match=why):
        Identify.from_bytes(raw().SerializeToString())


def test_a_message_that_rust_could_not_read_is_not_sent() -> None:
    with pytest.raises(LocalProtocolError, match="at most 4096"):
        Identify(agent_version="x" * identify.MAX_SENT).to_bytes()


@given(st.lists(MESSAGES, max_size=4))
def test_merging_joins_lists_and_takes_the_last_of_single_fields(parts: list[Identify]) -> None:
    whole = merge(parts)
    assert whole.protocols == tuple(protocol for part in parts for protocol in part.protocols)
    assert whole.listen_addrs == tuple(addr for part in parts for addr in part.listen_addrs)
    versions = [part.agent_version for part in parts if part.agent_version is not None]
    assert whole.agent_version == (versions[-1] if versions else None)
    keys = [part.public_key for part in parts if part.public_key is not None]
    assert whole.public_key == (keys[-1] if keys else None)


def test_merging_parts_is_reading_their_joined_bytes() -> None:
    first = Identify(KEYS[0], (ADDR,), ("/a",), None, "v1", None, None)
    then = Identify(None, (ADDR,), ("/b",), ADDR, None, "agent", b"record")
    assert merge([first, then]) == Identify.from_bytes(first.to_bytes() + then.to_bytes())


def test_parts_without_end_are_refused() -> None:
    assert merge([Identify()] * identify.MAX_MESSAGES) == Identify()
    with pytest.raises(DecodeError, match="more than 10 messages"):
        merge([Identify()] * (identify.MAX_MESSAGES + 1))
    with pytest.raises(DecodeError, match="protocols"):
        merge([Identify(protocols=("/x",) * 600)] * 2)
    with pytest.raises(DecodeError, match="listen addresses"):
        merge([Identify(listen_addrs=(ADDR,) * 300)] * 2)
