"""Reading captures: against frames that scapy made, and against files that are not whole."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP
from scapy.layers.l2 import ARP, Ether

from lab.errors import LabError
from lab.observe.packets import ACK, PSH, SYN, read

Pcapng = Callable[[list[str], Iterable[tuple[int, int, bytes]]], bytes]
NS = 1_763_719_000_123_456_789
ON_DISK = settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])


def tcp(**fields: object) -> bytes:
    return bytes(Ether() / IP(src="11.0.1.2", dst="11.0.2.2") / TCP(sport=4001, dport=4002, **fields) / b"hello")


def test_headers_are_read_as_scapy_wrote_them(tmp_path: Path, write_pcapng: Pcapng) -> None:
    path = tmp_path / "capture.pcapng"
    data = tcp(seq=7, ack=9, flags="PA", options=[("MSS", 1460)])
    path.write_bytes(write_pcapng(["home-a/wan", "alice/eth0"], [(NS, 1, data)]))
    (packet,) = read(path)
    assert (packet.src, packet.sport, packet.dst, packet.dport) == ("11.0.1.2", 4001, "11.0.2.2", 4002)
    assert (packet.proto, packet.flags, packet.seq, packet.ack) == ("tcp", PSH | ACK, 7, 9)
    assert (packet.payload, packet.frame_length) == (5, len(data))
    assert (packet.ns, packet.interface, packet.space) == (NS, "alice/eth0", "alice")
    assert abs(packet.at - NS / 1e9) < 1e-6


def test_a_datagram_behind_ip_options_is_read(tmp_path: Path, write_pcapng: Pcapng) -> None:
    options = [IPOption_NOP()] * 4
    data = bytes(Ether() / IP(src="11.0.1.2", dst="11.0.2.2", options=options) / UDP(sport=1, dport=2) / b"abc")
    path = tmp_path / "capture.pcapng"
    path.write_bytes(write_pcapng(["x"], [(NS, 0, data)]))
    (packet,) = read(path)
    assert (packet.proto, packet.sport, packet.dport, packet.payload, packet.kind) == ("udp", 1, 2, 3, "UDP")


@pytest.mark.parametrize(
    "data",
    [
        bytes(Ether() / ARP()),
        bytes(Ether() / IP() / ICMP()),
        bytes(Ether() / IP(frag=10) / UDP() / b"rest"),
        tcp()[:40],
        tcp()[:50],
        b"",
    ],
    ids=["arp", "icmp", "later fragment", "cut in the IP header", "cut in the TCP header", "empty"],
)
def test_what_is_not_judged_is_passed_over(tmp_path: Path, write_pcapng: Pcapng, data: bytes) -> None:
    path = tmp_path / "capture.pcapng"
    path.write_bytes(write_pcapng(["x"], [(NS, 0, data), (NS + 1, 0, tcp())]))
    assert [packet.ns for packet in read(path)] == [NS + 1]


def test_packets_come_in_the_order_of_time(tmp_path: Path, write_pcapng: Pcapng) -> None:
    path = tmp_path / "capture.pcapng"
    path.write_bytes(write_pcapng(["x"], [(NS + later, 0, tcp()) for later in (5, 1, 3)]))
    assert [packet.ns - NS for packet in read(path)] == [1, 3, 5]


def test_a_nat_does_not_change_who_a_packet_is_and_a_retransmission_is_another(
    tmp_path: Path, write_pcapng: Pcapng
) -> None:
    def syn(source: str, port: int, stamp: int, id: int) -> bytes:
        ip = IP(src=source, dst="11.0.2.2", id=id, ttl=64 if port == 4001 else 63)
        return bytes(Ether() / ip / TCP(sport=port, flags="S", seq=5, options=[("Timestamp", (stamp, 0))]))

    frames = [syn("192.168.1.10", 4001, 1, 8), syn("11.0.1.2", 40001, 1, 8), syn("192.168.1.10", 4001, 2, 8)]
    path = tmp_path / "capture.pcapng"
    path.write_bytes(write_pcapng(["x"], [(NS + n, 0, data) for n, data in enumerate(frames)]))
    inside, outside, again = read(path)
    assert inside.is_syn
    assert inside.identity == outside.identity
    assert inside.identity != again.identity


@pytest.mark.parametrize("cut", [1, 3, 11, 20, 60])
def test_a_truncated_capture_names_the_file_unless_it_is_growing(
    tmp_path: Path, write_pcapng: Pcapng, cut: int
) -> None:
    path = tmp_path / "capture.pcapng"
    path.write_bytes(write_pcapng(["x"], [(NS, 0, tcp()), (NS + 1, 0, tcp())])[:-cut])
    with pytest.raises(LabError, match=r"capture\.pcapng: damaged or truncated"):
        read(path)
    assert [packet.ns for packet in read(path, growing=True)] == [NS]


@pytest.mark.parametrize(
    "data",
    [b"", b"garbage", b"\xd4\xc3\xb2\xa1" + bytes(20), b"\n\r\r\n" + bytes(30)],
    ids=["empty", "text", "pcap", "zeros"],
)
def test_what_is_no_capture_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "capture.pcapng"
    path.write_bytes(data)
    for growing in (False, True):
        with pytest.raises(LabError, match=r"capture\.pcapng"):
            read(path, growing)


def test_a_missing_capture_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="cannot read"):
        read(tmp_path / "none.pcapng")


@ON_DISK
@given(st.data())
def test_a_damaged_capture_gives_packets_or_a_lab_error(
    tmp_path: Path, write_pcapng: Pcapng, data: st.DataObject
) -> None:
    whole = bytearray(write_pcapng(["a", "b"], [(NS + n, n % 2, tcp()) for n in range(4)]))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "capture.pcapng"
    path.write_bytes(whole)
    try:
        packets = read(path, growing=data.draw(st.booleans()))
    except LabError as error:
        assert str(path) in str(error)  # noqa: PT017 - most damage leaves a capture that can be read
    else:
        assert len(packets) <= 4


@ON_DISK
@given(st.binary(max_size=200))
def test_random_bytes_in_a_frame_are_a_packet_or_none(tmp_path: Path, write_pcapng: Pcapng, data: bytes) -> None:
    path = tmp_path / "capture.pcapng"
    path.write_bytes(write_pcapng(["x"], [(NS, 0, bytes(12) + b"\x08\x00\x45" + data)]))
    assert len(read(path)) <= 1


def test_a_block_that_lies_about_its_interface_is_damage(tmp_path: Path, write_pcapng: Pcapng) -> None:
    path = tmp_path / "capture.pcapng"
    path.write_bytes(write_pcapng(["x"], [(NS, 9, tcp())]))
    with pytest.raises(LabError, match="only 0 of 1"):
        read(path)


def test_big_endian_sections_are_read(tmp_path: Path) -> None:
    def block(kind: int, body: bytes) -> bytes:
        body += bytes(-len(body) % 4)
        return struct.pack(">II", kind, len(body) + 12) + body + struct.pack(">I", len(body) + 12)

    data = tcp(flags="S")
    path = tmp_path / "capture.pcapng"
    path.write_bytes(
        block(0x0A0D0D0A, struct.pack(">IHHq", 0x1A2B3C4D, 1, 0, -1))
        + block(1, struct.pack(">HHI", 1, 0, 0))
        + block(6, struct.pack(">IIIII", 0, 0, 5_000_000, len(data), len(data)) + data)
    )
    (packet,) = read(path)
    assert (packet.at, packet.interface, packet.flags) == (5.0, "?", SYN)
