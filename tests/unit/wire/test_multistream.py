from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import LocalProtocolError, RemoteProtocolError
from node.wire import multistream
from node.wire.framing import encode_frame
from node.wire.multistream import Event, Initiator, Listed, Lister, Refused, Responder, Selected

Machine = Initiator | Responder | Lister

HEADER = b"\x13/multistream/1.0.0\n"
NA = b"\x03na\n"
PROTOCOLS = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="\n"), min_size=1, max_size=20).map(lambda t: f"/{t}"),
    min_size=1,
    max_size=6,
    unique=True,
)


class Pair:
    """Two machines back to back; what each said is kept whole."""

    def __init__(self, initiator: Initiator | Lister, responder: Responder) -> None:
        self.initiator, self.responder = initiator, responder
        self.events: dict[Machine, list[Event]] = {initiator: [], responder: []}
        self.sent: dict[Machine, bytes] = {initiator: b"", responder: b""}

    def run(self) -> None:
        moved = True
        while moved:
            moved = self._move(self.initiator, self.responder)
            moved = self._move(self.responder, self.initiator) or moved

    def _move(self, source: Machine, target: Machine) -> bool:
        data = b"".join(source.data_to_send())
        self.sent[source] += data
        if data:
            self.events[target] += target.receive_data(data)
        return bool(data)


def negotiate(proposed: Sequence[str], supported: Sequence[str], *, lazy: bool = False) -> Pair:
    pair = Pair(Initiator(proposed, lazy=lazy), Responder(set(supported).__contains__, lambda: supported))
    pair.run()
    return pair


@given(PROTOCOLS, PROTOCOLS)
def test_both_sides_agree_on_the_first_proposal_that_is_supported(proposed: list[str], supported: list[str]) -> None:
    pair = negotiate(proposed, supported)
    common = [protocol for protocol in proposed if protocol in supported]
    if common:
        assert pair.events[pair.initiator] == pair.events[pair.responder] == [Selected(common[0])]
    else:
        assert pair.events[pair.initiator] == [Refused(tuple(proposed))]
        assert pair.events[pair.responder] == []


def test_the_bytes_are_those_of_the_specification() -> None:
    pair = negotiate(["/tls/1.0.0", "/noise"], ["/noise"])
    assert pair.sent[pair.initiator] == HEADER + b"\x0b/tls/1.0.0\n" + b"\x07/noise\n"
    assert pair.sent[pair.responder] == HEADER + NA + b"\x07/noise\n"


def test_header_and_first_proposal_are_one_write_and_so_is_the_answer() -> None:
    initiator, responder = Initiator(["/noise"]), Responder(lambda protocol: True)
    opening = initiator.data_to_send()
    assert responder.data_to_send() == []
    assert responder.receive_data(b"".join(opening)) == [Selected("/noise")]
    assert b"".join(responder.data_to_send()) == b"".join(opening)


def test_a_responder_greets_an_initiator_that_waits_for_it() -> None:
    responder = Responder(lambda protocol: True)
    assert responder.receive_data(HEADER) == []
    assert responder.data_to_send() == [HEADER]


CONVERSATIONS: list[tuple[Callable[[], Machine], bytes, Event]] = [
    (lambda: Initiator(["/a", "/b"]), HEADER + NA + b"\x03/b\n", Selected("/b")),
    (lambda: Initiator(["/a"]), HEADER + NA, Refused(("/a",))),
    (lambda: Responder({"/b"}.__contains__), HEADER + b"\x03/a\n\x03ls\n\x03/b\n", Selected("/b")),
    (Lister, HEADER + encode_frame(b"\x03/a\n\x03/b\n\n"), Listed(("/a", "/b"))),
    (Lister, HEADER + NA, Refused(("ls",))),
]


@given(st.sampled_from(CONVERSATIONS), st.binary(max_size=30), st.data())
def test_any_split_of_the_bytes_gives_the_same_event_and_rest(
    conversation: tuple[Callable[[], Machine], bytes, Event], rest: bytes, data: st.DataObject
) -> None:
    make, stream, expected = conversation
    machine, stream = make(), stream + rest
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    events: list[Event] = []
    tail = b""
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        if machine.done:
            tail += stream[start:end]
        else:
            events += machine.receive_data(stream[start:end])
            tail += machine.trailing() if machine.done else b""
    assert events == [expected]
    assert tail == rest


@given(st.binary(max_size=80), st.booleans())
def test_random_bytes_raise_nothing_but_remote_protocol_errors(data: bytes, greeted: bool) -> None:
    for machine in (Initiator(["/a", "/b"]), Responder({"/a"}.__contains__, lambda: ["/a"]), Lister()):
        for chunk in ([HEADER] if greeted else []) + [data]:
            try:
                machine.receive_data(chunk)
            except RemoteProtocolError:
                break


def test_a_lazy_initiator_may_write_before_the_answer_and_still_checks_it() -> None:
    initiator = Initiator(["/echo/1.0.0"], lazy=True)
    assert initiator.may_write
    assert not initiator.done
    with pytest.raises(RemoteProtocolError, match="to the proposal of /echo"):
        initiator.receive_data(HEADER + b"\x0c/perf/1.0.0\n")


def test_an_initiator_that_is_not_lazy_may_write_only_when_agreed() -> None:
    initiator = Initiator(["/noise"])
    assert not initiator.may_write
    initiator.receive_data(HEADER + b"\x07/noise\n")
    assert initiator.may_write


def test_what_a_lazy_initiator_sent_early_is_handed_to_the_protocol() -> None:
    initiator, responder = Initiator(["/echo/1.0.0"], lazy=True), Responder(lambda protocol: True)
    assert responder.receive_data(b"".join(initiator.data_to_send()) + b"early") == [Selected("/echo/1.0.0")]
    assert responder.trailing() == b"early"


