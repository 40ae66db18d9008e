"""Slots that are kept by themselves, at real relays on loopback that come, refuse and go."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from node.events import Path, ReachabilityChanged, ReservationLost, Reserved
from node.host import Host, HostConfig
from node.logic.autonat import Reachability
from node.names.multiaddr import Multiaddr
from node.protocols.autorelay import AutoRelay
from tests.support.hosts import LOOPBACK, addr_of, run, watch


@contextlib.asynccontextmanager
async def relay() -> AsyncIterator[Host]:
    async with Host(HostConfig(listen=(LOOPBACK,), dcutr=False, relay_server=True)) as host:
        yield host


def private(*relays: Multiaddr, reachability: str = "private") -> Host:
    return Host(HostConfig(listen=(LOOPBACK,), dcutr=False, reachability=reachability, relays=relays))


def slots(host: Host) -> set[str]:
    assert host.relay_client is not None
    return {str(held.relay) for held in host.relay_client.held}


def test_slots_are_kept_at_two_of_the_relays_that_a_private_node_is_connected_to() -> None:
    async def main() -> None:
        async with relay() as a, relay() as b, relay() as c, private() as node:
            seen = watch(node)
            for each in (a, b, c):
                await node.connect(addr_of(each))
            first = await seen.wait(Reserved)
            await seen.wait(Reserved, lambda event: event.relay != first.relay)
            assert len(slots(node)) == 2
            assert {addr.relay_part().peer_id for addr in node.addrs() if addr.is_relayed} == {
                held.relay
                for held in node.relay_client.held  # type: ignore[union-attr]
            }

    run(main)


def test_a_listed_relay_is_connected_to_and_others_reach_the_node_through_it() -> None:
    async def main() -> None:
        async with relay() as a, Host(HostConfig(dcutr=False)) as other:
            node = private(addr_of(a))
            seen = watch(node)  # before it starts: it needs nobody to ask it
            async with node:
                await seen.wait(Reserved)
                connection = await other.connect(addr_of(a) / f"/p2p-circuit/p2p/{node.peer_id}")
                assert connection.path is Path.RELAYED

    run(main)


def test_when_a_relay_ends_its_slot_moves_to_another() -> None:
    async def main() -> None:
        async with relay() as b, relay() as c, contextlib.AsyncExitStack() as dying:
            a = await dying.enter_async_context(relay())
            node = private(addr_of(a))
            seen = watch(node)
            await dying.enter_async_context(node)
            await seen.wait(Reserved, lambda event: event.relay == a.peer_id)
            await node.connect(addr_of(b))
            await seen.wait(Reserved, lambda event: event.relay == b.peer_id)
            await node.connect(addr_of(c))
            await a.swarm.disconnect(node.peer_id)
            await seen.wait(ReservationLost, lambda event: event.relay == a.peer_id)
            await seen.wait(Reserved, lambda event: event.relay == c.peer_id)
            assert slots(node) == {str(b.peer_id), str(c.peer_id)}

    run(main)


def test_a_public_node_keeps_no_slot() -> None:
    async def main() -> None:
        async with relay() as a, private(addr_of(a), reachability="public") as node:
            assert node.oneself is not None
            assert node.oneself.autorelay is None
            assert node.oneself.reachability is Reachability.PUBLIC

    run(main)


def test_slots_are_given_up_when_they_are_wanted_no_more() -> None:
    async def main() -> None:
        wanted = True
        async with relay() as a, Host(HostConfig(listen=(LOOPBACK,), dcutr=False)) as node:
            seen = watch(node)
            assert node.relay_client is not None
            keeper = AutoRelay(node, node.relay_client, [addr_of(a)], lambda: wanted, node.liveness.ask)
            await keeper.start()
            await seen.wait(Reserved)
            wanted = False
            node.emit(ReachabilityChanged(Reachability.PUBLIC, ()))
            lost = await seen.wait(ReservationLost)
            assert lost == ReservationLost(a.peer_id, "not wanted any more")
            assert not [addr for addr in node.addrs() if addr.is_relayed]
            await keeper.close()

    run(main)
