"""The three states that connections may be in, encrypted, signed only and clear, as somebody on the wire sees them."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest

from lab.errors import PeerError
from lab.lab import Lab
from lab.run.plugin import topology
from tests.support.web import web

SAID = b"/echo/1.0.0\n"
"""What is said on a stream before the payload, so whoever can read that can read all of it."""
RELAY = "11.0.3.2"
FOLDER = tempfile.TemporaryDirectory()  # the nodes of a scenario start before its test does
WEB = web(Path(FOLDER.name), RELAY)


async def captured(lab: Lab) -> bytes:
    """All that has passed any wire up to now."""
    await lab.facts()  # has the rings drained
    return await asyncio.to_thread(lab._record.capture.read_bytes)


def in_state(name: str, *flags: str) -> pytest.MarkDecorator:
    return topology("flat", alice=flags, bob=flags)


@pytest.mark.parametrize(
    ("security", "readable"),
    [
        pytest.param({"/noise"}, False, marks=in_state("default"), id="encrypted is the default"),
        pytest.param({"/tls/1.0.0 (signed only)"}, True, marks=in_state("signed", "--security", "signed"), id="signed"),
        pytest.param({"/plaintext/2.0.0"}, True, marks=in_state("clear", "--security", "clear"), id="clear"),
    ],
)
async def test_the_wire_shows_what_is_said_only_where_the_node_was_told_so(
    lab: Lab, security: set[str], readable: bool
) -> None:
    relay, alice, bob = lab.peers("relay", "alice", "bob")
    dialled = await alice.ask("dial", addr=bob.address)
    assert dialled["security"] in security
    assert (await alice.echo(bob)).path == "direct"
    assert (await lab.facts()).direct_flow(alice, bob) is not None
    assert (SAID in await captured(lab)) is readable
    if readable:
        async with lab.step("who wants less protection than others is not given in to"):
            with pytest.raises(PeerError):
                await alice.dial(relay.address)
            assert not (await relay.ask("connections"))["connections"]


@topology(
    "web-only-no-way",
    relay=("--listen", "/ip4/0.0.0.0/tcp/443/tls/ws", "--ws-cert", str(WEB.certificate), "--ws-key", str(WEB.key)),
    alice=("--ws-ca", str(WEB.authorities)),
)
async def test_where_only_the_web_gets_out_a_secure_websocket_does_and_looks_like_the_web(lab: Lab) -> None:
    relay, alice, bob = lab.peers("relay", "alice", "bob")
    addr = f"/ip4/{RELAY}/tcp/443/tls/ws/p2p/{relay.peer_id}"
    dialled = await alice.ask("dial", addr=addr)
    assert (dialled["path"], dialled["transport"]) == ("direct", "wss")
    assert (await alice.echo(relay)).path == "direct"
    with pytest.raises(PeerError):  # who does not know the authority does not believe the certificate
        await bob.dial(addr)

    facts = await lab.facts()
    office = next(router for router in lab.plan.routers if router.name == "office")
    left = [packet for packet in facts.packets if packet.interface == "office/wan" and packet.src == office.wan]
    assert {(packet.proto, packet.dst, packet.dport) for packet in left} == {("tcp", RELAY, 443)}
    assert facts.direct_flow(alice, relay) is not None
    seen = await captured(lab)
    for secret in (SAID, b"GET / HTTP", b"Sec-WebSocket-Key", b"/multistream/1.0.0"):
        assert secret not in seen, "there is something to be read"
