"""Relays that die while they are needed: slots move, and peers are reached through another. Judged by the wire."""

from __future__ import annotations

import asyncio

import pytest

from lab.errors import PeerError
from lab.lab import Lab
from lab.observe.facts import WirePath
from lab.peers.contract import Event
from lab.peers.handle import Peer
from lab.run.plugin import topology

PRIVATE = ("--reachability", "private", "--no-dcutr")
RELAYS = ("north", "west", "east")
WITHIN = 15.0
"""Seconds in which a slot has to be at another relay."""
LOOK = 0.02
"""Seconds from one look at what has crossed a relay's interface to the next: all of the payload takes four."""


async def slots(lab: Lab, bob: Peer, count: int) -> list[Event]:
    """Wait until bob has reserved at so many relays; the reservations in their order."""
    found: list[Event] = []
    while len(found) < count:
        known = {event.get("relay") for event in found}
        found.append(await bob.saw("reserved", within=WITHIN, where=lambda relay, known=known, **_: relay not in known))
    return found


def relay_of(lab: Lab, event: Event) -> Peer:
    return next(lab.peer(name) for name in RELAYS if lab.peer(name).peer_id == event.get("relay"))


@topology("three-relays", bob=PRIVATE, alice=("--no-dcutr",))
@pytest.mark.parametrize("what", ["kill", "down"])
async def test_a_relay_dies_in_the_middle_of_a_transfer_and_its_slot_moves(lab: Lab, what: str) -> None:
    alice, bob = lab.peers("alice", "bob")
    async with lab.step("bob gets his slots"):
        first, second = await slots(lab, bob, 2)
    dying, spare = relay_of(lab, first), relay_of(lab, second)

    async with lab.step("alice sends bob a payload through one of them"):
        assert (await alice.dial(bob.through(dying))).path == "relayed"
        space = lab.network.spaces[dying.launch.space]
        before = space.traffic()
        sending = asyncio.create_task(alice.echo(bob, 100_000, timeout=8))
        begun = await bob.saw("stream", within=10, where=lambda protocol="", **_: protocol == "/echo/1.0.0")
        async with asyncio.timeout(10):
            while space.traffic() - before < 60_000:  # noqa: ASYNC110 - the kernel tells nobody
                await asyncio.sleep(LOOK)
    async with lab.step("the relay dies"):
        happened = await lab.event(dying, what)
        with pytest.raises(PeerError):
            await sending

    moved = (await slots(lab, bob, 3))[2]
    assert relay_of(lab, moved) not in (dying, spare)
    assert moved.at - happened.done < WITHIN

    async with lab.step("alice reaches bob through the new one"):
        await alice.ask("disconnect", peer=bob.peer_id)
        again = relay_of(lab, moved)
        assert (await alice.dial(bob.through(again))).path == "relayed"
        began = await lab.facts()
        echoed = await alice.echo(bob, 20_000)
    assert echoed.path == "relayed"
    facts = await lab.facts()
    since = max(packet.at for packet in began.packets)
    assert facts.bytes(via=dying, after=begun.at) < 350_000, "of 100 000 there and back, in and out: not in the middle"
    assert facts.path(alice, bob, again, after=since) is WirePath.RELAYED
    assert facts.bytes(via=again, after=since) > 2 * 20_000
    assert facts.bytes(via=spare, after=since) < 2_000  # signs of life, no payload
