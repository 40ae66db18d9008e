"""Bootstrapping by lists of which most is dead, slow, lying or gone, and by whom a node met before."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing

from lab.lab import Lab
from lab.run.plugin import topology
from node.names.peerid import PeerId

LIST = ("bootstrap", "late", "mute", "broken", "poisoned", "missing")
BAD = tuple(word for name in LIST for word in ("--bootstrap", f"/dnsaddr/{name}.lab"))
WITHIN = 10.0
"Seconds, on a loaded machine; a quiet one needs a fraction of one for the entry that is alive."


@topology("dead-bootstraps", alice=BAD)
async def test_one_entry_that_is_alive_is_enough_and_comes_before_the_others_have_failed(lab: Lab) -> None:
    relay, alice = lab.peers("relay", "alice")
    assert relay.events[0].at < alice.events[0].at, "whoever a name stands for is ready before anybody asks for it"
    async with lab.step("alice is connected"):
        found = await alice.saw("connected", within=WITHIN, where=lambda peer="", **_: peer == relay.peer_id)
    assert (await alice.echo(relay)).path == "direct"
    assert (await lab.facts()).direct_flow(alice, relay, after=found.at) is not None

    told = await alice.saw("bootstrapped", within=30)
    assert found.at < told.at, "the mute name had not failed yet"
    assert told.fields["peers"] == [relay.peer_id]
    failed = {entry.removeprefix("/dnsaddr/").removesuffix(".lab"): why for entry, why in told.fields["failed"].items()}
    assert set(failed) - {"poisoned"} == {"mute", "broken", "missing"}  # a lie about whom we know by now does no harm
    assert "no answer" in failed["mute"]
    assert "cannot answer" in failed["broken"]
    assert "no such name" in failed["missing"]


@topology("dead-bootstraps", alice=("--bootstrap", "/dnsaddr/poisoned.lab"))
async def test_a_node_whose_list_is_all_lies_comes_back_by_whom_it_met(lab: Lab) -> None:
    relay, alice = lab.peers("relay", "alice")
    told = await alice.saw("bootstrapped", within=30)
    assert told.fields["peers"] == []
    await alice.dial(relay.address)
    assert (await alice.echo(relay)).path == "direct"
    await alice.saw("identified", within=WITHIN)
    async with lab.step("what alice knows is on the disk"):
        async with asyncio.timeout(WITHIN):
            while relay.peer_id not in remembered(lab):
                await alice.ping(relay)

    await lab.event("alice", "kill")
    started = await lab.event("alice", "start")
    again = lab.peer("alice")
    await again.saw("connected", within=WITHIN, where=lambda peer="", **_: peer == relay.peer_id)
    assert (await again.echo(relay)).path == "direct"
    assert (await lab.facts()).direct_flow(again, relay, after=started.at) is not None


def remembered(lab: Lab) -> set[str]:
    """The peers that alice's state has as reached."""
    with closing(sqlite3.connect(lab._record.home("alice") / "peers.sqlite")) as database:
        found = database.execute("SELECT peer FROM address WHERE connected IS NOT NULL").fetchall()
    return {str(PeerId(peer)) for (peer,) in found}
