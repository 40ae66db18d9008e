"""The exchange of hole punching: both sides' machines back to back, with a clock that the test moves."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.errors import LocalProtocolError, RemoteProtocolError
from node.events import PunchStage, PunchStep
from node.logic.dcutr import (
    ADDRESSES,
    REFUSALS,
    Action,
    Answerer,
    AwaitService,
    CloseStream,
    DialDirect,
    Expect,
    Finish,
    Opener,
    OpenStream,
    Punch,
    PunchPolicy,
    Receive,
    Send,
    Wait,
    dialable,
    offered,
    punchable,
)
from node.names.multiaddr import Multiaddr
from node.names.multihash import HashCode, Multihash
from node.names.peerid import PeerId
from node.wire.dcutr import HolePunch, HolePunchType

A, B = (PeerId(Multihash.of(HashCode.SHA2_256, name).to_bytes()) for name in (b"a", b"b"))
A_ADDR, B_ADDR = Multiaddr("/ip4/11.0.1.1/tcp/4001"), Multiaddr("/ip4/11.0.2.1/tcp/4001")
POLICY = PunchPolicy()
ONE_WAY = 0.04


def stages(actions: list[Action]) -> list[PunchStep]:
    return [action.stage for action in actions if isinstance(action, PunchStage)]


class Pair:
    """Both sides with a link of `ONE_WAY` seconds between them; records what each did and when it dialled."""

    def __init__(self, punch: Callable[[int], str | None]) -> None:
        self.now = 0.0
        self.attempts = 0
        self.did: dict[str, list[Action]] = {"opener": [], "answerer": []}
        self.dialled: list[tuple[float, str]] = []
        self._punch = punch
        self._opener = Opener(A, POLICY)

    def run(self) -> None:
        todo = deque(self._opener.begin([]))
        while todo:
            todo.extend(self._open_side(todo.popleft()))

    def _open_side(self, action: Action) -> list[Action]:
        self.did["opener"].append(action)
        match action:
            case OpenStream():
                self.attempts += 1
                self._answerer = Answerer(B, POLICY, self.attempts)
                assert self._answer_side(self._answerer.begin([A_ADDR])) == []
                return self._opener.opened([B_ADDR], self.now)
            case Send(message):
                replies = self._answer_side(self._answerer.received(message, self.now + ONE_WAY))
                if replies:
                    self.now += 2 * ONE_WAY
                return [more for reply in replies for more in self._opener.received(reply, self.now)]
            case Wait(until):
                self.now = until
                return self._opener.waited()
            case Punch():
                self.dialled.append((self.now, "opener"))
                return self._opener.punched(self._punch(self.attempts))
        return []

    def _answer_side(self, actions: list[Action]) -> list[HolePunch]:
        sent: list[HolePunch] = []
        for action in actions:
            self.did["answerer"].append(action)
            if isinstance(action, Send):
                sent.append(action.message)
            if isinstance(action, Punch):
                self.dialled.append((self.now + ONE_WAY, "answerer"))
                self._answer_side(self._answerer.punched(self._punch(self.attempts)))
        return sent


def test_both_sides_dial_at_the_same_moment_with_the_initiator_being_who_dialled_the_relay() -> None:
    pair = Pair(lambda attempt: None)
    pair.run()
    times = {side: at for at, side in pair.dialled}
    assert times["opener"] == pytest.approx(times["answerer"])
    punches = {side: next(each for each in did if isinstance(each, Punch)) for side, did in pair.did.items()}
    assert punches == {
        "opener": Punch((A_ADDR,), "responder", POLICY.punch),
        "answerer": Punch((B_ADDR,), "initiator", POLICY.punch),
    }
    assert pair.did["opener"][-1] == pair.did["answerer"][-1] == Finish(succeeded=True)


def test_every_stage_is_told_by_the_side_that_passes_it() -> None:
    pair = Pair(lambda attempt: None)
    pair.run()
    assert [stage.value for stage in stages(pair.did["opener"])] == [
        "started",
        "connect-sent",
        "connect-received",
        "sync-sent",
        "dialling",
        "succeeded",
    ]
    assert [stage.value for stage in stages(pair.did["answerer"])] == [
        "started",
        "connect-received",
        "connect-sent",
        "sync-received",
        "dialling",
        "succeeded",
    ]
    (rtt,) = {each.rtt for each in pair.did["opener"] if isinstance(each, PunchStage) and each.rtt is not None}
    assert rtt == pytest.approx(2 * ONE_WAY)


@pytest.mark.parametrize("hits_at", [1, 2, 3])
def test_a_failed_punch_is_repeated_as_a_whole_exchange(hits_at: int) -> None:
    pair = Pair(lambda attempt: None if attempt == hits_at else "no hole")
    pair.run()
    assert pair.attempts == hits_at
    assert stages(pair.did["opener"]).count(PunchStep.FAILED) == hits_at - 1
    told = [action.attempt for action in pair.did["opener"] if isinstance(action, PunchStage)]
    assert all(before <= after for before, after in pairwise(told))
    assert told[-1] == hits_at


def test_after_three_exchanges_the_connection_stays_relayed() -> None:
    pair = Pair(lambda attempt: "no hole")
    pair.run()
    assert pair.attempts == 3
    assert stages(pair.did["opener"])[-2:] == [PunchStep.FAILED, PunchStep.GAVE_UP]
    assert pair.did["opener"][-1] == Finish(succeeded=False)
    assert pair.did["answerer"][-1] == Finish(succeeded=False)


def test_a_known_public_address_is_dialled_plainly_before_any_exchange() -> None:
    private = Multiaddr("/ip4/192.168.1.2/tcp/4001")
    relayed = A_ADDR.with_peer(B) / "/p2p-circuit"
    opener = Opener(A, POLICY)
    actions = opener.begin([private, relayed, A_ADDR.with_peer(A)])
    assert actions[-1] == DialDirect((A_ADDR,), POLICY.direct_dial)
    assert stages(actions) == [PunchStep.STARTED, PunchStep.DIRECT_DIAL]
    assert opener.dialled(None)[-1] == Finish(succeeded=True)


def test_a_plain_dial_that_fails_leads_to_the_first_exchange() -> None:
    opener = Opener(A, POLICY)
    opener.begin([A_ADDR])
    assert opener.dialled("timeout") == [OpenStream()]


@pytest.mark.parametrize(
    ("policy", "known"), [(PunchPolicy(direct_dial=0.0), [A_ADDR]), (POLICY, [Multiaddr("/ip4/10.0.0.1/tcp/1")])]
)
def test_without_time_or_address_for_a_plain_dial_the_exchange_comes_at_once(
    policy: PunchPolicy, known: list[Multiaddr]
) -> None:
    assert Opener(A, policy).begin(known)[-1] == OpenStream()


def test_a_direct_connection_that_came_by_itself_ends_the_work() -> None:
    opener = Opener(A, POLICY)
    opener.begin([])
    assert opener.found()[-1] == Finish(succeeded=True)


def opened() -> Opener:
    opener = Opener(A, POLICY)
    opener.begin([])
    opener.opened([B_ADDR], 0.0)
    return opener


def test_an_answer_that_is_none_is_the_peers_fault_and_ends_the_exchange() -> None:
    opener = opened()
    with pytest.raises(RemoteProtocolError):
        opener.received(HolePunch(HolePunchType.SYNC), 0.1)
    assert opener.broken("bad answer")[-1] == Finish(succeeded=False)


@pytest.mark.parametrize(
    "addrs",
    [(), (Multiaddr("/ip4/127.0.0.1/tcp/22"),), (Multiaddr("/ip6/2600::1/tcp/4001"),), (B_ADDR,)],
    ids=["none", "loopback", "another IP version", "our own address"],
)
def test_a_peer_that_offers_nothing_that_could_be_tried_may_dial_us_and_is_asked_again_a_while_later(
    addrs: tuple[Multiaddr, ...],
) -> None:
    opener, nothing = opened(), HolePunch(HolePunchType.CONNECT, addrs)
    for attempt in range(1, POLICY.attempts):
        sync, *rest = opener.received(nothing, attempt * 10.0)
        assert sync == Send(HolePunch(HolePunchType.SYNC))
        assert stages(rest) == [PunchStep.SYNC_SENT, PunchStep.FAILED]
        assert rest[-2:] == [CloseStream(), Wait(attempt * 10.0 + POLICY.pause)]
        assert opener.waited() == [OpenStream()]
        opener.opened([B_ADDR], attempt * 10.0 + 2)
    with pytest.raises(RemoteProtocolError, match="no address that could be punched"):
        opener.received(nothing, 99.0)
    assert opener.broken("nothing")[-1] == Finish(succeeded=False)


def test_a_peer_that_has_learnt_its_address_meanwhile_is_punched_with() -> None:
    opener = opened()
    opener.received(HolePunch(HolePunchType.CONNECT), 0.1)
    opener.waited()
    opener.opened([B_ADDR], 1.2)
    actions = opener.received(HolePunch(HolePunchType.CONNECT, (A_ADDR,)), 1.3)
    assert stages(actions) == [PunchStep.CONNECT_RECEIVED, PunchStep.SYNC_SENT]


@pytest.mark.parametrize(
    "messages",
    [
        [HolePunch(HolePunchType.SYNC)],
        [HolePunch(HolePunchType.CONNECT, (B_ADDR,)), HolePunch(HolePunchType.CONNECT, (B_ADDR,))],
    ],
    ids=["SYNC first", "CONNECT twice"],
)
def test_messages_out_of_order_are_refused_by_the_answering_side(messages: list[HolePunch]) -> None:
    answerer = Answerer(B, POLICY)
    answerer.begin([A_ADDR])
    *due, wrong = messages
    for message in due:
        answerer.received(message, 0.0)
    with pytest.raises(RemoteProtocolError):
        answerer.received(wrong, 0.0)
    assert stages(answerer.broken("out of order")) == [PunchStep.FAILED]


def test_without_an_address_of_its_own_neither_side_asks_the_other_to_dial() -> None:
    opener = Opener(A, POLICY)
    opener.begin([])
    assert stages(opener.opened([Multiaddr("/ip4/192.168.1.1/tcp/1")], 0.0)) == [PunchStep.GAVE_UP]
    answerer = Answerer(B, POLICY)
    answerer.begin([])
    done = answerer.received(HolePunch(HolePunchType.CONNECT, (B_ADDR,)), 0.0)
    assert not any(isinstance(action, Send) for action in done)
    assert done[-1] == Finish(succeeded=False)


def test_the_stream_is_closed_once_sync_is_on_its_way() -> None:
    opener = opened()
    actions = opener.received(HolePunch(HolePunchType.CONNECT, (A_ADDR,)), 0.5)
    assert actions[-2:] == [CloseStream(), Wait(0.75)]
    assert [action.message.type for action in actions if isinstance(action, Send)] == [HolePunchType.SYNC]


def test_the_answering_side_takes_up_connections_before_the_peer_can_have_been_told_its_addresses() -> None:
    answerer = Answerer(B, POLICY)
    answerer.begin([A_ADDR])
    kinds = [type(action) for action in answerer.received(HolePunch(HolePunchType.CONNECT, (B_ADDR,)), 0.0)]
    assert kinds.index(Expect) < kinds.index(Send)


def test_the_opening_side_takes_up_connections_before_the_peer_can_have_been_told_to_dial() -> None:
    kinds = [type(action) for action in opened().received(HolePunch(HolePunchType.CONNECT, (A_ADDR,)), 0.5)]
    assert kinds.index(Expect) < kinds.index(Send)


def test_what_did_not_happen_cannot_be_reported() -> None:
    opener = Opener(A, POLICY)
    for report in (opener.waited, opener.found, lambda: opener.punched(None), lambda: opener.dialled(None)):
        with pytest.raises(LocalProtocolError):
            report()
    with pytest.raises(LocalProtocolError):
        Answerer(B, POLICY).received(HolePunch(HolePunchType.SYNC), 0.0)


def test_a_policy_that_cannot_succeed_is_refused() -> None:
    for wrong in ({"attempts": 0}, {"punch": 0.0}, {"grace": -1.0}):
        with pytest.raises(ValueError, match="no punch"):
            PunchPolicy(**wrong)


PRIVATE = [Multiaddr("/ip4/127.0.0.1/tcp/4001"), Multiaddr("/ip4/192.168.0.2/tcp/4001")]


@pytest.mark.parametrize(
    "addr",
    [
        "/ip4/192.168.1.1/tcp/80",
        "/ip4/127.0.0.1/tcp/80",
        "/ip4/100.64.0.1/tcp/80",
        "/ip4/224.0.0.1/tcp/80",
        "/ip4/0.0.0.0/tcp/80",
        "/ip4/11.0.0.1/tcp/0",
        "/ip4/11.0.0.1/tcp/4001/ws",
        "/dns4/example.com/tcp/80",
        f"/ip4/11.0.0.1/tcp/80/p2p/{B}",
        f"/ip4/11.0.0.1/tcp/80/p2p/{B}/p2p-circuit",
    ],
)
def test_a_peer_cannot_have_us_dial_what_is_not_its_public_address(addr: str) -> None:
    assert punchable([Multiaddr(addr)], A, [B_ADDR], POLICY) == ()
    assert dialable([Multiaddr(addr)], A, POLICY) == ()


def test_holes_are_made_for_the_transports_that_we_offer_ourselves() -> None:
    tcp, quic = Multiaddr("/ip4/11.0.0.1/tcp/4001"), Multiaddr("/ip4/11.0.0.1/udp/4001/quic-v1")
    own_quic = Multiaddr("/ip4/11.0.0.2/udp/4001/quic-v1")
    assert punchable([tcp, quic], A, [B_ADDR], POLICY) == (tcp,)
    assert punchable([tcp, quic], A, [own_quic], POLICY) == (quic,)
    assert punchable([tcp, quic], A, [B_ADDR, own_quic], POLICY) == (tcp, quic)


def test_private_addresses_are_used_only_where_the_policy_allows_them() -> None:
    lan = PunchPolicy(allow_private=True)
    assert offered(PRIVATE, POLICY) == ()
    assert offered(PRIVATE, lan) == tuple(PRIVATE)
    multicast = Multiaddr("/ip4/224.0.0.1/tcp/80")
    assert punchable([*PRIVATE, multicast], A, [B_ADDR], lan) == tuple(PRIVATE)


@settings(max_examples=50)
@given(st.lists(st.integers(1, 60), max_size=80))
def test_lists_are_without_repetitions_and_bounded(ports: list[int]) -> None:
    listed = [Multiaddr.tcp("11.0.0.9", port) for port in ports]
    for chosen in (offered(listed, POLICY), punchable(listed, A, [B_ADDR], POLICY)):
        assert len(set(chosen)) == len(chosen) <= ADDRESSES
        assert set(chosen) <= set(listed)
        assert len(chosen) == min(ADDRESSES, len(set(listed)))
    assert isinstance(Answerer(B, POLICY).begin(listed)[-1], Receive)


def test_a_peer_that_does_not_serve_the_protocol_is_waited_for_and_no_attempt_is_lost() -> None:
    opener = Opener(A, POLICY)
    assert stages(opener.begin([])) == [PunchStep.STARTED]
    told, wait = opener.unserved("supports none", 10.0)
    assert stages([told]) == [PunchStep.UNSERVED]
    assert wait == AwaitService(10.0 + POLICY.patience)
    assert opener.served() == [OpenStream()]
    (message, told, _) = opener.opened([B_ADDR], 12.0)
    assert isinstance(message, Send)
    assert isinstance(told, PunchStage)
    assert told.attempt == 1


def test_a_peer_that_goes_on_refusing_the_protocol_is_given_up_at_the_end_of_patience() -> None:
    opener = Opener(A, POLICY)
    opener.begin([])
    opener.unserved("supports none", 10.0)
    opener.served()
    assert stages(opener.unserved("supports none", 10.0 + POLICY.patience)) == [PunchStep.GAVE_UP]
    assert opener.is_unserved


def test_a_peer_that_says_that_it_serves_the_protocol_and_does_not_is_given_up() -> None:
    opener = Opener(A, POLICY)
    opener.begin([])
    for _ in range(REFUSALS - 1):
        opener.unserved("supports none", 10.0)
        opener.served()
    assert stages(opener.unserved("supports none", 10.0)) == [PunchStep.GAVE_UP]
