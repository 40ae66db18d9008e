"""Names in a lab, asked for as programs do: by the C library's resolver, with the sandbox's own resolv.conf."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import dns.message
import pytest

from lab.errors import KernelError
from lab.kernel.network import Network
from lab.kernel.process import spawn
from lab.kernel.resolver import use_name_server
from lab.model.topology import parse
from lab.plan.build import build
from lab.plan.zone import NAME_SERVER
from lab.services.authority import Reply
from lab.services.running import Services

Inside = Callable[[Callable[[], None]], None]
HOMES = """
name = "homes"
[router.home]
nat = "home"
[peer.relay]
at = "internet"
role = "relay"
[peer.alice]
at = "home"
"""
LOOK_UP = """
import json, socket, sys
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = sorted({entry[4][0] for entry in socket.getaddrinfo(name, 4001, type=socket.SOCK_STREAM)})
    except OSError as error:
        found[name] = error.strerror
print(json.dumps(found))
"""


class Running:
    """A network with its services, and what its name server was asked."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.replies: list[Reply] = []

    async def look_up(self, space: str, *names: str) -> dict[str, list[str] | str]:
        """What a program in a space is told by getaddrinfo(3)."""
        argv = [sys.executable, "-c", LOOK_UP, *names]
        process = await spawn(self.network.spaces[space], argv, {"PATH": "/usr/bin:/bin"}, Path("/"), None)
        async with asyncio.timeout(30):
            output, _ = await process.communicate()
        found: dict[str, list[str] | str] = json.loads(output)
        return found


def resolv_conf() -> str:
    return Path("/etc/resolv.conf").read_text()


def run(dns_table: str, scenario: Callable[[Running, Services], Awaitable[None]]) -> None:
    """A scenario in a network with such a name server."""

    async def main() -> None:
        with Network.build(build(parse(HOMES + dns_table, "homes.toml"), seed=1)) as network:
            running = Running(network)
            services = await Services.start(network, running.replies.append)
            try:
                await scenario(running, services)
            finally:
                await services.close()

    asyncio.run(main())


def test_a_program_behind_a_nat_resolves_names_by_the_c_library(inside: Inside) -> None:
    async def scenario(running: Running, _: Services) -> None:
        assert resolv_conf() == f"nameserver {NAME_SERVER}\n"
        found = await running.look_up("alice", "relay.lab", "home.lab", "nobody.lab")
        assert found == {"relay.lab": ["11.0.2.2"], "home.lab": ["11.0.1.2"], "nobody.lab": "Name or service not known"}
        assert {(reply.name, reply.outcome) for reply in running.replies if reply.kind == "A"} == {
            ("relay.lab", "NOERROR"),
            ("home.lab", "NOERROR"),
            ("nobody.lab", "NXDOMAIN"),
        }

    inside(lambda: run("[dns]", scenario))


def test_the_hosts_own_resolv_conf_stays_as_it_is(inside: Inside) -> None:
    async def scenario(_: Running, __: Services) -> None:
        assert NAME_SERVER in resolv_conf()

    before = resolv_conf()
    inside(lambda: run("[dns]", scenario))
    assert resolv_conf() == before
    with pytest.raises(KernelError, match="only a sandbox"):
        use_name_server(NAME_SERVER)


def test_a_failing_server_is_told_at_once_and_a_lying_one_believed(inside: Inside) -> None:
    async def scenario(running: Running, _: Services) -> None:
        found = await running.look_up("alice", "relay.lab", "home.lab")
        assert found == {"relay.lab": "Temporary failure in name resolution", "home.lab": [NAME_SERVER]}

    modes = '[dns]\n[dns.relay]\nmode = "failing"\n[dns.home]\nmode = "lying"'
    inside(lambda: run(modes, scenario))


def test_a_slow_answer_comes_when_it_was_to_come_and_a_dead_one_does_not(inside: Inside) -> None:
    async def scenario(running: Running, _: Services) -> None:
        began = time.monotonic()
        assert (await running.look_up("relay", "home.lab")) == {"home.lab": ["11.0.1.2"]}
        assert time.monotonic() - began >= 0.4
        query = dns.message.make_query("relay.lab", "A").to_wire()
        loop = asyncio.get_running_loop()
        with running.network.spaces["alice"].socket(socket.AF_INET, socket.SOCK_STREAM) as stream:
            stream.setblocking(False)
            await loop.sock_connect(stream, (NAME_SERVER, 53))
            await loop.sock_sendall(stream, len(query).to_bytes(2, "big") + query)
            async with asyncio.timeout(30):
                while running.replies[-1].name != "relay.lab":  # noqa: ASYNC110 - it is in this very loop
                    await asyncio.sleep(0)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await loop.sock_recv(stream, 1)
        assert [reply.outcome for reply in running.replies if reply.name == "relay.lab"] == ["silence"]

    modes = '[dns]\nmode = "slow"\ndelay = "400ms"\n[dns.relay]\nmode = "dead"'
    inside(lambda: run(modes, scenario))


def test_a_dnsaddr_too_long_for_a_datagram_is_fetched_by_tcp(inside: Inside) -> None:
    async def scenario(running: Running, services: Services) -> None:
        services.announce("relay", "12D3KooWRelay")
        script = (
            "import dns.resolver; r = dns.resolver.resolve('_dnsaddr.bootstrap.lab', 'TXT');"
            "print(len(r), sum(b'12D3KooWRelay' in s for t in r for s in t.strings))"
        )
        argv = [sys.executable, "-c", script]
        process = await spawn(running.network.spaces["alice"], argv, {"PATH": "/usr/bin"}, Path("/"), None)
        async with asyncio.timeout(30):
            output, _ = await process.communicate()
        assert output.split() == [b"61", b"1"]
        assert len(running.replies) == 2

    many = ", ".join(f'"/ip4/11.9.0.{number}/tcp/4001/p2p/{"Q" * 46}"' for number in range(60))
    inside(lambda: run(f'[dns.bootstrap]\ndnsaddr = ["relay", {many}]', scenario))
