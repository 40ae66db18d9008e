import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import DecodeError, SecurityError
from node.names import fields
from node.names.envelope import Envelope
from node.names.keys import PrivateKey
from node.names.multiaddr import Multiaddr
from node.wire import relay
from node.wire.relay import (
    HopMessage,
    HopType,
    Limit,
    RelayPeer,
    Reservation,
    Status,
    StopMessage,
    StopType,
    Voucher,
)
from node.wire.schema import relay_pb2

RELAY_KEY = PrivateKey.generate()
RELAY, PEER = RELAY_KEY.peer_id(), PrivateKey.generate().peer_id()
ADDR = Multiaddr("/ip4/11.0.0.7/tcp/4001")

ADDRS = st.lists(st.builds(Multiaddr.tcp, st.ip_addresses(), st.integers(0, 65535)), max_size=4).map(tuple)
PEERS = st.builds(RelayPeer, st.sampled_from([RELAY, PEER]), ADDRS)
LIMITS = st.builds(Limit, st.none() | st.integers(1, 2**32 - 1), st.none() | st.integers(1, 2**64 - 1))
RESERVATIONS = st.builds(Reservation, st.integers(0, 2**64 - 1), ADDRS, st.none() | st.binary(max_size=40))
STATUSES = st.none() | st.sampled_from(Status)
HOPS = st.builds(
    HopMessage, st.sampled_from(HopType), st.none() | PEERS, st.none() | RESERVATIONS, st.none() | LIMITS, STATUSES
)
STOPS = st.builds(StopMessage, st.sampled_from(StopType), st.none() | PEERS, st.none() | LIMITS, STATUSES)


@given(HOPS)
def test_a_hop_message_is_read_back(message: HopMessage) -> None:
    assert HopMessage.from_bytes(message.to_bytes()) == message


@given(STOPS)
def test_a_stop_message_is_read_back(message: StopMessage) -> None:
    assert StopMessage.from_bytes(message.to_bytes()) == message


@pytest.mark.parametrize(
    ("message", "encoded"),
    [
        (HopMessage(HopType.RESERVE), "0800"),
        (HopMessage(HopType.STATUS, status=Status.OK), "08022864"),
        (HopMessage(HopType.STATUS, status=Status.MALFORMED_MESSAGE), "0802289003"),
        (
            HopMessage(HopType.STATUS, None, Reservation(1, (ADDR,), b"v"), Limit(120, 131072), Status.OK),
            "0802" + "1a0f" + "0801" + "1208040b000007060fa1" + "1a0176" + "2206" + "0878" + "10808008" + "2864",
        ),
        (StopMessage(StopType.STATUS, status=Status.OK), "08012064"),
        (StopMessage(StopType.CONNECT, limit=Limit(data=1)), "08001a021001"),
    ],
)
def test_messages_have_the_bytes_of_the_specification(message: HopMessage | StopMessage, encoded: str) -> None:
    assert message.to_bytes().hex() == encoded


def test_a_connect_names_the_peer_by_its_multihash() -> None:
    data = HopMessage(HopType.CONNECT, RelayPeer(PEER)).to_bytes()
    assert data == b"\x08\x01\x12\x28\x0a\x26" + PEER.to_bytes()


def test_an_absent_type_is_read_as_zero() -> None:
    assert HopMessage.from_bytes(b"").type is HopType.RESERVE
    assert StopMessage.from_bytes(b"").type is StopType.CONNECT


def test_a_limit_of_zero_is_no_limit() -> None:
    raw = relay_pb2.HopMessage(type=relay_pb2.HopMessage.STATUS, limit=relay_pb2.Limit(duration=0, data=0))
    assert HopMessage.from_bytes(raw.SerializeToString()).limit == Limit()


def test_addresses_of_unknown_protocols_are_left_out() -> None:
    raw = relay_pb2.HopMessage(
        type=relay_pb2.HopMessage.CONNECT, peer=relay_pb2.Peer(id=PEER.to_bytes(), addrs=[b"\xff\x7f", ADDR.to_bytes()])
    )
    assert HopMessage.from_bytes(raw.SerializeToString()).peer == RelayPeer(PEER, (ADDR,))


