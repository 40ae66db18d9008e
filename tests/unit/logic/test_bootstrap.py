import pytest

from node.errors import DecodeError
from node.logic.bootstrap import (
    AGAIN,
    ENTRIES,
    PEERS_OF_ENTRY,
    SHORT_LIVED,
    Bootstrap,
    Candidate,
    by_peer,
    candidate,
)
from node.names.multiaddr import Multiaddr
from node.names.peerid import PeerId


def peer(n: int) -> PeerId:
    return PeerId(b"\x00\x24\x08\x01\x12\x20" + n.to_bytes(32, "big"))


def addr(n: int) -> Multiaddr:
    return Multiaddr(f"/ip4/11.0.0.1/tcp/{n}")


def entry(n: int) -> Multiaddr:
    return addr(n).with_peer(peer(n))


OWN = peer(0)
NAME = Multiaddr("/dnsaddr/bootstrap.lab")
NOBODY: frozenset[PeerId] = frozenset()


def test_an_entry_says_whom_to_connect_to_and_only_a_dnsaddr_may_leave_that_open() -> None:
    assert candidate(entry(1)) == Candidate(peer(1), (addr(1),), peer(1))
    assert candidate(NAME) == Candidate(NAME, (NAME,), None)
    assert str(candidate(entry(1))) == str(entry(1))
    for text in ("/ip4/11.0.0.1/tcp/1", "/dns4/relay.lab/tcp/1", f"/dnsaddr/lab/p2p/{peer(1)}/p2p-circuit"):
        with pytest.raises(DecodeError, match="p2p"):
            candidate(Multiaddr(text))


def test_all_entries_but_ourselves_are_tried_at_first_and_none_while_there_are_peers_enough() -> None:
    plan = Bootstrap(OWN, [entry(0), entry(1), NAME], floor=2)
    assert [each.key for each in plan.due(NOBODY, 0.0)] == [peer(1), NAME]
    assert [each.key for each in plan.due(frozenset([peer(1)]), 0.0)] == [NAME]
    assert plan.due(frozenset([peer(1), peer(2)]), 0.0) == []
    assert plan.get_timer(frozenset([peer(1), peer(2)]), 0.0) is None


def test_stable_peers_come_first_and_their_addresses_are_joined_with_the_lists() -> None:
    plan = Bootstrap(OWN, [entry(1), entry(2)], {peer(2): (addr(9),), peer(3): (addr(3),)})
    due = plan.due(NOBODY, 0.0)
    assert [each.peer for each in due] == [peer(2), peer(3), peer(1)]
    assert due[0].addrs == (addr(9), addr(2))


def test_what_failed_is_left_alone_for_longer_and_longer_and_never_given_up() -> None:
    plan = Bootstrap(OWN, [entry(1), entry(2)])
    bad, now = plan.due(NOBODY, 0.0)[0], 0.0
    waits = []
    for _ in range(30):
        plan.failed(bad, now)
        assert bad not in plan.due(NOBODY, now)
        timer = plan.get_timer(frozenset([peer(2)]), now)
        assert timer is not None
        waits.append(timer - now)
        now = timer
        assert bad in plan.due(NOBODY, now)
    assert waits[:3] == [5.0, 6.0, 9.0]
    assert max(waits) <= 300.0


def test_a_peer_that_ends_a_connection_at_once_has_failed_and_one_that_was_there_has_not() -> None:
    plan = Bootstrap(OWN, [entry(1)])
    each = plan.due(NOBODY, 0.0)[0]
    plan.arrived(peer(1), 0.0)
    plan.succeeded(each, 0.0)
    plan.left(peer(1), SHORT_LIVED / 2)
    assert plan.due(NOBODY, SHORT_LIVED / 2) == []
    plan.arrived(peer(1), 20.0)
    plan.succeeded(each, 20.0)
    plan.left(peer(1), 20.0 + SHORT_LIVED)
    assert plan.due(NOBODY, 20.0 + SHORT_LIVED) == [each]


def test_a_name_that_led_to_somebody_is_asked_again_when_time_has_passed_or_that_peer_has_gone() -> None:
    plan = Bootstrap(OWN, [NAME])
    each = plan.due(NOBODY, 0.0)[0]
    plan.succeeded(each, 0.0)
    assert plan.due(frozenset([peer(7)]), 1.0) == []
    assert plan.get_timer(frozenset([peer(7)]), 1.0) == AGAIN
    assert plan.due(frozenset([peer(7)]), AGAIN) == [each]
    plan.succeeded(each, AGAIN)
    plan.arrived(peer(7), AGAIN)
    plan.left(peer(7), AGAIN + 20)
    assert plan.due(NOBODY, AGAIN + 20) == [each]


def test_on_another_network_everything_is_tried_again() -> None:
    plan = Bootstrap(OWN, [entry(1)])
    plan.failed(plan.due(NOBODY, 0.0)[0], 0.0)
    assert plan.due(NOBODY, 1.0) == []
    plan.moved()
    assert len(plan.due(NOBODY, 1.0)) == 1


def test_a_name_for_many_peers_leads_to_a_few() -> None:
    addrs = [entry(n) for n in range(1, 100)] + [addr(5), addr(200).with_peer(peer(1))]
    named = by_peer(addrs)
    assert list(named) == [peer(n) for n in range(1, 1 + PEERS_OF_ENTRY)]
    assert named[peer(1)] == [addr(1), addr(200)]


def test_a_list_has_a_bound() -> None:
    assert len(Bootstrap(OWN, [entry(n) for n in range(1, 200)]).due(NOBODY, 0.0)) == ENTRIES
