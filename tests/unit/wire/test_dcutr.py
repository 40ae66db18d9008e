import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import DecodeError
from node.names.multiaddr import Multiaddr
from node.wire import dcutr
from node.wire.dcutr import HolePunch, HolePunchType
from node.wire.schema import dcutr_pb2

ADDR = Multiaddr("/ip4/11.0.0.7/tcp/4001")
ADDRS = st.lists(st.builds(Multiaddr.tcp, st.ip_addresses(), st.integers(0, 65535)), max_size=6).map(tuple)


@given(st.builds(HolePunch, st.sampled_from(HolePunchType), ADDRS))
def test_a_message_is_read_back(message: HolePunch) -> None:
    assert HolePunch.from_bytes(message.to_bytes()) == message


def test_messages_have_the_bytes_of_the_specification() -> None:
    connect = HolePunch(HolePunchType.CONNECT, (ADDR, ADDR)).to_bytes()
    assert connect.hex() == "0864" + 2 * "1208040b000007060fa1"
    assert HolePunch(HolePunchType.SYNC).to_bytes().hex() == "08ac02"


def test_addresses_of_unknown_protocols_are_left_out() -> None:
    raw = dcutr_pb2.HolePunch(type=dcutr_pb2.HolePunch.CONNECT, obs_addrs=[b"", ADDR.to_bytes(), b"\xff\x7f"])
    assert HolePunch.from_bytes(raw.SerializeToString()).addrs == (ADDR,)


@given(st.binary(max_size=60))
def test_random_bytes_raise_nothing_but_decode_errors(data: bytes) -> None:
    try:
        HolePunch.from_bytes(data)
    except DecodeError:
        return


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "type 0"),
        (b"\x08\x00", "type 0"),
        (b"\x08\x65", "type 101"),
        (b"\x08", "malformed"),
        (b"\x08\x64" + b"\x12\x00" * (dcutr.MAX_ADDRS + 1), "at most 128"),
        (b"\x08\x64" + b"\x1a\xff\x1f" + bytes(4095), "at most 4096"),
    ],
)
def test_malformed_and_oversize_messages_are_refused(data: bytes, why: str) -> None:
    with pytest.raises(DecodeError, match=why):
        HolePunch.from_bytes(data)
