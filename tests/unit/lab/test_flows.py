"""Flows, handshakes, and finding a packet again behind a NAT."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from lab.observe.flows import Endpoint, Flow, Wire
from lab.observe.packets import ACK, RST, SYN, Packet

if TYPE_CHECKING:
    from tests.unit.lab.conftest import Scene

A, B = Endpoint("11.0.1.2", 4001), Endpoint("11.0.2.2", 4001)


def packet(
    ns: int, source: Endpoint, target: Endpoint, flags: int, seq: int = 0, ack: int = 0, payload: int = 0
) -> Packet:
    return Packet(ns / 1e9, ns, "x", *source, *target, "tcp", flags, seq, ack, payload, 54 + payload, ns)


def flow(*packets: Packet) -> Flow:
    (only,) = Wire(packets).flows
    return only


def test_an_ordinary_handshake_is_established_by_the_third_packet() -> None:
    handshake = flow(
        packet(1, A, B, SYN, 10), packet(2, B, A, SYN | ACK, 20, 11), packet(3, A, B, ACK, 11, 21)
    ).handshake()
    assert handshake is not None
    assert (handshake.opener, handshake.both_opened) == (A, False)
    assert (handshake.syn, handshake.established) == (1e-9, 3e-9)


def test_a_simultaneous_open_is_established_by_the_second_syn_ack() -> None:
    handshake = flow(
        packet(1, B, A, SYN, 20),
        packet(2, A, B, SYN, 10),
        packet(3, A, B, SYN | ACK, 10, 21),
        packet(4, B, A, SYN | ACK, 20, 11),
    ).handshake()
    assert handshake is not None
    assert (handshake.opener, handshake.both_opened, handshake.established) == (B, True, 4e-9)


def test_a_refused_syn_is_no_handshake() -> None:
    assert flow(packet(1, A, B, SYN, 10), packet(2, B, A, RST | ACK, 0, 11)).handshake() is None


def test_a_syn_ack_that_is_not_answered_is_no_handshake() -> None:
    syn_ack = packet(2, B, A, SYN | ACK, 20, 11)
    assert flow(packet(1, A, B, SYN, 10), syn_ack, packet(3, B, A, SYN | ACK, 20, 11)).handshake() is None


def test_a_second_attempt_on_the_same_ports_counts_by_its_own_numbers() -> None:
    handshake = flow(
        packet(1, A, B, SYN, 10),
        packet(2, B, A, SYN | ACK, 20, 11),
        packet(3, B, A, RST, 21),
        packet(4, A, B, SYN, 30),
        packet(5, A, B, ACK, 31, 21),
        packet(6, B, A, SYN | ACK, 40, 31),
        packet(7, A, B, ACK, 31, 41),
    ).handshake()
    assert handshake is not None
    assert (handshake.syn, handshake.established) == (4e-9, 7e-9)


def test_sequence_numbers_wrap() -> None:
    last = 0xFFFFFFFF
    packets = (packet(1, A, B, SYN, last), packet(2, B, A, SYN | ACK, last, 0), packet(3, A, B, ACK, 0, 0))
    assert flow(*packets).handshake() is not None


def test_payload_counts_within_the_interval_by_sender() -> None:
    talk = flow(*(packet(n, A if n % 2 else B, B if n % 2 else A, ACK, payload=10**n) for n in range(1, 5)))
    assert talk.payload() == 11110
    assert talk.payload(A) == 1010
    assert talk.payload(None, 2e-9, 4e-9) == 1100
    assert talk.both_ways(1e-9, 3e-9)
    assert not talk.both_ways(1e-9, 2e-9)
    first = talk.first_payload(2e-9)
    assert first is not None
    assert first.ns == 2


def test_a_conversation_is_one_along_its_way(scene: Callable[..., Scene]) -> None:
    stage = scene("symmetric-random", "full-cone")
    stage.opened(10, "alice", "bob", outer=40001)
    stage.opened(20, "alice", "relay", outer=40002)
    wire = Wire(sorted(stage.seen, key=lambda one: one.ns))
    near = wire.flows_at("alice/eth0")[0]
    along = {found.interface: (found.a, found.b) for found in wire.along(near)}
    assert list(along) == ["alice/eth0", "home-a/lan", "home-a/wan", "home-b/wan", "home-b/lan", "bob/eth0"]
    assert along["home-a/wan"] == (Endpoint("11.0.1.2", 40001), Endpoint("11.0.2.2", 4001))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 31), st.integers(0, 3), st.integers(0, 3)), max_size=20))
def test_no_order_of_packets_is_too_strange(shape: list[tuple[bool, int, int, int]]) -> None:
    packets = [
        packet(n, A if one else B, B if one else A, flags, seq, ack) for n, (one, flags, seq, ack) in enumerate(shape)
    ]
    for found in Wire(packets).flows:
        handshake = found.handshake()
        assert handshake is None or handshake.syn <= handshake.established
