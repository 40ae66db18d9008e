"""yamux: frames as the specification has them, and what a hostile or careless peer may send."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.errors import ConnectionClosed, LimitExceeded, RemoteProtocolError, StreamClosed
from node.wire.muxer_events import (
    DataReceived,
    Event,
    GoAwayReceived,
    KeepAliveFailed,
    PongReceived,
    StreamAcknowledged,
    StreamEnded,
    StreamOpened,
    StreamWasReset,
)
from node.wire.yamux import INITIAL_WINDOW, MAX_CONTROL, Yamux, YamuxConfig
from node.wire.yamux_frames import HEADER, Flag, GoAwayCode, Kind
from node.wire.yamux_windows import GrowthPool

BATCH = 65519
Frame = tuple[Kind, int, int, int, bytes]


def frame(kind: Kind, flags: int, stream_id: int, length: int, body: bytes = b"") -> bytes:
    return HEADER.pack(0, kind, flags, stream_id, length) + body


def data(stream_id: int, body: bytes, flags: int = 0) -> bytes:
    return frame(Kind.DATA, flags, stream_id, len(body), body)


def syn(stream_id: int) -> bytes:
    return frame(Kind.WINDOW_UPDATE, Flag.SYN, stream_id, 0)


def batch(session: Yamux) -> bytes:
    return b"".join(session.data_to_send(BATCH))


def everything(session: Yamux) -> bytes:
    return b"".join(iter(lambda: batch(session), b""))


def frames(wire: bytes) -> list[Frame]:
    found: list[Frame] = []
    while wire:
        _, kind, flags, stream_id, length = HEADER.unpack_from(wire)
        size = HEADER.size + (length if kind == Kind.DATA else 0)
        found.append((Kind(kind), flags, stream_id, length, wire[HEADER.size : size]))
        wire = wire[size:]
    return found


def responder(config: YamuxConfig | None = None) -> Yamux:
    return Yamux(initiator=False, now=0.0, config=config)


def initiator(config: YamuxConfig | None = None) -> Yamux:
    return Yamux(initiator=True, now=0.0, config=config)


def with_stream(config: YamuxConfig | None = None) -> Yamux:
    """A responder on which the peer has opened stream 1."""
    session = responder(config)
    assert session.receive_data(syn(1), 0.0) == [StreamOpened(1)]
    everything(session)
    return session


def write(session: Yamux, stream_id: int, body: bytes) -> None:
    session.send_data(stream_id, memoryview(body))


# --- opening


def test_streams_of_the_initiator_are_odd_and_those_of_the_responder_even() -> None:
    for session, expected in ((initiator(), [1, 3]), (responder(), [2, 4])):
        assert [session.open_stream(0), session.open_stream(0)] == expected


def test_a_stream_opens_with_an_empty_window_update_before_its_data() -> None:
    session = initiator()
    write(session, session.open_stream(0), b"hi")
    assert frames(batch(session)) == [(Kind.WINDOW_UPDATE, Flag.SYN, 1, 0, b""), (Kind.DATA, 0, 1, 2, b"hi")]


def test_a_stream_of_the_peer_is_acknowledged_at_once() -> None:
    session = responder()
    session.receive_data(syn(1), 0.0)
    assert frames(batch(session)) == [(Kind.WINDOW_UPDATE, Flag.ACK, 1, 0, b"")]


def test_a_stream_may_open_end_and_carry_data_in_one_frame() -> None:
    events = responder().receive_data(data(1, b"all", Flag.SYN | Flag.FIN), 0.0)
    assert events == [StreamOpened(1), DataReceived(1, memoryview(b"all")), StreamEnded(1)]


@pytest.mark.parametrize("wire", [syn(2), syn(1) + syn(1), data(0, b""), frame(Kind.WINDOW_UPDATE, 0, 0, 1)])
def test_a_stream_id_that_the_peer_cannot_use_ends_the_session(wire: bytes) -> None:
    session = responder()
    with pytest.raises(RemoteProtocolError):
        session.receive_data(wire, 0.0)
    assert frames(batch(session))[-1] == (Kind.GO_AWAY, 0, 0, GoAwayCode.PROTOCOL_ERROR, b"")


@pytest.mark.parametrize("wire", [b"\x01" + bytes(11), b"\x00\x04" + bytes(10)], ids=["version", "type"])
def test_an_unknown_version_or_type_ends_the_session(wire: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        responder().receive_data(wire, 0.0)


def test_streams_beyond_the_bound_are_reset() -> None:
    session = responder(YamuxConfig(max_streams=2))
    events = session.receive_data(syn(1) + syn(3) + data(5, b"lost", Flag.SYN) + data(1, b"kept"), 0.0)
    assert events == [StreamOpened(1), StreamOpened(3), DataReceived(1, memoryview(b"kept"))]
    assert (Kind.WINDOW_UPDATE, Flag.RST, 5, 0, b"") in frames(batch(session))


def test_the_peers_streams_leave_room_for_ours_up_to_the_same_bound() -> None:
    session = responder(YamuxConfig(max_streams=2))
    session.receive_data(syn(1) + syn(3), 0.0)
    assert [session.open_stream(0), session.open_stream(0)] == [2, 4]
    with pytest.raises(LimitExceeded):
        session.open_stream(0)
    session.reset(2)
    assert session.open_stream(0) == 6


def test_no_more_streams_are_opened_than_the_peer_acknowledges() -> None:
    session = initiator(YamuxConfig(ack_backlog=2))
    session.open_stream(0)
    session.open_stream(0)
    assert not session.may_open()
    with pytest.raises(LimitExceeded):
        session.open_stream(0)
    assert session.receive_data(frame(Kind.WINDOW_UPDATE, Flag.ACK, 1, 0), 0.0) == [StreamAcknowledged(1)]
    assert session.open_stream(0) == 5


def test_a_stream_reset_before_its_acknowledgement_leaves_the_backlog() -> None:
    session = initiator(YamuxConfig(ack_backlog=1))
    stream_id = session.open_stream(0)
    session.reset(stream_id)
    assert session.may_open()


# --- windows


def test_data_beyond_the_peers_window_waits_for_credit() -> None:
    session = initiator()
    stream_id = session.open_stream(0)
    write(session, stream_id, bytes(INITIAL_WINDOW + 10))
    assert sum(f[3] for f in frames(everything(session)) if f[0] == Kind.DATA) == INITIAL_WINDOW
    assert session.pending(stream_id)
    assert session.drained() == []
    session.receive_data(frame(Kind.WINDOW_UPDATE, 0, stream_id, 10), 0.0)
    assert frames(everything(session)) == [(Kind.DATA, 0, stream_id, 10, bytes(10))]
    assert session.drained() == [stream_id]


def test_a_peer_that_overruns_its_window_ends_the_session() -> None:
    session = with_stream()
    session.receive_data(data(1, bytes(INITIAL_WINDOW)), 0.0)
    with pytest.raises(RemoteProtocolError, match="overran its window by 1 bytes"):
        session.receive_data(data(1, b"!"), 0.0)


def test_a_window_overrun_is_noticed_at_the_header() -> None:
    with pytest.raises(RemoteProtocolError, match="overran"):
        with_stream().receive_data(frame(Kind.DATA, 0, 1, INITIAL_WINDOW + 1), 0.0)


def test_credit_follows_the_reader_and_not_the_arrival() -> None:
    session = with_stream()
    session.receive_data(data(1, bytes(INITIAL_WINDOW)), 0.0)
    assert batch(session) == b""
    assert not session.consume(1, INITIAL_WINDOW // 2 - 1, 1.0)
    assert session.consume(1, 1, 1.0)
    assert frames(batch(session)) == [(Kind.WINDOW_UPDATE, 0, 1, INITIAL_WINDOW // 2, b"")]
    session.receive_data(data(1, bytes(INITIAL_WINDOW // 2)), 0.0)


def measured(session: Yamux, rtt: float) -> None:
    session.handle_timer(0.0)
    (ping,) = (f for f in frames(everything(session)) if f[0] == Kind.PING)
    assert session.receive_data(frame(Kind.PING, Flag.ACK, 0, ping[3]), rtt) == [PongReceived(ping[3], rtt)]


def consume_half_windows(session: Yamux, times: Iterable[float]) -> list[int]:
    """Feed the reader half a window at each of `times` and return the credit given each time."""
    credit: list[int] = []
    for now in times:
        session.consume(1, INITIAL_WINDOW // 2, now)
        credit += [f[3] for f in frames(everything(session))]
    return credit


def test_the_window_of_a_fast_reader_doubles() -> None:
    session = with_stream()
    measured(session, rtt=0.1)
    assert consume_half_windows(session, [0.3]) == [INITIAL_WINDOW // 2 + INITIAL_WINDOW]


def test_the_window_of_a_slow_reader_stays() -> None:
    session = with_stream()
    measured(session, rtt=0.1)
    assert consume_half_windows(session, [0.5, 1.0]) == [INITIAL_WINDOW // 2] * 2


def test_the_window_grows_no_further_than_its_bounds() -> None:
    session = with_stream(YamuxConfig(max_window=4 * INITIAL_WINDOW, growth_budget=2 * INITIAL_WINDOW))
    measured(session, rtt=100.0)
    times = [float(n) for n in range(33)]  # as many halves as leave none uncredited
    growth = sum(consume_half_windows(session, times)) - len(times) * INITIAL_WINDOW // 2
    assert growth == 2 * INITIAL_WINDOW


def test_a_stream_that_ends_gives_its_growth_back() -> None:
    session = with_stream(YamuxConfig(growth_budget=INITIAL_WINDOW))
    measured(session, rtt=100.0)
    assert consume_half_windows(session, [1.0]) == [INITIAL_WINDOW // 2 + INITIAL_WINDOW]
    session.receive_data(frame(Kind.WINDOW_UPDATE, Flag.RST, 1, 0) + syn(3), 2.0)
    everything(session)
    session.consume(3, INITIAL_WINDOW // 2, 3.0)
    assert [f[3] for f in frames(batch(session))] == [INITIAL_WINDOW // 2 + INITIAL_WINDOW]


def test_sessions_that_share_a_pool_grow_no_further_together_and_give_back_at_their_end() -> None:
    pool = GrowthPool(INITIAL_WINDOW)
    first, second = (Yamux(initiator=False, now=0.0, pool=pool) for _ in range(2))
    for session in (first, second):
        session.receive_data(syn(1), 0.0)
        measured(session, rtt=100.0)
    half = INITIAL_WINDOW // 2
    assert consume_half_windows(first, [1.0]) == [half + INITIAL_WINDOW]
    assert consume_half_windows(second, [1.0]) == [half]
    first.abandon()
    assert pool.left == INITIAL_WINDOW
    assert not first.consume(1, INITIAL_WINDOW, 2.0)
    assert not batch(first)
    assert consume_half_windows(second, [2.0]) == [half + INITIAL_WINDOW]


def test_credit_cannot_exceed_what_a_header_can_say() -> None:
    session = with_stream()
    session.receive_data(frame(Kind.WINDOW_UPDATE, 0, 1, 2**32 - 1) * 3, 0.0)
    write(session, 1, b"x")
    assert frames(batch(session)) == [(Kind.DATA, 0, 1, 1, b"x")]


# --- ends


def test_half_closing_leaves_the_other_direction_open() -> None:
    session = with_stream()
    session.close_write(1)
    assert frames(batch(session)) == [(Kind.WINDOW_UPDATE, Flag.FIN, 1, 0, b"")]
    with pytest.raises(StreamClosed):
        write(session, 1, b"more")
    assert session.receive_data(data(1, b"still"), 0.0) == [DataReceived(1, memoryview(b"still"))]


def test_a_fin_follows_all_that_was_written_before() -> None:
    session = with_stream()
    write(session, 1, bytes(INITIAL_WINDOW + 1))
    session.close_write(1)
    assert not any(f[1] & Flag.FIN for f in frames(everything(session)))
    session.receive_data(frame(Kind.WINDOW_UPDATE, 0, 1, 1), 0.0)
    assert [f[1] for f in frames(everything(session))] == [0, Flag.FIN]


def test_a_stream_ended_by_both_sides_is_forgotten() -> None:
    session = with_stream()
    session.close_write(1)
    everything(session)
    assert session.receive_data(frame(Kind.WINDOW_UPDATE, Flag.FIN, 1, 0), 0.0) == [StreamEnded(1)]
    assert session.forgotten() == [1]
    with pytest.raises(StreamClosed):
        write(session, 1, b"")


def test_data_after_the_end_is_a_protocol_error() -> None:
    session = with_stream()
    session.receive_data(frame(Kind.WINDOW_UPDATE, Flag.FIN, 1, 0), 0.0)
    with pytest.raises(RemoteProtocolError, match="after its end"):
        session.receive_data(data(1, b"x"), 0.0)


def test_a_reset_by_the_peer_ends_both_directions_and_tells_the_code() -> None:
    session = with_stream()
    write(session, 1, b"never sent")
    assert session.receive_data(frame(Kind.WINDOW_UPDATE, Flag.RST, 1, 0x1001), 0.0) == [StreamWasReset(1, 0x1001)]
    assert everything(session) == b""
    with pytest.raises(StreamClosed):
        write(session, 1, b"x")


def test_a_reset_by_us_drops_what_is_queued_and_discards_what_is_under_way() -> None:
    session = with_stream()
    session.receive_data(data(1, b"half of it")[:-5], 0.0)
    write(session, 1, b"never sent")
    session.reset(1, 7)
    assert frames(everything(session)) == [(Kind.WINDOW_UPDATE, Flag.RST, 1, 7, b"")]
    assert session.receive_data(b"of it" + data(1, b"late") + syn(3), 0.0) == [StreamOpened(3)]


def test_frames_of_unknown_streams_are_discarded_with_their_body() -> None:
    session = with_stream()
    wire = data(99, b"nobody") + frame(Kind.WINDOW_UPDATE, Flag.RST, 97, 0) + data(95, b"x", Flag.FIN | Flag.ACK)
    assert session.receive_data(wire + data(1, b"mine"), 0.0) == [DataReceived(1, memoryview(b"mine"))]


def test_a_body_larger_than_any_window_is_refused_even_for_an_unknown_stream() -> None:
    with pytest.raises(RemoteProtocolError, match="any window"):
        responder().receive_data(frame(Kind.DATA, 0, 9, 16 * 1024 * 1024 + 1), 0.0)


def test_a_closed_stream_accepts_the_peers_end() -> None:
    session = with_stream()
    session.close(1, 0.0)
    everything(session)
    session.receive_data(frame(Kind.WINDOW_UPDATE, Flag.FIN, 1, 0), 0.0)
    assert everything(session) == b""
    assert session.forgotten() == [1]


def test_a_closed_stream_refuses_the_peers_data() -> None:
    session = with_stream()
    session.close(1, 0.0)
    everything(session)
    assert session.receive_data(data(1, b"unwanted"), 0.0) == []
    assert frames(everything(session)) == [(Kind.WINDOW_UPDATE, Flag.RST, 1, 0, b"")]


def test_a_closed_stream_whose_peer_never_ends_is_reset_in_the_end() -> None:
    session = with_stream(YamuxConfig(linger=5.0, keep_alive=1000.0, answer_within=1000.0))
    session.handle_timer(0.0)
    session.close(1, 1.0)
    everything(session)
    assert session.get_timer() == 6.0
    session.handle_timer(5.9)
    assert everything(session) == b""
    session.handle_timer(6.0)
    assert frames(everything(session)) == [(Kind.WINDOW_UPDATE, Flag.RST, 1, 0, b"")]


def test_going_away_refuses_new_streams_and_keeps_the_old() -> None:
    session = with_stream()
    session.go_away()
    session.go_away(GoAwayCode.INTERNAL_ERROR)
    assert session.receive_data(syn(3) + data(1, b"old"), 0.0) == [DataReceived(1, memoryview(b"old"))]
    assert [f[:4] for f in frames(everything(session))] == [
        (Kind.GO_AWAY, 0, 0, GoAwayCode.NORMAL),
        (Kind.WINDOW_UPDATE, Flag.RST, 3, 0),
    ]
    with pytest.raises(ConnectionClosed):
        session.open_stream(0)


def test_a_peer_that_goes_away_gets_no_new_streams() -> None:
    session = with_stream()
    assert session.receive_data(frame(Kind.GO_AWAY, 0, 0, 2), 0.0) == [GoAwayReceived(2)]
    with pytest.raises(ConnectionClosed):
        session.open_stream(0)


# --- turns


def test_pongs_go_out_ahead_of_data() -> None:
    session = with_stream()
    write(session, 1, bytes(100_000))
    session.receive_data(frame(Kind.PING, Flag.SYN, 0, 42), 0.0)
    assert frames(batch(session))[0] == (Kind.PING, Flag.ACK, 0, 42, b"")


def test_streams_take_turns() -> None:
    session = with_stream()
    session.receive_data(syn(3), 0.0)
    everything(session)
    write(session, 1, bytes(200_000))
    write(session, 3, b"small")
    assert [f[2] for f in frames(batch(session) + batch(session))][:2] == [1, 3]


def test_a_batch_stays_within_its_bound() -> None:
    session = initiator()
    for _ in range(8):
        write(session, session.open_stream(0), bytes(30_000))
    sizes = [len(one) for one in iter(lambda: batch(session), b"")]
    assert max(sizes) <= BATCH
    assert sum(sizes) >= 8 * 30_000


def test_a_peer_that_asks_without_reading_is_cut() -> None:
    session = responder()
    with pytest.raises(RemoteProtocolError, match="answers wait"):
        session.receive_data(frame(Kind.PING, Flag.SYN, 0, 1) * (MAX_CONTROL + 1), 0.0)


# --- time


def test_an_idle_peer_is_pinged_and_given_up_when_it_stays_silent() -> None:
    session = responder()
    assert session.get_timer() == 0.0
    measured(session, rtt=0.5)
    assert session.rtt == 0.5
    assert session.get_timer() == 30.0
    assert session.handle_timer(29.9) == []
    assert batch(session) == b""
    assert session.handle_timer(30.0) == []
    assert [f[:2] for f in frames(batch(session))] == [(Kind.PING, Flag.SYN)]
    assert session.get_timer() == 40.0
    assert session.handle_timer(39.9) == []
    assert session.handle_timer(40.0) == [KeepAliveFailed()]


def test_any_byte_of_the_peer_counts_as_a_sign_of_life() -> None:
    session = with_stream()
    session.handle_timer(0.0)
    session.receive_data(data(1, b"busy"), 9.0)
    assert session.handle_timer(10.0) == []
    assert session.get_timer() == 30.0


def test_a_pong_nobody_asked_for_is_ignored() -> None:
    assert responder().receive_data(frame(Kind.PING, Flag.ACK, 0, 5), 1.0) == []


# --- any bytes


def merged(events: Sequence[Event]) -> list[object]:
    """The events with the data of a stream joined, as a body's cuts follow those of the input."""
    result: list[object] = []
    for event in events:
        if not isinstance(event, DataReceived):
            result.append(event)
        elif result and isinstance(last := result[-1], tuple) and last[0] == event.stream_id:
            result[-1] = (event.stream_id, last[1] + bytes(event.data))
        else:
            result.append((event.stream_id, bytes(event.data)))
    return result


