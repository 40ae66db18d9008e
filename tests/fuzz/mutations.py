"""Valid messages, broken: what a fuzzer makes of its seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

MOST = 4096
"""Bytes of pure chance."""
EDGES = (
    b"",
    b"\x00",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"\xff" * 9 + b"\x01",  # the largest varint of 64 bits
    b"\xff" * 9 + b"\x7f",  # larger than 64 bits
    b"\x80" * 12,  # without an end
    b"\xff\xff\xff\xff\x0f",
    b"\x80\x00",  # not in its shortest form
    b"\xff" * 8,
    b"\x00" * 16,
    b"\n",
    b"/",
)

Change = Callable[[bytes], bytes]


def broken(seeds: Sequence[bytes]) -> SearchStrategy[bytes]:
    """Bytes of pure chance, and seeds with up to six changes."""
    return st.one_of(_changed(seeds), st.binary(max_size=MOST)) if seeds else st.binary(max_size=MOST)


@st.composite
def _changed(draw: DrawFn, seeds: Sequence[bytes]) -> bytes:
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(0, 6))):
        data = _change(draw, data, seeds)
    return data


def _change(draw: DrawFn, data: bytes, seeds: Sequence[bytes]) -> bytes:
    start = draw(st.integers(0, len(data)))
    end = draw(st.integers(start, min(len(data), start + 64)))
    match draw(st.integers(0, 6)):
        case 0:
            piece = draw(st.binary(min_size=end - start, max_size=end - start))
        case 1:
            piece = b""
        case 2:
            piece = draw(st.sampled_from(EDGES))
        case 3:
            piece = data[start:end] * 2
        case 4:
            return data[:start]
        case 5:
            other = draw(st.sampled_from(seeds))
            return data[:start] + other[draw(st.integers(0, len(other))) :]
        case _:
            if start == len(data):
                return data
            flipped = data[start] ^ (1 << draw(st.integers(0, 7)))
            return data[:start] + bytes([flipped]) + data[start + 1 :]
    return data[:start] + piece + data[end:]
