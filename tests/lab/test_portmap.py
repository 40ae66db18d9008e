"""Routers that offer port mapping, judged by packets from the internet."""

from __future__ import annotations

import asyncio
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.errors import KernelError, MissingCapability
from lab.kernel import portmap
from lab.kernel.namespace import Namespace
from lab.kernel.network import Network
from lab.model.topology import parse
from lab.plan.build import build
from lab.plan.plan import Plan
from lab.run.certify import certify
from lab.run.leaks import check as leaks
from tests.support.portmap import CLIENTS, Granted, NatPmp, Pcp, RefusedError, Upnp

Inside = Callable[[Callable[[], None]], None]
DEADLINE = 10.0
UNHEARD = 0.25
"""Seconds after which a packet is not coming any more; the usual is 0.001."""
SHORT = 4
"""Seconds of a lease that is to run out; so many that a busy machine finds it open before."""
PORT = 4001
ALL = '{ protocols = ["upnp", "nat-pmp", "pcp"] }'
NATS = ("port-restricted", "symmetric")


@pytest.fixture
def router(inside: Inside) -> Inside:
    """Run a check where routers can offer port mapping."""
    if reason := portmap.problem():
        pytest.skip(reason)
    return inside


def plan_of(nat: str, offer: str = ALL) -> Plan:
    text = f"""
name = "port-mapped"
[router.home]
nat = "{nat}"
port-mapping = {offer}
[peer.caller]
at = "internet"
[peer.alice]
at = "home"
[peer.bob]
at = "home"
"""
    return build(parse(text, "port-mapped.toml"), seed=1)


def built(nat: str, mode: str = "honest") -> Network:
    return Network.build(plan_of(nat, ALL.replace("}", f', mode = "{mode}" }}')))


def client(network: Network, protocol: str, host: str = "alice") -> NatPmp | Pcp | Upnp:
    own = next(launch.address for launch in network.plan.launches if launch.peer == host)
    return CLIENTS[protocol](network.spaces[host], own, network.plan.routers[0].gateway)


def listening(ns: Namespace, port: int = PORT) -> socket.socket:
    sock = ns.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("0.0.0.0", port))  # noqa: S104 - any address of the namespace
    return sock


def shut_out(network: Network, listener: socket.socket, external: int) -> bool:
    """Whether a datagram from the internet does not arrive; for where it must not, as it is not waited for long."""
    return not gets_through(network, listener, external, UNHEARD)


def gets_through(network: Network, listener: socket.socket, external: int, within: float = DEADLINE) -> bool:
    """Whether a datagram from the internet arrives at the listener, and its answer from where it was sent to."""
    wan = network.plan.routers[0].wan
    with network.spaces["caller"].socket(socket.AF_INET, socket.SOCK_DGRAM) as calling:
        token = str(time.monotonic_ns()).encode()
        calling.sendto(token, (wan, external))
        listener.settimeout(within)
        try:
            data, source = listener.recvfrom(100)
        except TimeoutError:
            return False
        assert data == token
        listener.sendto(b"answer", source)
        calling.settimeout(DEADLINE)
        assert calling.recvfrom(100) == (b"answer", (wan, external))
        return True


def until_shut(network: Network, listener: socket.socket, external: int, began: float) -> float:
    """Seconds since `began` until nobody gets through any more; fails after DEADLINE."""
    while not shut_out(network, listener, external):
        assert time.monotonic() - began < DEADLINE, "still open"
    return time.monotonic() - began


@pytest.mark.parametrize("nat", NATS)
@pytest.mark.parametrize("protocol", CLIENTS)
def test_a_mapped_port_is_open_to_everybody_until_it_is_given_back(router: Inside, nat: str, protocol: str) -> None:
    def check() -> None:
        with built(nat) as network, listening(network.spaces["alice"]) as alice:
            asking = client(network, protocol)
            assert shut_out(network, alice, 5001)
            assert asking.map("udp", PORT, 5001, 60) == Granted(network.plan.routers[0].wan, 5001, 60)
            assert gets_through(network, alice, 5001)
            asking.unmap("udp", PORT, 5001)
            assert shut_out(network, alice, 5001)

    router(check)


