"""Two peers talk, something happens to the network between them: how soon is there direct traffic again?

    meet ─► one sends more than there is time for ─► the event ─► the transfer goes on, or it breaks off
                                                                  └► direct again ─► an echo
    by the wire: seconds from the event until ENOUGH bytes have crossed directly

Where the path is gone, nobody is told. The node's signs of life find it out, the peers meet at the relay again and make
a hole again, by themselves; the application opens its stream anew.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

from lab.errors import Inconclusive, LabError, PeerError
from lab.lab import Lab
from lab.life import Happened
from lab.model.resuming import CASES, Case, Way, case_topology
from lab.model.transport import PUNCHABLE
from lab.peers.contract import Event
from lab.peers.handle import Peer
from lab.report.results import Mark
from lab.report.resuming import Campaign, Try, findings, rows
from lab.run.cell import blame
from lab.run.evidence import Evidence, new_run
from lab.run.machine import this_machine
from lab.run.scenario import Options, laboratory

SILENCE: Final = 15.0
"The node's own default, in seconds."
ENOUGH: Final = 32 * 1024
"Bytes of payload that must have crossed directly: more than a handshake, knocks and signs of life make."
RATE: Final = "200000"
"Bytes a second at most that are sent, so that a capture stays small."
MORE_THAN_THERE_IS_TIME_FOR: Final = 1 << 30
WITHIN: Final = 100.0
"Seconds for each wait; QUIC's idle timeout and a port map's renewal fit in."
TRY_WITHIN: Final = 200.0
LOOK_EVERY: Final = 0.1
"Seconds between two questions that a peer is asked in vain."

Done = Callable[[Try], None]


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be tried."""

    cases: tuple[Case, ...] = CASES
    transports: tuple[str, ...] = PUNCHABLE
    rounds: int = 5
    silence: float = SILENCE
    jobs: int | None = None
    "tries at a time; None: as many as this machine has processors"
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Resumed:
    """How traffic came back."""

    happened: Happened
    at: float
    "Unix seconds at which ENOUGH bytes had crossed directly"
    lived_on: bool
    "whether the connection itself outlived what happened"

    @property
    def seconds(self) -> float:
        """Without direct traffic."""
        return self.at - self.happened.at


def options(case: Case, silence: float = SILENCE) -> Options:
    """Arguments of the peers' programs for a silence of so many seconds."""
    asked = ("--liveness", f"{silence:g}", "--limit-rate-out", RATE)
    return {"alice": (*asked, "--port-mapping") if case.way is Way.PORT_MAP else asked, "bob": asked}


async def resume(lab: Lab, case: Case) -> Resumed:
    """Run the scenario; raises `PeerError` where traffic does not come back.

    A case of another way than by a port map needs the peers relay, alice and bob, with `options`.
    """
    sender, receiver = await (_by_port_map(lab) if case.way is Way.PORT_MAP else _by_hole(lab))
    async with lab.step(f"{sender.name} sends to {receiver.name}"):
        sending = await _begin_transfer(sender, receiver)
    try:
        before = _directs(sender, receiver)
        happened = await lab.event(case.target, case.event)
        async with lab.step(f"traffic resumes after {case.target} {case.event}"):
            if case.anew:
                (sender,) = lab.peers("late")
                lived_on = False
                await _come_anew(sender, receiver)
            else:
                lived_on = await _go_on(lab, happened, sending, sender, receiver, before)
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    facts = await lab.facts()
    at = facts.delivered(sender, receiver, ENOUGH, after=happened.done)
    if at is None:
        raise PeerError(
            f"the peers say that they are direct again; the wire shows less than {ENOUGH} B that crossed so"
        )
    return Resumed(happened, at, lived_on)


# ── before ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _by_hole(lab: Lab) -> tuple[Peer, Peer]:
    relay, alice, bob = lab.peers("relay", "alice", "bob")
    async with lab.step("alice and bob punch"):
        await bob.reserve(relay)
        await alice.dial(bob.through(relay))
        await bob.saw("punch", within=WITHIN, where=lambda stage="", **_: stage == "succeeded")
        for peer in (alice, bob):
            await peer.saw("disconnected", within=WITHIN, where=lambda path="", **_: path == "relayed")
    await _keep(alice, bob)
    return alice, bob


async def _by_port_map(lab: Lab) -> tuple[Peer, Peer]:
    alice, bob = lab.peers("alice", "bob")
    async with lab.step("bob reaches alice by her port map"):
        await bob.dial(await _mapped(alice))
    await _keep(alice, bob)
    return bob, alice


async def _mapped(alice: Peer) -> str:
    (addr,) = (await alice.saw("port-mapped", within=WITHIN)).fields["addrs"]
    return str(addr)


async def _keep(one: Peer, other: Peer) -> None:
    """Each says that it wants to keep the other."""
    await one.ask("protect", peer=other.peer_id)
    await other.ask("protect", peer=one.peer_id)


async def _begin_transfer(sender: Peer, receiver: Peer) -> asyncio.Task[object]:
    """Returns once some of it has arrived."""
    upload = sender.ask("perf", peer=receiver.peer_id, upload=MORE_THAN_THERE_IS_TIME_FOR, download=0, timeout=WITHIN)
    sending: asyncio.Task[object] = asyncio.create_task(upload, name=f"{sender.name} sends")
    await _received(receiver, sender, ENOUGH)
    return sending


