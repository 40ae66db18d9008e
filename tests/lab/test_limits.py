"""A node's limits and rules among real NATs: one address has its share."""

from __future__ import annotations

import pytest

from lab.errors import PeerError
from lab.lab import Lab
from lab.run.plugin import topology


@topology("same-lan", relay=("--limit-per-ip", "1"))
async def test_peers_behind_one_address_share_its_limit(lab: Lab) -> None:
    relay, alice, bob = lab.peers("relay", "alice", "bob")
    await alice.dial(relay.address)
    async with lab.step("bob comes from alice's address"):
        with pytest.raises(PeerError):
            await bob.dial(relay.address)
    assert (await alice.echo(relay)).path == "direct"
    assert (await relay.ask("limits"))["refused"]["ip"] >= 1
    connected = (await relay.ask("peers"))["peers"]
    assert [each["peer"] for each in connected] == [alice.peer_id]
    facts = await lab.facts()
    assert facts.direct_flow(alice, relay) is not None
    assert facts.direct_flow(bob, relay) is None, "nothing was said to who was one too many"