@given(st.binary(max_size=80))
def test_random_bytes_raise_nothing_but_typed_errors(data: bytes) -> None:
    for read in (HopMessage.from_bytes, StopMessage.from_bytes, Voucher.open):
        try:
            read(data)
        except (DecodeError, SecurityError):
            continue


MANY = [b""] * (relay.MAX_ADDRS + 1)


@pytest.mark.parametrize(
    "data",
    [
        "0803",
        "08012801",
        "080028ac03",
        "0801" + "1200",
        "0801" + "12030a0101",
        "0802" + "1a00",
        "08",
        "0a",
        "ff",
        relay_pb2.HopMessage(peer=relay_pb2.Peer(id=PEER.to_bytes(), addrs=MANY)).SerializeToString().hex(),
        relay_pb2.HopMessage(reservation=relay_pb2.Reservation(expire=1, addrs=MANY)).SerializeToString().hex(),
        (b"\x5a\xfd\x1f" + bytes(4094)).hex(),
    ],
)
def test_malformed_and_oversize_hop_messages_are_refused(data: str) -> None:
    with pytest.raises(DecodeError):
        HopMessage.from_bytes(bytes.fromhex(data))


@pytest.mark.parametrize("data", ["0802", "08002001", "08001200", "0a"])
def test_malformed_stop_messages_are_refused(data: str) -> None:
    with pytest.raises(DecodeError):
        StopMessage.from_bytes(bytes.fromhex(data))


def test_a_voucher_opens_as_it_was_sealed() -> None:
    voucher = Voucher(RELAY, PEER, 1_900_000_000)
    assert Voucher.open(voucher.seal(RELAY_KEY)) == voucher


def test_a_voucher_is_an_envelope_of_type_03_02() -> None:
    envelope = Envelope.from_bytes(Voucher(RELAY, PEER, 1).seal(RELAY_KEY))
    assert envelope.payload_type == b"\x03\x02"
    assert envelope.verify("libp2p-relay-rsvp")
    assert envelope.payload == b"\x0a\x26" + RELAY.to_bytes() + b"\x12\x26" + PEER.to_bytes() + b"\x18\x01"


def test_a_voucher_that_its_relay_did_not_sign_is_refused() -> None:
    with pytest.raises(SecurityError, match="is signed by"):
        Voucher.open(Voucher(RELAY, PEER, 1).seal(PrivateKey.generate()))


def test_a_peer_record_is_no_voucher() -> None:
    payload = fields.encode((1, RELAY.to_bytes()), (2, PEER.to_bytes()), (3, 1))
    with pytest.raises(DecodeError):
        Voucher.open(Envelope.seal(RELAY_KEY, relay.VOUCHER_DOMAIN, b"\x03\x01", payload).to_bytes())
    with pytest.raises(SecurityError):
        Voucher.open(Envelope.seal(RELAY_KEY, "libp2p-peer-record", relay.VOUCHER_TYPE, payload).to_bytes())


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_a_voucher_without_one_of_its_fields_is_refused(missing: int) -> None:
    values: list[tuple[int, int | bytes]] = [(1, RELAY.to_bytes()), (2, PEER.to_bytes()), (3, 1)]
    payload = fields.encode(*(value for value in values if value[0] != missing))
    with pytest.raises(DecodeError, match=f"without field {missing}"):
        Voucher.open(Envelope.seal(RELAY_KEY, relay.VOUCHER_DOMAIN, relay.VOUCHER_TYPE, payload).to_bytes())


def test_every_name_is_the_schema_s() -> None:
    assert {status.name: status.value for status in Status} == dict(relay_pb2.Status.items())
    assert {kind.name: kind.value for kind in HopType} == dict(relay_pb2.HopMessage.Type.items())
    assert {kind.name: kind.value for kind in StopType} == dict(relay_pb2.StopMessage.Type.items())
