"""One test of libp2p's own suites, run in a lab of its own and judged twice: as upstream would, and by the wire.

    relay, listener, dialer   each finds the others by the Redis on its loopback; where there is a relay, who is waited
                              for is started first, since some programs wait half a second and no longer
    the dialer ends           its exit status and its output are upstream's verdict
    anybody else ends first   the dialer has a moment to end well, for who has been pinged may leave

Where upstream fails every test without a hole, the theory says where there can be none; that is PASSED here if the
dialer says so too, by an exit status, and the wire shows that it tried.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.errors import Inconclusive, KernelError, LabError, PeerError, PeerUnsupported
from lab.kernel.container import Engine
from lab.kernel.hosts import name_loopback
from lab.kernel.pods import STATE
from lab.kernel.process import Child, spawn
from lab.lab import Lab
from lab.model.topology import Topology
from lab.model.upstream import Case, Version
from lab.model.upstream_networks import DIALER, LISTENER, RELAY, network
from lab.observe.facts import Facts, gather
from lab.peers.contract import Event
from lab.peers.upstream import (
    REDIS_NAMES,
    Measured,
    NoResult,
    argv,
    command,
    environment,
    read_result,
    succeeded,
    translations,
)
from lab.plan.build import build
from lab.report.results import Mark
from lab.report.upstream import Outcome
from lab.run.evidence import Evidence
from lab.run.forecast import forecast_run
from lab.run.oracle import Prediction
from lab.run.program import CHUNK, Program, Started
from lab.run.scenario import laboratory
from lab.run.verdict import Verdict
from lab.services.board import Written
from lab.services.redis import Redis

LEAVE = 5.0
"Seconds that a dialer has to end after somebody else has."
SETUP = 60.0
"Seconds beside the test itself: building, measuring NATs, ending programs."


@dataclass
class _Course:
    """What has become of a test so far."""

    began: float = 0.0
    "Unix seconds at which the programs started"
    seconds: float = 0.0
    status: int | None = None
    "of the dialer; None: it did not end"
    how: str = ""
    "in words, how the dialer ended"
    output: str = ""
    tail: str = ""
    "of its stderr"
    others: list[str] = field(default_factory=list)
    "what is told of parts that ended before the dialer"
    silent: str | None = None
    "who was waited for, and had written nothing yet"
    missing: dict[str, tuple[str, ...]] = field(default_factory=dict)
    "who waited for which keys when the test was over"


async def run_case(
    case: Case,
    evidence: Evidence,
    seed: int,
    *,
    link: str | None = None,
    within: float | None = None,
    engine: Engine | None = None,
) -> Outcome:
    """Run a test in a fresh lab. Never raises on account of the programs or the lab: the verdict says so.

    `link` is what both homes' uplinks are like, instead of upstream's; `within` are seconds, instead of upstream's.
    Versions that are images need an `engine`.
    """
    within = case.suite.timeout if within is None else within
    course, seen, began = _Course(), "", time.monotonic()
    measured: Measured | None = None
    theirs, prediction = False, Prediction("direct", "nothing is between the two")
    try:
        topology = network(case, link)
        if case.suite.punches:
            prediction = forecast_run(topology, DIALER, LISTENER, RELAY)
        async with asyncio.timeout(within + SETUP):
            await _play(case, topology, evidence, seed, within, course, engine)
        facts = await asyncio.to_thread(gather, build(topology, seed), evidence.capture)
        seen = _seen(case, facts, course)
        measured, problem = _result(case, course, within)
        theirs = problem is None
        tried = case.suite.punches and bool(facts.punch(DIALER, LISTENER).drops)
        verdict = judge(case, prediction, seen, problem, owned_up=_owned_up(case, course), tried=tried)
    except* (LabError, OSError, TimeoutError) as group:
        verdict = _blame(group)
    return Outcome(
        name=case.name,
        dialer=case.dialer.id,
        listener=case.listener.id,
        relay=case.relay.id if case.suite.punches else "",
        transport=case.transport,
        security=case.security,
        muxer=case.muxer,
        nats=case.nats if case.suite.punches else None,
        passed=theirs,
        verdict=verdict.mark,
        why=verdict.why,
        predicted=prediction.path,
        seen=seen,
        handshake=measured.handshake if measured is not None else None,
        ping=measured.ping if measured is not None else None,
        seconds=course.seconds,
        total=time.monotonic() - began,
        folder=evidence.path.name,
    )


async def _play(
    case: Case,
    topology: Topology,
    evidence: Evidence,
    seed: int,
    within: float,
    course: _Course,
    engine: Engine | None,
) -> None:
    """Run the programs until the test is over, and leave in `course` what became of it."""
    await asyncio.to_thread(name_loopback, REDIS_NAMES)
    opening = laboratory(topology, evidence, seed=seed, peers=False, engine=engine)
    async with opening as lab, AsyncExitStack() as owned:

        def written(value: Written) -> None:
            wrote[value.who].set()
            evidence.event(
                Event(value.who, "redis", time.time(), {"do": value.command, "key": value.key, "value": value.value})
            )

        wrote = {part: asyncio.Event() for part in _parts(case)}
        redis = Redis(written)
        owned.push_async_callback(redis.close)
        for part in _parts(case):
            await redis.open(part, lab.network.spaces[part], translations(case, part))
        with evidence.step("the programs run"):
            course.began, began = time.time(), time.monotonic()
            programs: list[Program] = []
            try:
                async with asyncio.timeout(within):
                    for part in _parts(case):
                        programs.append(await owned.enter_async_context(_Running(case, part, lab, evidence)))
                        if case.suite.punches and part != DIALER:
                            course.silent = part
                            await _first(wrote[part].wait(), programs[-1].ended())
                            if programs[-1].status is not None:
                                break
                            course.silent = None
                    await _until_over(programs, course)
            except TimeoutError:
                course.tail = programs[-1].tail() if programs else ""
            course.missing = redis.board.missing()
            course.seconds = time.monotonic() - began
    if lab.captured is not None and lab.captured.dropped:
        lost = ", ".join(f"{interface} {count}" for interface, count in lab.captured.dropped)
        raise Inconclusive(f"the capture is not whole; packets lost at {lost}")


def _parts(case: Case) -> Iterator[str]:
    """Who takes part, in the order in which they are started."""
    if case.suite.punches:
        yield RELAY
    yield LISTENER
    yield DIALER


class _Running:
    """A part's program, for as long as a block lasts."""

    def __init__(self, case: Case, part: str, lab: Lab, evidence: Evidence) -> None:
        self._case, self._part, self._lab, self._evidence = case, part, lab, evidence

    async def __aenter__(self) -> Program:
        case, part, lab, evidence = self._case, self._part, self._lab, self._evidence
        version: Version = {DIALER: case.dialer, LISTENER: case.listener, RELAY: case.relay}[part]
        home, stderr = evidence.home(part), evidence.stderr(part)
        if version.image is not None:
            assert lab.pods is not None
            told, script = environment(case, part, lab.plan, Path(STATE)), command(case.suite, part)
            started: Started = await lab.pods.run_stranger(part, version.image, script, told, home, stderr, limit=CHUNK)
        else:
            words, told = argv(version, case.suite, part), environment(case, part, lab.plan, home)
            started = Child(await spawn(lab.network.spaces[part], words, told, home, stderr))
        self._program = Program(part, started, stderr, lambda raw: evidence.line(part, "<", raw))
        return self._program

    async def __aexit__(self, *_: object) -> None:
        await self._program.end()


