"""What packets that were too large tell about a path."""

from __future__ import annotations

import struct
from errno import ECONNREFUSED, EMSGSIZE

import pytest

from lab.observe.pathmtu import NONE, OneWay, size_rows, tcp_size, told_limit
from lab.observe.quality import Row
from lab.report.links import cells

PORT = 9000
ETHERNET = bytes(14)


def virtio(segment: int = 0) -> bytes:
    return struct.pack("=BBHHHH", 0, 1 if segment else 0, 0, segment, 0, 0)


def tcp(payload: int, port: int = PORT, options: int = 12) -> bytes:
    offset = (20 + options) // 4 << 4
    return struct.pack("!HHIIBBHHH", 40000, port, 1, 1, offset, 0x18, 1, 0, 0) + bytes(options + payload)


def ipv4(inner: bytes, protocol: int = 6, options: int = 0) -> bytes:
    header = struct.pack("!BBHHHBBH8x", 0x45 + options // 4, 0, 20 + options + len(inner), 0, 0, 64, protocol, 0)
    return header + bytes(options) + inner


def ipv6(inner: bytes, protocol: int = 6) -> bytes:
    return struct.pack("!IHBB32x", 6 << 28, len(inner), protocol, 64) + inner


def captured(packet: bytes, segment: int = 0) -> bytes:
    return virtio(segment) + ETHERNET + packet


def error(code: int, origin: int, info: int) -> bytes:
    return struct.pack("=IBBBxII", code, origin, 3, 4, info, 0) + bytes(16)


@pytest.mark.parametrize(
    ("packet", "size"),
    [
        (ipv4(tcp(1228)), 1280),
        (ipv6(tcp(1208)), 1280),
        (ipv4(tcp(1228, options=0), options=4), 1272),
        (ipv4(tcp(0)), NONE),
        (ipv6(tcp(0)), NONE),
        (ipv4(tcp(100, port=80)), NONE),
        (ipv4(bytes(100), protocol=17), NONE),
        (ipv6(bytes(100), protocol=17), NONE),
        (ipv4(b""), NONE),
        (ipv6(b""), NONE),
        (b"", NONE),
    ],
)
def test_a_tcp_packet_with_data_has_a_size(packet: bytes, size: int) -> None:
    assert tcp_size(captured(packet), PORT) == size


def test_what_the_kernel_has_yet_to_split_counts_as_what_it_will_be_split_into() -> None:
    assert tcp_size(captured(ipv4(tcp(12280)), segment=1228), PORT) == 1280
    assert tcp_size(captured(ipv6(tcp(12080)), segment=1208), PORT) == 1280


def test_a_limit_is_told_by_icmp_of_either_version_and_by_nothing_else() -> None:
    assert told_limit([(0, 11, error(EMSGSIZE, 2, 1280))]) == 1280
    assert told_limit([(41, 25, error(EMSGSIZE, 3, 1400))]) == 1400
    assert told_limit([(0, 11, error(EMSGSIZE, 1, 1280))]) == NONE, "our own interface is no router"
    assert told_limit([(0, 11, error(ECONNREFUSED, 2, 0))]) == NONE
    assert told_limit([(1, 29, bytes(16)), (0, 8, bytes(4))]) == NONE
    assert told_limit([]) == NONE


def failed(rows: tuple[Row, ...]) -> set[str]:
    return {row.quantity for row in rows if not row.ok}


def test_a_narrow_link_tells_its_limit_and_a_black_hole_does_not() -> None:
    told, silent = OneWay(1280, 1280, 1280), OneWay(1280, NONE, NONE)
    assert failed(size_rows("mtu", "up", 1280, told, black_hole=False)) == set()
    assert failed(size_rows("mtu", "up", 1280, silent, black_hole=True)) == set()
    assert failed(size_rows("mtu", "up", 1280, silent, black_hole=False)) == {"ICMP, up", "TCP, up"}
    assert failed(size_rows("mtu", "up", 1280, told, black_hole=True)) == {"ICMP, up", "TCP, up"}
    wide = OneWay(1281, 1281, 1281)
    assert failed(size_rows("mtu", "down", 1280, wide, black_hole=False)) == {
        "UDP, down",
        "ICMP, down",
        "TCP, down",
    }


def test_sizes_are_read_as_bytes_and_no_packet_as_none() -> None:
    rows = size_rows("mtu 1280", "up", 1280, OneWay(1280, NONE, NONE), black_hole=True)
    assert cells(rows[0]) == ("mtu 1280", "UDP, up", "1280 B", "1280 B", "±0 B")
    assert cells(rows[1]) == ("mtu 1280", "ICMP, up", "none", "none", "±0 B")
