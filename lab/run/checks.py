"""The checks of a setup, made in one lab: what each asks of the peers, and what has to come of it.

A check that a peer fails is FAILED with the peer's reason, or the end of its stderr if it crashed; one that it does not
have is UNSUPPORTED; where the lab broke, all that is left is INCONCLUSIVE. Every wait has a deadline. What the peers
say the wire has to show (`lab.run.confirm`), as far as it can be seen in what is encrypted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from lab.errors import LabError, PeerError, PeerUnsupported
from lab.kernel.container import Engine
from lab.lab import ADAPTERS, Lab
from lab.model.interop import Check, Scene, Setup, is_reachable
from lab.model.interop_networks import DIALER, LISTENER, RELAY, network
from lab.model.runner import PROCESS
from lab.model.topology import Topology
from lab.peers.adapter import Adapter
from lab.peers.answers import Dialled, Profile
from lab.peers.handle import Peer
from lab.report.interop import Outcome
from lab.report.results import Mark
from lab.run import confirm
from lab.run.cell import CELL_WITHIN, blame, run_cell
from lab.run.confirm import DialBack
from lab.run.evidence import Evidence
from lab.run.scenario import Options, laboratory

ECHO_BYTES: Final = 10 << 20
RELAYED_BYTES: Final = 16 << 10
"Far below what a relay lets through (128 KiB each way)."
SOON: Final = 15.0
"Seconds for what ought to be told at once."
DIALLED_BACK_WITHIN: Final = 60.0
"Seconds in which a client that asks when it pleases has to have had an address tested."
PING: Final = "/ipfs/ping/1.0.0"
AUTONAT_REQUESTS: Final = ("/libp2p/autonat/2/dial-request", "/libp2p/autonat/1.0.0")
"what a server serves"
AUTONAT_ANSWERS: Final = ("/libp2p/autonat/2/dial-back", "/libp2p/autonat/1.0.0")
"what a client serves, for the server to come back by; of version 1 it needs nothing, but who has one has the other"
PROTOCOLS: Final = {
    "noise": "/noise",
    "tls": "/tls/1.0.0",
    "yamux": "/yamux/1.0.0",
    "mplex": "/mplex/6.7.0",
}
"what a connection calls them"


@dataclass
class Tried:
    """What one lab has shown."""

    outcomes: list[Outcome] = field(default_factory=list)
    versions: dict[str, tuple[str, str]] = field(default_factory=dict)
    "what the implementations call themselves, and their versions"


async def try_setup(
    setup: Setup,
    checks: Sequence[Check],
    evidence: Evidence,
    seed: int = 1,
    adapters: Mapping[str, Adapter] = ADAPTERS,
    runner: str = PROCESS,
    engine: Engine | None = None,
) -> Tried:
    """Make these checks in a fresh lab. Never raises on account of the peers or the lab: the outcomes say so.

    `runner` is how every peer is run; containers need an `engine`.
    """
    tried, topology = Tried(), network(setup, runner)
    if setup.scene is Scene.PUNCH:
        await _punch(setup, topology, evidence, seed, adapters, engine, tried)
        return tried
    try:
        async with asyncio.timeout(CELL_WITHIN):
            options = options_for(setup)
            opening = laboratory(topology, evidence, seed=seed, options=options, adapters=adapters, engine=engine)
            async with opening as lab:
                await _play(lab, setup, checks, tried)
    except* (LabError, OSError, TimeoutError) as group:
        verdict = blame(group)
        made = {outcome.check for outcome in tried.outcomes}
        tried.outcomes += [Outcome(check, verdict.mark, verdict.why) for check in checks if check not in made]
    return tried


def options_for(setup: Setup) -> Options:
    """The further arguments of each peer (docs/contract.md)."""
    stack = setup.stack
    words = ["--security", stack.security, "--muxer", stack.muxer] if stack.security else []
    options = {name: [*words] for name in (DIALER, LISTENER, RELAY)}
    if setup.scene is Scene.MDNS:
        for name in (DIALER, LISTENER):
            options[name].append("--mdns")
    if setup.scene is Scene.AUTONAT and setup.dialer == "own":
        options[DIALER] += ["--reachability", "public"]  # it does not ask by itself, and is asked to by the check
    return {name: tuple(words) for name, words in options.items()}


async def _play(lab: Lab, setup: Setup, checks: Sequence[Check], tried: Tried) -> None:
    for peer in lab.all_peers:
        if peer.identity is not None:
            tried.versions[peer.launch.impl] = (peer.identity.implementation, peer.identity.version)
    steps = _steps(lab, setup)
    if setup.scene is not Scene.TALK:
        tried.outcomes += [await _made(lab, check, steps[check]) for check in checks]
        return
    connected = await _made(lab, Check.CONNECT, steps[Check.CONNECT])
    for check in checks:
        if check is Check.CONNECT:
            tried.outcomes.append(connected)
        elif connected.mark is Mark.PASSED:
            tried.outcomes.append(await _made(lab, check, steps[check]))
        else:
            tried.outcomes.append(Outcome(check, connected.mark, f"there is no connection: {connected.why}"))


async def _made(lab: Lab, check: Check, step: Callable[[], Awaitable[None]]) -> Outcome:
    """One check; what the lab itself has to say of its own failure is raised."""
    began = time.monotonic()
    mark, why = Mark.PASSED, ""
    try:
        async with lab.step(check.value):
            await step()
    except PeerUnsupported as error:
        mark, why = Mark.UNSUPPORTED, str(error)
    except PeerError as error:
        mark, why = Mark.FAILED, str(error)
    return Outcome(check, mark, why, time.monotonic() - began)


def _steps(lab: Lab, setup: Setup) -> dict[Check, Callable[[], Awaitable[None]]]:
    alice, bob = lab.peers(DIALER, LISTENER)
    return {
        Check.CONNECT: lambda: _connect(lab, alice, bob, setup),
        Check.PING: lambda: _ping(lab, alice, bob, setup),
        Check.IDENTIFY: lambda: _identify(lab, alice, bob, setup),
        Check.ECHO: lambda: _echo(lab, alice, bob),
        Check.RELAY: lambda: _relay(lab, alice, bob, lab.peer(RELAY)),
        Check.AUTONAT: lambda: _autonat(lab, alice, bob, setup),
        Check.MDNS: lambda: _mdns(lab, alice, bob),
    }


async def _connect(lab: Lab, alice: Peer, bob: Peer, setup: Setup) -> None:
    made = await alice.dial(bob.address)
    _agree(alice, made, setup)
    event = await bob.saw("connected", within=SOON, where=lambda peer="", **_: peer == alice.peer_id)
    _expect(bob, "path", event.get("path"), "direct")
    confirm.is_direct(await lab.facts(), alice.launch, bob.launch, setup.stack.transport)


def _agree(who: Peer, made: Dialled, setup: Setup) -> None:
    stack = setup.stack
    _expect(who, "path", made.path, "direct")
    _expect(who, "transport", made.transport, stack.transport)
    if stack.security:
        _expect(who, "security", made.security, PROTOCOLS[stack.security])
        _expect(who, "muxer", made.muxer, PROTOCOLS[stack.muxer])


def _expect(who: Peer, what: str, found: Any, wanted: Any) -> None:
    if found != wanted:
        raise PeerError(f"{who.name} says {what} {found!r}, asked for was {wanted!r}")


async def _ping(lab: Lab, alice: Peer, bob: Peer, setup: Setup) -> None:
    began = time.time()
    pinged = await alice.ping(bob)
    _expect(alice, "path", pinged.path, "direct")
    confirm.is_direct(await lab.facts(), alice.launch, bob.launch, setup.stack.transport, began)


async def _identify(lab: Lab, alice: Peer, bob: Peer, setup: Setup) -> None:
    """The dialer has read what the listener says of itself; the other way round is another setup.

    All those names are sent as they are, so as many bytes have to have come before.
    """
    seen = await alice.saw("identified", within=SOON, where=lambda peer="", **_: peer == bob.peer_id)
    told = Profile.of(alice.name, seen.fields)
    _expect(alice, "agent", told.agent, (await bob.profile()).agent)
    if PING not in told.protocols:
        raise PeerError(f"{alice.name} says that {bob.name} has no {PING}: {told.protocols!r}")
    size = sum(len(name.encode()) for name in (told.agent, *told.protocols))
    confirm.has_told(await lab.facts(), bob.launch, alice.launch, setup.stack.transport, size, seen.at)


async def _echo(lab: Lab, alice: Peer, bob: Peer) -> None:
    """What is too much for a capture to keep whole is counted by the interface."""
    space = lab.network.spaces[alice.launch.space]
    before = space.traffic()
    echoed = await alice.echo(bob, ECHO_BYTES)
    _expect(alice, "path", echoed.path, "direct")
    _expect(alice, "bytes", echoed.bytes, ECHO_BYTES)
    confirm.has_carried(alice.launch, before, space.traffic(), ECHO_BYTES)


async def _relay(lab: Lab, alice: Peer, bob: Peer, relay: Peer) -> None:
    """A slot, a connection through it, and a payload that the wire has to show at the relay."""
    await bob.reserve(relay)
    made = await alice.dial(bob.through(relay))
    _expect(alice, "path", made.path, "relayed")
    await bob.saw(
        "connected", within=SOON, where=lambda peer="", path="", **_: (peer, path) == (alice.peer_id, "relayed")
    )
    began = time.time()
    echoed = await alice.echo(bob, RELAYED_BYTES)
    _expect(alice, "path", echoed.path, "relayed")
    confirm.is_relayed(await lab.facts(), alice.launch, bob.launch, relay.launch, began, RELAYED_BYTES)


async def _autonat(lab: Lab, client: Peer, server: Peer, setup: Setup) -> None:
    """The client's own word where it can be asked, else that of our server, which tells whom it has dialled back.

    Either has to be what the wire shows of the dial.
    """
    wanted = is_reachable(setup)
    await _has(server, AUTONAT_REQUESTS)
    came = time.time()
    await client.dial(server.address)
    try:
        asked = str((await client.saw("observed", within=SOON)).get("addr"))
        began = time.time()
        found: Any = (await client.autonat(server, asked)).reachable
        facts = await lab.facts()
        confirm.dialled_no_other(facts, client.launch, server.launch, asked, began)
    except PeerUnsupported:
        if setup.listener != "own":
            raise
        await _has(client, AUTONAT_ANSWERS)
        router = lab.plan.routers[0].wan
        dialled = await server.saw(
            "dialled-back",
            within=DIALLED_BACK_WITHIN,
            where=lambda peer="", addr="", **_: peer == client.peer_id and f"/{router}/" in addr,
        )
        asked, began, found = str(dialled.get("addr")), came, dialled.get("reachable")
        facts = await lab.facts()  # what else the client has asked about is not known
    shown = confirm.dial_back(facts, client.launch, server.launch, asked, began)
    words = {True: "reachable", False: "not reachable"}
    wire = f"of {server.name}'s dials of {asked} the wire shows {shown.value}"
    if found is not wanted:
        raise PeerError(f"found {words.get(found, found)}, behind {setup.nats[0]} it is {words[wanted]}; {wire}")
    if shown is not (DialBack.TAKEN if wanted else DialBack.LOST):
        raise PeerError(f"found {words[wanted]}, but {wire}")


async def _has(peer: Peer, protocols: Sequence[str]) -> None:
    """Raises `PeerUnsupported` where a peer serves none of these protocols, by its own account."""
    if not set(protocols) & set((await peer.profile()).protocols):
        raise PeerUnsupported(f"{peer.name} serves none of {', '.join(protocols)}")


async def _mdns(lab: Lab, alice: Peer, bob: Peer) -> None:
    for one, other in ((alice, bob), (bob, alice)):
        await one.saw("discovered", within=SOON, where=lambda peer="", of=other.peer_id, **_: peer == of)
    confirm.found_each_other(await lab.facts(), alice.launch, bob.launch)


async def _punch(
    setup: Setup,
    topology: Topology,
    evidence: Evidence,
    seed: int,
    adapters: Mapping[str, Adapter],
    engine: Engine | None,
    tried: Tried,
) -> None:
    """The scenario of the punch matrix, with its verdict by the wire."""
    capture, options = evidence.capture.name, options_for(setup)
    cell = await run_cell(topology, evidence, seed, capture, adapters, options, engine)
    parties = ((setup.dialer, cell.dialer), (setup.listener, cell.listener), (setup.relay, cell.relay))
    tried.versions |= {impl: (party.implementation, party.version) for impl, party in parties if party.implementation}
    seen = f"{cell.seen}: " if cell.verdict is Mark.PASSED else ""
    tried.outcomes.append(Outcome(Check.PUNCH, cell.verdict, f"{seen}{cell.why}", cell.seconds.direct))
