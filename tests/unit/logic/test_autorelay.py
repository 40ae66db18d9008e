from hypothesis import given
from hypothesis import strategies as st

from node.logic.autorelay import CANDIDATES, FIRST_WAIT, LISTED, LONGEST_WAIT, RelayChoice
from node.names.keys import PrivateKey
from node.names.multiaddr import Multiaddr
from node.names.peerid import PeerId

PEERS = [PrivateKey.generate().peer_id() for _ in range(40)]


def addr(peer: PeerId) -> Multiaddr:
    return Multiaddr(f"/ip4/11.0.0.{PEERS.index(peer) + 1}/tcp/4001").with_peer(peer)


def choice(*candidates: PeerId, listed: tuple[PeerId, ...] = ()) -> RelayChoice:
    relays = RelayChoice()
    relays.wanted = True
    for peer in candidates:
        relays.offer(peer, addr(peer))
    for peer in listed:
        relays.offer(peer, addr(peer), listed=True)
    return relays


def test_two_slots_are_kept_and_listed_relays_come_first() -> None:
    a, b, c, d = PEERS[:4]
    relays = choice(a, b, listed=(c,))
    assert relays.choose(0.0) == [addr(c), addr(a)]
    assert relays.choose(0.0) == []
    relays.held(c)
    relays.held(a)
    relays.offer(d, addr(d), listed=True)
    assert relays.choose(0.0) == []
    assert relays.get_timer() is None


def test_the_slot_of_a_relay_that_is_lost_moves_to_another_at_once() -> None:
    a, b, c = PEERS[:3]
    relays = choice(a, b, c)
    relays.choose(0.0)
    relays.held(a)
    relays.held(b)
    relays.failed(a, 50.0)
    assert relays.choose(50.0) == [addr(c)]


def test_a_relay_that_fails_is_left_alone_for_longer_each_time_and_a_slot_forgives_it() -> None:
    (a,) = PEERS[:1]
    relays, now, waits = choice(a), 0.0, []
    for _ in range(12):
        assert relays.choose(now) == [addr(a)]
        relays.failed(a, now)
        assert relays.choose(now) == []
        timer = relays.get_timer()
        assert timer is not None
        waits.append(timer - now)
        now = timer
    assert waits[:3] == [FIRST_WAIT, 2 * FIRST_WAIT, 4 * FIRST_WAIT]
    assert waits[-1] == LONGEST_WAIT
    relays.choose(now)
    relays.held(a)
    relays.failed(a, now)
    assert relays.get_timer() == now + FIRST_WAIT


def test_nobody_is_asked_when_nothing_is_wanted_and_what_is_held_is_too_much() -> None:
    (a, b) = PEERS[:2]
    relays = choice(a, b)
    relays.choose(0.0)
    relays.held(a)
    assert relays.surplus() == []
    relays.wanted = False
    relays.failed(b, 0.0)
    assert (relays.choose(99.0), relays.get_timer(), relays.surplus()) == ([], None, [a])


def test_a_relay_without_a_connection_can_be_asked_only_if_it_is_listed() -> None:
    a, b = PEERS[:2]
    relays = choice(a, listed=(b,))
    relays.withdraw(a)
    relays.withdraw(b)
    assert relays.choose(0.0) == [addr(b)]


def test_what_the_user_listed_is_not_replaced_by_where_it_was_met() -> None:
    (a,) = PEERS[:1]
    relays = choice(listed=(a,))
    relays.offer(a, Multiaddr("/ip4/11.9.9.9/tcp/1").with_peer(a))
    assert relays.choose(0.0) == [addr(a)]


def test_candidates_are_bounded() -> None:
    relays = choice(*PEERS, listed=tuple(PEERS[CANDIDATES:]))
    assert len(relays) == CANDIDATES + LISTED


@given(st.lists(st.tuples(st.sampled_from(["choose", "held", "failed", "withdraw", "offer"]), st.integers(0, 5))))
def test_never_more_than_two_slots_are_held_or_asked_for(steps: list[tuple[str, int]]) -> None:
    relays, open_now, now = choice(*PEERS[:6]), set[PeerId](), 0.0
    for what, index in steps:
        peer, now = PEERS[index], now + 7.0
        if what == "choose":
            chosen = relays.choose(now)
            assert open_now.isdisjoint(each.peer_id for each in chosen)
            open_now.update(each.peer_id for each in chosen if each.peer_id is not None)
        elif what == "held" and peer in open_now:
            relays.held(peer)
        elif what == "failed" and peer in open_now:
            relays.failed(peer, now)
            open_now.discard(peer)
        elif what == "withdraw":
            relays.withdraw(peer)
        elif what == "offer":
            relays.offer(peer, addr(peer))
        assert len(open_now) <= 2
