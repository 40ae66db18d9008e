from ipaddress import ip_address
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from node.logic.autonat import (
    ADDRESSES,
    RECHECK,
    RETRY,
    WINDOW,
    Choice,
    Purse,
    Reachability,
    ServerPolicy,
    Throttle,
    V1Belief,
    Verdicts,
    choose,
    price,
    v1_targets,
)
from node.names.multiaddr import Multiaddr
from node.wire.autonat import INSPECTED

CLIENT = ip_address("11.0.1.2")
OWN = Multiaddr("/ip4/11.0.1.2/tcp/4001")
OTHER = Multiaddr("/ip4/11.0.2.2/tcp/4001")
PRIVATE = Multiaddr("/ip4/192.168.1.10/tcp/4001")
POLICY = ServerPolicy()


def anything(addr: Multiaddr) -> bool:
    return True


# ── the server ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_first_address_that_can_be_dialled_is_chosen_and_only_the_clients_own_is_free() -> None:
    relayed = OWN / "/p2p/12D3KooWEb2CBrRZLtrRTiDRk3TfDmchqx3ZUcnNu14ZdbKVq7x8/p2p-circuit"
    named = Multiaddr("/dns4/example.com/tcp/1")
    assert choose([None, PRIVATE, relayed, named, OWN, OTHER], CLIENT, anything, POLICY) == Choice(4, OWN, costs=False)
    assert choose([OTHER, OWN], CLIENT, anything, POLICY) == Choice(0, OTHER, costs=True)
    assert choose([OTHER, OWN], CLIENT, lambda addr: addr == OWN, POLICY) == Choice(1, OWN, costs=False)
    assert choose([PRIVATE], CLIENT, anything, POLICY) is None
    assert choose([PRIVATE], CLIENT, anything, ServerPolicy(private=True)) == Choice(0, PRIVATE, costs=True)


def test_addresses_beyond_the_fiftieth_are_not_looked_at() -> None:
    looked_at: list[Multiaddr] = []
    many = [Multiaddr.tcp("11.0.9.9", port) for port in range(1, 100)]

    def look(addr: Multiaddr) -> bool:
        looked_at.append(addr)
        return False

    assert choose(many, CLIENT, look, POLICY) is None
    assert looked_at == many[:INSPECTED]


def test_one_peer_has_twelve_requests_a_minute_and_two_at_a_time() -> None:
    throttle = Throttle(POLICY)
    assert [throttle.admit("a", "h", 0.0) for _ in range(3)] == [True, True, False]
    throttle.done("a")
    throttle.done("a")
    for second in range(1, 11):
        assert throttle.admit("a", "h", float(second))
        throttle.done("a")
    assert not throttle.admit("a", "h", 11.0)
    assert throttle.admit("b", "h", 11.0)
    assert throttle.admit("a", "h", WINDOW + 0.1)


def test_identities_of_one_host_share_half_of_all_requests_and_others_are_still_served() -> None:
    throttle = Throttle(POLICY)
    admitted = sum(throttle.admit(f"sybil {n}", "one host", 0.0) for n in range(1000))
    assert admitted == POLICY.requests_per_host
    assert throttle.admit("honest", "another host", 0.0)
    assert len(throttle) == POLICY.requests_per_host + 1


def test_all_hosts_together_have_sixty_requests_a_minute() -> None:
    throttle = Throttle(POLICY)
    assert sum(throttle.admit(n, str(n), 0.0) for n in range(100)) == 60


def test_dials_of_others_have_a_bound_of_their_own() -> None:
    throttle = Throttle(POLICY)
    assert [throttle.admit_data(0.0) for _ in range(13)] == [True] * 12 + [False]
    assert throttle.admit_data(WINDOW)


@given(st.integers())
def test_the_price_is_what_the_specification_recommends(seed: int) -> None:
    assert 30_000 <= price(POLICY, Random(seed)) <= 100_000


def test_dial_data_must_not_come_in_crumbs_but_for_the_last() -> None:
    purse = Purse(POLICY, wanted=250)
    assert not purse.take(99)
    assert purse.take(100)
    assert purse.take(100)
    assert not purse.paid
    assert purse.take(50)
    assert purse.paid


