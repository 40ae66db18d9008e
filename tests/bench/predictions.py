"""Port prediction and the spray: how often they find a hole, with how many datagrams, in how many seconds.

    python -m tests.bench predict --punches 20 [--link "latency=20ms loss=1%"]

Every round is a lab of its own. Whether there is a hole says the wire; datagrams are those that either peer's interface
sent to the other's NAT from the first `predict` event to the direct connection, in the capture; seconds are those
between, on the side that began, after both have measured their NATs. The same pairs without the feature stand beside.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from lab.errors import LabError
from lab.kernel import sandbox
from lab.lab import Lab
from lab.model.link_words import link_to_toml
from lab.model.topology import Topology, parse
from lab.peers.handle import Peer
from lab.run.evidence import Evidence
from lab.run.scenario import laboratory
from node.logic.prediction import PORTS, PROBES, SOCKETS, chance_of_a_hit
from tests.bench.figures import Figure, Section
from tests.bench.program import BenchError

AT_ONCE: Final = 4
"Labs side by side: most of one is waiting."
LAB_WITHIN: Final = 60.0
"Seconds that one of them may take, as if they came one after the other."
WITHIN: Final = 60.0
"Seconds for all attempts of a pair."
STUN: Final = ("/ip4/11.0.3.2/udp/3478", "/ip4/11.0.3.3/udp/3479")
SEQUENTIAL, RANDOM, PORT = "symmetric-sequential", "symmetric-random", "port-restricted"
HOTEL, CLOUD = "hotel", "cloud"
PAIRS: Final = (
    (SEQUENTIAL, PORT),
    (PORT, SEQUENTIAL),
    (SEQUENTIAL, SEQUENTIAL),
    (HOTEL, PORT),
    (CLOUD, PORT),
    (RANDOM, PORT),
    (PORT, RANDOM),
)
WITHOUT: Final = ((SEQUENTIAL, PORT), (RANDOM, PORT))


@dataclass(frozen=True, slots=True)
class Round:
    """One pair in one lab."""

    dialer: str
    listener: str
    on: bool
    direct: bool
    attempts: int = 0
    datagrams: int = 0
    seconds: float = 0.0
    probes: int = 0
    "datagrams of the sweep"
    broken: str = ""
    "why the lab could not tell"


def run(rounds: int, link: str | None = None) -> Section:
    """Run each pair so often, a third as often without the feature."""
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    cells = [(*pair, True) for pair in PAIRS for _ in range(rounds)]
    cells += [(*pair, False) for pair in WITHOUT for _ in range(math.ceil(rounds / 3))]
    try:
        raw = sandbox.fork_into_sandbox(lambda: asyncio.run(_rounds(cells, link)), len(cells) * LAB_WITHIN)
    except LabError as error:
        raise BenchError(str(error)) from None
    results = [Round(**each) for each in json.loads(raw)]
    whole = [each for each in results if not each.broken]
    figures = [*(figure for pair in PAIRS for figure in _figures(pair, whole)), *_controls(whole)]
    notes = (
        f"links: {link or 'ideal'}; n: rounds with a hole; a hole on the wire at any of three attempts counts",
        f"expected of a spray: a hit in {chance_of_a_hit(SOCKETS, PROBES):.1%} of the attempts, half of them within"
        f" {len(PORTS) * math.log(2) / SOCKETS:.0f} probes",
        *sorted({f"not counted: {each.broken}" for each in results if each.broken}),
    )
    return Section("predict", "Port prediction and the spray, over QUIC", tuple(figures), notes)


def _figures(pair: tuple[str, str], results: Sequence[Round]) -> Iterator[Figure]:
    own = [each for each in results if each.on and (each.dialer, each.listener) == pair]
    found = [each for each in own if each.direct]
    name = " → ".join(pair)
    if own:
        yield Figure(f"{name}: holes", f"of {len(own)}", (float(len(found)),))
        yield Figure("  at the first attempt", f"of {len(own)}", (float(sum(each.attempts == 1 for each in found)),))
    if found:
        seconds = tuple(each.seconds for each in found)
        yield Figure("  seconds", "s", seconds)
        yield Figure("  seconds, 95th percentile", "s", (_p95(seconds),))
        yield Figure("  datagrams of both", "", tuple(float(each.datagrams) for each in found))
        yield Figure("  datagrams of the sweep", "", tuple(float(each.probes) for each in found))


def _controls(results: Sequence[Round]) -> Iterator[Figure]:
    for pair in WITHOUT:
        own = [each for each in results if not each.on and (each.dialer, each.listener) == pair]
        if own:
            found = sum(each.direct for each in own)
            yield Figure(f"{' → '.join(pair)}, switched off: holes", f"of {len(own)}", (float(found),))


def _p95(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=20, method="inclusive")[-1] if len(values) > 1 else values[0]


async def _rounds(cells: Sequence[tuple[str, str, bool]], link: str | None) -> bytes:
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(number: int, dialer: str, listener: str, on: bool) -> Round:
        async with slots:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    return await _round(_topology(dialer, listener, link), number, on, Path(folder))
                except* (LabError, OSError, TimeoutError) as group:
                    why = str(group.exceptions[0])
        return Round(dialer, listener, on, direct=False, broken=why)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(number, *cell)) for number, cell in enumerate(cells)]
    return json.dumps([asdict(task.result()) for task in tasks]).encode()


def _topology(dialer: str, listener: str, link: str | None) -> Topology:
    line = "" if link is None else f"link = {link_to_toml(link)}\n"
    homes = "".join(
        f'[router.{name}]\nnat = "{nat}"\n{line}' for name, nat in (("home-a", dialer), ("home-b", listener))
    )
    peers = (
        ("relay", 'at = "internet"\nrole = "relay"\naddresses = 2'),
        ("alice", 'at = "home-a"'),
        ("bob", 'at = "home-b"'),
    )
    rest = "".join(f'[peer.{name}]\n{keys}\ntransports = ["quic"]\n' for name, keys in peers)
    return parse(f'name = "predict"\n{homes}{rest}', "predict.toml")


async def _round(topology: Topology, seed: int, on: bool, folder: Path) -> Round:
    peer = ("--stun", STUN[0], "--punch-attempts", "1", *(("--predict-ports", "spray") if on else ()))
    relay = ("--stun-listen", STUN[0], "--stun-listen", STUN[1], "--predict-ports", "spray")
    options = {"relay": relay, "alice": peer, "bob": peer}
    async with laboratory(topology, Evidence(folder / "run"), seed=seed, options=options) as lab:
        return await _measure(lab, topology, on)


async def _measure(lab: Lab, topology: Topology, on: bool) -> Round:
    relay, alice, bob = lab.peers("relay", "alice", "bob")
    for peer in (alice, bob):
        await peer.saw("nat", within=WITHIN)
    await bob.reserve(relay)
    await alice.dial(bob.through(relay))
    await bob.saw("punch", within=WITHIN, where=lambda stage="", **_: stage in ("succeeded", "gave-up"))
    await alice.echo(bob)
    facts = await lab.facts()
    flow = facts.direct_flow(alice, bob)
    kinds = [router.preset or "" for router in topology.routers]
    if flow is None or not on:
        return Round(kinds[0], kinds[1], on, direct=flow is not None)
    began = min(event.at for event in bob.events if event.name == "predict")
    ended = await bob.saw("predict", within=WITHIN, where=lambda stage="", **_: stage == "succeeded")
    sent = [
        sum(
            packet.interface == f"{peer.name}/eth0" and packet.dst == wall.wan and began <= packet.at <= ended.at
            for packet in facts.packets
        )
        for peer, wall in zip((alice, bob), reversed(lab.plan.routers), strict=True)
    ]
    sweep = next(peer for peer in (alice, bob) if _last(peer).get("part") == "sweep")
    attempts = int(ended.get("attempt", 0))
    return Round(kinds[0], kinds[1], on, True, attempts, sum(sent), ended.at - began, _sent(sweep))


def _last(peer: Peer) -> dict[str, object]:
    return dict(
        next(event.fields for event in reversed(peer.events) if event.name == "predict" and "part" in event.fields)
    )


def _sent(peer: Peer) -> int:
    return sum(int(event.fields.get("sent", 0)) for event in peer.events if event.name == "predict")
