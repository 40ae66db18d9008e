"""The host: what it advertises, whom it reaches by what it knows, and how it ends."""

from __future__ import annotations

import asyncio
import tomllib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path as File
from typing import Any

import pytest

from node.errors import ConfigError, DecodeError, DialError, LimitExceeded, NodeError
from node.events import AddressesChanged, Connected, Direction, Disconnected, Listening, Path, StreamOpened
from node.host import ADVERTISED, VERSION, Host, HostConfig
from node.names.keys import KeyType, PrivateKey
from node.names.multiaddr import Multiaddr
from node.net.tcp import TcpTransport

Hosts = Callable[..., AbstractAsyncContextManager[tuple[Host, Host]]]
OUTSIDE = Multiaddr("/ip4/11.0.0.9/tcp/4001")


def test_the_version_is_that_of_the_package() -> None:
    project = tomllib.loads((File(__file__).parents[2] / "pyproject.toml").read_text())
    assert project["project"]["version"] == VERSION


@pytest.mark.parametrize("kind", list(KeyType))
def test_hosts_with_any_kind_of_key_reach_each_other(hosts: Hosts, kind: KeyType) -> None:
    async def main() -> None:
        async with hosts() as (alice, _):
            config = HostConfig(key=PrivateKey.generate(kind), listen=(Multiaddr("/ip4/127.0.0.1/tcp/0"),))
            async with Host(config) as bob:
                connection = await alice.connect(bob.addrs()[0].with_peer(bob.peer_id))
                assert (await alice.echo.echo(connection, 1000)).bytes == 1000
                await alice.identified(connection)
                assert "/echo/1.0.0" in alice.protocols_of(bob.peer_id)

    asyncio.run(main())


def test_events_tell_the_life_of_a_connection_in_order(hosts: Hosts, watch: Any) -> None:
    async def main() -> None:
        async with hosts() as (alice, bob):
            seen = watch(alice)
            connection = await alice.connect(bob.addrs()[0].with_peer(bob.peer_id))
            await alice.ping.ping(connection)
            await connection.close("enough")
            connected = await seen.saw(Connected)
            assert (connected.peer, connected.path, connected.direction) == (
                bob.peer_id,
                Path.DIRECT,
                Direction.OUTBOUND,
            )
            gone = await seen.saw(Disconnected)
            assert (gone.peer, gone.remote, gone.why) == (bob.peer_id, connection.remote, "enough")
            await seen.saw(StreamOpened, lambda event: event.protocol == "/ipfs/ping/1.0.0")
            kinds = [type(event) for event in seen.events]
            assert kinds.index(Connected) < kinds.index(StreamOpened) < kinds.index(Disconnected)

    asyncio.run(main())


def test_listening_is_told_with_the_port_in_use() -> None:
    async def main() -> None:
        told: list[object] = []
        host = Host(HostConfig(listen=(Multiaddr("/ip4/127.0.0.1/tcp/0"), Multiaddr("/ip4/127.0.0.1/tcp/0"))))
        host.subscribe(told.append)
        async with host:
            addrs = [event.addr for event in told if isinstance(event, Listening)]
            assert addrs == host.addrs()
            assert len({addr.port for addr in addrs} - {0}) == 2

    asyncio.run(main())


def test_a_wildcard_is_advertised_as_addresses_that_can_be_dialled() -> None:
    async def main() -> None:
        async with Host(HostConfig(listen=(Multiaddr("/ip4/0.0.0.0/tcp/0"),))) as host:
            (listening,) = host.swarm.listen_addrs()
            assert host.addrs()
            assert all(addr.port == listening.port and addr.ip != listening.ip for addr in host.addrs())

    asyncio.run(main())


def test_what_protocols_advertise_comes_on_top_and_its_change_is_told(hosts: Hosts, watch: Any) -> None:
    async def main() -> None:
        async with hosts() as (alice, _):
            seen = watch(alice)
            own = alice.addrs()
            alice.add_advertised(OUTSIDE)
            alice.add_advertised(OUTSIDE)
            assert alice.addrs() == [*own, OUTSIDE]
            alice.remove_advertised(OUTSIDE)
            assert alice.addrs() == own
            assert [e.addrs for e in seen.events if isinstance(e, AddressesChanged)] == [(*own, OUTSIDE), tuple(own)]
            for n in range(1, ADVERTISED + 10):
                alice.add_advertised(Multiaddr.tcp("11.0.0.9", n))
            assert len(alice.addrs()) == len(own) + ADVERTISED

    asyncio.run(main())


def test_an_address_without_a_peer_is_not_connected_to(hosts: Hosts) -> None:
    async def main() -> None:
        async with hosts() as (alice, bob):
            with pytest.raises(DecodeError, match="/p2p/"):
                await alice.connect(bob.addrs()[0])

    asyncio.run(main())


def test_a_new_stream_dials_by_what_is_known_of_the_peer(hosts: Hosts) -> None:
    async def main() -> None:
        async with hosts() as (alice, bob):
            with pytest.raises(DialError, match="no address"):
                await alice.new_stream(bob.peer_id, ["/echo/1.0.0"])
            connection = await alice.connect(bob.addrs()[0].with_peer(bob.peer_id))
            await connection.close()
            stream = await alice.new_stream(bob.peer_id, ["/echo/1.0.0"])
            assert stream.connection is not connection

    asyncio.run(main())


def test_a_new_stream_goes_over_the_direct_connection_and_over_a_limited_one_only_if_asked(hosts: Hosts) -> None:
    async def main() -> None:
        async with hosts() as (alice, bob):
            raw = await TcpTransport().dial(bob.addrs()[0])
            limited = await alice.swarm.add_outbound(raw, expected=bob.peer_id, path=Path.RELAYED, limited=True)
            with pytest.raises(LimitExceeded):
                await alice.new_stream(bob.peer_id, ["/perf/1.0.0"])
            assert (await alice.new_stream(bob.peer_id, ["/echo/1.0.0"], limited=True)).connection is limited
            direct = await alice.connect(bob.addrs()[0].with_peer(bob.peer_id))
            assert direct is not limited
            assert (await alice.new_stream(bob.peer_id, ["/perf/1.0.0"])).connection is direct

    asyncio.run(main())


def test_a_host_that_cannot_listen_leaves_nothing_open() -> None:
    async def main() -> None:
        nowhere = Multiaddr("/ip4/192.0.2.77/tcp/1")
        host = Host(HostConfig(listen=(Multiaddr("/ip4/127.0.0.1/tcp/0"), nowhere)))
        with pytest.raises(ConfigError, match=r"192\.0\.2\.77"):
            async with host:
                pytest.fail("it listens where it cannot")
        assert host.swarm.listen_addrs() == []
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_a_closed_host_leaves_no_task_and_its_peers_hear_of_it(hosts: Hosts, watch: Any) -> None:
    async def main() -> None:
        async with hosts() as (alice, bob):
            seen = watch(alice)
            async with Host(HostConfig(listen=(Multiaddr("/ip4/127.0.0.1/tcp/0"),))) as carol:
                connection = await carol.connect(alice.addrs()[0].with_peer(alice.peer_id))
                await carol.connect(bob.addrs()[0].with_peer(bob.peer_id))
                await carol.identified(connection)
            gone = await seen.saw(Disconnected)
            assert (gone.peer, gone.why) == (carol.peer_id, "closed by the peer")
            with pytest.raises(NodeError):
                await alice.new_stream(carol.peer_id, ["/echo/1.0.0"])

    asyncio.run(main())
