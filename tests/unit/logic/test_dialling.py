from hypothesis import given
from hypothesis import strategies as st

from node.logic.dialling import ADDRESSES, PARALLEL, RELAY_DELAY, Dialling
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
