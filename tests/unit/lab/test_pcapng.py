"""pcapng as we write it, read back by scapy."""

from __future__ import annotations

import io
import struct

from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.utils import RawPcapNgReader

from lab.kernel import pcapng

NAMES = ("home-a/wan", "alice/eth0", "b")
SNAPLEN = 1534

packets = st.lists(
    st.tuples(
        st.integers(0, len(NAMES) - 1),
        st.integers(0, 2**62),
        st.binary(max_size=64),
        st.integers(0, 2000),
        st.booleans(),
    ),
    max_size=20,
)


def head() -> bytes:
    return pcapng.section_header("punchlab") + b"".join(pcapng.interface(name, SNAPLEN) for name in NAMES)


def blocks(data: bytes) -> list[tuple[int, bytes]]:
    """Type and body of each block; fails if a length is not the one at the block's other end."""
    found = []
    while data:
        kind, size = struct.unpack_from("<II", data)
        assert size % 4 == 0
        assert struct.unpack_from("<I", data, size - 4) == (size,)
        found.append((kind, data[8 : size - 4]))
        data = data[size:]
    return found


@given(packets)
@settings(max_examples=60)
def test_scapy_reads_back_every_packet_with_its_time_length_and_interface(
    written: list[tuple[int, int, bytes, int, bool]],
) -> None:
    data = head() + b"".join(
        pcapng.packet(number, at, kept, len(kept) + cut, outbound=out) for number, at, kept, cut, out in written
    )
    with RawPcapNgReader(io.BytesIO(data)) as reader:
        read = list(reader)
    assert [(kept, (about.tshigh << 32) + about.tslow, about.wirelen, about.ifname) for kept, about in read] == [
        (kept, at, len(kept) + cut, NAMES[number].encode()) for number, at, kept, cut, _ in written
    ]


@given(packets)
@settings(max_examples=60)
def test_every_block_is_whole_and_says_its_length_at_both_ends(
    written: list[tuple[int, int, bytes, int, bool]],
) -> None:
    data = head() + b"".join(
        pcapng.packet(number, at, kept, len(kept), outbound=out) for number, at, kept, _, out in written
    )
    kinds = [kind for kind, _ in blocks(data + pcapng.statistics(0, 1, 2, 3))]
    assert kinds == [0x0A0D0D0A, 1, 1, 1, *([6] * len(written)), 5]


def test_an_interface_counts_in_nanoseconds() -> None:
    with RawPcapNgReader(io.BytesIO(head() + pcapng.packet(0, 7, b"x", 1, outbound=False))) as reader:
        ((_, about),) = list(reader)
    assert about.tsresol == 1_000_000_000


def test_a_packet_says_which_way_it_went() -> None:
    sent, received = (blocks(pcapng.packet(0, 0, b"abcd", 4, outbound=out))[0][1] for out in (True, False))
    assert struct.unpack_from("<HHI", sent, 24) == (2, 4, 2)
    assert struct.unpack_from("<HHI", received, 24) == (2, 4, 1)


def test_statistics_tell_what_was_lost() -> None:
    ((kind, body),) = blocks(pcapng.statistics(2, 5, received=100, dropped=7))
    assert (kind, struct.unpack_from("<I", body)) == (5, (2,))
    assert struct.pack("<HHQ", 5, 8, 7) in body
    assert struct.pack("<HHQ", 4, 8, 100) in body
