"""Noise: the published vectors, two machines back to back, and what a hostile peer may try."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from node.errors import LocalProtocolError, PeerIdMismatch, RemoteProtocolError, SecurityError
from node.names import fields
from node.names.keys import KeyType, PrivateKey
from node.names.peerid import PeerId
from node.names.varint import Buffer
from node.wire.noise import (
    MAX_HANDSHAKE_MESSAGE,
    MAX_MESSAGE,
    MAX_MUXERS,
    MAX_PLAINTEXT,
    HandshakeState,
    Noise,
)
from node.wire.security_events import DataReceived, Event, HandshakeCompleted

VECTORS = json.loads(
    (Path(__file__).parents[2] / "vectors" / "noise_xx_25519_chachapoly_sha256.json").read_text(encoding="utf-8")
)["vectors"]
ALICE, BOB = PrivateKey.generate(), PrivateKey.generate()


def machine(
    identity: PrivateKey, *, initiator: bool, expected: PeerId | None = None, muxers: Sequence[str] = ()
) -> Noise:
    return Noise(
        identity,
        initiator=initiator,
        static=X25519PrivateKey.generate(),
        ephemeral=X25519PrivateKey.generate(),
        expected=expected,
        muxers=muxers,
    )


def sent(noise: Noise) -> bytes:
    return b"".join(noise.data_to_send())


def shake_hands(alice: Noise, bob: Noise) -> tuple[HandshakeCompleted, HandshakeCompleted]:
    assert bob.receive_data(sent(alice)) == []
    (at_alice,) = alice.receive_data(sent(bob))
    (at_bob,) = bob.receive_data(sent(alice))
    assert isinstance(at_alice, HandshakeCompleted)
    assert isinstance(at_bob, HandshakeCompleted)
    return at_alice, at_bob


def connected() -> tuple[Noise, Noise]:
    alice, bob = machine(ALICE, initiator=True), machine(BOB, initiator=False)
    shake_hands(alice, bob)
    return alice, bob


def plaintext(events: Sequence[Event]) -> bytes:
    return b"".join(event.data for event in events if isinstance(event, DataReceived))


@pytest.mark.parametrize("vector", VECTORS, ids=["cacophony", "snow"])
def test_the_handshake_and_the_ciphers_reproduce_the_published_vectors(vector: dict[str, object]) -> None:
    def state(side: str) -> HandshakeState:
        return HandshakeState(
            initiator=side == "init",
            static=X25519PrivateKey.from_private_bytes(bytes.fromhex(str(vector[f"{side}_static"]))),
            ephemeral=X25519PrivateKey.from_private_bytes(bytes.fromhex(str(vector[f"{side}_ephemeral"]))),
            prologue=bytes.fromhex(str(vector[f"{side}_prologue"])),
        )

    messages = vector["messages"]
    assert isinstance(messages, list)
    writer, reader = state("init"), state("resp")
    for number, message in enumerate(messages[:3], start=1):
        payload, ciphertext = bytes.fromhex(message["payload"]), bytes.fromhex(message["ciphertext"])
        assert writer.write_message(number, payload) == ciphertext
        assert reader.read_message(number, ciphertext) == payload
        writer, reader = reader, writer
    assert writer.hash == reader.hash == bytes.fromhex(str(vector.get("handshake_hash", writer.hash.hex())))

    (of_writer, _), (_, at_reader) = writer.split(), reader.split()  # the responder writes the fourth
    (_, at_writer), (of_reader, _) = writer.split(), reader.split()
    ways = [(of_writer, at_reader), (of_reader, at_writer)]
    for index, message in enumerate(messages[3:]):
        sending, receiving = ways[index % 2]
        ciphertext = sending.encrypt(bytes.fromhex(message["payload"]))
        assert ciphertext.hex() == message["ciphertext"]
        assert receiving.decrypt(ciphertext).hex() == message["payload"]


@pytest.mark.parametrize("kind", list(KeyType))
def test_both_sides_learn_the_key_of_the_other_whatever_its_kind(kind: KeyType) -> None:
    identity = PrivateKey.generate(kind)
    at_alice, at_bob = shake_hands(machine(ALICE, initiator=True), machine(identity, initiator=False))
    assert (at_alice.peer, at_alice.key) == (identity.peer_id(), identity.public)
    assert (at_bob.peer, at_bob.key) == (ALICE.peer_id(), ALICE.public)


@pytest.mark.parametrize(
    ("initiators", "responders", "agreed"),
    [
        (["/yamux/1.0.0", "/mplex/6.7.0"], ["/mplex/6.7.0", "/yamux/1.0.0"], "/yamux/1.0.0"),
        (["/a", "/mplex/6.7.0"], ["/mplex/6.7.0", "/yamux/1.0.0"], "/mplex/6.7.0"),
        (["/a"], ["/b"], None),
        ([], ["/yamux/1.0.0"], None),
        (["/yamux/1.0.0"], [], None),
    ],
)
def test_the_initiators_order_decides_the_muxer(
    initiators: list[str], responders: list[str], agreed: str | None
) -> None:
    at_alice, at_bob = shake_hands(
        machine(ALICE, initiator=True, muxers=initiators), machine(BOB, initiator=False, muxers=responders)
    )
    assert at_alice.muxer == at_bob.muxer == agreed


def test_an_initiator_that_meets_another_peer_says_nothing_about_itself() -> None:
    alice = machine(ALICE, initiator=True, expected=ALICE.peer_id())
    bob = machine(BOB, initiator=False)
    bob.receive_data(sent(alice))
    with pytest.raises(PeerIdMismatch, match=str(BOB.peer_id())):
        alice.receive_data(sent(bob))
    assert sent(alice) == b""


@pytest.mark.parametrize("share", [bytes(32), bytes([1]) + bytes(31)], ids=["zero", "order 4"])
def test_a_share_of_small_order_is_refused(share: bytes) -> None:
    with pytest.raises(SecurityError, match="all-zero"):
        machine(BOB, initiator=False).receive_data(b"\x00\x20" + share)


def forged_handshake(payload: bytes, mallory_static: X25519PrivateKey | None = None) -> list[Event]:
    """Let an initiator meet a responder whose cryptography is right and whose payload is `payload`."""
    alice = machine(ALICE, initiator=True, muxers=["/yamux/1.0.0"])
    static, ephemeral = mallory_static or X25519PrivateKey.generate(), X25519PrivateKey.generate()
    mallory = HandshakeState(initiator=False, static=static, ephemeral=ephemeral)
    mallory.read_message(1, sent(alice)[2:])
    message = mallory.write_message(2, payload)
    return alice.receive_data(len(message).to_bytes(2, "big") + message)


@pytest.mark.parametrize(("listed", "agreed"), [(MAX_MUXERS - 1, "/yamux/1.0.0"), (MAX_MUXERS, None)])
def test_a_list_of_muxers_that_is_too_long_is_ignored(listed: int, agreed: str | None) -> None:
    static = X25519PrivateKey.generate()
    signature = BOB.sign(b"noise-libp2p-static-key:" + static.public_key().public_bytes_raw())
    muxers = fields.encode(*[(2, b"/%d" % n) for n in range(listed)], (2, b"/yamux/1.0.0"))
    (event,) = forged_handshake(fields.encode((1, BOB.public.to_bytes()), (2, signature), (4, muxers)), static)
    assert isinstance(event, HandshakeCompleted)
    assert event.muxer == agreed


def test_an_identity_that_did_not_sign_the_static_key_is_refused() -> None:
    signature = BOB.sign(b"noise-libp2p-static-key:" + bytes(32))
    with pytest.raises(SecurityError, match="not signed"):
        forged_handshake(fields.encode((1, BOB.public.to_bytes()), (2, signature)))


@pytest.mark.parametrize("payload", [b"", b"\x0a\x02\x08\x01", fields.encode((1, b"key"), (2, b"")), b"\xff" * 40])
def test_a_payload_without_a_key_is_refused(payload: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        forged_handshake(payload)


def test_a_first_message_with_a_payload_is_refused() -> None:
    share = X25519PrivateKey.generate().public_key().public_bytes_raw()
    with pytest.raises(RemoteProtocolError, match="payload"):
        machine(BOB, initiator=False).receive_data(b"\x00\x21" + share + b"!")


def test_an_oversize_handshake_message_is_refused_by_its_length_alone() -> None:
    with pytest.raises(RemoteProtocolError, match=str(MAX_HANDSHAKE_MESSAGE)):
        machine(BOB, initiator=False).receive_data((MAX_HANDSHAKE_MESSAGE + 1).to_bytes(2, "big"))


@pytest.mark.parametrize("size", [0, 31])
def test_a_handshake_message_that_is_too_short_is_refused(size: int) -> None:
    with pytest.raises(RemoteProtocolError, match="early"):
        machine(BOB, initiator=False).receive_data(size.to_bytes(2, "big") + bytes(size))


def test_a_transport_message_shorter_than_its_tag_is_refused() -> None:
    _, bob = connected()
    with pytest.raises(RemoteProtocolError, match="tag"):
        bob.receive_data(b"\x00\x0f")


def test_a_changed_bit_is_noticed() -> None:
    alice, bob = connected()
    alice.send_data([b"hello"])
    message = bytearray(sent(alice))
    message[-1] ^= 1
    with pytest.raises(SecurityError, match="decrypt"):
        bob.receive_data(message)


def test_a_message_sent_twice_is_noticed() -> None:
    alice, bob = connected()
    alice.send_data([b"hello"])
    message = sent(alice)
    assert plaintext(bob.receive_data(message)) == b"hello"
    with pytest.raises(SecurityError):
        bob.receive_data(message)


def test_data_before_the_handshake_is_our_own_mistake() -> None:
    with pytest.raises(LocalProtocolError):
        machine(ALICE, initiator=True).send_data([b"too early"])


def test_a_long_plaintext_becomes_messages_of_the_largest_size() -> None:
    alice, bob = connected()
    data = bytes(range(256)) * 512
    alice.send_data([data, b"tail"])
    messages = alice.data_to_send()
    assert [len(message) - 2 for message in messages] == [
        MAX_MESSAGE,
        MAX_MESSAGE,
        len(data) + 4 - 2 * MAX_PLAINTEXT + 16,
    ]
    assert plaintext(bob.receive_data(b"".join(messages))) == data + b"tail"


def pieces(data: bytes, cuts: Sequence[int]) -> list[Buffer]:
    borders = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(borders)]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(0, 1 << 20), max_size=12),
    st.lists(st.binary(max_size=300), min_size=1, max_size=4),
    st.booleans(),
)
def test_any_split_of_the_bytes_gives_the_same_events(cuts: list[int], parts: list[bytes], byte_by_byte: bool) -> None:
    alice, bob = machine(ALICE, initiator=True), machine(BOB, initiator=False)
    bob.receive_data(sent(alice))
    alice.receive_data(sent(bob))
    for part in parts:
        alice.send_data([part])
    flight = sent(alice)  # the last handshake message and data right behind it
    events: list[Event] = []
    for piece in [flight[i : i + 1] for i in range(len(flight))] if byte_by_byte else pieces(flight, cuts):
        events += bob.receive_data(piece)
    assert isinstance(events[0], HandshakeCompleted)
    assert [event.data for event in events[1:] if isinstance(event, DataReceived)] == [part for part in parts if part]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["initiator", "responder", "connected"]))
def test_random_bytes_raise_typed_errors_only(data: bytes, state: str) -> None:
    noise = connected()[1] if state == "connected" else machine(BOB, initiator=state == "initiator")
    try:
        events = noise.receive_data(data)
    except (RemoteProtocolError, SecurityError):
        return
    assert not events


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_random_payloads_raise_typed_errors_only(payload: bytes) -> None:
    with pytest.raises((RemoteProtocolError, SecurityError)):
        forged_handshake(payload)