@pytest.mark.parametrize("nat", NATS)
def test_a_mapped_tcp_port_takes_connections_from_the_internet(router: Inside, nat: str) -> None:
    def check() -> None:
        with built(nat) as network, network.spaces["alice"].socket(socket.AF_INET, socket.SOCK_STREAM) as server:
            server.settimeout(DEADLINE)
            server.bind(("0.0.0.0", PORT))  # noqa: S104 - any address of the namespace
            server.listen()
            client(network, "pcp").map("tcp", PORT, PORT, 60)
            with network.spaces["caller"].socket(socket.AF_INET, socket.SOCK_STREAM) as caller:
                caller.settimeout(DEADLINE)
                caller.connect((network.plan.routers[0].wan, PORT))
                accepted, address = server.accept()
                with accepted:
                    assert address == caller.getsockname()

    router(check)


@pytest.mark.parametrize("protocol", CLIENTS)
def test_a_lease_that_is_not_renewed_runs_out(router: Inside, protocol: str) -> None:
    def check() -> None:
        with built("port-restricted") as network, listening(network.spaces["alice"]) as alice:
            began = time.monotonic()
            assert client(network, protocol).map("udp", PORT, 5001, SHORT).lifetime == SHORT
            assert gets_through(network, alice, 5001)
            assert until_shut(network, alice, 5001, began) > SHORT - 1, "the daemon counts whole seconds"

    router(check)


@pytest.mark.parametrize("nat", ["full-cone", "address-restricted"])
def test_who_came_in_by_a_port_map_is_a_stranger_when_it_is_gone(router: Inside, nat: str) -> None:
    def check() -> None:
        with built(nat) as network, listening(network.spaces["alice"]) as alice:
            asking = client(network, "pcp")
            asking.map("udp", PORT, 5001, 60)
            assert gets_through(network, alice, 5001)
            asking.unmap("udp", PORT, 5001)
            assert shut_out(network, alice, 5001)

    router(check)


@pytest.mark.parametrize(("protocol", "code"), [("nat-pmp", 3), ("pcp", 8), ("upnp", 501)])
def test_a_router_that_refuses_says_so_at_once_in_every_protocol(router: Inside, protocol: str, code: int) -> None:
    def check() -> None:
        with built("port-restricted", "refuse") as network, listening(network.spaces["alice"]) as alice:
            took = 1.0
            deadline = time.monotonic() + DEADLINE
            while took >= 1 and time.monotonic() < deadline:  # a busy machine only adds to it
                began = time.monotonic()
                with pytest.raises(RefusedError) as refused:
                    client(network, protocol).map("udp", PORT, 5001, 60)
                took = time.monotonic() - began
                assert refused.value.code == code
            assert took < 1
            assert shut_out(network, alice, 5001)

    router(check)


@pytest.mark.parametrize("protocol", CLIENTS)
def test_a_router_that_lies_grants_everything_and_lets_nothing_in(router: Inside, protocol: str) -> None:
    def check() -> None:
        with built("port-restricted", "lie") as network, listening(network.spaces["alice"]) as alice:
            asking = client(network, protocol)
            assert asking.map("udp", PORT, 5001, 60) == Granted(network.plan.routers[0].wan, 5001, 60)
            assert shut_out(network, alice, 5001)
            asking.unmap("udp", PORT, 5001)

    router(check)


@pytest.mark.parametrize("offered", CLIENTS)
def test_a_protocol_that_is_not_offered_is_not_answered(router: Inside, offered: str) -> None:
    def check() -> None:
        with Network.build(plan_of("port-restricted", f'"{offered}"')) as network:
            assert client(network, offered).map("udp", PORT, 5001, 60).port == 5001
            for protocol in CLIENTS.keys() - {offered}:
                asking = client(network, protocol)
                asking.within = UNHEARD
                with pytest.raises(TimeoutError):
                    asking.map("udp", PORT, 5001, 60)

    router(check)


def test_a_lease_is_no_longer_than_the_router_grants(router: Inside) -> None:
    def check() -> None:
        plan = plan_of("symmetric", f'{{ protocols = ["pcp"], lease-max = "{SHORT}s" }}')
        with Network.build(plan) as network, listening(network.spaces["alice"]) as alice:
            began = time.monotonic()
            assert client(network, "pcp").map("udp", PORT, 5001, 3600).lifetime == SHORT
            assert gets_through(network, alice, 5001)
            until_shut(network, alice, 5001, began)

    router(check)


