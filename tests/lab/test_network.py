"""A plan made real: who reaches whom, what is refused, and that nothing of a failed one stays."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import ipaddress
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.errors import KernelError
from lab.kernel import nft
from lab.kernel.namespace import Namespace
from lab.kernel.network import Network
from lab.model.classical import probe_topology
from lab.model.ipv6 import Ip
from lab.model.presets import PRESETS
from lab.model.topology import parse
from lab.plan.build import build
from lab.plan.plan import Plan, Route, RuleSet

Inside = Callable[[Callable[[], None]], None]
DEADLINE = 10.0
RTF_LOCAL = 0x80000000
TWO_HOMES = """
name = "two-homes"
summary = "Two homes and a public peer."
[router.home-a]
nat = "port-restricted"
[router.home-b]
nat = "symmetric"
[peer.relay]
at = "internet"
role = "relay"
[peer.alice]
at = "home-a"
[peer.bob]
at = "home-b"
"""


def two_homes() -> Plan:
    return build(parse(TWO_HOMES, "two-homes.toml"), seed=1)


def address_of(plan: Plan, peer: str) -> str:
    return next(launch.address for launch in plan.launches if launch.peer == peer)


def wan_of(plan: Plan, router: str) -> str:
    return next(entry.wan for entry in plan.routers if entry.name == router)


def udp(ns: Namespace, port: int = 0) -> socket.socket:
    sock = ns.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(DEADLINE)
    sock.bind(("0.0.0.0", port))  # noqa: S104 - any address of the namespace
    return sock


def seen_from_outside(network: Network, source: socket.socket) -> tuple[str, int]:
    """The address and port by which the relay sees a socket's datagrams."""
    with udp(network.spaces["relay"], 4001) as relay:
        source.sendto(b"hello", (address_of(network.plan, "relay"), 4001))
        seen: tuple[str, int] = relay.recvfrom(100)[1]
    return seen


def descriptors() -> int:
    gc.collect()  # or what earlier tests left may be closed between two counts
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_host_behind_a_nat_reaches_the_internet_under_its_routers_address(inside: Inside) -> None:
    def check() -> None:
        plan = two_homes()
        with Network.build(plan) as network, udp(network.spaces["alice"], 5000) as alice:
            assert seen_from_outside(network, alice) == (wan_of(plan, "home-a"), 5000)

    inside(check)


def test_an_answer_comes_back_through_the_nat_and_a_stranger_does_not(inside: Inside) -> None:
    def check() -> None:
        plan = two_homes()
        with Network.build(plan) as network, udp(network.spaces["alice"], 5000) as alice:
            with udp(network.spaces["relay"], 4001) as relay:
                alice.sendto(b"hello", (address_of(plan, "relay"), 4001))
                _, mapped = relay.recvfrom(100)
                with udp(network.spaces["relay"], 4002) as stranger:
                    stranger.sendto(b"unasked", mapped)
                relay.sendto(b"answer", mapped)
            assert alice.recv(100) == b"answer"

    inside(check)


def test_two_tcp_hosts_of_different_homes_do_not_reach_each_other(inside: Inside) -> None:
    def check() -> None:
        plan = two_homes()
        with Network.build(plan) as network, network.spaces["bob"].socket(socket.AF_INET, socket.SOCK_STREAM) as server:
            server.bind(("0.0.0.0", 4001))  # noqa: S104 - any address of the namespace
            server.listen()
            with network.spaces["alice"].socket(socket.AF_INET, socket.SOCK_STREAM) as client:
                client.settimeout(0.3)
                with pytest.raises(TimeoutError):
                    client.connect((wan_of(plan, "home-b"), 4001))

    inside(check)


def test_a_router_that_forgets_has_no_mapping_and_no_flow_left(inside: Inside) -> None:
    def check() -> None:
        with Network.build(two_homes()) as network, udp(network.spaces["alice"], 5000) as alice:
            seen_from_outside(network, alice)
            home = network.spaces["home-a"]
            assert ". 5000 " in nft.listing(home)
            network.forget("home-a")
            assert ". 5000 " not in nft.listing(home)
            with home.entered():
                assert "sport=5000" not in read_flows()

    inside(check)


def read_flows() -> str:
    path = Path("/proc/thread-self/net/nf_conntrack")
    return path.read_text() if path.exists() else ""


def test_interfaces_have_the_hardware_addresses_of_the_plan(inside: Inside) -> None:
    def check() -> None:
        plan = two_homes()
        with Network.build(plan) as network:
            for port in (plan.cables[0].a, plan.cables[0].b, *(port for port in plan.loose if port.mac)):
                with network.spaces[port.space].socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
                    raw.bind((port.name, 0))
                    assert raw.getsockname()[4].hex(":") == port.mac

    inside(check)


