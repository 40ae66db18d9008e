"""The relay's decisions: who gets a slot, who a circuit, how many bytes pass, and when a slot is renewed."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.errors import LocalProtocolError
from node.logic.relay import CircuitEnds, Meter, RelayLimits, Slot, Slots, renew_at, retry_at, through
from node.names.multiaddr import Multiaddr
from node.names.multihash import HashCode, Multihash
from node.names.peerid import PeerId
from node.wire.relay import Limit, Status

IP = ip_address("11.0.0.1")
LIMITS = RelayLimits(slots=4, slots_per_ip=2, ttl=100.0, circuits_per_peer=2)


def peer(n: int) -> PeerId:
    return PeerId(Multihash.of(HashCode.SHA2_256, n.to_bytes(4, "big")).to_bytes())


def slots_with(*peers: int) -> Slots:
    slots = Slots(LIMITS)
    for n in peers:
        assert isinstance(reserve(slots, n), Slot)
    return slots


def reserve(slots: Slots, n: int, ip: str | None = None, now: float = 0.0) -> Slot | Status:
    return slots.reserve(peer(n), ip_address(ip or f"11.0.1.{n}"), relayed=False, now=now)


def connect(slots: Slots, source: int, target: int, now: float = 0.0) -> CircuitEnds | Status:
    return slots.connect(peer(source), peer(target), relayed=False, now=now)


def test_one_ip_address_gets_no_more_slots_than_its_quota() -> None:
    slots = Slots(LIMITS)
    answers = [reserve(slots, n, "11.0.0.1") for n in range(3)]
    assert answers[2] is Status.RESERVATION_REFUSED
    assert len(slots.peers(0.0)) == 2


def test_a_full_relay_refuses_new_peers_and_renews_old_ones() -> None:
    slots = slots_with(1, 2, 3, 4)
    assert reserve(slots, 5) is Status.RESERVATION_REFUSED
    renewed = reserve(slots, 4, now=50.0)
    assert isinstance(renewed, Slot)
    assert renewed.expire == 150.0
    assert len(slots.peers(50.0)) == 4


def test_reserving_again_does_not_count_twice_against_the_address() -> None:
    slots = Slots(LIMITS)
    for _ in range(10):
        assert isinstance(reserve(slots, 1, "11.0.0.1"), Slot)
    assert isinstance(reserve(slots, 2, "11.0.0.1"), Slot)


def test_an_expired_slot_makes_room_and_can_no_longer_be_reached() -> None:
    slots = slots_with(1, 2, 3, 4)
    assert connect(slots, 9, 1, now=100.0) is Status.NO_RESERVATION
    assert isinstance(reserve(slots, 5, now=100.0), Slot)


def test_a_peer_that_left_has_no_slot() -> None:
    slots = slots_with(1)
    slots.leave(peer(1))
    slots.leave(peer(2))
    assert connect(slots, 9, 1) is Status.NO_RESERVATION


def test_nothing_is_given_over_a_relayed_connection() -> None:
    slots = slots_with(1)
    assert slots.reserve(peer(2), IP, relayed=True, now=0.0) is Status.PERMISSION_DENIED
    assert slots.reserve(peer(2), None, relayed=False, now=0.0) is Status.PERMISSION_DENIED
    assert slots.connect(peer(2), peer(1), relayed=True, now=0.0) is Status.PERMISSION_DENIED


def test_a_peer_cannot_be_connected_to_itself() -> None:
    assert connect(slots_with(1), 1, 1) is Status.PERMISSION_DENIED


def test_the_circuits_of_a_source_and_of_a_target_are_bounded_and_given_back() -> None:
    slots = slots_with(1, 2, 3)
    first, second = connect(slots, 9, 1), connect(slots, 9, 2)
    assert isinstance(first, CircuitEnds)
    assert isinstance(second, CircuitEnds)
    assert connect(slots, 9, 3) is Status.RESOURCE_LIMIT_EXCEEDED
    assert connect(slots, 8, 1) == CircuitEnds(peer(8), peer(1))
    assert connect(slots, 7, 1) is Status.RESOURCE_LIMIT_EXCEEDED
    slots.disconnect(first)
    assert isinstance(connect(slots, 7, 1), CircuitEnds)
    assert slots.circuits == 3


def test_a_circuit_cannot_end_twice() -> None:
    slots = slots_with(1)
    circuit = connect(slots, 9, 1)
    assert isinstance(circuit, CircuitEnds)
    slots.disconnect(circuit)
    with pytest.raises(LocalProtocolError):
        slots.disconnect(circuit)


def test_without_time_and_bytes_to_limit_a_relay_names_no_limit() -> None:
    assert RelayLimits(duration=0, data=0).limit is None
    assert RelayLimits().limit == Limit(duration=120, data=131072)
    assert RelayLimits(duration=0).limit == Limit(data=131072)


@settings(max_examples=100)
@given(st.none() | st.integers(0, 1000), st.lists(st.integers(0, 400), max_size=20))
def test_a_meter_lets_pass_exactly_its_limit(limit: int | None, sizes: list[int]) -> None:
    meter = Meter(limit)
    passed = [meter.take(size) for size in sizes]
    assert sum(passed) == meter.passed == (sum(sizes) if limit is None else min(limit, sum(sizes)))
    assert all(0 <= got <= size for got, size in zip(passed, sizes, strict=True))


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.sampled_from(["reserve", "leave", "connect", "end"]), st.integers(0, 7), st.integers(0, 7)))
)
def test_whatever_is_asked_a_relay_stays_within_its_limits(asked: list[tuple[str, int, int]]) -> None:
    slots = Slots(LIMITS)
    circuits: list[CircuitEnds] = []
    for now, (what, a, b) in enumerate(asked):
        match what:
            case "reserve":
                reserve(slots, a, f"11.0.0.{b}", now=float(now))
            case "leave":
                slots.leave(peer(a))
            case "connect" if isinstance(circuit := connect(slots, a, b, now=float(now)), CircuitEnds):
                circuits.append(circuit)
            case "end" if circuits:
                slots.disconnect(circuits.pop())
        assert slots.circuits == len(circuits)
        assert len(slots.peers(float(now))) <= LIMITS.slots
        for n in range(8):
            assert sum(peer(n) in (each.source, each.target) for each in circuits) <= LIMITS.circuits_per_peer


def test_a_slot_is_renewed_two_minutes_before_it_expires_or_halfway() -> None:
    assert renew_at(3600.0, 0.0) == 3480.0
    assert renew_at(10.0, 0.0) == 5.0


def test_a_renewal_that_failed_is_tried_again_while_the_slot_lasts() -> None:
    assert retry_at(100.0, 80.0) == 95.0
    assert retry_at(100.0, 90.0) is None


RELAY = peer(100)
REMOTE = Multiaddr("/ip4/11.0.0.1/tcp/4001")


def test_addresses_at_a_relay_end_in_its_id_and_p2p_circuit() -> None:
    named = [REMOTE.with_peer(RELAY), Multiaddr("/ip6/2600::1/tcp/4001"), REMOTE]
    assert through(RELAY, named, REMOTE) == (
        Multiaddr(f"/ip4/11.0.0.1/tcp/4001/p2p/{RELAY}/p2p-circuit"),
        Multiaddr(f"/ip6/2600::1/tcp/4001/p2p/{RELAY}/p2p-circuit"),
    )


@pytest.mark.parametrize("named", [[], [REMOTE.with_peer(peer(7))], [REMOTE.with_peer(peer(7)) / "/p2p-circuit"]])
def test_a_relay_that_names_no_address_of_its_own_is_reached_as_we_reached_it(named: list[Multiaddr]) -> None:
    assert through(RELAY, named, REMOTE) == (Multiaddr(f"{REMOTE}/p2p/{RELAY}/p2p-circuit"),)


@pytest.mark.parametrize("somewhere", ["127.0.0.1", "192.168.1.1", "10.0.0.1", "169.254.169.254"])
def test_a_public_relay_cannot_send_those_who_dial_us_into_their_own_networks(somewhere: str) -> None:
    named = [Multiaddr.tcp(somewhere, 22), REMOTE]
    assert through(RELAY, named, REMOTE) == (Multiaddr(f"{REMOTE}/p2p/{RELAY}/p2p-circuit"),)
    assert len(through(RELAY, named, Multiaddr("/ip4/127.0.0.1/tcp/4001"))) == 2


def test_a_relay_cannot_make_us_advertise_without_end() -> None:
    many = [Multiaddr.tcp("11.0.0.1", port) for port in range(1, 200)]
    assert len(through(RELAY, many, REMOTE)) == 16
