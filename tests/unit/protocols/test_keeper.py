"""Peers that are kept: connected to again when the connection ends, asked whether they live when they come again."""

from __future__ import annotations

from node.events import Connected, Direction, Disconnected, Path, ReservationLost, Reserved
from node.host import Host, HostConfig
from node.logic.relay import RelayLimits
from node.net.connection import Connection
from node.protocols.relay_server import RelayServer
from tests.support.hosts import LOOPBACK, addr_of, run, watch


def host() -> Host:
    return Host(HostConfig(listen=(LOOPBACK,), dcutr=False))


def test_a_protected_peer_that_closes_is_connected_to_again() -> None:
    async def main() -> None:
        async with host() as a, host() as b:
            first = await a.connect(addr_of(b))
            a.connection_manager.trimmer.protect(b.peer_id, "friend")
            seen = watch(a)
            await b.swarm.disconnect(a.peer_id)
            await seen.wait(Disconnected)
            again = await seen.wait(Connected)
            assert (again.peer, again.direction) == (b.peer_id, Direction.OUTBOUND)
            assert a.swarm.best(b.peer_id) is not first

    run(main)


def test_a_protected_peer_that_we_disconnect_from_is_not_connected_to_again() -> None:
    async def main() -> None:
        async with host() as a, host() as b, host() as c:
            for each in (b, c):
                await a.connect(addr_of(each))
                a.connection_manager.trimmer.protect(each.peer_id, "friend")
            seen = watch(a)
            assert await a.keeper.disconnect(b.peer_id) == 1
            await c.swarm.disconnect(a.peer_id)
            assert (await seen.wait(Connected)).peer == c.peer_id, "who was lost later came first, and alone"
            assert not a.swarm.connections(b.peer_id)

    run(main)


def test_a_slot_that_was_asked_for_is_asked_for_again() -> None:
    async def main() -> None:
        async with host() as relay, host() as b:
            await RelayServer(relay, RelayLimits()).start()
            assert b.relay_client is not None
            await b.relay_client.reserve(addr_of(relay))
            b.keeper.keep_slot(addr_of(relay), b.relay_client)
            seen = watch(b)
            await relay.swarm.disconnect(b.peer_id)
            await seen.wait(ReservationLost)
            await seen.wait(Reserved)

    run(main)


def test_a_peer_that_comes_again_has_its_older_connection_doubted_until_it_answers() -> None:
    async def main() -> None:
        async with host() as a, host() as b:
            older = await a.connect(addr_of(b))
            (at_b,) = await both(b, a, 1)
            newer = await a.swarm.dial_anew(b.peer_id, addr_of(b).without("p2p"))
            assert not newer.is_doubted
            await both(b, a, 2)
            await b.liveness.settle()
            assert not at_b.is_doubted
            assert not older.is_closed
            assert b.swarm.best(a.peer_id) is at_b

    run(main)


async def both(node: Host, peer: Host, count: int) -> list[Connection]:
    """The connections of a node to a peer, once there are so many."""
    seen = watch(node)
    while len(found := node.swarm.connections(peer.peer_id)) < count:
        await seen.wait(Connected, lambda event: event.peer == peer.peer_id)
        seen.events.clear()
    return found


def test_a_doubted_connection_is_the_last_that_streams_are_opened_on() -> None:
    async def main() -> None:
        async with host() as a, host() as b:
            older = await a.connect(addr_of(b))
            newer = await a.swarm.dial_anew(b.peer_id, addr_of(b).without("p2p"))
            await a.liveness.settle()
            assert a.swarm.by_preference(b.peer_id) == [older, newer]
            older.is_doubted = True
            assert a.swarm.by_preference(b.peer_id) == [newer, older]
            assert newer.path is Path.DIRECT

    run(main)
