"""`punchlab upstream`: tests of libp2p's own suites, with programs written for them (docs/upstream.md)."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lab.cli import BROKEN, NOT_AS_PREDICTED, OK, above_zero, engine_for, in_sandbox, progress
from lab.cli_matrix import link, some_of
from lab.errors import TopologyError
from lab.model.presets import PRESETS
from lab.model.runner import CONTAINER, is_image

if TYPE_CHECKING:
    from lab.model.upstream import Version
    from lab.report.upstream import Outcome
    from lab.run.upstream_matrix import Order

IMAGE: Final = "image:"
"what the name of an image begins with, where a program may be named, too"
MAX_SECONDS: Final = 3600
"that a test may be given"


def add_upstream_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    from lab.model.upstream import Suite

    programs = "own, ids from --versions, paths of programs, or image:NAME; comma-separated"
    parser.add_argument("suite", choices=[suite.value for suite in Suite], help="which of upstream's suites")
    parser.add_argument("--dialer", default="own", metavar="WHO", help=f"{programs} (default: own)")
    parser.add_argument("--listener", default="own", metavar="WHO", help="likewise")
    parser.add_argument("--relay", default="own", metavar="WHO", help="likewise")
    parser.add_argument(
        "--versions", type=Path, action="append", default=[], metavar="FILE", help="of test-plans' form"
    )
    parser.add_argument("--legacy", default="", metavar="WHO", help="of transport: who knows transport-interop only")
    for name, what in (("transport", "tcp, ws, quic-v1, …"), ("security", "noise, tls"), ("muxer", "yamux, mplex")):
        parser.add_argument(f"--{name}", type=_list, default=(), metavar="NAMES", help=f"{what} (default: all)")
    nats = some_of(PRESETS, "NAT preset")
    for name in ("dialer", "listener"):
        parser.add_argument(f"--{name}-nat", type=nats, default=("home",), metavar="NATS", help="presets (home)")
    parser.add_argument("--link", type=link, metavar="VALUES", help="of both homes, instead of upstream's")
    parser.add_argument("--timeout", type=_seconds, metavar="SECONDS", help="for a test, instead of upstream's")
    parser.add_argument("--jobs", type=above_zero, metavar="N", help="tests at a time (default: processors)")


def upstream(arguments: argparse.Namespace) -> int:
    """Run the tests that are asked for, and print what came of them."""
    from lab.run.upstream_matrix import run_all

    order = _order(arguments)
    versions = [version for case in order.cases for version in (case.dialer, case.listener, case.relay)]
    if any(version.image is not None for version in versions):
        order = replace(order, engine=engine_for(None, CONTAINER))

    def run() -> int:
        with progress(len(order.cases), "testing") as done:
            folder, tests = asyncio.run(run_all(order, arguments.runs, done))
        print("\n".join(_told(folder, tests)))
        return _status(tests)

    return in_sandbox(run, order.engine)


def _order(arguments: argparse.Namespace) -> Order:
    """What is asked for; TopologyError where it cannot be had."""
    from lab.model.upstream import OWN, Suite, Wish, cases, read_versions
    from lab.run.upstream_matrix import Order

    known = {"own": OWN}
    for path in arguments.versions:
        known |= read_versions(path)
    legacy = _list(arguments.legacy)

    def versions(text: str) -> tuple[Version, ...]:
        return tuple(_version(word, known, legacy=word in legacy) for word in _list(text))

    suite = Suite(arguments.suite)
    wish = Wish(
        suite,
        versions(arguments.dialer),
        versions(arguments.listener),
        versions(arguments.relay),
        arguments.transport,
        arguments.security,
        arguments.muxer,
        arguments.dialer_nat,
        arguments.listener_nat,
    )
    return Order(suite, cases(wish), arguments.link, arguments.timeout, arguments.jobs, arguments.seed)


def _version(word: str, known: dict[str, Version], *, legacy: bool) -> Version:
    from lab.model.upstream import Version

    if word in known:
        return replace(known[word], legacy=known[word].legacy or legacy)
    if word.startswith(IMAGE):
        name = word.removeprefix(IMAGE)
        if not is_image(name):
            raise TopologyError(f"{word}: {name!r} cannot be the name of an image")
        return Version(name, image=name, legacy=legacy)
    path = Path(word)
    if "/" not in word:
        ids = ", ".join(known)
        raise TopologyError(f"no version {word!r}; there are: {ids}, programs: ./{word}, and images: {IMAGE}{word}")
    if not (path.is_file() and os.access(path, os.X_OK)):
        raise TopologyError(f"{word}: no program that can be started")
    return Version(path.name, (str(path.resolve()),), legacy=legacy)


def _told(folder: Path, tests: Iterable[Outcome]) -> list[str]:
    """Results as lines for people."""
    tests = list(tests)
    lines = []
    for test in tests:
        nats = f"  {' / '.join(test.nats)}" if test.nats is not None else ""
        ping = "" if test.ping is None else f"  ping {test.ping * 1000:.1f} ms"
        lines.append(f"{test.verdict.value:<12}  {test.name}{nats}{ping}  {test.seconds:.1f} s")
        if not _is_well(test):
            lines.append(f"              {test.why}")
            lines.append(f"              punchlab explain {folder.name}/cells/{test.folder}")
    well = sum(_is_well(test) for test in tests)
    theirs = sum(test.passed for test in tests)
    lines.append(f"{well} of {len(tests)} passed; by upstream's rules {theirs}; {folder}")
    return lines


def _is_well(test: Outcome) -> bool:
    from lab.report.results import Mark

    return test.verdict is Mark.PASSED


def _status(tests: Iterable[Outcome]) -> int:
    """Of the command: what a program did wrong counts for more than what the lab did."""
    from lab.report.results import Mark

    marks = {test.verdict for test in tests}
    return NOT_AS_PREDICTED if Mark.FAILED in marks else BROKEN if Mark.INCONCLUSIVE in marks else OK


def _list(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(filter(None, (word.strip() for word in text.split(",")))))


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1 <= value <= MAX_SECONDS:
        raise argparse.ArgumentTypeError(f"must be a number from 1 to {MAX_SECONDS}, not {text!r}")
    return value
