import itertools
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.logic.portmap import (
    DISCOVERY,
    PORTS,
    PREFERENCE,
    Choice,
    Epoch,
    Granted,
    Lease,
    Port,
    Protocol,
    natpmp_timeouts,
    outside,
    pcp_timeouts,
    retry_after,
    wanted,
)
from node.names.multiaddr import Multiaddr

TCP = Multiaddr("/ip4/0.0.0.0/tcp/4001")
QUIC = Multiaddr("/ip4/0.0.0.0/udp/4001/quic-v1")


def test_the_ports_of_all_ipv4_listeners_that_others_reach_are_wanted_once() -> None:
    ws = Multiaddr("/ip4/192.168.1.10/tcp/4001/ws")
    others = [Multiaddr("/ip6/::/tcp/4001"), Multiaddr("/ip4/127.0.0.1/tcp/4002"), Multiaddr("/ip4/0.0.0.0/tcp/0")]
    assert wanted([TCP, QUIC, ws, *others]) == {Port("tcp", 4001): [TCP, ws], Port("udp", 4001): [QUIC]}


def test_a_router_is_not_asked_for_more_ports_than_there_is_a_bound() -> None:
    many = [Multiaddr(f"/ip4/0.0.0.0/tcp/{n}") for n in range(1, 100)]
    assert len(wanted(many)) == PORTS


def test_the_address_outside_is_the_listeners_with_the_routers_address_and_port() -> None:
    granted = Granted(ip_address("11.0.1.2"), 5001, 3600)
    assert str(outside(QUIC, granted)) == "/ip4/11.0.1.2/udp/5001/quic-v1"
    assert Lease(Port("udp", 4001), granted, 100.0).is_public
    assert not Lease(Port("udp", 4001), Granted(ip_address("192.168.0.2"), 5001, 3600), 100.0).is_public


def test_a_lease_is_renewed_at_half_its_life() -> None:
    lease = Lease(Port("tcp", 1), Granted(ip_address("11.0.1.2"), 1, 3600), 100.0)
    assert (lease.renew_at, lease.ends_at) == (1900.0, 3700.0)


def test_nat_pmp_asks_nine_times_from_a_quarter_of_a_second_to_a_minute() -> None:
    assert list(natpmp_timeouts()) == [0.25, 0.5, 1, 2, 4, 8, 16, 32, 64]


@given(st.lists(st.floats(0, 1), min_size=20, max_size=20))
def test_pcp_asks_after_three_seconds_and_doubles_up_to_a_quarter_of_an_hour(chances: list[float]) -> None:
    waits = list(itertools.islice(pcp_timeouts(iter(chances).__next__), 20))
    assert 2.7 - 1e-9 <= waits[0] <= 3.3 + 1e-9
    for before, after in itertools.pairwise(waits):
        assert 0.9 * min(2 * before, 1024) - 1e-9 <= after <= 1.1 * min(2 * before, 1024) + 1e-9


def test_the_best_protocol_is_used_at_once_and_a_worse_one_when_the_better_ones_had_their_time() -> None:
    choice = Choice(now=0.0)
    assert choice.best(0.0) is None
    choice.answered(Protocol.UPNP, 1.0)
    assert (choice.best(1.0), choice.get_timer()) == (None, 1.0 + PREFERENCE)
    choice.answered(Protocol.NAT_PMP, 1.1)
    assert choice.best(1.1) is None
    assert choice.best(1.0 + PREFERENCE) is Protocol.NAT_PMP
    choice.answered(Protocol.PCP, 2.0)
    assert choice.best(2.0) is Protocol.PCP


def test_what_better_protocols_refused_is_not_waited_for() -> None:
    choice = Choice(now=0.0)
    choice.answered(Protocol.NAT_PMP, 0.1)
    choice.silent(Protocol.PCP)
    assert choice.best(0.1) is Protocol.NAT_PMP
    choice.silent(Protocol.NAT_PMP)
    assert not choice.is_over(0.2)
    choice.silent(Protocol.UPNP)
    assert choice.is_over(0.2)


def test_a_router_that_says_nothing_is_given_up_after_ten_seconds() -> None:
    choice = Choice(now=5.0)
    assert choice.get_timer() == 5.0 + DISCOVERY
    assert not choice.is_over(5.0 + DISCOVERY - 0.1)
    assert choice.is_over(5.0 + DISCOVERY)


@pytest.mark.parametrize("protocol", [Protocol.PCP, Protocol.NAT_PMP])
def test_an_epoch_that_goes_with_the_time_goes_on(protocol: Protocol) -> None:
    epoch = Epoch(protocol)
    assert all(epoch.goes_on(1000 + second, float(second)) for second in (0, 1, 60, 3600, 3601, 90000))


@pytest.mark.parametrize(
    ("protocol", "epoch", "at", "goes_on"),
    [
        (Protocol.PCP, 0, 1.0, False),
        (Protocol.PCP, 1001, 60.0, False),
        (Protocol.PCP, 1060, 58.5, True),
        (Protocol.PCP, 3000, 10.0, False),
        (Protocol.NAT_PMP, 0, 1.0, False),
        (Protocol.NAT_PMP, 1052, 60.0, True),
        (Protocol.NAT_PMP, 1040, 60.0, False),
        (Protocol.NAT_PMP, 5000, 60.0, True),
    ],
)
def test_an_epoch_that_does_not_is_a_router_that_has_begun_anew(
    protocol: Protocol, epoch: int, at: float, goes_on: bool
) -> None:
    kept = Epoch(protocol)
    kept.goes_on(1000, 0.0)
    assert kept.goes_on(epoch, at) is goes_on


def test_an_announcement_of_a_lower_epoch_is_believed_without_tolerance() -> None:
    quiet, told = Epoch(Protocol.PCP), Epoch(Protocol.PCP)
    quiet.goes_on(1, 0.0)
    told.goes_on(1, 0.0)
    assert quiet.goes_on(0, 0.5)
    assert not told.goes_on(0, 0.5, told=True)


def test_a_router_without_port_mapping_is_asked_less_and_less_often() -> None:
    assert [retry_after(failures) for failures in (1, 2, 3, 4, 100)] == [30.0, 120.0, 600.0, 600.0, 600.0]
