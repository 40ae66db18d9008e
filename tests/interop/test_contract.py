"""Every implementation's peer keeps the contract (docs/contract.md) with ours at the other end, in both directions."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from lab.errors import PeerUnsupported
from lab.kernel import sandbox
from lab.lab import Lab
from lab.model.topology import parse
from lab.peers.foreign import FOREIGN
from lab.peers.handle import Peer
from lab.run.evidence import Evidence
from lab.run.scenario import laboratory

ECHO = 10 << 20
PERF = 1 << 20
SMALL = 16 << 10
"Far below what a relay lets through (128 KiB each way)."

NETWORK = """
name = "contract"
summary = "Ours, theirs, and a relay of each."

[peer.ours]
at = "{ours}"

[peer.our-relay]
at   = "internet"
role = "relay"

[peer.theirs]
at   = "{theirs}"
impl = "{impl}"

[peer.their-relay]
at   = "internet"
role = "relay"
impl = "{impl}"
"""
ROUTERS = """
[router.home-ours]
nat = "symmetric-random"

[router.home-theirs]
nat = "symmetric-random"
"""
PUBLIC = NETWORK.replace("{ours}", "internet").replace("{theirs}", "internet")
HOMES = NETWORK.replace("{ours}", "home-ours").replace("{theirs}", "home-theirs") + ROUTERS
"Behind NATs through which nobody punches, so that the relayed connection stays."


def wants(foreign: str) -> pytest.MarkDecorator:
    program = next(each for each in FOREIGN if each.name == foreign).program
    reason = f"the peer of {foreign} is not built; `make peers` builds it"
    return pytest.mark.skipif(not os.access(program, os.X_OK), reason=reason)


IMPLEMENTATIONS = ["own", *(pytest.param(each.name, marks=wants(each.name)) for each in FOREIGN)]


def play(network: str, impl: str, folder: Path, scenario: Callable[[Lab], Awaitable[None]]) -> None:
    """Run a scenario in a lab of its own; what it raises comes with its traceback."""
    if reason := sandbox.problem():
        pytest.skip(reason)

    async def run() -> None:
        topology = parse(network.format(impl=impl), "contract")
        async with laboratory(topology, Evidence(folder / "run")) as lab:
            await scenario(lab)

    def main() -> bytes:
        asyncio.run(run())
        return b""

    sandbox.fork_into_sandbox(main, 120.0)


async def part(one: Peer, other: Peer) -> None:
    """End what connects two peers, so that the next dial has to dial."""
    await one.ask("disconnect", peer=other.peer_id)
    await other.saw("disconnected", within=10, where=lambda peer="", **_: peer == one.peer_id)


async def talk(dialer: Peer, listener: Peer) -> None:
    made = await dialer.dial(listener.address)
    assert (made.peer, made.path, made.transport) == (listener.peer_id, "direct", "tcp")
    identified = await dialer.saw("identified", within=10, where=lambda peer="", **_: peer == listener.peer_id)
    assert "/ipfs/ping/1.0.0" in identified.fields["protocols"]
    assert identified.fields["agent"] == (await listener.ask("info"))["agent"]
    assert (await dialer.ping(listener)).path == "direct"
    echoed = await dialer.echo(listener, ECHO)
    assert (echoed.bytes, echoed.path) == (ECHO, "direct")
    measured = await dialer.ask("perf", peer=listener.peer_id, upload=PERF, download=PERF)
    assert measured["upload_seconds"] >= 0 <= measured["download_seconds"]
    open_ = (await dialer.ask("connections"))["connections"]
    assert [each["direction"] for each in open_ if each["peer"] == listener.peer_id] == ["outbound"]


async def reach(dialer: Peer, listener: Peer, relay: Peer) -> None:
    reserved = await listener.reserve(relay)
    assert reserved.relay == relay.peer_id
    await dialer.dial(listener.through(relay))
    for peer, other in ((dialer, listener), (listener, dialer)):
        await peer.saw("connected", within=10, where=lambda of=other, **fields: relayed(fields, of))
    echoed = await dialer.echo(listener, SMALL)
    assert (echoed.bytes, echoed.path) == (SMALL, "relayed")


def relayed(fields: dict[str, object], other: Peer) -> bool:
    return (fields.get("peer"), fields.get("path")) == (other.peer_id, "relayed")


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_both_sides_dial_ping_identify_echo_and_measure(impl: str, tmp_path: Path) -> None:
    async def scenario(lab: Lab) -> None:
        ours, theirs = lab.peers("ours", "theirs")
        await talk(ours, theirs)
        await part(ours, theirs)
        await talk(theirs, ours)
        with pytest.raises(PeerUnsupported):
            await theirs.ask("levitate")

    play(PUBLIC, impl, tmp_path, scenario)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_each_is_reached_through_the_relay_of_the_other(impl: str, tmp_path: Path) -> None:
    async def scenario(lab: Lab) -> None:
        ours, theirs, our_relay, their_relay = lab.peers("ours", "theirs", "our-relay", "their-relay")
        await reach(ours, theirs, our_relay)
        await part(ours, theirs)
        await reach(theirs, ours, their_relay)

    play(HOMES, impl, tmp_path, scenario)
