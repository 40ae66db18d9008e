from hypothesis import given
from hypothesis import strategies as st

from node.logic.dialling import (
    ADDRESSES,
    OTHERS_DELAY,
    PARALLEL,
    PRIVATE_TCP_DELAY,
    RELAY_DELAY,
    TCP_DELAY,
    Dialling,
)
from node.names.multiaddr import Multiaddr

PEER = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"
REFUSED = ConnectionRefusedError("refused")


def direct(n: int) -> Multiaddr:
    return Multiaddr(f"/ip4/11.0.0.1/tcp/{n}")


def relayed(n: int) -> Multiaddr:
    return Multiaddr(f"/ip4/11.0.0.1/tcp/{n}/p2p/{PEER}/p2p-circuit")


def test_direct_addresses_start_at_once_and_relayed_ones_half_a_second_later() -> None:
    plan = Dialling()
    plan.add([relayed(1), direct(1), direct(2)], now=10.0)
    assert plan.due(10.0) == [direct(1), direct(2)]
    assert plan.due(10.4) == []
    assert plan.get_timer() == 10.0 + RELAY_DELAY
    assert plan.due(10.5) == [relayed(1)]
    assert plan.get_timer() is None


def test_a_relayed_address_waits_for_nothing_when_no_direct_one_is_left() -> None:
    plan = Dialling()
    plan.add([direct(1), relayed(1)], now=0.0)
    assert plan.due(0.0) == [direct(1)]
    plan.failed(direct(1), REFUSED)
    assert plan.due(0.1) == [relayed(1)]
    alone = Dialling()
    alone.add([relayed(1)], now=0.0)
    assert alone.due(0.0) == [relayed(1)]


def test_at_most_eight_addresses_are_dialled_at_a_time() -> None:
    plan = Dialling()
    plan.add([direct(n) for n in range(1, 12)], now=0.0)
    assert len(plan.due(0.0)) == PARALLEL
    assert plan.due(0.0) == []
    plan.failed(direct(1), REFUSED)
    assert plan.due(0.0) == [direct(9)]


def test_an_address_that_was_tried_is_not_tried_again_in_the_same_dial() -> None:
    plan = Dialling()
    plan.add([direct(1)], now=0.0)
    plan.due(0.0)
    plan.failed(direct(1), REFUSED)
    plan.add([direct(1), direct(2)], now=1.0)
    assert plan.due(1.0) == [direct(2)]


def test_the_plan_is_exhausted_when_the_last_address_has_failed_and_tells_why() -> None:
    plan = Dialling()
    assert plan.is_exhausted
    plan.add([direct(1)], now=0.0)
    plan.due(0.0)
    assert not plan.is_exhausted
    plan.failed(direct(1), REFUSED)
    assert plan.is_exhausted
    assert [str(failure) for failure in plan.failures] == ["/ip4/11.0.0.1/tcp/1: refused"]


def test_a_dial_looks_at_no_more_than_a_hundred_addresses() -> None:
    plan = Dialling()
    plan.add([direct(n) for n in range(1, 200)], now=0.0)
    tried = 0
    while due := plan.due(0.0):
        for addr in due:
            tried += 1
            plan.failed(addr, REFUSED)
    assert tried == ADDRESSES


@given(st.lists(st.tuples(st.sampled_from(["add", "due", "fail"]), st.integers(1, 30), st.booleans()), max_size=60))
def test_every_address_is_dialled_at_most_once_and_never_too_many_at_a_time(
    steps: list[tuple[str, int, bool]],
) -> None:
    plan = Dialling()
    now = 0.0
    started: list[Multiaddr] = []
    for step, n, through_relay in steps:
        now += 0.2
        if step == "add":
            plan.add([relayed(n) if through_relay else direct(n)], now)
        elif step == "due":
            started += plan.due(now)
        elif plan.active:
            plan.failed(min(plan.active), REFUSED)
        assert len(plan.active) <= PARALLEL
    assert len(started) == len(set(started))


def test_names_are_given_out_once_and_what_they_stand_for_is_dialled() -> None:
    plan = Dialling()
    name = Multiaddr("/dns4/relay.lab/tcp/1")
    plan.add([name, direct(1), name], now=0.0)
    assert plan.due(0.0) == [direct(1)]
    assert plan.names() == [name]
    assert plan.names() == []
    plan.failed(direct(1), REFUSED)
    assert not plan.is_exhausted
    plan.add([direct(2)], now=1.0)
    plan.resolved([name], [])
    assert plan.due(1.0) == [direct(2)]


def test_a_name_that_stands_for_nothing_is_a_failure_and_the_end() -> None:
    plan = Dialling()
    name = Multiaddr("/dns4/gone.lab/tcp/1")
    plan.add([name], now=0.0)
    assert not plan.is_exhausted
    plan.resolved(plan.names(), [(name, REFUSED)])
    assert plan.is_exhausted
    assert [str(failure) for failure in plan.failures] == ["/dns4/gone.lab/tcp/1: refused"]


def test_a_relayed_address_waits_for_names_that_may_be_direct() -> None:
    plan = Dialling()
    name = Multiaddr("/dns4/relay.lab/tcp/1")
    plan.add([name, relayed(1)], now=0.0)
    plan.names()
    assert plan.due(0.1) == []
    assert plan.due(RELAY_DELAY) == [relayed(1)]
    other = Dialling()
    other.add([direct(1), name, relayed(1)], now=0.0)
    other.due(0.0)
    other.names()
    other.failed(direct(1), REFUSED)
    assert other.due(0.1) == []
    other.resolved([name], [(name, REFUSED)])
    assert other.due(0.2) == [relayed(1)]


def test_quic_is_first_then_tcp_then_the_others_then_relays() -> None:
    plan = Dialling()
    quic, tcp, private, ws = map(
        Multiaddr,
        (
            "/ip4/11.0.0.1/udp/1/quic-v1",
            "/ip4/11.0.0.1/tcp/1",
            "/ip4/10.0.0.1/tcp/1",
            "/ip4/11.0.0.1/tcp/2/ws",
        ),
    )
    plan.add([ws, relayed(1), tcp, private, quic], now=10.0)
    assert plan.due(10.0) == [quic]
    assert plan.get_timer() == 10.0 + PRIVATE_TCP_DELAY
    assert plan.due(10.0 + PRIVATE_TCP_DELAY) == [private]
    assert plan.due(10.0 + TCP_DELAY) == [tcp]
    assert plan.due(10.0 + RELAY_DELAY) == [relayed(1)]
    assert plan.get_timer() == 10.0 + OTHERS_DELAY
    assert plan.due(10.0 + OTHERS_DELAY) == [ws]


def test_nothing_waits_for_what_has_failed_or_was_never_there() -> None:
    plan = Dialling()
    quic, ws = Multiaddr("/ip4/11.0.0.1/udp/1/quic-v1"), Multiaddr("/ip4/11.0.0.1/tcp/2/ws")
    plan.add([ws, direct(1), quic], now=0.0)
    assert plan.due(0.0) == [quic]
    plan.failed(quic, REFUSED)
    assert plan.due(0.0) == [direct(1)]
    plan.failed(direct(1), REFUSED)
    assert plan.due(0.0) == [ws]
    alone = Dialling()
    alone.add([ws, ws], now=0.0)
    assert alone.due(0.0) == [ws]
