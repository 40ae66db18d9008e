"""A node with too many connections closes some, and not those that it needs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack

from node.connmgr import PUNCH, RELAY
from node.events import Disconnected, PunchStage, PunchStep, ReservationLost, Reserved
from node.host import Host, HostConfig
from node.logic.trimming import Watermarks

Loopback = Callable[..., HostConfig]
MARKS = Watermarks(low=1, high=2, grace=0.0)


def test_connections_above_the_high_watermark_go_but_for_protected_peers(
    loopback: Loopback, watch: Callable[[Host], object]
) -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack, asyncio.timeout(20):
            busy = await stack.enter_async_context(Host(loopback(watermarks=MARKS)))
            watching = watch(busy)
            others = [await stack.enter_async_context(Host(loopback())) for _ in range(3)]
            busy.connection_manager.trimmer.protect(others[0].peer_id, "test")
            for other in others:
                await other.connect(busy.addrs()[0].with_peer(busy.peer_id))
            for other in others[1:]:
                gone = await watching.saw(  # type: ignore[attr-defined]
                    Disconnected, lambda event, other=other: event.peer == other.peer_id
                )
                assert gone.why == "trimmed: too many connections"
            assert [each.peer for each in busy.swarm.connections()] == [others[0].peer_id]

    asyncio.run(main())


def test_relays_with_a_slot_for_us_and_peers_being_punched_are_protected(loopback: Loopback) -> None:
    async def main() -> None:
        async with Host(loopback()) as host, Host(loopback()) as other:
            trimmer, peer = host.connection_manager.trimmer, other.peer_id
            host.emit(Reserved(peer, 0.0, ()))
            host.emit(PunchStage(PunchStep.STARTED, peer, 0))
            assert trimmer.unprotect(peer, PUNCH), "protected as a relay, too"
            host.emit(PunchStage(PunchStep.STARTED, peer, 0))
            assert trimmer.unprotect(peer, RELAY), "protected as a punched peer, too"
            host.emit(PunchStage(PunchStep.GAVE_UP, peer, 1))
            assert not trimmer.is_protected(peer)
            host.emit(Reserved(peer, 0.0, ()))
            host.emit(ReservationLost(peer, "gone"))
            assert not trimmer.is_protected(peer)

    asyncio.run(main())
