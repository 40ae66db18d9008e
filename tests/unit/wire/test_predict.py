from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import DecodeError
from node.names.keys import PrivateKey
from node.wire import predict
from node.wire.predict import Allocation, Go, Offer, Witness, decode
from node.wire.schema import predict_pb2

PEER = PrivateKey.generate().peer_id()
OFFERS = st.builds(
    Offer,
    st.sampled_from(Allocation),
    st.ip_addresses(v=4),
    st.lists(st.integers(1, 65535), max_size=predict.WINDOW).map(tuple),
    st.booleans(),
    st.booleans(),
    st.binary(min_size=predict.TOKEN_SIZE, max_size=predict.TOKEN_SIZE),
)


@given(st.one_of(OFFERS, st.just(Go())))
def test_a_message_is_read_back(message: Offer | Go) -> None:
    assert decode(message.to_bytes()) == message
    assert len(message.to_bytes()) < predict.MAX_MESSAGE


@given(st.ip_addresses(v=4))
def test_question_and_answer_of_a_witness_are_read_back(ip: IPv4Address) -> None:
    assert Witness.from_bytes(Witness(PEER, ip).to_bytes()) == Witness(PEER, ip)
    assert [predict.decode_testimony(predict.testimony(seen)) for seen in (True, False)] == [True, False]


def test_a_kind_of_nat_that_we_have_never_heard_of_is_as_good_as_unknown() -> None:
    raw = predict_pb2.Predict()
    raw.ParseFromString(Offer(Allocation.RANDOM, IPv4Address("11.0.0.7")).to_bytes())
    data = raw.SerializeToString().replace(b"\x10\x04", b"\x10\x63")
    offer = decode(data)
    assert isinstance(offer, Offer)
    assert (offer.allocation, offer.ip) == (Allocation.UNKNOWN, IPv4Address("11.0.0.7"))


@given(st.binary(max_size=60))
def test_random_bytes_raise_nothing_but_decode_errors(data: bytes) -> None:
    for read in (decode, Witness.from_bytes, predict.decode_testimony):
        try:
            read(data)
        except DecodeError:
            continue


def raw_offer(**fields: object) -> bytes:
    values = {"type": "OFFER", "ip": bytes(4), "token": bytes(16), **fields}
    data: bytes = predict_pb2.Predict(**values).SerializeToString()  # type: ignore[arg-type]
    return data


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "type 0"),
        (b"\x08\x09", "type 9"),
        (b"\x08", "malformed"),
        (raw_offer(ip=bytes(16)), "IPv4 address of 16 bytes"),
        (raw_offer(token=b"short"), "token of 5 bytes"),
        (raw_offer(ports=range(1, 18)), "17 predicted ports"),
        (raw_offer(ports=[0]), "that are none"),
        (raw_offer(ports=[65536]), "that are none"),
        (raw_offer() + b"\x92\x03\xff\x1f" + bytes(4095), "at most 1024"),
    ],
)
def test_malformed_and_oversize_messages_are_refused(data: bytes, why: str) -> None:
    with pytest.raises(DecodeError, match=why):
        decode(data)
