import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.errors import DecodeError, SecurityError
from node.names import envelope as envelopes
from node.names import fields
from node.names.envelope import Envelope, PeerRecord, open_peer_record, seal_peer_record
from node.names.keys import KeyType, PrivateKey
from node.names.multiaddr import Multiaddr

VECTOR = json.loads((Path(__file__).parents[2] / "vectors/envelopes.json").read_text())["records"][0]
KEY = PrivateKey.from_bytes(bytes.fromhex(VECTOR["private"]))
SEALED = bytes.fromhex(VECTOR["envelope"])
ADDRS = (Multiaddr("/ip4/11.0.0.7/tcp/4001"), Multiaddr("/ip6/2001:500::1/tcp/4001"))


def test_a_record_sealed_by_go_opens() -> None:
    record = open_peer_record(SEALED)
    assert record.peer_id == KEY.peer_id()
    assert record.seq == 1598453001624231000
    assert [str(addr) for addr in record.addrs] == VECTOR["addrs"]


def test_sealing_what_go_sealed_gives_the_same_bytes() -> None:
    record = open_peer_record(SEALED)
    assert seal_peer_record(KEY, record.seq, record.addrs) == SEALED


@pytest.mark.parametrize("kind", list(KeyType))
def test_a_record_sealed_with_any_kind_of_key_opens(kind: KeyType) -> None:
    key = PrivateKey.generate(kind)
    assert open_peer_record(seal_peer_record(key, 2**64 - 1, ADDRS)) == PeerRecord(key.peer_id(), 2**64 - 1, ADDRS)


def test_a_record_of_the_older_domain_and_type_opens() -> None:
    record = PeerRecord(KEY.peer_id(), 3, ADDRS)
    sealed = Envelope.seal(
        KEY, envelopes.LEGACY_PEER_RECORD_DOMAIN, envelopes.LEGACY_PEER_RECORD_TYPE, record.to_bytes()
    )
    assert open_peer_record(sealed.to_bytes()) == record


@pytest.mark.parametrize(
    ("domain", "kind"),
    [
        ("libp2p-relay-rsvp", envelopes.PEER_RECORD_TYPE),
        (envelopes.LEGACY_PEER_RECORD_DOMAIN, envelopes.PEER_RECORD_TYPE),
        (envelopes.PEER_RECORD_DOMAIN, envelopes.LEGACY_PEER_RECORD_TYPE),
    ],
)
def test_an_envelope_cannot_be_replayed_in_another_domain(domain: str, kind: bytes) -> None:
    sealed = Envelope.seal(KEY, domain, kind, PeerRecord(KEY.peer_id(), 1, ADDRS).to_bytes())
    with pytest.raises(SecurityError, match="bad signature"):
        open_peer_record(sealed.to_bytes())


def test_a_record_about_somebody_else_is_refused() -> None:
    other = PrivateKey.generate().peer_id()
    payload = PeerRecord(other, 1, ADDRS).to_bytes()
    sealed = Envelope.seal(KEY, envelopes.PEER_RECORD_DOMAIN, envelopes.PEER_RECORD_TYPE, payload)
    with pytest.raises(SecurityError, match="is signed by"):
        open_peer_record(sealed.to_bytes())


def test_changing_any_byte_is_noticed() -> None:
    original = open_peer_record(SEALED)
    for index in range(len(SEALED)):
        changed = bytearray(SEALED)
        changed[index] ^= 1
        try:
            record = open_peer_record(changed)
        except (DecodeError, SecurityError):
            continue
        # A changed field number may leave an unsigned copy of nothing, never another content.
        assert record == original


def test_an_envelope_of_another_type_does_not_open() -> None:
    sealed = Envelope.seal(KEY, "domain", b"type", b"payload").to_bytes()
    assert Envelope.open(sealed, "domain", b"type").payload == b"payload"
    with pytest.raises(DecodeError, match="not 6f74686572"):
        Envelope.open(sealed, "domain", b"other")
    with pytest.raises(SecurityError, match="not signed for elsewhere"):
        Envelope.open(sealed, "elsewhere", b"type")
    with pytest.raises(DecodeError, match="no peer record"):
        open_peer_record(sealed)


def test_addresses_of_unknown_protocols_are_left_out_of_a_record() -> None:
    unknown = fields.encode((1, b"\xff\x7f\x00"))
    payload = PeerRecord(KEY.peer_id(), 1, ADDRS).to_bytes() + fields.encode((3, unknown), (3, b""))
    assert PeerRecord.from_bytes(payload).addrs == ADDRS


@pytest.mark.parametrize("missing", [1, 2, 3, 5])
def test_an_envelope_without_one_of_its_fields_is_refused(missing: int) -> None:
    kept = [(field.number, field.value) for field in fields.decode(SEALED) if field.number != missing]
    with pytest.raises(DecodeError, match=f"without field {missing}"):
        Envelope.from_bytes(fields.encode(*kept))


def test_oversize_envelopes_and_records_are_refused() -> None:
    with pytest.raises(DecodeError, match="at most"):
        Envelope.from_bytes(bytes(envelopes.MAX_ENVELOPE + 1))
    address = (3, fields.encode((1, ADDRS[0].to_bytes())))
    payload = fields.encode((1, KEY.peer_id().to_bytes()), *[address] * (envelopes.MAX_ADDRS + 1))
    with pytest.raises(DecodeError, match="at most"):
        PeerRecord.from_bytes(payload)


def test_a_record_without_a_peer_id_is_refused() -> None:
    with pytest.raises(DecodeError, match="without a peer id"):
        PeerRecord.from_bytes(fields.encode((2, 1), (9, 1)))


@given(st.binary(max_size=120), st.integers(0, len(SEALED)))
@settings(max_examples=200)
def test_random_bytes_raise_nothing_but_typed_errors(noise: bytes, cut: int) -> None:
    for data in (noise, SEALED[:cut] + noise):
        try:
            open_peer_record(data)
        except (DecodeError, SecurityError):
            continue
