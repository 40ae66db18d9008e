"""STUN in simulated time: the test finds out what a simulated NAT does, and the server keeps its bounds."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.logic import observed
from node.logic.nat import Filtering, Mapping, NatKind, Ports, merge, ports_of
from node.logic.stun import BURST, GAIN, HOSTS, BehaviourTest, Reply, Socket, StunServer
from node.wire.stun import Attribute, Class, Endpoint, Message, Method, change_request, decode

SERVER = Endpoint(ip_address("11.0.1.2"), 3478)
OTHER = Endpoint(ip_address("11.0.1.3"), 3479)
OUTSIDE = ip_address("11.0.9.2")
INSIDE = (Endpoint(ip_address("192.168.1.10"), 50000), Endpoint(ip_address("192.168.1.10"), 50001))


class SimulatedNat:
    """A NAT by RFC 4787's values, without timeouts."""

    def __init__(self, mapping: Mapping, filtering: Filtering, ports: Ports, chance: Random) -> None:
        self._mapping, self._filtering, self._ports, self._chance = mapping, filtering, ports, chance
        self._mapped: dict[tuple[Endpoint, object], int] = {}
        self._written: dict[int, set[Endpoint]] = {}
        self._next = 40000

    def out(self, inside: Endpoint, to: Endpoint) -> Endpoint:
        key: object = {
            Mapping.ENDPOINT_INDEPENDENT: None,
            Mapping.ADDRESS_DEPENDENT: to.ip,
            Mapping.ADDRESS_AND_PORT_DEPENDENT: to,
        }[self._mapping]
        port = self._mapped.setdefault((inside, key), self._new_port(inside))
        self._written.setdefault(port, set()).add(to)
        return Endpoint(OUTSIDE, port)

    def _new_port(self, inside: Endpoint) -> int:
        if self._ports is Ports.PRESERVING:
            return inside.port
        if self._ports is Ports.SEQUENTIAL:
            self._next += 1
            return self._next
        return self._chance.randrange(1024, 65536)

    def lets_in(self, source: Endpoint, to: Endpoint) -> bool:
        written = self._written.get(to.port, set())
        if self._filtering is Filtering.ENDPOINT_INDEPENDENT:
            return bool(written)
        if self._filtering is Filtering.ADDRESS_DEPENDENT:
            return source.ip in {each.ip for each in written}
        return source in written


def measure(
    out: Callable[[Endpoint, Endpoint], Endpoint],
    lets_in: Callable[[Endpoint, Endpoint], bool],
    server: StunServer,
    chance: Random,
    loss: float = 0.0,
) -> BehaviourTest:
    """Run a test to its end, the clock jumping from timer to timer."""
    test = BehaviourTest(SERVER, INSIDE, chance.randbytes)
    now = 0.0
    test.start(now)
    while not test.done:
        for datagram in test.datagrams_to_send(now):
            source = out(INSIDE[datagram.socket], datagram.to)
            reply = server.receive_datagram(datagram.data, source, datagram.to, now)
            if reply is not None and lets_in(reply.source, source) and chance.random() >= loss:
                test.receive_datagram(datagram.socket, reply.data, reply.source, now)
        timer = test.get_timer()
        now = now if timer is None else max(now, timer)
    assert now < 30
    return test


KINDS = [
    (mapping, filtering, ports)
    for mapping in (Mapping.ENDPOINT_INDEPENDENT, Mapping.ADDRESS_DEPENDENT, Mapping.ADDRESS_AND_PORT_DEPENDENT)
    for filtering in (
        Filtering.ENDPOINT_INDEPENDENT,
        Filtering.ADDRESS_DEPENDENT,
        Filtering.ADDRESS_AND_PORT_DEPENDENT,
    )
    for ports in (Ports.PRESERVING, Ports.SEQUENTIAL, Ports.RANDOM)
    if ports is not Ports.PRESERVING or mapping is Mapping.ENDPOINT_INDEPENDENT
]


@pytest.mark.parametrize(("mapping", "filtering", "ports"), KINDS)
def test_mapping_and_filtering_are_found_for_every_nat(mapping: Mapping, filtering: Filtering, ports: Ports) -> None:
    nat = SimulatedNat(mapping, filtering, ports, Random(1))
    kind = measure(nat.out, nat.lets_in, StunServer(SERVER, OTHER), Random(2)).result()
    assert (kind.mapping, kind.filtering) == (mapping, filtering)
    assert kind.external is not None
    assert kind.external.ip == OUTSIDE
    if mapping is Mapping.ADDRESS_AND_PORT_DEPENDENT:
        assert kind.ports is ports