# ── after ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _go_on(
    lab: Lab, happened: Happened, sending: asyncio.Task[object], sender: Peer, receiver: Peer, before: int
) -> bool:
    """Wait for traffic among those that were connected; whether the transfer itself has gone on."""
    going_on = _crossed(lab, happened, sender, receiver)
    arriving = asyncio.create_task(going_on, name=f"{receiver.name} receives")
    try:
        await asyncio.wait({sending, arriving}, return_when=asyncio.FIRST_COMPLETED)
        lives_on = arriving.done() and not arriving.exception()
    finally:
        arriving.cancel()
        await asyncio.gather(arriving, return_exceptions=True)
    if not lives_on:  # nor do its streams: whoever needs one opens it anew
        await _direct_again(sender, receiver, before)
    echoed = await sender.echo(receiver, 2 * ENOUGH, timeout=WITHIN)
    if echoed.path != "direct":
        raise PeerError(f"{sender.name} reaches {receiver.name} {echoed.path}")
    return lives_on


async def _come_anew(late: Peer, alice: Peer) -> None:
    """Have a stranger try until it gets in."""
    addr = await _mapped(alice)
    try:
        async with asyncio.timeout(WITHIN):
            while True:
                with suppress(PeerError):
                    await late.dial(addr, timeout=1.0)
                    break
                await asyncio.sleep(LOOK_EVERY)
    except TimeoutError:
        raise PeerError(f"{late.name} does not reach {addr} within {WITHIN:g} s") from None
    await late.echo(alice, 2 * ENOUGH, timeout=WITHIN)


async def _crossed(lab: Lab, happened: Happened, sender: Peer, receiver: Peer) -> None:
    """Wait for bytes that were sent after what happened: a peer may have many before it that it has not read yet."""
    at = None
    while at is None:
        await _received(receiver, sender, await _bytes_in(receiver, sender) + ENOUGH)
        at = (await lab.facts()).delivered(sender, receiver, ENOUGH, after=happened.done)


async def _received(peer: Peer, other: Peer, enough: int) -> None:
    try:
        async with asyncio.timeout(WITHIN):
            while True:
                if await _bytes_in(peer, other) >= enough:
                    return
                await asyncio.sleep(LOOK_EVERY)
    except TimeoutError:
        raise PeerError(f"{peer.name} got less than {enough} B of {other.name} within {WITHIN:g} s") from None


async def _bytes_in(peer: Peer, other: Peer) -> int:
    """Bytes of payload that a peer says it has got from another by connections that stand."""
    known = (await peer.ask("peers"))["peers"]
    return sum(each["bytes_in"] for each in known if each["peer"] == other.peer_id)


def _directs(peer: Peer, other: Peer) -> int:
    """How many times the two became directly connected, as one of them tells it."""
    wanted = ("direct", other.peer_id)
    return sum(each.name == "connected" and (each.get("path"), each.get("peer")) == wanted for each in peer.events)


async def _direct_again(peer: Peer, other: Peer, before: int) -> Event:
    """The next direct connection, after so many."""
    numbers = count()
    return await peer.saw(
        "connected",
        within=WITHIN,
        where=lambda path="", peer="", **_: (path, peer) == ("direct", other.peer_id) and next(numbers) >= before,
    )


# ── many ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def try_case(case: Case, transport: str, evidence: Evidence, order: Order, capture: str) -> Try:
    """One try in a fresh lab. Never raises on account of the peers or the lab: its mark says so."""
    try:
        async with asyncio.timeout(TRY_WITHIN):
            topology = case_topology(case, transport)
            opening = laboratory(topology, evidence, seed=order.seed, options=options(case, order.silence))
            async with opening as lab:
                resumed = await resume(lab, case)
        if lab.captured is not None and lab.captured.dropped:
            raise Inconclusive("the capture is not whole")
        tried = Try(case.name, transport, Mark.PASSED, "", resumed.seconds, resumed.lived_on, capture)
    except* (LabError, OSError, TimeoutError) as group:
        verdict = blame(group)
        tried = Try(case.name, transport, verdict.mark, verdict.why, capture=capture)
    return tried


async def try_all(order: Order, runs: Path, done: Done) -> tuple[Path, Campaign]:
    """Try every case, tell `done` of each try as it ends; the run's folder, and what it all came to."""
    started, began = time.time(), time.monotonic()
    folder = new_run(runs, "resuming", started, random.SystemRandom())
    slots = asyncio.Semaphore(order.jobs or os.cpu_count() or 1)
    tries: list[Try] = []
    loads = [os.getloadavg()[0]]

    async def run(case: Case, transport: str, number: int) -> None:
        async with slots:
            place = Path("cells") / f"{case.name}-{transport}-{number}"
            evidence = Evidence(folder / place)
            tries.append(await try_case(case, transport, evidence, order, str(place / evidence.capture.name)))
            done(tries[-1])

    about = {"format": 1, "started": started, "punchlab": this_machine().punchlab, "seed": order.seed}
    Evidence(folder).write("run.json", about)
    for number in range(order.rounds):
        async with asyncio.TaskGroup() as group:
            for case in order.cases:
                for transport in order.transports:
                    group.create_task(run(case, transport, number))
        loads.append(os.getloadavg()[0])
    campaign = Campaign(
        silence=order.silence,
        rounds=order.rounds,
        started=started,
        seconds=time.monotonic() - began,
        loads=tuple(round(load, 1) for load in loads),
        machine=this_machine(),
        rows=rows([(case.name, case.what) for case in order.cases], tries),
        findings=findings(tries),
    )
    return folder, campaign
