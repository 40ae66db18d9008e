from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from node.wire.lines import Line, Lines, TooLong


def test_lines_are_numbered_and_the_last_may_lack_its_newline() -> None:
    lines = Lines(100)
    assert lines.receive_data(b"a\n\nb") == [Line(1, b"a"), Line(2, b"")]
    assert lines.receive_data(b"c") == []
    assert lines.receive_eof() == [Line(3, b"bc")]
    assert lines.receive_eof() == []


def test_of_a_line_that_is_too_long_only_its_number_is_kept() -> None:
    lines = Lines(4)
    assert lines.receive_data(b"1234\n") == [Line(1, b"1234")]
    for _ in range(1000):
        assert lines.receive_data(b"12345") == []
    assert lines.receive_data(b"\nok\n12345\n") == [TooLong(2), Line(3, b"ok"), TooLong(4)]
    lines.receive_data(b"123456")
    assert lines.receive_eof() == [TooLong(5)]


@given(st.binary(max_size=200), st.lists(st.integers(0, 200)), st.integers(1, 20))
def test_how_the_bytes_are_cut_makes_no_difference(data: bytes, cuts: list[int], longest: int) -> None:
    whole, pieces = Lines(longest), Lines(longest)
    expected = whole.receive_data(data) + whole.receive_eof()
    bounds = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    found = [line for start, end in pairwise(bounds) for line in pieces.receive_data(data[start:end])]
    assert found + pieces.receive_eof() == expected