@pytest.mark.parametrize(("protocol", "code"), [("nat-pmp", 3), ("pcp", 8), ("upnp", 501)])
def test_a_router_behind_another_refuses_as_its_own_address_is_private(
    router: Inside, protocol: str, code: int
) -> None:
    def check() -> None:
        text = f"""
name = "double-nat"
[router.modem]
nat = "home"
[router.home]
nat = "home"
at = "modem"
port-mapping = {ALL}
[peer.alice]
at = "home"
"""
        with Network.build(build(parse(text, "double-nat.toml"), seed=1)) as network:
            inner = network.plan.routers[1]
            asking = CLIENTS[protocol](network.spaces["alice"], network.plan.launches[0].address, inner.gateway)
            with pytest.raises(RefusedError) as refused:
                asking.map("udp", PORT, 5001, 60)
            assert refused.value.code == code

    router(check)


def test_nobody_maps_a_port_that_another_host_holds(router: Inside) -> None:
    def check() -> None:
        with built("port-restricted") as network, listening(network.spaces["alice"]) as alice:
            client(network, "pcp").map("udp", PORT, 5001, 60)
            assert client(network, "pcp", "bob").map("udp", PORT, 5001, 60).port != 5001
            assert gets_through(network, alice, 5001)

    router(check)


def test_lost_leases_are_shut_and_can_be_renewed(router: Inside) -> None:
    def check() -> None:
        with built("port-restricted") as network, listening(network.spaces["alice"]) as alice:
            asking = client(network, "pcp")
            asking.map("udp", PORT, 5001, 60)
            assert gets_through(network, alice, 5001)
            network.lose_leases("home")
            assert shut_out(network, alice, 5001)
            asking.map("udp", PORT, 5001, 60)
            assert gets_through(network, alice, 5001)

    router(check)


def test_a_router_that_forgets_has_no_lease_and_answers_again(router: Inside) -> None:
    def check() -> None:
        with built("port-restricted") as network, listening(network.spaces["alice"]) as alice:
            asking = client(network, "upnp")
            asking.map("udp", PORT, 5001, 60)
            network.forget("home")
            assert shut_out(network, alice, 5001)
            asking.map("udp", PORT, 5001, 60)
            assert gets_through(network, alice, 5001)

    router(check)


@pytest.mark.parametrize("nat", NATS)
def test_a_nat_that_offers_port_mapping_still_measures_as_declared_and_nothing_leaks(router: Inside, nat: str) -> None:
    async def examine(network: Network) -> None:
        assert await leaks(network, network.plan) == []
        certificate = await certify(network, network.plan.routers[0], network.plan.vantages, full=True)
        assert certificate.differences == ()

    def check() -> None:
        with built(nat) as network:
            client(network, "pcp").map("udp", PORT, 5001, 60)
            asyncio.run(examine(network))

    router(check)


def test_the_daemon_ends_with_its_network(router: Inside) -> None:
    def check() -> None:
        with built("port-restricted"):
            assert len(daemons()) == 1
        assert daemons() == []
        assert list(Path("/run").glob("portmap-*")) == []

    router(check)


def daemons() -> list[str]:
    """The miniupnpds of this sandbox; /proc shows no others."""
    names = [path.read_text().strip() for path in Path("/proc").glob("[0-9]*/comm")]
    return [name for name in names if name == portmap.PROGRAM]


def test_only_a_router_that_offers_port_mapping_can_lose_leases(inside: Inside) -> None:
    def check() -> None:
        text = 'name = "plain"\n[router.home]\nnat = "home"\n[peer.alice]\nat = "home"\n'
        nobody = "home offers no port mapping; those that do: none"
        plan = build(parse(text, "plain.toml"), seed=1)
        with Network.build(plan) as network, pytest.raises(KernelError, match=nobody):
            network.lose_leases("home")

    inside(check)


def test_without_the_program_a_topology_that_asks_for_it_gets_one_line(inside: Inside) -> None:
    def check() -> None:
        found = shutil.which
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shutil, "which", lambda name: None if name == portmap.PROGRAM else found(name))
            with pytest.raises(MissingCapability) as missing:
                Network.build(plan_of("port-restricted"))
        assert str(missing.value) == (
            "home offers port mapping, but there is no `miniupnpd` program; "
            "install it: sudo apt install --no-install-recommends miniupnpd-nftables"
        )

    inside(check)
