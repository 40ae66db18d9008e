import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import LocalProtocolError, RemoteProtocolError
from node.wire.framing import LengthDelimited, encode_frame

FRAMES = st.lists(st.binary(max_size=300), max_size=5)


@given(FRAMES, st.data())
def test_any_split_of_the_bytes_gives_the_same_frames(frames: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(map(encode_frame, frames))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    reader, received = LengthDelimited(300), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        received += reader.receive_data(memoryview(stream)[start:end])
    assert received == frames
    reader.receive_eof()


@given(FRAMES.filter(bool), st.binary(max_size=20))
def test_a_reader_that_stops_after_a_frame_leaves_the_rest(frames: list[bytes], rest: bytes) -> None:
    reader = LengthDelimited(300)
    reader.feed(b"".join(map(encode_frame, frames)) + rest)
    assert [reader.next_frame() for _ in frames] == frames
    assert reader.trailing() == rest
    assert reader.trailing() == b""


@given(st.binary(max_size=300), st.binary(max_size=10))
def test_reading_as_many_bytes_as_wanted_never_runs_past_the_frame(payload: bytes, rest: bytes) -> None:
    reader, stream = LengthDelimited(300), encode_frame(payload) + rest
    offset = 0
    while (frame := reader.next_frame()) is None:
        wanted = reader.bytes_wanted()
        reader.feed(stream[offset : offset + wanted])
        offset += wanted
    assert frame == payload
    assert stream[offset:] == rest


@given(st.binary(max_size=60))
def test_random_bytes_raise_nothing_but_remote_protocol_errors(data: bytes) -> None:
    reader = LengthDelimited(40)
    try:
        frames = reader.receive_data(data)
    except RemoteProtocolError:
        return
    assert all(len(frame) <= 40 for frame in frames)


def test_a_frame_may_be_as_long_as_allowed_and_no_longer() -> None:
    assert LengthDelimited(200).receive_data(encode_frame(bytes(200))) == [bytes(200)]
    with pytest.raises(RemoteProtocolError, match="frame of 201 bytes, at most 200"):
        LengthDelimited(200).receive_data(encode_frame(bytes(201))[:2])


def test_an_oversize_frame_is_refused_by_an_exact_reader_too() -> None:
    reader = LengthDelimited(200)
    reader.feed(encode_frame(bytes(201))[:2])
    with pytest.raises(RemoteProtocolError, match="at most 200"):
        reader.bytes_wanted()


def test_a_huge_length_is_refused_at_its_tenth_byte() -> None:
    with pytest.raises(RemoteProtocolError, match="longer than 9 bytes"):
        LengthDelimited(200).receive_data(b"\xff" * 10)


def test_the_end_of_the_stream_inside_a_frame_is_an_error() -> None:
    reader = LengthDelimited(200)
    reader.receive_eof()
    reader.receive_data(encode_frame(b"hello")[:3])
    with pytest.raises(RemoteProtocolError, match="inside a frame"):
        reader.receive_eof()


def test_wanting_bytes_while_a_frame_waits_is_our_mistake() -> None:
    reader = LengthDelimited(200)
    reader.feed(encode_frame(b"hello"))
    with pytest.raises(LocalProtocolError):
        reader.bytes_wanted()
