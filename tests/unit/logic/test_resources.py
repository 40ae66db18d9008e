"""Scopes that are counted together: nothing exceeds its limit, and what was returned leaves nothing behind."""

from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.errors import LimitExceeded
from node.logic.limits import (
    GIB,
    LOOPBACK,
    MIB,
    PEER,
    PER_IP4,
    SMALLEST_MEMORY,
    STREAM_WINDOW,
    SYSTEM,
    TRANSIENT_PEER,
    Limit,
    Limits,
    scaled,
    streams,
)
from node.logic.resources import RATES, ConnectionClaim, Kind, Resources, StreamClaim
from node.names.keys import PrivateKey

PEERS = [PrivateKey.generate().peer_id() for _ in range(3)]
ALICE, BOB, _ = PEERS
PING = "/ipfs/ping/1.0.0"


def known(
    resources: Resources, peer: object = ALICE, kind: Kind = Kind.CONNECTIONS_IN, files: int = 1
) -> ConnectionClaim:
    claim = resources.connection(kind, files=files)
    claim.known(peer)  # type: ignore[arg-type]
    return claim


def is_untouched(resources: Resources) -> bool:
    return all(scope.is_empty for scope in resources.usage()) and len(resources.usage()) == 2


def test_a_connection_is_transient_until_its_peer_is_known_and_then_counts_for_the_peer() -> None:
    resources = Resources()
    claim = resources.connection(Kind.CONNECTIONS_IN)
    assert resources.transient.used[Kind.CONNECTIONS_IN] == 1
    claim.known(ALICE)
    assert resources.transient.is_empty
    assert resources.peer_scope(ALICE).used[Kind.CONNECTIONS_IN] == 1
    claim.release()
    claim.release()
    assert is_untouched(resources)


def test_a_peer_has_its_share_of_connections_whatever_their_direction() -> None:
    resources = Resources()
    for turn in range(PEER.connections):
        known(resources, kind=Kind(turn % 2), files=0)
    one_more = resources.connection(Kind.CONNECTIONS_OUT, files=0)
    with pytest.raises(LimitExceeded, match=rf"{ALICE} has 8 connections of 8"):
        one_more.known(ALICE)
    one_more.known(BOB)
    assert resources.refused == {"peer": 1}


def test_a_network_has_its_share_and_loopback_no_limit() -> None:
    resources = Resources()
    for _ in range(PER_IP4[0].connections):
        resources.accept(ip_address("11.0.0.1"), 0.0)
    with pytest.raises(LimitExceeded, match=r"11\.0\.0\.1/32 has 8 inbound"):
        resources.accept(ip_address("::ffff:11.0.0.1"), 0.0)
    resources.accept(ip_address("11.0.0.2"), 0.0)
    for _ in range(20):
        resources.accept(ip_address("127.0.0.1"), 0.0)


def test_addresses_of_one_ipv6_site_count_together() -> None:
    resources = Resources()
    for turn in range(PER_IP4[0].connections):
        resources.accept(ip_address(f"2a11::{turn}"), 0.0)
    with pytest.raises(LimitExceeded, match="2a11::/56"):
        resources.accept(ip_address("2a11::ffff"), 0.0)
    resources.accept(ip_address("2a11:0:0:100::1"), 0.0)


def test_connections_may_come_in_a_burst_and_then_as_fast_as_the_rate() -> None:
    resources = Resources()
    ip, per = ip_address("11.0.0.1"), PER_IP4[0]
    for _ in range(per.burst):
        resources.accept(ip, 100.0).release()
    with pytest.raises(LimitExceeded, match=r"too fast from 11\.0\.0\.1/32"):
        resources.accept(ip, 100.0)
    resources.accept(ip, 100.0 + 1 / per.rate).release()
    with pytest.raises(LimitExceeded, match="too fast"):
        resources.accept(ip, 100.0 + 1.5 / per.rate)


def test_rates_of_many_addresses_are_not_remembered_for_ever() -> None:
    resources = Resources()
    for number in range(RATES + 10):
        resources.accept(ip_address(0x0B000000 + number), 0.0).release()
    assert len(resources._rates._buckets) == RATES


def test_a_peer_does_not_take_all_transient_streams() -> None:
    resources = Resources()
    claims = [known(resources, files=0) for _ in range(PEER.connections)]
    for turn in range(TRANSIENT_PEER.streams_in):
        claims[turn % len(claims)].stream(Kind.STREAMS_IN)
    with pytest.raises(LimitExceeded, match="without a protocol"):
        claims[0].stream(Kind.STREAMS_IN)
    known(resources, BOB).stream(Kind.STREAMS_IN)


def test_a_protocol_has_its_share_of_a_peers_streams_and_leaves_the_rest() -> None:
    resources = Resources()
    connection = known(resources)
    for _ in range(2):
        connection.stream(Kind.STREAMS_IN).agreed(PING)
    refused = connection.stream(Kind.STREAMS_IN)
    with pytest.raises(LimitExceeded, match=f"ping of {ALICE} has 2 inbound streams of 2"):
        refused.agreed(PING)
    refused.agreed("/echo/1.0.0")
    connection.release()
    assert is_untouched(resources)


