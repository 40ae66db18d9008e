"""The conformance suite: what each implementation's peer can do, proved by having it do it.

A peer is put to every check with itself at the other end, or with ours where one side has to be known to work: what it
does not do even then is its own lack, and what it does then and not with others is a finding of the matrix. A peer that
says that it does not have something lacks it (UNSUPPORTED); one that claims it and fails is broken, and is still tried.

What was found is kept under the digest of what was run, so that it is found out once for each build. Images are other
peers than programs, and examined in containers. One that never says a word would have every probe wait for it, so each
is started once before.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Final

from lab.errors import LabError, PeerUnsupported
from lab.files import write_whole
from lab.kernel.container import Engine
from lab.lab import ADAPTERS
from lab.model.capabilities import (
    AUTONAT_CLIENT,
    AUTONAT_SERVER,
    MDNS,
    RELAY_CLIENT,
    RELAY_SERVER,
    Capabilities,
    Capability,
    Having,
    punching_by,
)
from lab.model.interop import MUXERS, RELAYED_NAT, SECURITIES, STACKABLE, Check, Scene, Setup, Stack
from lab.model.interop_networks import DIALER, LISTENER, RELAY, alone
from lab.model.plain import from_plain, to_plain
from lab.model.transport import PUNCHABLE, TRANSPORTS
from lab.peers.adapter import Adapter
from lab.peers.foreign import Foreign, built, strangers
from lab.peers.images import image_for
from lab.peers.own import OWN, SOURCE
from lab.report.interop import Cell, Outcome
from lab.report.results import Mark
from lab.run.cell import CELL_WITHIN, blame
from lab.run.evidence import Evidence
from lab.run.interop import Planned, Run
from lab.run.scenario import laboratory

PLAIN: Final = Stack("tcp", "noise", "yamux")
"what every implementation has"
HOME: Final = ("home", "home")
UNREADABLE: Final = "unreadable"
_A_NAME: Final = re.compile(rf"^({DIALER}|{LISTENER}|{RELAY}) ")
"who of them said it makes no difference here"


@dataclass(frozen=True, slots=True)
class Probe:
    """A check that proves one capability of one implementation."""

    impl: str
    capability: str
    setup: Setup
    check: Check


def adapters() -> Mapping[str, Adapter]:
    """Every implementation that a matrix can name: those of topologies, and whatever peers somebody has put there."""
    return {**ADAPTERS, **{each.name: each for each in strangers()}}


def probes(impl: str) -> list[Probe]:
    """The suite for one implementation."""
    own = OWN.name
    stacks = [Stack(*each) for each in product(STACKABLE, SECURITIES, MUXERS)]
    stacks += [Stack(name) for name in TRANSPORTS if name not in STACKABLE]
    found = [(str(stack), Setup(Scene.TALK, impl, impl, stack), Check.CONNECT) for stack in stacks]
    plain = Setup(Scene.TALK, impl, impl, PLAIN)
    found += [(check.value, plain, check) for check in (Check.PING, Check.IDENTIFY, Check.ECHO)]
    both = (RELAYED_NAT, RELAYED_NAT)
    found += [
        (RELAY_CLIENT, Setup(Scene.RELAY, impl, impl, PLAIN, own, both), Check.RELAY),
        (RELAY_SERVER, Setup(Scene.RELAY, own, own, PLAIN, impl, both), Check.RELAY),
        (AUTONAT_CLIENT, Setup(Scene.AUTONAT, impl, own, PLAIN, nats=("full-cone", "")), Check.AUTONAT),
        (AUTONAT_SERVER, Setup(Scene.AUTONAT, own, impl, PLAIN, nats=("full-cone", "")), Check.AUTONAT),
        (MDNS, Setup(Scene.MDNS, impl, impl, PLAIN), Check.MDNS),
    ]
    found += [
        (punching_by(name), Setup(Scene.PUNCH, impl, impl, _stack(name), own, HOME), Check.PUNCH) for name in PUNCHABLE
    ]
    return [Probe(impl, *each) for each in found]


def _stack(transport: str) -> Stack:
    return PLAIN if transport in STACKABLE else Stack(transport)


def planned(suite: Iterable[Probe]) -> list[Planned]:
    """The setups of these probes, each once with all its checks."""
    checks: dict[Setup, list[Check]] = {}
    for probe in suite:
        checks.setdefault(probe.setup, []).append(probe.check)
    return [Planned(setup, tuple(dict.fromkeys(those)), ()) for setup, those in checks.items()]


async def examine(run: Run, suite: Sequence[Probe], done: Callable[[Cell], None]) -> dict[str, Capabilities]:
    """Play the suite and say what it shows of each implementation."""
    results = await run.play(done)
    said = {each.impl: (each.implementation, each.version) for each in results.implementations}
    outcomes = {(each.setup, each.outcome.check): each.outcome for each in results.findings}
    found: dict[str, list[Capability]] = {}
    for probe in suite:
        capability = _judge(probe.capability, outcomes[probe.setup, probe.check])
        found.setdefault(probe.impl, []).append(capability)
    everybody = adapters()
    return {
        impl: Capabilities(impl, *said.get(impl, ("", "")), digest_of(everybody[impl], run.engine), tuple(those))
        for impl, those in found.items()
    }


async def unheard(run: Run, impls: Iterable[str]) -> dict[str, Capabilities]:
    """Those of these whose image does not start or never says that it is ready, with the reason; started by itself.

    One that says something else, or ends by itself, is a peer that fails: the suite says so of it.
    """
    slots = asyncio.Semaphore(run.order.width)

    async def heard(impl: str) -> Capabilities | None:
        verdict = None
        topology = alone(impl, run.order.runner)
        evidence = Evidence(run.folder / "cells" / topology.name)
        async with slots:
            try:
                async with asyncio.timeout(CELL_WITHIN):
                    async with laboratory(topology, evidence, adapters=run.adapters, engine=run.engine):
                        pass
            except* (LabError, OSError, TimeoutError) as group:
                verdict = blame(group)
        if verdict is None or verdict.mark is not Mark.INCONCLUSIVE:
            return None
        why = _A_NAME.sub(f"the image {image_for(impl)} ", verdict.why).removeprefix(f"{DIALER}: ")
        return Capabilities(impl, "", "", "", (), unheard=f"{why} ({evidence.path})")

    found = await asyncio.gather(*map(heard, impls))
    return {each.impl: each for each in found if each is not None}


def _judge(name: str, outcome: Outcome) -> Capability:
    having = {Mark.PASSED: Having.PROVED, Mark.UNSUPPORTED: Having.ABSENT}.get(outcome.mark, Having.BROKEN)
    return Capability(name, having, "" if having is Having.PROVED else _A_NAME.sub("", outcome.why))


def absent(impl: str, engine: Engine | None = None) -> Capabilities | None:
    """What is to be said of a peer whose image is not there, or without an engine its program; None if it is."""
    if engine is not None:
        try:
            engine.id_of(image_for(impl))
        except PeerUnsupported as error:
            return Capabilities(impl, "", "", "", (), str(error))
        return None
    adapter = adapters().get(impl)
    if not isinstance(adapter, Foreign) or os.access(adapter.program, os.X_OK):
        return None
    log = adapter.program.with_name("build.log")
    why = f"; its last build failed: {log}" if log.exists() else "; `make peers` builds it"
    return Capabilities(impl, "", "", "", (), f"the peer of {impl} is not built{why}")


def digest_of(adapter: Adapter, engine: Engine | None = None) -> str:
    """SHA-256 of all that decides what a peer does and what is asked of it: program and packages, or its image, and the
    suite itself. Raises PeerUnsupported where the image is not there."""
    sum_ = hashlib.sha256()
    if engine is not None:
        sum_.update(engine.id_of(image_for(adapter.name)).encode())
    program = _program(adapter) if engine is None else []
    for path in sorted({*_suite(), *program}):
        try:
            data = path.read_bytes()
        except OSError:
            data = UNREADABLE.encode()
        sum_.update(f"{path.name}\0{len(data)}\0".encode() + data)
    return sum_.hexdigest()


def _suite() -> list[Path]:
    here = Path(__file__).parent
    return [Path(__file__), here / "checks.py", here / "confirm.py", here.parent / "model" / "interop_networks.py"]


def _program(adapter: Adapter) -> list[Path]:
    if not isinstance(adapter, Foreign):
        return list((SOURCE / "node").rglob("*.py"))
    folder = adapter.program.parent
    # Interpreted peers have their packages beside them; these files name them all with their versions.
    packages = [*folder.glob("node_modules/.package-lock.json"), *folder.glob("venv/lib/*/site-packages/*/RECORD")]
    return [adapter.program, folder / ".built", *folder.glob("*.py"), *folder.glob("*.mjs"), *packages]


def _file(impl: str, engine: Engine | None) -> Path:
    folder = built().parent / "capabilities"
    return (folder if engine is None else folder / "containers") / f"{impl}.json"


def recall(impl: str, engine: Engine | None = None) -> Capabilities | None:
    """What was found of exactly this program before, or of this image; None if it has to be found out."""
    try:
        value = json.loads(_file(impl, engine).read_text("utf-8"))
        kept = from_plain(value, Capabilities, impl)
    except (OSError, ValueError, LabError):
        return None  # never written, or by another version: it is found out anew
    return kept if kept.digest == digest_of(adapters()[impl], engine) else None


def remember(capabilities: Capabilities, engine: Engine | None = None) -> None:
    """Keep it; LabError where the folder cannot be written."""
    path = _file(capabilities.impl, engine)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(to_plain(capabilities), indent=1) + "\n")
    except OSError as error:
        raise LabError(f"cannot keep what {capabilities.impl} can do in {path}: {error.strerror}") from None