async def _first(*waits: Coroutine[Any, Any, object]) -> None:
    """Wait until one of them is done, and leave the others."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _until_over(programs: list[Program], course: _Course) -> None:
    """Wait for the dialer's end, which is the last program if it was started; what others did before is told.

    Raises TimeoutError.
    """
    await _first(*(program.ended() for program in programs))
    *others, dialer = programs if course.silent is None else [*programs, None]
    gone = [program for program in others if program is not None and program.status is not None]
    if dialer is not None:
        if dialer.status is None:
            await _first(dialer.ended(), asyncio.sleep(LEAVE))
        course.output, course.tail = dialer.output, dialer.tail()
        if dialer.status is not None:
            await dialer.end()
            course.status, course.how, course.output = dialer.status, _how(dialer), dialer.output
    course.others = [f"the {each.name} ended before the dialer, {_how(each)}{each.tail()}" for each in gone]


def _how(program: Program) -> str:
    return "for it printed too much" if program.overflowed else f"exit status {program.status}"


# ── judging ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _seen(case: Case, facts: Facts, course: _Course) -> str:
    """The path between the two, by the wire."""
    if facts.direct_flow(DIALER, LISTENER, course.began) is not None:
        return "direct"
    both = case.suite.punches and all(facts.bytes(who, course.began) for who in (DIALER, LISTENER))
    return "relayed" if both else "none"


def _result(case: Case, course: _Course, within: float) -> tuple[Measured | None, str | None]:
    """What the dialer measured and, where upstream would fail the test, why."""
    others = "; ".join(course.others)
    if course.status is None:
        lacks = "; ".join(f"{who} waits for {', '.join(keys)}" for who, keys in course.missing.items())
        waited = f"the {lacks}, which nobody has written" if lacks else ""
        late = f"the dialer did not end within {within:g} s"
        if course.silent is not None:
            late = f"the {course.silent} has written nothing within {within:g} s"
        return None, "; ".join(filter(None, (others or late, waited))) + course.tail
    if not succeeded(case.suite, course.status):
        return None, "; ".join(filter(None, (f"the dialer failed, {course.how}{course.tail}", others)))
    try:
        return read_result(case, course.status, course.output), None
    except NoResult as error:
        return None, f"the dialer ended well, but: {error}"


def _owned_up(case: Case, course: _Course) -> bool:
    """Whether the dialer ended by itself and told of a failure."""
    return course.status is not None and course.status > 0 and not succeeded(case.suite, course.status)


def judge(
    case: Case, prediction: Prediction, seen: str, problem: str | None, *, owned_up: bool, tried: bool
) -> Verdict:
    """The verdict by the wire; `problem` is why upstream would fail the test.

    `owned_up` says that the dialer told of a failure, `tried` that a NAT dropped what one wrote to the other.
    """
    if not case.suite.punches:
        if problem is None and seen != "direct":
            return Verdict(Mark.FAILED, "the dialer reports success, the wire shows no exchange between the two")
        return Verdict(Mark.PASSED, prediction.why) if problem is None else Verdict(Mark.FAILED, problem)
    if problem is None and seen != "direct":
        return Verdict(Mark.FAILED, "the dialer reports a hole, the wire shows none: nothing went between the two NATs")
    if seen == "direct" and prediction.path != "direct":
        return Verdict(Mark.FAILED, f"seen direct, predicted {prediction.path}: {prediction.why}")
    if problem is None:
        return Verdict(Mark.PASSED, prediction.why)
    if prediction.path == "direct" or not owned_up:
        return Verdict(Mark.FAILED, problem)
    if not tried:
        return Verdict(Mark.FAILED, f"neither has tried to punch: {problem}")
    return Verdict(Mark.PASSED, f"no hole, as predicted: {prediction.why}")


def _blame(group: BaseExceptionGroup[BaseException]) -> Verdict:
    """Whose fault it was: the lab's, if a part of it broke, or a program's that could not even be started."""
    kinds = (
        (Inconclusive, Mark.INCONCLUSIVE),
        (KernelError, Mark.INCONCLUSIVE),
        (PeerUnsupported, Mark.UNSUPPORTED),
        (PeerError, Mark.UNSUPPORTED),
    )
    causes = list(_leaves(group))
    for kind, mark in kinds:
        for cause in causes:
            if isinstance(cause, kind):
                return Verdict(mark, str(cause))
    return Verdict(Mark.INCONCLUSIVE, str(causes[0]) or "the lab did not come to an end in time")


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
