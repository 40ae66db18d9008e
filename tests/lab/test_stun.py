"""What peers find out by STUN is what the lab has built: the five classical NATs, each by its name."""

from __future__ import annotations

import asyncio

from lab.lab import Lab
from lab.model.presets import PRESETS
from lab.run.plugin import topology

FIRST, SECOND = "/ip4/11.0.6.2/udp/3478", "/ip4/11.0.6.3/udp/3479"
"""The server's two addresses, on four endpoints."""
SERVES = ("--stun-listen", FIRST, "--stun-listen", SECOND)
ASKS = ("--stun", FIRST)
BEHIND = ("full", "address", "port", "sequential", "random")


@topology("five-nats", relay=SERVES, full=ASKS, address=ASKS, port=ASKS, sequential=ASKS, random=ASKS, carol=ASKS)
async def test_each_peer_finds_out_which_nat_it_is_behind(lab: Lab) -> None:
    carol = lab.peer("carol")
    async with asyncio.TaskGroup() as group:
        told = {name: group.create_task(lab.peer(name).saw("nat", within=20)) for name in (*BEHIND, "carol")}

    kinds = {name: str(task.result().get("kind")) for name, task in told.items()}
    declared = {name: next(each.nat for each in lab.plan.routers if each.name == f"home-{name}") for name in BEHIND}
    assert kinds.pop("carol") == "none"
    assert {name: PRESETS[kind].nat for name, kind in kinds.items()} == declared
    assert (await carol.nat()).kind == "none"

    facts = await lab.facts()
    talk = [packet for packet in facts.packets if packet.interface == "relay/eth0" and packet.proto == "udp"]
    asked = sum(packet.payload for packet in talk if packet.dst.startswith("11.0.6."))
    answered = sum(packet.payload for packet in talk if packet.src.startswith("11.0.6."))
    assert 0 < answered < 3 * asked


OBSERVERS = ("relay", "carol", "victim")


@topology("five-nats", full=ASKS, address=ASKS, port=ASKS, sequential=ASKS, random=ASKS)
async def test_what_three_peers_observe_tells_how_the_nat_maps_tcp(lab: Lab) -> None:
    async def mapping(name: str) -> str:
        peer = lab.peer(name)
        for observer in lab.peers(*OBSERVERS):
            await peer.dial(observer.address)
            await peer.saw("observed", within=10, where=lambda by, of=observer.peer_id, **_: by == of)
        return (await peer.nat()).tcp

    async with asyncio.TaskGroup() as group:
        told = {name: group.create_task(mapping(name)) for name in BEHIND}

    cones = dict.fromkeys(("full", "address", "port"), "endpoint-independent")
    symmetric = dict.fromkeys(("sequential", "random"), "endpoint-dependent")
    assert {name: task.result() for name, task in told.items()} == cones | symmetric