def test_version_1_dials_the_clients_own_ip_only() -> None:
    seen = Multiaddr("/ip4/11.0.1.2/tcp/61234")
    victim, listed = Multiaddr("/ip4/11.0.7.7/tcp/22"), [OTHER, OWN, PRIVATE, OWN]
    assert v1_targets([victim, *listed], seen, anything, POLICY) == [seen, OWN]
    many = [Multiaddr.tcp(CLIENT, port) for port in range(1, 100)]
    assert len(v1_targets(many, seen, anything, POLICY)) == 16


# ── the client ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_verdict_needs_two_answers_more_on_one_side() -> None:
    verdicts = Verdicts()
    verdicts.follow([OWN])
    assert verdicts.of(OWN) is Reachability.UNKNOWN
    assert not verdicts.record(OWN, True, 0.0)
    assert verdicts.record(OWN, True, 0.0)
    assert verdicts.of(OWN) is Reachability.PUBLIC
    assert verdicts.record(OWN, False, 0.0)
    assert verdicts.of(OWN) is Reachability.UNKNOWN


def test_an_address_that_stops_working_is_found_private_however_long_it_worked() -> None:
    verdicts = Verdicts()
    verdicts.follow([OWN])
    for _ in range(100):
        verdicts.record(OWN, True, 0.0)
    for _ in range(4):
        verdicts.record(OWN, False, 0.0)
    assert verdicts.of(OWN) is Reachability.PRIVATE


def test_what_is_known_well_is_asked_again_after_an_hour_and_what_least_is_known_of_first() -> None:
    verdicts = Verdicts()
    verdicts.follow([OWN, OTHER])
    assert verdicts.due(0.0) == [OWN, OTHER]
    verdicts.record(OWN, True, 0.0)
    assert verdicts.due(0.0) == [OTHER, OWN]
    for _ in range(2):
        verdicts.record(OWN, True, 10.0)
    assert verdicts.due(10.0) == [OTHER]
    assert verdicts.due(10.0 + RECHECK) == [OTHER, OWN]


def test_an_address_that_nobody_tests_is_left_alone_for_longer_and_longer() -> None:
    verdicts = Verdicts()
    verdicts.follow([OWN])
    waits = []
    for _ in range(8):
        verdicts.unanswered(OWN, 0.0)
        timer = verdicts.get_timer()
        assert timer is not None
        waits.append(timer / RETRY)
    assert waits == [1, 2, 4, 8, 16, 32, 32, 32]
    verdicts.doubt()
    assert verdicts.due(0.0) == [OWN]


def test_an_address_with_another_mapping_behind_it_is_tested_as_if_it_were_new() -> None:
    verdicts = Verdicts()
    verdicts.follow([OWN, OTHER])
    for addr in (OWN, OTHER):
        for _ in range(3):
            verdicts.record(addr, False, 0.0)
    verdicts.forget([OWN, PRIVATE])
    assert verdicts.all() == {OWN: Reachability.UNKNOWN, OTHER: Reachability.PRIVATE}
    assert verdicts.due(0.0) == [OWN]


def test_the_node_is_public_if_one_address_is() -> None:
    verdicts = Verdicts()
    verdicts.follow([OWN, OTHER])
    assert verdicts.overall() is Reachability.UNKNOWN
    for _ in range(2):
        verdicts.record(OWN, False, 0.0)
    assert verdicts.overall() is Reachability.PRIVATE
    for _ in range(2):
        verdicts.record(OTHER, True, 0.0)
    assert verdicts.overall() is Reachability.PUBLIC
    verdicts.follow([OWN])
    assert verdicts.all() == {OWN: Reachability.PRIVATE}


def test_addresses_are_bounded_and_answers_about_strangers_ignored() -> None:
    verdicts = Verdicts()
    verdicts.follow(Multiaddr.tcp(CLIENT, port) for port in range(1, 200))
    assert len(verdicts.all()) == ADDRESSES
    assert not verdicts.record(OTHER, True, 0.0)


def test_the_belief_of_version_1_turns_after_its_confidence_is_used_up() -> None:
    belief = V1Belief()
    assert belief.record(True)
    for _ in range(10):
        assert not belief.record(True)
    assert [belief.record(False) for _ in range(4)] == [False, False, False, True]
    assert belief.reachability is Reachability.PRIVATE
