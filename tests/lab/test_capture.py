"""Captures of real traffic, read back by scapy."""

from __future__ import annotations

import dataclasses
import gc
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from scapy.utils import RawPcapNgReader

from lab.errors import KernelError
from lab.kernel.capture import CaptureSet, ring_size
from lab.kernel.network import Network
from lab.model.topology import parse
from lab.plan.build import build

Inside = Callable[[Callable[[], None]], None]
DEADLINE = 10.0
ONE_HOME = """
name = "one-home"
summary = "One home and a public peer."
[router.home]
nat = "port-restricted"
[peer.server]
at = "internet"
role = "relay"
[peer.alice]
at = "home"
"""
NAMES = {"home/wan", "home/lan", "alice/eth0", "server/eth0"}


@contextmanager
def connected() -> Iterator[tuple[Network, socket.socket, socket.socket]]:
    """A network, and the two ends of a TCP connection that is about to be made: call `connect` on the first."""
    plan = build(parse(ONE_HOME, "one-home.toml"), seed=1)
    address = next(launch.address for launch in plan.launches if launch.peer == "server")
    with Network.build(plan) as network:
        listener = network.spaces["server"].socket(socket.AF_INET, socket.SOCK_STREAM)
        client = network.spaces["alice"].socket(socket.AF_INET, socket.SOCK_STREAM)
        with listener, client:
            listener.bind((address, 4001))
            listener.listen()
            client.settimeout(DEADLINE)
            yield network, client, listener


def talk(client: socket.socket, listener: socket.socket, size: int) -> None:
    """Connect, and have `size` bytes arrive."""
    client.connect(listener.getsockname())
    server, _ = listener.accept()
    with server:
        client.sendall(bytes(size))
        client.shutdown(socket.SHUT_WR)
        while server.recv(1 << 16):
            pass


def read(path: Path) -> list[tuple[str, int, bytes, int]]:
    """Interface, nanoseconds, bytes kept and length of each packet."""
    with RawPcapNgReader(str(path)) as reader:
        return [
            (about.ifname.decode(), (about.tshigh << 32) + about.tslow, data, about.wirelen) for data, about in reader
        ]


def test_every_interface_on_the_way_sees_the_same_connection_in_order_of_time(inside: Inside, tmp_path: Path) -> None:
    def check() -> None:
        path = tmp_path / "capture.pcapng"
        with connected() as (network, client, listener):
            captures = CaptureSet(network.plan.captures, network.spaces, path)
            captures.start()
            talk(client, listener, 5000)
            captures.drain()
            stats = captures.stop()
        packets = read(path)
        assert (stats.packets, stats.dropped) == (len(packets), ())
        assert {name for name, *_ in packets} == NAMES
        assert [at for _, at, _, _ in packets] == sorted(at for _, at, _, _ in packets)
        syns = [name for name, _, data, _ in packets if TCP in Ether(data) and Ether(data)[TCP].flags == "S"]
        assert syns == ["alice/eth0", "home/lan", "home/wan", "server/eth0"]

    inside(check)


def test_packets_are_as_on_a_wire_with_checksums_and_no_longer_than_the_mtu(inside: Inside, tmp_path: Path) -> None:
    def check() -> None:
        path = tmp_path / "capture.pcapng"
        with connected() as (network, client, listener), CaptureSet(network.plan.captures, network.spaces, path):
            talk(client, listener, 50_000)
        carrying = [Ether(data) for _, _, data, _ in read(path) if TCP in Ether(data)]
        assert max(len(packet) for packet in carrying) == 1514
        for packet in carrying:
            summed = IP(bytes(packet[IP]))
            del summed[IP].chksum, summed[TCP].chksum
            assert bytes(IP(bytes(summed))) == bytes(packet[IP])

    inside(check)


def test_the_file_is_whole_after_each_drain_so_that_a_killed_run_has_one(inside: Inside, tmp_path: Path) -> None:
    def check() -> None:
        path = tmp_path / "capture.pcapng"
        with (
            connected() as (network, client, listener),
            CaptureSet(network.plan.captures, network.spaces, path) as set_,
        ):
            assert read(path) == []
            talk(client, listener, 100)
            set_.drain()
            drained = len(read(path))
            set_.stop()
            assert len(read(path)) >= drained

    inside(check)


def test_packets_that_found_no_slot_are_counted_for_their_interface(inside: Inside, tmp_path: Path) -> None:
    def check() -> None:
        path = tmp_path / "capture.pcapng"
        with connected() as (network, client, listener):
            captures = CaptureSet(network.plan.captures, network.spaces, path, ring_bytes=1 << 16)
            captures.start()
            talk(client, listener, 200_000)
            stats = captures.stop()
        assert {name for name, _ in stats.dropped} == NAMES
        assert all(count > 50 for _, count in stats.dropped)
        assert stats.packets == len(read(path)) == 4 * 40

    inside(check)


def test_a_file_that_has_reached_its_bound_grows_no_more_and_what_is_missing_is_counted(
    inside: Inside, tmp_path: Path
) -> None:
    def check() -> None:
        path = tmp_path / "capture.pcapng"
        with connected() as (network, client, listener):
            captures = CaptureSet(network.plan.captures, network.spaces, path, max_file_bytes=10_000)
            captures.start()
            talk(client, listener, 50_000)
            stats = captures.stop()
        assert sum(count for _, count in stats.dropped) > 50
        assert stats.packets == len(read(path))
        assert path.stat().st_size < 12_000

    inside(check)


def test_an_interface_that_is_not_there_is_named_and_leaves_no_ring(inside: Inside, tmp_path: Path) -> None:
    def check() -> None:
        with connected() as (network, _, _):
            gc.collect()  # or what earlier tests left may be closed meanwhile
            before = len(list(Path("/proc/self/fd").iterdir()))
            wrong = dataclasses.replace(network.plan.captures[0], port="wlan0", name="home/wlan0")
            captures = CaptureSet((*network.plan.captures, wrong), network.spaces, tmp_path / "capture.pcapng")
            with pytest.raises(KernelError, match="home/wlan0: no capture: No such device"):
                captures.start()
            assert len(list(Path("/proc/self/fd").iterdir())) == before

    inside(check)


def test_a_folder_that_is_not_there_is_named(inside: Inside, tmp_path: Path) -> None:
    def check() -> None:
        with connected() as (network, _, _), pytest.raises(KernelError, match=r"nowhere/capture\.pcapng: No such file"):
            CaptureSet(network.plan.captures, network.spaces, tmp_path / "nowhere" / "capture.pcapng").start()

    inside(check)


@pytest.mark.parametrize(("interfaces", "mebibytes"), [(1, 8), (8, 8), (16, 4), (64, 2), (0, 8)])
def test_rings_are_large_where_they_are_few(interfaces: int, mebibytes: int) -> None:
    assert ring_size(interfaces) == mebibytes << 20