def test_lazy_negotiation_of_several_protocols_is_our_mistake() -> None:
    with pytest.raises(LocalProtocolError):
        Initiator(["/a", "/b"], lazy=True)


def test_ls_is_answered_with_all_protocols() -> None:
    pair = Pair(Lister(), Responder(lambda protocol: True, lambda: ["/noise", "/tls/1.0.0"]))
    pair.run()
    assert pair.sent[pair.responder] == HEADER + b"\x15\x07/noise\n\x0b/tls/1.0.0\n\n"
    assert pair.events[pair.initiator] == [Listed(("/noise", "/tls/1.0.0"))]


def test_ls_is_refused_by_a_responder_without_a_listing() -> None:
    pair = Pair(Lister(), Responder(lambda protocol: True))
    pair.run()
    assert pair.events[pair.initiator] == [Refused(("ls",))]


def test_a_responder_that_listed_can_still_agree() -> None:
    responder = Responder({"/a"}.__contains__, lambda: ["/a"])
    assert responder.receive_data(HEADER + b"\x03ls\n") == []
    assert responder.receive_data(b"\x03/a\n") == [Selected("/a")]


def test_a_listing_is_cut_to_what_one_message_may_hold() -> None:
    pair = Pair(Lister(), Responder(lambda protocol: True, lambda: [f"/protocol/{n:03}" for n in range(500)]))
    pair.run()
    assert len(pair.sent[pair.responder]) <= len(HEADER) + 2 + multistream.MAX_MESSAGE
    (listed,) = pair.events[pair.initiator]
    assert isinstance(listed, Listed)
    assert len(listed.protocols) > 50


def test_an_old_listing_without_a_newline_at_its_end_is_read() -> None:
    assert Lister().receive_data(HEADER + encode_frame(b"\x03/a\n")) == [Listed(("/a",))]


@pytest.mark.parametrize("listing", [b"\x05/a\n\n", b"\x00\n", b"\x02/a\n\n", b"\x04/a\n\n", b"\x80\n", b"/a\n"])
def test_a_malformed_listing_is_refused(listing: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        Lister().receive_data(HEADER + encode_frame(listing))


def test_a_listing_of_too_many_protocols_is_refused() -> None:
    listing = b"\x03/a\n" * (multistream.MAX_LISTED + 1) + b"\n"
    with pytest.raises(RemoteProtocolError, match="more than 1000"):
        Lister().receive_data(HEADER + encode_frame(listing))


@pytest.mark.parametrize("machine", [Initiator, Responder])
@pytest.mark.parametrize(
    "data",
    [
        b"\x13/multistream/2.0.0\n",
        b"\x03/a\n",
        NA,
        b"\x02/a",
        b"\x00",
        HEADER + b"\x02/a",
        HEADER + b"\x01\n",
        HEADER + b"\x05/\xff\xfe/\n",
        HEADER + b"\x06/a\n/b\n",
        HEADER + b"\x81\x08",
        HEADER + HEADER + HEADER,
    ],
)
def test_malformed_messages_end_the_negotiation(machine: type[Initiator | Responder], data: bytes) -> None:
    fresh = Initiator(["/a"]) if machine is Initiator else Responder(lambda protocol: protocol == "/a")
    if machine is Responder and data.endswith(HEADER + HEADER):
        assert fresh.receive_data(data) == []  # to a responder a second header is a protocol it does not know
        return
    with pytest.raises(RemoteProtocolError):
        fresh.receive_data(data)


def test_a_message_of_1024_bytes_is_read_and_one_of_1025_refused() -> None:
    longest = "/" + "x" * (multistream.MAX_MESSAGE - 2)
    pair = negotiate([longest], [longest])
    assert pair.events[pair.initiator] == [Selected(longest)]
    with pytest.raises(RemoteProtocolError, match="1025 bytes"):
        Responder(lambda protocol: True).receive_data(HEADER + b"\x81\x08")
    with pytest.raises(LocalProtocolError):
        Initiator([longest + "x"])


def test_a_peer_that_proposes_without_end_is_cut_off() -> None:
    responder = Responder(lambda protocol: False)
    responder.receive_data(HEADER + b"\x03/a\n" * multistream.MAX_PROPOSALS)
    with pytest.raises(RemoteProtocolError, match="more than 64 proposals"):
        responder.receive_data(b"\x03/a\n")


@pytest.mark.parametrize("protocols", [[], ["/a"] * 65, [""], ["/a\n"]])
def test_proposals_that_cannot_be_made_are_our_mistake(protocols: list[str]) -> None:
    with pytest.raises(LocalProtocolError):
        Initiator(protocols)


def test_a_dripping_peer_gets_no_answer_before_its_message_is_whole() -> None:
    responder = Responder(lambda protocol: True)
    for byte in HEADER[:-1]:
        assert responder.receive_data(bytes([byte])) == []
        assert responder.data_to_send() == []
    responder.receive_data(HEADER[-1:])
    assert responder.data_to_send() == [HEADER]


def test_bytes_after_the_end_and_the_rest_before_it_are_our_mistake() -> None:
    responder = Responder(lambda protocol: True)
    with pytest.raises(LocalProtocolError):
        responder.trailing()
    responder.receive_data(HEADER + b"\x03/a\n")
    with pytest.raises(LocalProtocolError):
        responder.receive_data(b"more")


def test_the_end_of_the_stream_before_agreement_is_an_error() -> None:
    responder = Responder(lambda protocol: True)
    with pytest.raises(RemoteProtocolError):
        responder.receive_eof()
    responder.receive_data(HEADER + b"\x03/a\n")
    responder.receive_eof()