@given(st.integers(0, 2**32))
@settings(max_examples=60)
def test_a_fifth_of_the_packets_may_be_lost(seed: int) -> None:
    nat = SimulatedNat(
        Mapping.ADDRESS_AND_PORT_DEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT, Ports.RANDOM, Random(seed)
    )
    kind = measure(nat.out, nat.lets_in, StunServer(SERVER, OTHER), Random(seed), loss=0.2).result()
    # What is lost four times in a row is not known; nothing is known wrongly.
    assert kind.mapping in (Mapping.ADDRESS_AND_PORT_DEPENDENT, Mapping.UNKNOWN)
    assert kind.filtering in (Filtering.ADDRESS_AND_PORT_DEPENDENT, Filtering.UNKNOWN)


def test_without_a_nat_there_is_no_mapping() -> None:
    test = measure(lambda inside, to: inside, lambda source, to: True, StunServer(SERVER, OTHER), Random(1))
    assert test.result() == NatKind(Mapping.NONE, Filtering.ENDPOINT_INDEPENDENT, Ports.UNKNOWN, INSIDE[1])
    assert test.result().name == "none"


def test_a_server_with_one_address_tells_no_more_than_ours() -> None:
    test = measure(lambda inside, to: inside, lambda source, to: True, StunServer(SERVER), Random(1))
    assert test.why == "11.0.1.2:3478 has no other address and port to answer from"
    assert test.result() == NatKind(external=INSIDE[0])


def test_where_udp_is_blocked_nothing_is_known() -> None:
    test = measure(lambda inside, to: inside, lambda source, to: False, StunServer(SERVER, OTHER), Random(1))
    assert test.why == "no answer from 11.0.1.2:3478"
    assert test.result() == NatKind()


def test_answers_of_strangers_count_for_nothing() -> None:
    test = BehaviourTest(SERVER, INSIDE, Random(1).randbytes)
    test.start(0.0)
    (datagram,) = test.datagrams_to_send(0.0)
    reply = StunServer(SERVER, OTHER).receive_datagram(datagram.data, INSIDE[0], SERVER, 0.0)
    assert reply is not None
    guessed = Message(Method.BINDING, Class.SUCCESS, bytes(12)).to_bytes()
    test.receive_datagram(Socket.FILTERING, guessed, SERVER, 0.0)
    test.receive_datagram(Socket.FILTERING, reply.data, OTHER, 0.0)
    test.receive_datagram(Socket.MAPPING, reply.data, SERVER, 0.0)
    test.receive_datagram(Socket.FILTERING, b"junk", SERVER, 0.0)
    assert test.result() == NatKind()
    test.receive_datagram(Socket.FILTERING, reply.data, SERVER, 0.0)
    assert test.result().external == INSIDE[0]


# ── names and merging ────────────────────────────────────────────────────────────────────────────────────────────────


def test_each_classical_nat_has_its_name() -> None:
    cone, each = Mapping.ENDPOINT_INDEPENDENT, Mapping.ADDRESS_AND_PORT_DEPENDENT
    by_both = Filtering.ADDRESS_AND_PORT_DEPENDENT
    assert NatKind(cone, Filtering.ENDPOINT_INDEPENDENT).name == "full-cone"
    assert NatKind(cone, Filtering.ADDRESS_DEPENDENT).name == "address-restricted"
    assert NatKind(cone, by_both).name == "port-restricted"
    assert NatKind(each, by_both, Ports.SEQUENTIAL).name == "symmetric-sequential"
    assert NatKind(each, by_both, Ports.RANDOM).name == "symmetric-random"
    assert NatKind(each, by_both).name == "symmetric"
    assert NatKind(cone).name is None
    assert NatKind().name is None


def test_ports_in_sequence_may_have_others_in_between() -> None:
    assert ports_of(1, [100, 101, 104, 130]) is Ports.SEQUENTIAL
    assert ports_of(1, [100, 101, 200]) is Ports.RANDOM
    assert ports_of(1, [100, 99, 98]) is Ports.RANDOM
    assert ports_of(1, [100, 101]) is Ports.UNKNOWN
    assert ports_of(7, [7, 7, 7]) is Ports.PRESERVING
    assert ports_of(7, []) is Ports.UNKNOWN


def test_what_was_measured_counts_more_than_what_peers_saw() -> None:
    measured = NatKind(Mapping.ENDPOINT_INDEPENDENT, Filtering.ADDRESS_DEPENDENT)
    assert merge(measured, observed.Mapping.ENDPOINT_DEPENDENT) == measured
    assert merge(NatKind(), observed.Mapping.ENDPOINT_DEPENDENT).mapping is Mapping.ENDPOINT_DEPENDENT
    assert merge(NatKind(), observed.Mapping.UNKNOWN) == NatKind()


