"""The library's port-mapped network: a mapped port does what no punch can do through two symmetric NATs."""

from __future__ import annotations

import asyncio

import pytest

from lab.kernel import portmap
from lab.lab import Lab
from lab.observe.facts import WirePath
from lab.run.plugin import topology
from tests.support.portmap import CLIENTS

pytestmark = pytest.mark.skipif(portmap.problem() is not None, reason=str(portmap.problem()))


@topology("port-mapped")
@pytest.mark.parametrize("protocol", CLIENTS)
async def test_who_has_a_port_mapped_is_dialled_directly_through_two_symmetric_nats(lab: Lab, protocol: str) -> None:
    relay, alice, bob = lab.peers("relay", "alice", "bob")
    gateway = lab.plan.routers[0].gateway
    asking = CLIENTS[protocol](lab.network.spaces["alice"], alice.launch.address, gateway)

    async with lab.step("alice has her port opened"):
        granted = await asyncio.to_thread(asking.map, "tcp", alice.launch.port, 4444, 600)
    async with lab.step("bob dials it"):
        dialled = await bob.dial(f"/ip4/{granted.external}/tcp/{granted.port}/p2p/{alice.peer_id}")
    echoed = await bob.echo(alice)

    assert (dialled.path, echoed.path) == ("direct", "direct")
    facts = await lab.facts()
    assert facts.path(bob, alice, relay) is WirePath.DIRECT
    flow = facts.direct_flow(bob, alice)
    assert flow is not None
    assert (granted.external, granted.port) in {(end.address, end.port) for end in flow.ends}
