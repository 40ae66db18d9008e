"""NAT64 and DNS64: a peer with IPv6 alone and one with IPv4 alone, seen on the wire on both sides of the translator."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.errors import MissingCapability
from lab.kernel import translator
from lab.kernel.network import Network
from lab.kernel.process import spawn
from lab.lab import Lab
from lab.model.topology import load, parse
from lab.plan.build import build
from lab.plan.plan import Plan
from lab.run.certify import certify
from lab.run.library import OURS
from lab.run.plugin import topology
from lab.services.running import Services

Inside = Callable[[Callable[[], None]], None]
pytestmark = pytest.mark.skipif(translator.problem() is not None, reason=translator.problem() or "")
LOOK_UP = """
import json, socket, sys
print(json.dumps([sorted({entry[4][0] for entry in socket.getaddrinfo(name, 4001)}) for name in sys.argv[1:]]))
"""
SERVER = "64:ff9b::b00:202"
"11.0.2.2 by the well-known prefix"


def planned() -> Plan:
    return build(load(OURS / "ipv6-only-nat64.toml"), 1)


async def looked_up(network: Network, space: str, *names: str) -> list[list[str]]:
    """What a program there is told by getaddrinfo(3)."""
    argv = [sys.executable, "-c", LOOK_UP, *names]
    process = await spawn(network.spaces[space], argv, {"PATH": "/usr/bin:/bin"}, Path("/"), None)
    async with asyncio.timeout(30):
        output, _ = await process.communicate()
    found: list[list[str]] = json.loads(output)
    return found


@topology("ipv6-only-nat64")
async def test_an_ipv6_only_peer_reaches_an_ipv4_only_one_by_its_name(lab: Lab) -> None:
    server, phone = lab.peers("server", "phone")
    assert (server.launch.addresses, phone.launch.addresses) == (("11.0.2.2",), ("2a11:1:1::12",))
    async with lab.step("the phone dials the server's name"):
        dialled = await phone.dial(f"/dns6/server.lab/tcp/4001/p2p/{server.peer_id}")
        assert dialled.path == "direct"
    async with lab.step("and talks to it"):
        await phone.echo(server, 40_000)
    facts = await lab.facts()
    [inner] = [flow for flow in facts.wire.flows_at("phone/eth0") if SERVER in (flow.a.address, flow.b.address)]
    [outer] = [flow for flow in facts.wire.flows_at("server/eth0") if flow.proto == "tcp"]
    [wan] = [router.wan for router in lab.plan.routers]
    assert (inner.a.address, outer.a.address, outer.b.address) == ("2a11:1:1::12", wan, "11.0.2.2")
    assert inner.a.port == outer.a.port, "the carrier's NAT keeps ports, and the translator has no part in them"
    left = {(packet.seq, packet.payload) for packet in inner.packets if packet.src == inner.a.address}
    arrived = {(packet.seq, packet.payload) for packet in outer.packets if packet.src == outer.a.address}
    assert arrived <= left, "what arrives is what has left, segment by segment"
    assert outer.payload(outer.a) > 40_000
    assert outer.payload(outer.b) > 40_000


def test_names_are_told_by_the_prefix_to_who_asks_by_ipv6(inside: Inside) -> None:
    async def main() -> None:
        with await asyncio.to_thread(Network.build, planned()) as network:
            services = await Services.start(network, lambda _: None)
            try:
                assert await looked_up(network, "phone", "server.lab", "phone.lab") == [
                    ["11.0.2.2", SERVER],
                    ["2a11:1:1::12"],
                ]
                assert await looked_up(network, "server", "server.lab") == [["11.0.2.2"]]
            finally:
                await services.close()

    inside(lambda: asyncio.run(main()))


def test_the_router_beside_a_translator_measures_as_declared(inside: Inside) -> None:
    async def main() -> None:
        plan = planned()
        with await asyncio.to_thread(Network.build, plan) as network:
            [router] = plan.routers
            assert (await certify(network, router, router.vantages, full=True)).differences == ()

    inside(lambda: asyncio.run(main()))


def test_echo_requests_and_errors_are_translated_too(inside: Inside) -> None:
    def check() -> None:
        with (
            Network.build(planned()) as network,
            network.spaces["phone"].socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as pinging,
        ):
            pinging.settimeout(10)
            pinging.connect((SERVER, 0))
            pinging.send(b"\x80\x00\x00\x00" + b"\x12\x34\x00\x01" + b"hello")
            answer = pinging.recv(64)
            assert (answer[0], answer[4:]) == (129, b"\x12\x34\x00\x01hello")
        with (
            Network.build(planned()) as network,
            network.spaces["phone"].socket(socket.AF_INET6, socket.SOCK_DGRAM) as knocking,
        ):
            knocking.settimeout(10)
            knocking.connect((SERVER, 9))
            knocking.send(b"nobody listens there")
            with pytest.raises(ConnectionRefusedError):
                knocking.recv(64)

    inside(check)


def test_a_prefix_of_the_networks_own_serves_as_well(inside: Inside) -> None:
    text = (OURS / "ipv6-only-nat64.toml").read_text().replace("nat64 = true", 'nat64 = "2a11:64::/96"')

    async def main() -> None:
        with await asyncio.to_thread(Network.build, build(parse(text, "own.toml"), 1)) as network:
            services = await Services.start(network, lambda _: None)
            try:
                assert await looked_up(network, "phone", "server.lab") == [["11.0.2.2", "2a11:64::b00:202"]]
                with (
                    network.spaces["server"].socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
                    network.spaces["phone"].socket(socket.AF_INET6, socket.SOCK_DGRAM) as phone,
                ):
                    for its in (server, phone):
                        its.settimeout(10)
                    server.bind(("11.0.2.2", 4001))
                    phone.sendto(b"hello", ("2a11:64::b00:202", 4001))
                    heard, source = server.recvfrom(64)
                    server.sendto(heard, source)
                    assert phone.recvfrom(64)[0] == b"hello"
            finally:
                await services.close()

    inside(lambda: asyncio.run(main()))


def test_without_its_program_a_network_says_what_to_install(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert (
        translator.problem()
        == "there is no `tayga` program; install it: sudo apt install --no-install-recommends tayga"
    )
    monkeypatch.undo()

    def check() -> None:
        translator.PROGRAM = "no-such-translator"  # type: ignore[misc]
        with pytest.raises(
            MissingCapability, match=r"carrier\.64 translates between IPv6 and IPv4, but there is no `no"
        ):
            Network.build(planned())

    inside(check)
