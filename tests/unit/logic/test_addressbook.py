from hypothesis import given
from hypothesis import strategies as st

from node.logic.addressbook import AddressBook, Ttl
from node.names.envelope import PeerRecord
from node.names.multiaddr import Multiaddr
from node.names.peerid import PeerId

ALICE = PeerId.parse("12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA")
BOB = PeerId.parse("QmcgpsyWgH8Y8ajJz1Cu72KnS5uo2Aa2LpzU7kinSupNKC")


def addr(n: int) -> Multiaddr:
    return Multiaddr(f"/ip4/11.0.0.1/tcp/{n}")


def test_an_address_is_forgotten_when_its_time_is_over() -> None:
    book = AddressBook()
    book.add(ALICE, [addr(1)], Ttl.CLAIMED, now=0.0)
    book.add(ALICE, [addr(2)], Ttl.TOLD, now=0.0)
    assert book.addrs(ALICE, now=119.0) == [addr(2), addr(1)]
    assert book.addrs(ALICE, now=120.0) == [addr(2)]
    assert book.addrs(ALICE, now=3600.0) == []
    assert book.addrs(BOB, now=0.0) == []


def test_a_claim_does_not_shorten_what_is_known_better() -> None:
    book = AddressBook()
    book.add(ALICE, [addr(1)], Ttl.TOLD, now=0.0)
    book.add(ALICE, [addr(1)], Ttl.CLAIMED, now=0.0)
    assert book.addrs(ALICE, now=3000.0) == [addr(1)]


def test_a_connections_address_outlives_it_by_fifteen_minutes() -> None:
    book = AddressBook()
    book.connected(ALICE, addr(1))
    assert book.addrs(ALICE, now=1e9) == [addr(1)]
    book.disconnected(ALICE, now=1e9)
    assert book.addrs(ALICE, now=1e9 + 899.0) == [addr(1)]
    assert book.addrs(ALICE, now=1e9 + 900.0) == []
    book.disconnected(BOB, now=0.0)


def test_a_newer_signed_record_replaces_the_one_before() -> None:
    book = AddressBook()
    assert book.consume_record(PeerRecord(ALICE, 1, (addr(1), addr(2))), now=0.0)
    assert book.consume_record(PeerRecord(ALICE, 2, (addr(2), addr(3))), now=0.0)
    assert set(book.addrs(ALICE, now=0.0)) == {addr(2), addr(3)}


def test_a_record_that_is_not_newer_is_ignored() -> None:
    book = AddressBook()
    book.consume_record(PeerRecord(ALICE, 5, (addr(1),)), now=0.0)
    assert not book.consume_record(PeerRecord(ALICE, 5, (addr(2),)), now=0.0)
    assert not book.consume_record(PeerRecord(ALICE, 4, (addr(2),)), now=0.0)
    assert book.addrs(ALICE, now=0.0) == [addr(1)]


def test_what_a_peer_says_of_itself_is_kept_and_bounded() -> None:
    book = AddressBook()
    book.describe(ALICE, protocols=["/a", "/b"], agent="alice/1")
    book.describe(ALICE, protocols=None, agent=None)
    assert book.protocols(ALICE) == {"/a", "/b"}
    assert book.agent(ALICE) == "alice/1"
    book.describe(ALICE, protocols=[f"/{n}" for n in range(1000)], agent=None)
    assert len(book.protocols(ALICE)) == 128
    assert (book.protocols(BOB), book.agent(BOB)) == (frozenset(), "")


def test_the_peer_heard_of_longest_ago_is_forgotten_first() -> None:
    book = AddressBook(peers=1)
    book.add(ALICE, [addr(1)], Ttl.TOLD, now=0.0)
    book.add(BOB, [addr(2)], Ttl.TOLD, now=0.0)
    assert (book.addrs(ALICE, 0.0), book.addrs(BOB, 0.0)) == ([], [addr(2)])


@given(st.lists(st.tuples(st.integers(1, 40), st.sampled_from(Ttl), st.booleans()), max_size=60))
def test_no_flood_of_addresses_passes_the_bound(steps: list[tuple[int, Ttl, bool]]) -> None:
    book = AddressBook(addresses_per_peer=8)
    for now, (n, ttl, signed) in enumerate(steps):
        if signed:
            book.consume_record(PeerRecord(ALICE, now, tuple(addr(n + each) for each in range(20))), float(now))
        else:
            book.add(ALICE, [addr(n)], ttl, float(now))
        assert len(book.addrs(ALICE, float(now))) <= 8
