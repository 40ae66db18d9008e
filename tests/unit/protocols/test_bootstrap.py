"""Bootstrapping over loopback: real hosts."""

from __future__ import annotations

from pathlib import Path

from node.events import Bootstrapped, Connected
from node.host import Host, HostConfig
from node.names.keys import PrivateKey
from node.names.multiaddr import Multiaddr
from node.names.peerid import PeerId
from tests.support.hosts import LOOPBACK, addr_of, run, watch

SOMEBODY = PeerId.from_public_key(PrivateKey.generate().public)
ADDR = Multiaddr("/ip4/127.0.0.1/tcp/9")


def config(*bootstrap: Multiaddr, state: Path | None = None) -> HostConfig:
    return HostConfig(listen=(LOOPBACK,), relay_client=False, dcutr=False, bootstrap=bootstrap, state=state)


def test_a_list_with_dead_and_lying_entries_leads_to_the_one_that_is_alive() -> None:
    async def main() -> None:
        async with Host(config()) as alive:
            lying = alive.listen_addrs()[0].with_peer(SOMEBODY)
            dead = ADDR.with_peer(PeerId.from_public_key(PrivateKey.generate().public))
            host = Host(config(dead, lying, addr_of(alive)))
            seen = watch(host)
            async with host:
                told = await seen.wait(Bootstrapped)
                assert told.peers == (alive.peer_id,)
                assert [entry for entry, _ in told.failures] == [str(dead), str(lying)]

    run(main)


def test_a_bootstrap_that_comes_back_is_connected_to_again() -> None:
    async def main() -> None:
        key = PrivateKey.generate()
        first = Host(HostConfig(key=key, listen=(LOOPBACK,), relay_client=False, dcutr=False))
        async with first:
            where = addr_of(first)
            host = Host(config(where))
            seen = watch(host)
            await host.__aenter__()
            await seen.wait(Connected)
        try:
            again = HostConfig(key=key, listen=(where.without("p2p"),), relay_client=False, dcutr=False)
            second = Host(again)
            met = watch(second)
            async with second:
                await met.wait(Connected)
        finally:
            await host.__aexit__(None, None, None)

    run(main)


def test_whom_a_node_met_is_found_again_when_the_list_is_dead(tmp_path: Path) -> None:
    async def main() -> None:
        dead = ADDR.with_peer(SOMEBODY)
        async with Host(config()) as friend:
            async with Host(config(dead, state=tmp_path)) as host:
                await host.connect(addr_of(friend))
            host = Host(config(dead, state=tmp_path))
            seen = watch(host)
            async with host:
                assert (await seen.wait(Connected)).peer == friend.peer_id

    run(main)
