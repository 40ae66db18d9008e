"""What every security machine must do, whichever protocol it speaks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Protocol

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from node.errors import PeerIdMismatch, RemoteProtocolError, SecurityError
from node.names.keys import PrivateKey
from node.names.peerid import PeerId
from node.names.varint import Buffer
from node.net.secure import Channel
from node.wire.noise import Noise
from node.wire.plaintext import Plaintext
from node.wire.security_events import DataReceived, Event, HandshakeCompleted
from node.wire.tls import Credentials, Tls

ALICE, BOB = PrivateKey.generate(), PrivateKey.generate()


class Make(Protocol):
    """Makes a machine."""

    def __call__(
        self, identity: PrivateKey, *, initiator: bool, expected: PeerId | None, muxers: Sequence[str]
    ) -> Channel: ...


def make_noise(identity: PrivateKey, *, initiator: bool, expected: PeerId | None, muxers: Sequence[str]) -> Channel:
    static, ephemeral = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    return Noise(identity, initiator=initiator, static=static, ephemeral=ephemeral, expected=expected, muxers=muxers)


@cache
def credentials(identity: PrivateKey, signed_only: bool) -> Credentials:
    key = ec.generate_private_key(ec.SECP256R1())
    return Credentials(identity, key, serial=1, begin=NOW - DAY, end=NOW + DAY, signed_only=signed_only)


def make_tls(identity: PrivateKey, *, initiator: bool, expected: PeerId | None, muxers: Sequence[str]) -> Channel:
    return Tls(credentials(identity, False), initiator=initiator, now=NOW, expected=expected, muxers=muxers)


def make_signed(identity: PrivateKey, *, initiator: bool, expected: PeerId | None, muxers: Sequence[str]) -> Channel:
    return Tls(credentials(identity, True), initiator=initiator, now=NOW, expected=expected, muxers=muxers)


def make_clear(identity: PrivateKey, *, initiator: bool, expected: PeerId | None, muxers: Sequence[str]) -> Channel:
    return Plaintext(identity, expected=expected)


NOW, DAY = datetime(2026, 5, 4, tzinfo=UTC), timedelta(days=1)
SECURITIES: dict[str, Make] = {
    "noise": make_noise,
    "tls": make_tls,
    "tls-signed-only": make_signed,
    "plaintext": make_clear,
}


def of(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("make", [SECURITIES[name] for name in names], ids=names)


all_of_them = of(*SECURITIES)
authenticating = of("noise", "tls", "tls-signed-only")
Tamper = Callable[[bytes], bytes]


def pump(alice: Channel, bob: Channel, piece: int = 1 << 20, tamper: Tamper = bytes) -> tuple[list[Event], list[Event]]:
    """Carry bytes both ways, in pieces, until both are silent."""
    at_alice: list[Event] = []
    at_bob: list[Event] = []
    while True:
        forth, back = b"".join(alice.data_to_send()), b"".join(bob.data_to_send())
        if not forth and not back:
            return at_alice, at_bob
        for data, receiver, events in ((forth, bob, at_bob), (tamper(back), alice, at_alice)):
            for offset in range(0, len(data), piece):
                events += receiver.receive_data(data[offset : offset + piece])


def pair(make: Make, expected: PeerId | None = None) -> tuple[Channel, Channel]:
    muxers = ("/yamux/1.0.0",)
    return (
        make(ALICE, initiator=True, expected=expected, muxers=muxers),
        make(BOB, initiator=False, expected=None, muxers=muxers),
    )


def received(events: Sequence[Event]) -> bytes:
    return b"".join(event.data for event in events if isinstance(event, DataReceived))


@all_of_them
def test_both_sides_learn_who_the_other_is(make: Make) -> None:
    (at_alice,), (at_bob,) = pump(*pair(make, expected=BOB.peer_id()))
    muxer = None if make is make_clear else "/yamux/1.0.0"
    assert at_alice == HandshakeCompleted(BOB.peer_id(), BOB.public, muxer)
    assert at_bob == HandshakeCompleted(ALICE.peer_id(), ALICE.public, muxer)


@all_of_them
def test_another_peer_than_expected_is_refused(make: Make) -> None:
    with pytest.raises(PeerIdMismatch):
        pump(*pair(make, expected=ALICE.peer_id()))


@all_of_them
@settings(max_examples=25, deadline=None)
@given(piece=st.integers(1, 500), data=st.lists(st.binary(max_size=400), max_size=4))
def test_any_split_gives_the_same_bytes(make: Make, piece: int, data: list[bytes]) -> None:
    alice, bob = pair(make)
    events = pump(alice, bob, piece)
    assert [len(side) for side in events] == [1, 1]
    for part in data:
        alice.send_data([part[:7], part[7:]])
        bob.send_data([part])
    at_alice, at_bob = pump(alice, bob, piece)
    assert received(at_alice) == received(at_bob) == b"".join(data)


@all_of_them
@pytest.mark.parametrize("size", [1, 65518, 65519, 65520, 300_000])
def test_plaintexts_of_any_size_arrive(make: Make, size: int) -> None:
    alice, bob = pair(make)
    pump(alice, bob)
    alice.send_data([bytes(size)])
    assert received(pump(alice, bob)[1]) == bytes(size)


@of("noise", "tls")
def test_the_plaintext_is_not_on_the_wire(make: Make) -> None:
    alice, bob = pair(make)
    pump(alice, bob)
    alice.send_data([b"a secret of some length"])
    assert b"secret" not in b"".join(alice.data_to_send())


@authenticating
@settings(max_examples=40, deadline=None)
@given(position=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_a_changed_byte_in_the_handshake_is_noticed(make: Make, position: int, flip: int) -> None:
    def tamper(data: bytes) -> bytes:
        changed = bytearray(data)
        if changed:
            changed[position % len(changed)] ^= flip
        return bytes(changed)

    alice, bob = pair(make)
    try:
        at_alice, _ = pump(alice, bob, tamper=tamper)
    except (SecurityError, RemoteProtocolError):
        return
    assert not at_alice  # a longer length: the rest is still awaited


@of("tls-signed-only", "plaintext")
def test_what_is_not_encrypted_can_be_read_on_the_wire(make: Make) -> None:
    alice, bob = pair(make)
    pump(alice, bob)
    alice.send_data([b"no secret at all"])
    assert b"no secret" in b"".join(alice.data_to_send())


@authenticating
@settings(max_examples=25, deadline=None)
@given(position=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_a_changed_byte_of_data_is_noticed(make: Make, position: int, flip: int) -> None:
    alice, bob = pair(make)
    pump(alice, bob)
    alice.send_data([b"as it was said"])
    changed = bytearray(b"".join(alice.data_to_send()))
    changed[position % len(changed)] ^= flip
    try:
        assert not received(bob.receive_data(changed))
    except (SecurityError, RemoteProtocolError):
        bob.send_data([b"good bye"])  # by a muxer that has not yet heard of it


@authenticating
def test_a_message_cannot_be_played_again(make: Make) -> None:
    alice, bob = pair(make)
    pump(alice, bob)
    alice.send_data([b"pay him"])
    message = b"".join(alice.data_to_send())
    assert received(bob.receive_data(message)) == b"pay him"
    with pytest.raises(SecurityError):
        bob.receive_data(message)


@all_of_them
@settings(max_examples=60, deadline=None)
@given(initiator=st.booleans(), data=st.lists(st.binary(max_size=300), max_size=5))
def test_random_bytes_raise_nothing_but_what_is_promised(make: Make, initiator: bool, data: list[bytes]) -> None:
    machine = make(ALICE, initiator=initiator, expected=None, muxers=())
    try:
        for part in data:
            assert not received(machine.receive_data(part))
    except (SecurityError, RemoteProtocolError):
        machine.data_to_send()


@pytest.mark.parametrize("make", [make_tls])
@pytest.mark.parametrize("other", [make_signed])
def test_states_of_protection_do_not_mix(make: Make, other: Make) -> None:
    for one, two in ((make, other), (other, make)):
        alice = one(ALICE, initiator=True, expected=None, muxers=())
        bob = two(BOB, initiator=False, expected=None, muxers=())
        with pytest.raises(SecurityError):
            pump(alice, bob)


@all_of_them
def test_a_buffer_may_be_reused_once_it_was_received(make: Make) -> None:
    alice, bob = pair(make)
    pump(alice, bob)
    alice.send_data([b"first"])
    buffer = bytearray(b"".join(alice.data_to_send()))
    half: Buffer = memoryview(buffer)[:10]
    events = bob.receive_data(half)
    rest = bytes(buffer[10:])
    buffer[:] = bytes(len(buffer))
    assert received(events + bob.receive_data(rest)) == b"first"
