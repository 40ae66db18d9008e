from hypothesis import given
from hypothesis import strategies as st

from node.logic.mdns import ADDRESSES, INTERVAL, LEFT_TO_OTHER, PEERS, STRANGERS, Neighbours, delay
from node.names.multiaddr import Multiaddr
from node.names.peerid import PeerId


def peer(n: int) -> PeerId:
    return PeerId(b"\x00\x24\x08\x01\x12\x20" + n.to_bytes(32, "big"))


def addr(n: int) -> Multiaddr:
    return Multiaddr(f"/ip4/192.168.1.1/tcp/{n}")


OWN = peer(0)


def test_a_stranger_is_news_once_and_again_with_another_address() -> None:
    neighbours = Neighbours(OWN)
    assert neighbours.heard({peer(1): [addr(1)]}, 0.0) == {peer(1): (addr(1),)}
    assert neighbours.heard({peer(1): [addr(1)]}, 1.0) == {}
    assert neighbours.heard({peer(1): [addr(2), addr(1)]}, 2.0) == {peer(1): (addr(2), addr(1))}
    assert neighbours.heard({peer(1): [addr(1)]}, 3.0) == {}


def test_we_are_no_news_to_ourselves_and_nobody_is_without_an_address() -> None:
    assert Neighbours(OWN).heard({OWN: [addr(1)], peer(1): []}, 0.0) == {}


def test_who_said_goodbye_or_is_on_another_network_is_news_when_heard_again() -> None:
    neighbours = Neighbours(OWN)
    told = {peer(1): [addr(1)], peer(2): [addr(2)]}
    neighbours.heard(told, 0.0)
    neighbours.left([peer(1), peer(3)])
    assert set(neighbours.heard(told, 1.0)) == {peer(1)}
    neighbours.moved()
    assert set(neighbours.heard(told, 2.0)) == {peer(1), peer(2)}


def test_strangers_beyond_the_allowance_wait_for_the_next_interval_and_acquaintances_do_not() -> None:
    neighbours = Neighbours(OWN)
    everybody = {peer(n): [addr(n)] for n in range(1, 1 + 2 * STRANGERS)}
    assert len(neighbours.heard(everybody, 0.0)) == STRANGERS
    assert neighbours.ignored == STRANGERS
    assert neighbours.heard({peer(1): [addr(999)]}, 1.0) == {peer(1): (addr(999),)}
    assert len(neighbours.heard(everybody, INTERVAL)) >= STRANGERS


def test_the_peer_with_the_smaller_id_dials_and_the_other_waits() -> None:
    assert (delay(peer(1), peer(2)), delay(peer(2), peer(1))) == (0.0, LEFT_TO_OTHER)


@given(st.lists(st.tuples(st.integers(0, 1000), st.lists(st.integers(1, 50), max_size=40)), max_size=200))
def test_memory_is_bounded_whatever_is_announced(announcements: list[tuple[int, list[int]]]) -> None:
    neighbours = Neighbours(OWN, peers=20)
    for second, (who, where) in enumerate(announcements):
        news = neighbours.heard({peer(who): [addr(n) for n in where]}, float(second))
        assert all(0 < len(addrs) <= ADDRESSES for addrs in news.values())
        assert OWN not in news
    assert len(neighbours) <= min(20, PEERS)
