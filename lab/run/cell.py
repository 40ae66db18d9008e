"""One topology, one punch, one verdict: a cell of a matrix, and all of `punchlab run`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from lab.errors import Inconclusive, KernelError, LabError, PeerError, PeerUnsupported
from lab.kernel.container import Engine
from lab.lab import ADAPTERS, Lab
from lab.model.ipv6 import Ip
from lab.model.layers import composite
from lab.model.nat import Nat
from lab.model.topology import INTERNET, Peer, Router, Topology
from lab.observe.facts import Facts, gather
from lab.observe.holepunch import DirectFlow
from lab.peers.adapter import Adapter
from lab.peers.answers import Info
from lab.plan.build import build
from lab.report.results import Cell, Mark, Party, Seconds
from lab.run.evidence import Evidence
from lab.run.forecast import forecast_run, shared_transports
from lab.run.oracle import Prediction
from lab.run.punch import ECHO_BYTES, Progress, find_no_path, punch
from lab.run.scenario import Options, laboratory
from lab.run.verdict import Sighting, Verdict, judge

CELL_WITHIN = 150.0
"Seconds for one cell from the first namespace to the last process; beyond them something hangs."


@dataclass(frozen=True, slots=True)
class Cast:
    """Who plays which part of the punch scenario."""

    dialer: str
    listener: str
    relay: str


def cast(topology: Topology) -> Cast:
    """The first relay and the first two other peers in the file; raises `LabError` where one is missing."""
    relays = [peer for peer in topology.peers if peer.role == "relay"]
    others = [peer for peer in topology.peers if peer.role != "relay"]
    if not relays or len(others) < 2:
        raise LabError(f"{topology.name}: a punch needs a relay and two more peers; it has {_count(topology.peers)}")
    return Cast(others[0].name, others[1].name, relays[0].name)


def _count(peers: tuple[Peer, ...]) -> str:
    return ", ".join(f"{peer.name} ({peer.role})" for peer in peers) or "none"


async def run_cell(
    topology: Topology,
    evidence: Evidence,
    seed: int,
    capture: str,
    adapters: Mapping[str, Adapter] = ADAPTERS,
    options: Options | None = None,
    engine: Engine | None = None,
) -> Cell:
    """Run the punch scenario in a fresh lab. Never raises on account of the peers or the lab: the verdict says so.

    `capture` is how the results name the capture: its path relative to their folder. `options` are further arguments of
    the peers' programs.
    """
    parts = cast(topology)
    prediction = forecast_run(topology, parts.dialer, parts.listener, parts.relay)
    progress = Progress()
    known: dict[str, Info] = {}
    began = time.monotonic()
    sighting: Sighting | None = None
    direct: DirectFlow | None = None
    try:
        async with asyncio.timeout(CELL_WITHIN):
            opening = laboratory(topology, evidence, seed=seed, options=options, adapters=adapters, engine=engine)
            await _play(opening, parts, progress, known, no_path=prediction.path == "none")
        facts = await asyncio.to_thread(gather, build(topology, seed), evidence.capture)
        sighting = _sight(facts, parts, prediction, progress)
        verdict = judge(sighting)
        direct = facts.direct_flow(parts.dialer, parts.listener)
    except* (LabError, OSError, TimeoutError) as group:
        verdict = blame(group)
    relayed = progress.relayed
    return Cell(
        dialer=_party(topology, parts.dialer, known),
        listener=_party(topology, parts.listener, known),
        relay=_party(topology, parts.relay, known),
        transport="+".join(shared_transports(topology, parts.dialer, parts.listener, parts.relay)),
        security=relayed.security if relayed is not None else "",
        muxer=relayed.muxer if relayed is not None else "",
        predicted=prediction.path,
        seen=sighting.seen if sighting is not None else "",
        verdict=verdict.mark,
        why=verdict.why,
        seconds=_seconds(progress, direct, time.monotonic() - began),
        capture=capture,
        attempts=progress.attempts,
    )


def _party(topology: Topology, name: str, known: dict[str, Info]) -> Party:
    info = known.get(name)
    routers = topology.routers_of(name)
    return Party(
        name=name,
        implementation=info.implementation if info is not None else "",
        version=info.version if info is not None else "",
        nat_name=" behind ".join(_preset(router, topology.ip) or router.name for router in routers) or INTERNET,
        nat=_nat(routers, topology.ip),
    )


def _preset(router: Router, ip: Ip) -> str | None:
    return router.nat66_preset if ip is Ip.V6 else router.preset


def _nat(routers: tuple[Router, ...], ip: Ip) -> Nat | None:
    """What the routers in front of a peer come to; None if there are none, and where IPv6 is not translated."""
    if ip is not Ip.V6:
        return composite(tuple(router.nat for router in routers))
    nats = tuple(router.nat66 for router in routers if router.nat66 is not None)
    return composite(nats) if len(nats) == len(routers) else None


def _seconds(progress: Progress, direct: DirectFlow | None, total: float) -> Seconds:
    steps = progress.seconds

    def since_relayed(at: float | None) -> float | None:
        return None if at is None or progress.relayed_at is None else at - progress.relayed_at

    return Seconds(
        reserve=steps.get("reserve"),
        relayed=steps.get("relayed"),
        direct=since_relayed(progress.direct_at),
        first_byte=since_relayed(direct.first_byte if direct is not None else None),
        echo=steps.get("echo"),
        total=total,
    )


async def _play(
    opening: AbstractAsyncContextManager[Lab], parts: Cast, progress: Progress, known: dict[str, Info], *, no_path: bool
) -> None:
    async with opening as lab:
        dialer, listener, relay = lab.peers(parts.dialer, parts.listener, parts.relay)
        known.update({peer.name: peer.identity for peer in (dialer, listener, relay) if peer.identity is not None})
        if no_path:
            await find_no_path(lab, dialer, listener, relay, progress)
        else:
            await punch(lab, dialer, listener, relay, progress)
    if lab.captured is not None and lab.captured.dropped:
        lost = ", ".join(f"{interface} {count}" for interface, count in lab.captured.dropped)
        raise Inconclusive(f"the capture is not whole; packets lost at {lost}")


def _sight(facts: Facts, parts: Cast, prediction: Prediction, progress: Progress) -> Sighting:
    assert progress.echo is not None
    assert progress.path is not None
    began, ended = progress.echo
    return Sighting(
        predicted=prediction.path,
        predicted_why=prediction.why,
        claimed=progress.path,
        direct_on_wire=facts.direct_flow(parts.dialer, parts.listener, began, ended) is not None,
        relay_bytes=facts.bytes(parts.relay, began, ended),
        echo_bytes=ECHO_BYTES,
        silent=progress.path == "none" and _is_walled_in(facts, parts),
    )


def _is_walled_in(facts: Facts, parts: Cast) -> bool:
    """Whether one of the two exchanged nothing with anybody, and a firewall is seen to have stopped packets."""
    silent = any(facts.bytes(who) == 0 for who in (parts.dialer, parts.listener))
    return silent and any(drop.outbound for drop in facts.drops)


def blame(group: BaseExceptionGroup[BaseException]) -> Verdict:
    """Whose fault it was: the first peer's if a peer's at all, else the lab's."""
    causes = list(_leaves(group))
    for kind, mark in (
        (Inconclusive, Mark.INCONCLUSIVE),
        (KernelError, Mark.INCONCLUSIVE),
        (PeerUnsupported, Mark.UNSUPPORTED),
        (PeerError, Mark.FAILED),
    ):
        for cause in causes:
            if isinstance(cause, kind):
                return Verdict(mark, str(cause))
    cause = causes[0]
    why = f"not done within {CELL_WITHIN:g} s" if isinstance(cause, TimeoutError) else str(cause)
    return Verdict(Mark.INCONCLUSIVE, why)


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]
