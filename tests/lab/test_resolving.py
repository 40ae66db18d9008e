"""Names in addresses, dialled by our node, resolved by the lab's name server and judged by the packets that follow."""

from __future__ import annotations

import pytest

from lab.errors import PeerError
from lab.lab import Lab
from lab.run.plugin import topology


@topology("dead-bootstraps")
async def test_a_node_dials_what_names_stand_for_and_says_why_one_stands_for_nothing(lab: Lab) -> None:
    relay, alice = lab.peers("relay", "alice")
    ending = f"tcp/{relay.launch.port}/p2p/{relay.peer_id}"
    for name in (
        f"/dns4/relay.lab/{ending}",
        f"/dns/relay.lab/{ending}",
        f"/dnsaddr/bootstrap.lab/p2p/{relay.peer_id}",
    ):
        async with lab.step(f"alice dials {name}"):
            dialled = await alice.dial(name)
            assert dialled.remote == relay.address.removesuffix(f"/p2p/{relay.peer_id}")
            await alice.ask("disconnect", peer=relay.peer_id)

    facts = await lab.facts()
    assert facts.direct_flow(alice, relay) is not None

    async with lab.step("a slow name is late and no more than that"):
        await alice.dial(f"/dnsaddr/late.lab/p2p/{relay.peer_id}")
        await alice.ask("disconnect", peer=relay.peer_id)
    for name, why in {
        f"/dns4/gone.lab/{ending}": "A gone.lab: there is no such name",
        f"/dns6/relay.lab/{ending}": "AAAA relay.lab: no record that fits",
        f"/dnsaddr/broken.lab/p2p/{relay.peer_id}": "TXT _dnsaddr.broken.lab: the name servers cannot answer",
        f"/dnsaddr/poisoned.lab/p2p/{relay.peer_id}": "Connection refused",
    }.items():
        with pytest.raises(PeerError, match=why):
            await alice.dial(name)
    with pytest.raises(PeerError, match="timeout"):
        await alice.dial(f"/dnsaddr/mute.lab/p2p/{relay.peer_id}", timeout=1.0)
