from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import DecodeError
from node.names import fields
from node.names.fields import Field

VALUES = st.one_of(st.integers(0, 2**64 - 1), st.binary(max_size=40))
MESSAGES = st.lists(st.tuples(st.integers(1, 2**20), VALUES), max_size=8)


@given(MESSAGES)
def test_fields_are_read_back_in_the_order_they_were_written(message: list[tuple[int, int | bytes]]) -> None:
    assert list(fields.decode(fields.encode(*message))) == [Field(number, value) for number, value in message]


def test_zero_is_written() -> None:
    assert fields.encode((1, 0)) == b"\x08\x00"


def test_fixed_width_fields_are_skipped() -> None:
    data = bytes.fromhex("09" + "00" * 8 + "15" + "00" * 4) + fields.encode((3, 7))
    assert list(fields.decode(data)) == [Field(3, 7)]


@given(st.binary(max_size=64))
def test_random_bytes_raise_nothing_but_decode_errors(data: bytes) -> None:
    with suppress(DecodeError):
        list(fields.decode(data))


@pytest.mark.parametrize(
    "data", ["00", "08", "0880", "0a02ff", "0b", "0f00", "0d0000", "08ffffffffffffffffff7f", "08" + "80" * 11]
)
def test_malformed_messages_are_refused(data: str) -> None:
    with pytest.raises(DecodeError):
        list(fields.decode(bytes.fromhex(data)))


def test_a_message_of_too_many_fields_is_refused() -> None:
    with pytest.raises(DecodeError, match="fields"):
        list(fields.decode(b"\x08\x00" * (fields.MAX_FIELDS + 1)))
    assert len(list(fields.decode(b"\x08\x00" * fields.MAX_FIELDS))) == fields.MAX_FIELDS


def test_a_field_of_the_wrong_kind_is_refused() -> None:
    with pytest.raises(DecodeError):
        Field(1, 5).as_bytes()
    with pytest.raises(DecodeError):
        Field(1, b"").as_int()


@pytest.mark.parametrize("value", [-1, 2**64])
def test_a_number_beyond_64_bits_is_not_written(value: int) -> None:
    with pytest.raises(ValueError, match="64 bits"):
        fields.encode((1, value))