def test_settings_are_those_of_the_plan(inside: Inside) -> None:
    def check() -> None:
        plan = two_homes()
        with Network.build(plan) as network:
            for space in plan.spaces:
                with network.spaces[space.name].entered():
                    for path, value in space.sysctls:
                        setting = Path("/proc/sys/net", path)
                        assert not setting.exists() or setting.read_text().strip() == value, path

    inside(check)


def test_rules_that_nft_refuses_are_named_with_their_space_and_leave_nothing(inside: Inside) -> None:
    def check() -> None:
        plan = dataclasses.replace(two_homes(), rules=(RuleSet("home-a", "table ip punchlab {\n  nonsense\n}\n"),))
        before = descriptors()
        with pytest.raises(KernelError, match=r"^home-a: nft: /dev/stdin:2:.*syntax error"):
            Network.build(plan)
        assert descriptors() == before

    inside(check)


def test_a_route_that_the_kernel_refuses_is_named_and_leaves_nothing(inside: Inside) -> None:
    def check() -> None:
        plan = two_homes()
        lost = Route("alice", "11.9.0.0/16", "11.8.0.1", "eth0")
        before = descriptors()
        with pytest.raises(KernelError, match=r"^alice: route to 11\.9\.0\.0/16: .*invalid gateway"):
            Network.build(dataclasses.replace(plan, routes=(*plan.routes, lost)))
        assert descriptors() == before

    inside(check)


def test_a_route_by_an_interface_that_is_not_in_the_plan_is_named(inside: Inside) -> None:
    def check() -> None:
        plan = dataclasses.replace(two_homes(), routes=(Route("alice", "default", None, "wlan0"),))
        with pytest.raises(KernelError, match="alice: the plan has no interface wlan0"):
            Network.build(plan)

    inside(check)


def test_networks_of_one_plan_are_built_at_the_same_time_and_do_not_see_each_other(inside: Inside) -> None:
    def check() -> None:
        plan = two_homes()
        with ThreadPoolExecutor(8) as pool:
            networks = list(pool.map(Network.build, [plan] * 8))
        for network in networks:
            with udp(network.spaces["alice"], 5000) as alice:
                assert seen_from_outside(network, alice) == (wan_of(plan, "home-a"), 5000)
        for network in networks:
            network.close()

    inside(check)


def test_a_network_can_be_built_in_a_thread_beside_a_running_loop(inside: Inside) -> None:
    async def main() -> None:
        network = await asyncio.to_thread(Network.build, two_homes())
        assert set(network.spaces) == {"core", "home-a", "home-b", "alice", "bob", "relay"}
        await asyncio.to_thread(network.close)

    inside(lambda: asyncio.run(main()))


def test_the_calling_thread_is_back_in_its_own_network(inside: Inside) -> None:
    def check() -> None:
        own = Path("/proc/thread-self/ns/net").readlink()
        with Network.build(two_homes()) as network:
            assert Path("/proc/thread-self/ns/net").readlink() == own
            with network.spaces["alice"].entered():
                assert Path("/proc/thread-self/ns/net").readlink() != own
            with pytest.raises(ZeroDivisionError), network.spaces["alice"].entered():
                _ = 1 / 0
        assert Path("/proc/thread-self/ns/net").readlink() == own

    inside(check)


def test_a_closed_namespace_cannot_be_entered(inside: Inside) -> None:
    def check() -> None:
        ns = Namespace("gone")
        ns.close()
        with pytest.raises(KernelError, match="gone: the namespace is closed"), ns.entered():
            pass

    inside(check)


def test_a_network_is_there_when_its_ipv6_addresses_are_on_a_busy_machine_too(inside: Inside) -> None:
    plan = build(probe_topology(PRESETS["full-cone"].nat, "probe", Ip.V6), 1)
    ports = (*plan.loose, *(end for cable in plan.cables for end in (cable.a, cable.b)))
    wanted = {(port.space, address.partition("/")[0]) for port in ports for address in port.addresses}

    def missing(_: int) -> set[tuple[str, str]]:
        with Network.build(plan) as network:
            return wanted - {(name, address) for name, ns in network.spaces.items() for address in local(ns)}

    def check() -> None:
        # The kernel takes addresses in a work queue, which waits for a processor and for networks that come and go.
        with busy(programs=4 * (os.cpu_count() or 1)), ThreadPoolExecutor(8) as pool:
            assert set().union(*pool.map(missing, range(48))) == set()

    inside(check)


def local(ns: Namespace) -> list[str]:
    """The IPv6 addresses whose packets a namespace keeps for itself."""
    with ns.entered():
        routes = [line.split() for line in Path("/proc/thread-self/net/ipv6_route").read_text().splitlines()]
    return [
        str(ipaddress.IPv6Address(int(route[0], 16)))
        for route in routes
        if route[1] == "80" and int(route[8], 16) & RTF_LOCAL
    ]


@contextmanager
def busy(programs: int) -> Iterator[None]:
    """So many programs that each want a processor."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(programs)]
    try:
        yield
    finally:
        for program in running:
            program.kill()
            program.wait()
