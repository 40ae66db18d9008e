"""What every security machine must do, whichever protocol it speaks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from node.errors import PeerIdMismatch, RemoteProtocolError, SecurityError
from node.names.keys import PrivateKey
from node.names.peerid import PeerId
from node.names.varint import Buffer
from node.net.secure import Channel
from node.wire.noise import DataReceived, Event, HandshakeCompleted, Noise

ALICE, BOB = PrivateKey.generate(), PrivateKey.generate()


class Make(Protocol):
    """Makes a machine."""

    def __call__(
        self, identity: PrivateKey, *, initiator: bool, expected: PeerId | None, muxers: Sequence[str]
    ) -> Channel: ...


def make_noise(identity: PrivateKey, *, initiator: bool, expected: PeerId | None, muxers: Sequence[str]) -> Channel:
    static, ephemeral = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    return Noise(identity, initiator=initiator, static=static, ephemeral=ephemeral, expected=expected, muxers=muxers)


SECURITIES: dict[str, Make] = {"noise": make_noise}
pytestmark = pytest.mark.parametrize("make", SECURITIES.values(), ids=SECURITIES.keys())
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


def test_both_sides_learn_who_the_other_is(make: Make) -> None:
    (at_alice,), (at_bob,) = pump(*pair(make, expected=BOB.peer_id()))
    assert at_alice == HandshakeCompleted(BOB.peer_id(), BOB.public, "/yamux/1.0.0")
    assert at_bob == HandshakeCompleted(ALICE.peer_id(), ALICE.public, "/yamux/1.0.0")


def test_another_peer_than_expected_is_refused(make: Make) -> None:
    with pytest.raises(PeerIdMismatch):
        pump(*pair(make, expected=ALICE.peer_id()))


@settings(max_examples=40, deadline=None)
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


@pytest.mark.parametrize("size", [1, 65518, 65519, 65520, 300_000])
def test_plaintexts_of_any_size_arrive(make: Make, size: int) -> None:
    alice, bob = pair(make)
    pump(alice, bob)
    alice.send_data([bytes(size)])
    assert received(pump(alice, bob)[1]) == bytes(size)


def test_the_plaintext_is_not_on_the_wire(make: Make) -> None:
    alice, bob = pair(make)
    pump(alice, bob)
    alice.send_data([b"a secret of some length"])
    assert b"secret" not in b"".join(alice.data_to_send())


@settings(max_examples=60, deadline=None)
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


def test_a_buffer_may_be_reused_once_it_was_received(make: Make) -> None:
    alice, bob = pair(make)
    pump(alice, bob)
    alice.send_data([b"first"])
    buffer = bytearray(b"".join(alice.data_to_send()))
    half: Buffer = memoryview(buffer)[:10]
    bob.receive_data(half)
    rest = bytes(buffer[10:])
    buffer[:] = bytes(len(buffer))
    assert received(bob.receive_data(rest)) == b"first"
