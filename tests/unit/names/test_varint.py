import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import DecodeError
from node.names import varint


@pytest.mark.parametrize(
    ("value", "encoded"),
    [(0, "00"), (1, "01"), (127, "7f"), (128, "8001"), (255, "ff01"), (300, "ac02"), (16384, "808001")],
)
def test_values_encode_as_the_specification_lists_them(value: int, encoded: str) -> None:
    assert varint.encode(value).hex() == encoded
    assert varint.decode(bytes.fromhex(encoded)) == (value, len(encoded) // 2)


@given(st.integers(0, varint.MAX_VALUE), st.binary(max_size=4), st.binary(max_size=4))
def test_a_varint_is_read_back_wherever_it_stands(value: int, before: bytes, after: bytes) -> None:
    encoded = varint.encode(value)
    assert varint.decode(before + encoded + after, len(before)) == (value, len(before) + len(encoded))


@given(st.integers(0, varint.MAX_VALUE), st.data())
def test_a_varint_cut_short_asks_for_more(value: int, data: st.DataObject) -> None:
    encoded = varint.encode(value)
    with pytest.raises(varint.Truncated):
        varint.decode(encoded[: data.draw(st.integers(0, len(encoded) - 1))])


@given(st.binary(max_size=12))
def test_whatever_decodes_is_the_only_encoding_of_its_value(data: bytes) -> None:
    try:
        value, end = varint.decode(data)
    except DecodeError:
        return
    assert varint.encode(value) == data[:end]


@pytest.mark.parametrize("encoded", ["8000", "808000", "ff00"])
def test_a_longer_encoding_than_necessary_is_refused(encoded: str) -> None:
    with pytest.raises(DecodeError, match="not minimal"):
        varint.decode(bytes.fromhex(encoded))


def test_the_tenth_byte_is_refused_before_it_arrives() -> None:
    with pytest.raises(DecodeError, match="longer than 9 bytes") as caught:
        varint.decode(b"\x80" * 9)
    assert not isinstance(caught.value, varint.Truncated)


@pytest.mark.parametrize("value", [-1, varint.MAX_VALUE + 1])
def test_a_value_that_does_not_fit_is_not_encoded(value: int) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        varint.encode(value)