def test_a_stream_that_agrees_after_its_connections_end_holds_nothing() -> None:
    resources = Resources()
    connection = known(resources)
    stream = connection.stream(Kind.STREAMS_IN)
    connection.release()
    stream.agreed(PING)
    stream.release()
    assert is_untouched(resources)


def test_windows_grow_as_far_as_connection_peer_and_node_have_room() -> None:
    resources = Resources(Limits(peer=Limit(memory=40 * MIB), connection=Limit(memory=32 * MIB)))
    first, second = known(resources), known(resources)
    assert first.take(48 * MIB) == 32 * MIB
    assert second.take(48 * MIB) == 8 * MIB
    first.give(2 * MIB)
    assert second.take(4 * MIB) == 2 * MIB
    first.release()
    second.release()
    first.give(MIB)
    assert is_untouched(resources)


def test_limits_grow_with_the_machine_as_in_go() -> None:
    """What `DefaultLimits.Scale` of go-libp2p makes of an eighth of 16 GiB, and half of a million descriptors."""
    made = scaled(2 * GIB, 524_288)
    assert made.system == Limit(192, 384, 384, 3072, 6144, 6144, 524_288, 128 * MIB + 2 * GIB)
    assert made.transient == Limit(64, 128, 128, 384, 768, 768, 131_072, 288 * MIB)
    assert made.peer == Limit(8, 8, 8, 512, 1024, 1024, 8192, 320 * MIB)
    assert (made.service, made.service_peer) == (streams(2048, 8192, 8192), streams(136, 272, 272))
    assert (made.protocol, made.protocol_peer) == (streams(1024, 3072, 3072), streams(72, 144, 288))
    assert made.services["identify"] == (streams(192, 192, 384), streams(16, 16, 32))
    assert made.services["ping"] == (streams(192, 192, 192), streams(2, 3, 4))
    assert made.services["autonat"] == (streams(72, 72, 72), streams(2, 2, 2))
    assert made.services["holepunch"] == (streams(48, 48, 96), streams(2, 2, 2))
    assert made.services["relay"] == (streams(768, 768, 768), streams(64, 64, 64))
    assert made.exempt == LOOPBACK


def test_the_smallest_machine_has_the_base_and_the_next_larger_counts_from_its_first_byte() -> None:
    assert scaled(0, 0) == scaled(SMALLEST_MEMORY, 0) == Limits()
    assert scaled(SMALLEST_MEMORY + MIB, 0).system.connections == SYSTEM.connections * (1024 + 129) // 1024


def test_a_peer_has_its_share_of_files_beside_that_of_connections() -> None:
    resources = Resources()
    for _ in range(PEER.files):
        known(resources)
    one_more = resources.connection(Kind.CONNECTIONS_IN)
    with pytest.raises(LimitExceeded, match=rf"{ALICE} has 4 files of 4"):
        one_more.known(ALICE)
    resources.connection(Kind.CONNECTIONS_IN, files=0).known(ALICE)
    assert resources.peer_scope(ALICE).used[Kind.CONNECTIONS_IN] == PEER.files + 1


Step = tuple[str, int, int]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["accept", "know", "stream", "agree", "drop", "end", "grow"]),
            st.integers(0, 9),
            st.integers(0, 2),
        )
    )
)
def test_whatever_happens_no_limit_is_exceeded_and_in_the_end_nothing_is_held(steps: list[Step]) -> None:
    small = Limit(3, 3, 4, 4, 4, 5, 4, 8 * STREAM_WINDOW)
    resources = Resources(Limits(system=small, transient=small, peer=Limit(2, 2, 2, 3, 3, 3, 3, 6 * STREAM_WINDOW)))
    connections: list[ConnectionClaim] = []
    peers: dict[ConnectionClaim, bool] = {}
    streams: list[StreamClaim] = []
    for what, which, peer in steps:
        try:
            if what == "accept":
                connections.append(resources.connection(Kind(which % 2), ip_address(f"11.0.0.{peer}")))
            elif connections and (claim := connections[which % len(connections)]):
                if what == "know" and claim not in peers:
                    claim.known(PEERS[peer])
                    peers[claim] = True
                elif what == "stream" and claim in peers:
                    streams.append(claim.stream(Kind(2 + peer % 2)))
                elif what == "agree" and streams:
                    streams.pop(which % len(streams)).agreed(PING)
                elif what == "drop" and streams:
                    streams.pop(which % len(streams)).release()
                elif what == "grow":
                    assert claim.take(peer * STREAM_WINDOW) <= peer * STREAM_WINDOW
                elif what == "end":
                    connections.remove(claim)
                    claim.release()
        except LimitExceeded:
            pass
        for scope in resources.usage():
            assert all(0 <= used <= bound for used, bound in zip(scope.used, scope.bounds, strict=True))
            assert scope.used[0] + scope.used[1] <= scope.totals[0]
            assert scope.used[2] + scope.used[3] <= scope.totals[1]
    for claim in connections:
        claim.release()
    assert is_untouched(resources)
