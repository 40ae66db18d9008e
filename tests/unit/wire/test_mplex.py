"""mplex: frames as the spec has them, any split of them, and what a hostile peer may send."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.errors import ConnectionClosed, LimitExceeded, LocalProtocolError, RemoteProtocolError, StreamClosed
from node.names import varint
from node.wire.mplex import MAX_CONTROL, MAX_MESSAGE, Mplex, MplexConfig
from node.wire.muxer_events import DataReceived, Event, StreamEnded, StreamOpened, StreamOverran, StreamWasReset

BATCH = 65519


def pair(config: MplexConfig | None = None) -> tuple[Mplex, Mplex]:
    return Mplex(initiator=True, now=0.0, config=config), Mplex(initiator=False, now=0.0, config=config)


def sent(machine: Mplex) -> bytes:
    out = b""
    while batch := machine.data_to_send(BATCH):
        out += b"".join(batch)
    return out


def frame(number: int, flag: int, body: bytes = b"") -> bytes:
    return varint.encode(number << 3 | flag) + varint.encode(len(body)) + body


def received(events: list[Event], stream_id: int) -> bytes:
    return b"".join(event.data for event in events if isinstance(event, DataReceived) and event.stream_id == stream_id)


def test_frames_are_those_of_the_spec() -> None:
    alice, bob = pair()
    stream = alice.open_stream(0.0)
    alice.send_data(stream, memoryview(b"hello"))
    alice.close_write(stream)
    wire = sent(alice)
    assert wire == frame(0, 0) + frame(0, 2, b"hello") + frame(0, 4)
    opened, data, ended = bob.receive_data(wire, 0.0)
    assert (opened, data, ended) == (
        StreamOpened(stream),
        DataReceived(stream, memoryview(b"hello")),
        StreamEnded(stream),
    )
    bob.send_data(stream, memoryview(b"hi"))
    bob.reset(stream)
    assert sent(bob) == frame(0, 5)
    assert alice.receive_data(frame(0, 1, b"hi") + frame(0, 5), 0.0)[-1] == StreamWasReset(stream, 0)


def test_both_sides_number_from_zero_and_no_two_streams_are_one() -> None:
    alice, bob = pair()
    ours, theirs = alice.open_stream(0.0), bob.open_stream(0.0)
    assert (ours, theirs) == (1, 2)
    assert bob.receive_data(sent(alice), 0.0) == [StreamOpened(1)]
    assert alice.receive_data(sent(bob), 0.0) == [StreamOpened(2)]
    alice.send_data(theirs, memoryview(b"answer"))
    assert received(bob.receive_data(sent(alice), 0.0), theirs) == b"answer"


@settings(max_examples=60, deadline=None)
@given(piece=st.integers(1, 300), parts=st.lists(st.binary(max_size=400), max_size=6))
def test_any_split_gives_the_same_bytes(piece: int, parts: list[bytes]) -> None:
    alice, bob = pair()
    streams = [alice.open_stream(0.0) for _ in range(3)]
    for index, part in enumerate(parts):
        alice.send_data(streams[index % 3], memoryview(part))
    for stream in streams:
        alice.close_write(stream)
    wire, events = sent(alice), []
    for offset in range(0, len(wire), piece):
        events += bob.receive_data(wire[offset : offset + piece], 0.0)
    for index, stream in enumerate(streams):
        assert received(events, stream) == b"".join(parts[index::3])
        assert events.count(StreamEnded(stream)) == 1


def test_streams_take_turns() -> None:
    alice, bob = pair()
    streams = [alice.open_stream(0.0) for _ in range(2)]
    for stream in streams:
        alice.send_data(stream, memoryview(bytes(200_000)))
    seen = []
    while batch := alice.data_to_send(BATCH):
        events = bob.receive_data(b"".join(batch), 0.0)
        seen.append({event.stream_id for event in events if isinstance(event, DataReceived)})
    assert seen[:2] == [{streams[0]}, {streams[1]}]
    assert sorted(alice.drained()) == streams


def test_a_stream_that_is_not_read_is_reset_and_the_rest_of_it_dropped() -> None:
    _, bob = pair(MplexConfig(max_unread=1000))
    bob.receive_data(frame(0, 0) + frame(0, 2, bytes(1000)), 0.0)
    assert bob.receive_data(frame(0, 2, b"x") + frame(0, 2, b"y"), 0.0) == [StreamOverran(1)]
    assert sent(bob) == frame(0, 5)
    assert bob.forgotten() == [1]


def test_what_is_read_makes_room() -> None:
    _, bob = pair(MplexConfig(max_unread=1000))
    bob.receive_data(frame(0, 0), 0.0)
    for _ in range(5):
        assert len(received(bob.receive_data(frame(0, 2, bytes(1000)), 0.0), 1)) == 1000
        bob.consume(1, 1000, 0.0)


def test_all_streams_together_are_bounded_even_after_their_end() -> None:
    _, bob = pair(MplexConfig(max_unread=1000, max_unread_together=2500))
    events: list[Event] = []
    for number in range(10):
        events += bob.receive_data(frame(number, 0) + frame(number, 2, bytes(1000)) + frame(number, 4), 0.0)
        bob.close_write(2 * number + 1)
        sent(bob)
    assert sum(isinstance(event, StreamOverran) for event in events) == 8


def test_more_streams_than_allowed_are_refused_and_answers_are_bounded() -> None:
    _, bob = pair(MplexConfig(max_streams=2))
    opened = bob.receive_data(b"".join(frame(number, 0, b"name") for number in range(4)), 0.0)
    assert opened == [StreamOpened(1), StreamOpened(3)]
    assert sent(bob) == frame(2, 5) + frame(3, 5)
    with pytest.raises(RemoteProtocolError, match="answers wait"):
        bob.receive_data(b"".join(frame(number, 0) for number in range(2, MAX_CONTROL + 10)), 0.0)


def test_our_own_streams_are_bounded_and_end_with_the_session() -> None:
    alice, _ = pair(MplexConfig(max_streams=1))
    stream = alice.open_stream(0.0)
    with pytest.raises(LimitExceeded):
        alice.open_stream(0.0)
    alice.close_write(stream)
    with pytest.raises(StreamClosed):
        alice.send_data(stream, memoryview(b"x"))
    alice.go_away()
    with pytest.raises(ConnectionClosed):
        alice.open_stream(0.0)
    with pytest.raises(LocalProtocolError):
        alice.ping(0.0)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (varint.encode(1 << 3 | 2) + varint.encode(MAX_MESSAGE + 1), "at most"),
        (frame(0, 7), "kind 7"),
        (frame(0, 0) + frame(0, 0), "opened twice"),
        (frame(0, 0) + frame(0, 4) + frame(0, 2, b"x"), "after its end"),
        (b"\xff" * 10, "varint"),
    ],
)
def test_what_the_spec_does_not_allow_ends_the_session(data: bytes, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        pair()[1].receive_data(data, 0.0)


def test_a_closed_stream_refuses_data_and_is_reset_when_it_lingers() -> None:
    _, bob = pair()
    bob.receive_data(frame(0, 0) + frame(1, 0), 0.0)
    bob.close(1, 0.0)
    bob.close(3, 0.0)
    assert sent(bob) == frame(0, 3) + frame(1, 3)
    assert bob.receive_data(frame(0, 2, b"unwanted"), 1.0) == []
    assert sent(bob) == frame(0, 5)
    assert bob.get_timer() <= 60.0
    bob.handle_timer(60.0)
    assert sent(bob) == frame(1, 5)
    assert sorted(bob.forgotten()) == [1, 3]


@settings(max_examples=200, deadline=None)
@given(data=st.lists(st.binary(max_size=60), max_size=6))
def test_random_bytes_raise_nothing_but_the_typed_error(data: list[bytes]) -> None:
    _, bob = pair()
    try:
        for part in data:
            bob.receive_data(part, 0.0)
    except RemoteProtocolError:
        bob.data_to_send(BATCH)