# ── the server ───────────────────────────────────────────────────────────────────────────────────────────────────────


def request(*attributes: tuple[int, bytes]) -> bytes:
    return Message(Method.BINDING, Class.REQUEST, b"t" * 12, attributes).to_bytes()


def answered(reply: Reply | None) -> tuple[Endpoint, Message]:
    assert reply is not None
    return reply.source, decode(reply.data)


@pytest.mark.parametrize(
    ("ip", "port", "source"),
    [
        (False, False, SERVER),
        (True, False, Endpoint(OTHER.ip, SERVER.port)),
        (False, True, Endpoint(SERVER.ip, OTHER.port)),
        (True, True, OTHER),
    ],
)
def test_an_answer_comes_from_where_it_was_asked_to(ip: bool, port: bool, source: Endpoint) -> None:
    server = StunServer(SERVER, OTHER)
    asked = request(change_request(ip=ip, port=port))
    origin, message = answered(server.receive_datagram(asked, INSIDE[0], SERVER, 0.0))
    assert origin == source
    assert message.endpoint(Attribute.RESPONSE_ORIGIN) == source
    assert message.endpoint(Attribute.OTHER_ADDRESS) == OTHER
    assert message.mapped == INSIDE[0]


def test_the_other_address_is_other_than_the_one_that_was_asked() -> None:
    _, message = answered(StunServer(SERVER, OTHER).receive_datagram(request(), INSIDE[0], OTHER, 0.0))
    assert message.endpoint(Attribute.OTHER_ADDRESS) == SERVER


def test_a_server_with_one_address_does_not_pretend_to_have_another() -> None:
    server = StunServer(SERVER)
    assert server.receive_datagram(request(change_request(ip=True, port=True)), INSIDE[0], SERVER, 0.0) is None
    _, message = answered(server.receive_datagram(request(), INSIDE[0], SERVER, 0.0))
    assert message.value(Attribute.OTHER_ADDRESS) is None


def test_attributes_that_must_be_understood_and_are_not_are_refused() -> None:
    reply = StunServer(SERVER).receive_datagram(request((0x0027, bytes(4))), INSIDE[0], SERVER, 0.0)
    _, message = answered(reply)
    assert message.kind is Class.ERROR
    assert message.value(Attribute.UNKNOWN_ATTRIBUTES) == b"\x00\x27"


@pytest.mark.parametrize("kind", [Class.SUCCESS, Class.ERROR, Class.INDICATION])
def test_only_requests_are_answered_so_that_two_servers_do_not_talk_for_ever(kind: Class) -> None:
    data = Message(Method.BINDING, kind, b"t" * 12).to_bytes()
    assert StunServer(SERVER).receive_datagram(data, OTHER, SERVER, 0.0) is None


@given(
    st.sampled_from([INSIDE[0], Endpoint(ip_address("2001:db8::1"), 1)]),
    st.lists(st.tuples(st.integers(0, 0xFFFF), st.binary(max_size=20)), max_size=5).map(tuple),
)
def test_no_answer_gains_more_than_three_times(source: Endpoint, attributes: tuple[tuple[int, bytes], ...]) -> None:
    six = source.ip.version == 6
    primary = Endpoint(ip_address("2001:db8::2"), 3478) if six else SERVER
    other = Endpoint(ip_address("2001:db8::3"), 3479) if six else OTHER
    data = request(*attributes)
    reply = StunServer(primary, other).receive_datagram(data, source, primary, 0.0)
    assert reply is None or len(reply.data) <= GAIN * len(data)


def test_one_host_has_so_many_answers_and_others_have_theirs() -> None:
    server = StunServer(SERVER, OTHER)
    answers = [server.receive_datagram(request(), Endpoint(OUTSIDE, port), SERVER, 0.0) for port in range(1, 1001)]
    assert sum(answer is not None for answer in answers) == BURST
    assert server.receive_datagram(request(), INSIDE[0], SERVER, 0.0) is not None
    assert server.receive_datagram(request(), Endpoint(OUTSIDE, 1), SERVER, 1.0) is not None


def test_hosts_that_are_remembered_are_bounded() -> None:
    server = StunServer(SERVER)
    for number in range(HOSTS + 10):
        server.receive_datagram(request(), Endpoint(ip_address(0x0B000000 + number), 1), SERVER, 0.0)
    assert len(server) == HOSTS


@given(st.binary(max_size=100))
def test_junk_is_met_with_silence(data: bytes) -> None:
    server = StunServer(SERVER, OTHER)
    assert server.receive_datagram(data, INSIDE[0], SERVER, 0.0) is None
