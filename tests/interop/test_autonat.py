"""AutoNAT between implementations: theirs tells our peers what can be dialled of them, as our own server does."""

from __future__ import annotations

import asyncio
import os

import pytest

from lab.lab import Lab
from lab.peers.foreign import FOREIGN
from lab.peers.handle import Peer
from lab.run.plugin import topology

ASKS = ("--reachability", "public")


def wants(impl: str) -> pytest.MarkDecorator:
    program = next(each for each in FOREIGN if each.name == impl).program
    reason = f"the peer of {impl} is not built; `make peers` builds it"
    return pytest.mark.skipif(not os.access(program, os.X_OK), reason=reason)


async def ask(peer: Peer, relay: Peer) -> bool:
    await peer.dial(relay.address)
    seen = str((await peer.saw("observed", within=10)).fields["addr"])
    return (await peer.autonat(relay, seen)).reachable


@wants("go")
@topology("go-server", full=ASKS, port=ASKS)
async def test_a_server_of_go_finds_what_ours_finds(lab: Lab) -> None:
    relay, full, port = lab.peers("relay", "full", "port")
    async with asyncio.TaskGroup() as group:
        of_full, of_port = group.create_task(ask(full, relay)), group.create_task(ask(port, relay))
    assert (of_full.result(), of_port.result()) == (True, False)
    reached = await full.ask("autonat", peer=relay.peer_id, version=1)
    assert (reached["status"], reached["addr"]) == ("OK", (await full.saw("observed", within=1)).fields["addr"])
    assert (await port.ask("autonat", peer=relay.peer_id, version=1))["status"] == "E_DIAL_ERROR"


@wants("go")
@topology("go-client", relay=("--autonat-dial-timeout", "3"))
async def test_our_server_finds_for_clients_of_go_what_it_finds_for_ours(lab: Lab) -> None:
    relay, full, port = lab.peers("relay", "full", "port")
    async with asyncio.TaskGroup() as group:
        of_full, of_port = group.create_task(ask(full, relay)), group.create_task(ask(port, relay))
    assert (of_full.result(), of_port.result()) == (True, False)
    assert (await full.ask("autonat", peer=relay.peer_id, version=1))["status"] == "OK"
    assert (await port.ask("autonat", peer=relay.peer_id, version=1))["status"] == "E_DIAL_ERROR"


AUTO = ("--reachability", "auto")


@wants("go")
@topology("go-client", relay=("--autonat-dial-timeout", "3"), full=AUTO, port=AUTO)
async def test_clients_of_go_have_their_addresses_tested_by_our_server(lab: Lab) -> None:
    relay, full, port = lab.peers("relay", "full", "port")
    for peer, reachable in ((full, True), (port, False)):
        await peer.dial(relay.address)
        dialled = await relay.saw("dialled-back", within=60, where=lambda peer, of=peer.peer_id, **_: peer == of)
        assert dialled.get("reachable") is reachable
        assert str(dialled.get("addr")).startswith(f"/ip4/{lab.plan.routers[(full, port).index(peer)].wan}/")