stream_frames = st.builds(
    data,
    st.sampled_from([1, 3, 5]),
    st.binary(max_size=60),
    st.sampled_from([0, 0, 0, Flag.ACK]),
)
control_frames = st.builds(
    frame,
    st.sampled_from([Kind.WINDOW_UPDATE, Kind.PING]),
    st.sampled_from([0, Flag.ACK, Flag.RST]),
    st.sampled_from([1, 3, 5, 7]),
    st.integers(0, 2**32 - 1),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(stream_frames | control_frames, max_size=10), st.lists(st.integers(1, 40), min_size=1, max_size=20))
def test_any_split_of_the_bytes_gives_the_same_events(wire_frames: list[bytes], sizes: list[int]) -> None:
    wire = syn(1) + syn(3) + b"".join(wire_frames)
    whole, split = responder(), responder()
    expected = whole.receive_data(wire, 0.0)
    events: list[Event] = []
    offset, turn = 0, 0
    while offset < len(wire):
        size = sizes[turn % len(sizes)]
        events += split.receive_data(wire[offset : offset + size], 0.0)
        offset, turn = offset + size, turn + 1
    assert merged(events) == merged(expected)
    assert everything(split) == everything(whole)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=100), st.integers(0, 5))
def test_random_bytes_raise_only_remote_protocol_errors(noise: bytes, aligned: int) -> None:
    session = with_stream()
    session.open_stream(0)
    try:
        session.receive_data(bytes([0, aligned]) + noise, 0.0)
    except RemoteProtocolError:
        assert (Kind.GO_AWAY, 0, 0, GoAwayCode.PROTOCOL_ERROR, b"") in frames(everything(session))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.builds(frame, st.sampled_from(Kind), st.integers(0, 15), st.integers(0, 4), st.integers(0, 3)), max_size=20
    )
)
def test_wild_frames_raise_only_remote_protocol_errors_and_keep_the_books(wild: list[bytes]) -> None:
    session = with_stream()
    write(session, 1, b"queued")
    try:
        session.receive_data(b"".join(wild), 0.0)
    except RemoteProtocolError:
        return
    for stream_id in range(1, 5):
        session.reset(stream_id)
    everything(session)
    assert session.may_open()
