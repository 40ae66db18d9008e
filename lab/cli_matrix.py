"""The commands that are about several implementations: `matrix` with their options, `peers`, `merge`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from lab.cli import BROKEN, NOT_AS_PREDICTED, OK, above_zero, engine_for, in_sandbox, progress
from lab.errors import EventError
from lab.model.interop import MUXERS, SECURITIES, Check, Selection
from lab.model.link_words import read_link
from lab.model.presets import PRESETS
from lab.model.runner import CONTAINER, PROCESS, WORDS
from lab.model.transport import TRANSPORTS

if TYPE_CHECKING:
    from lab.kernel.container import Engine
    from lab.model.capabilities import Capabilities
    from lab.model.known import KnownFailure
    from lab.report.interop import Results
    from lab.run.interop import Order, Shard

T = TypeVar("T")
MAX_SHARDS: Final = 256
_OURS: Final = ("check", "dialer", "listener", "relay", "security", "muxer", "nat", "shard", "resume", "known")
_SWITCHES: Final = ("full", "keep")
_OF_NATS: Final = ("dialers", "listeners", "link", "repeat", "save")
"options of the matrix of NATs that have no meaning here"


def add_matrix_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that make `punchlab matrix` one of implementations."""
    group = parser.add_argument_group("several implementations (any of these; lists are comma-separated)")
    checks = ("all", *(check.value for check in Check))
    group.add_argument("--check", type=some_of(checks, "check"), metavar="CHECKS", help=", ".join(checks))
    for role in ("dialer", "listener", "relay"):
        group.add_argument(f"--{role}", type=_names, metavar="IMPLS", help="own, go, rust, js, py (default: all)")
    group.add_argument("--security", type=some_of(SECURITIES, "security"), metavar="NAMES", help="noise, tls")
    group.add_argument("--muxer", type=some_of(MUXERS, "muxer"), metavar="NAMES", help="yamux (the default), mplex")
    group.add_argument("--nat", type=_nats, metavar="NATS", help="presets, for every pair; dialer's/listener's for one")
    group.add_argument("--full", action="store_true", help="every combination, not only every pair of values")
    group.add_argument("--shard", type=_shard, metavar="I/N", help="only the I-th of N parts; `merge` joins them")
    group.add_argument("--resume", metavar="RUN", help="go on with a run that was interrupted")
    group.add_argument("--known", type=Path, metavar="FILE", help="known failures (default: those of compose/peers)")
    group.add_argument("--keep", action="store_true", help="keep the captures of what passed, too")


def wanted(arguments: argparse.Namespace) -> bool:
    """Whether these arguments ask for a matrix of implementations."""
    values = vars(arguments)
    return any(values[name] is not None for name in _OURS) or any(values[name] for name in _SWITCHES)


def some_of(known: Iterable[str], what: str) -> Callable[[str], tuple[str, ...]]:
    """A reader of comma-separated names."""
    names = tuple(known)

    def read(text: str) -> tuple[str, ...]:
        found = tuple(dict.fromkeys(text.split(",")))
        unknown = [name for name in found if name not in names]
        if unknown:
            raise argparse.ArgumentTypeError(f"no {what} {unknown[0]!r}; there are: {', '.join(names)}")
        return found

    return read


def link(text: str) -> str:
    """A reader of the words that say what a link is like."""
    try:
        read_link(text)
    except EventError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _names(text: str) -> tuple[str, ...]:
    from lab.run.conformance import adapters

    return some_of(adapters(), "implementation")(text)


def _name(text: str) -> str:
    return _names(text)[0]


def _nats(text: str) -> tuple[tuple[str, str], ...]:
    """Pairs of presets: every pair of those that stand alone, and those that stand as pairs."""
    one = some_of(PRESETS, "NAT preset")
    words = text.split(",")
    plain = [name for word in words if "/" not in word for name in one(word)]
    pairs = list(product(plain, plain))
    for word in words:
        if "/" in word:
            dialer, _, listener = word.partition("/")
            pairs.append((one(dialer)[0], one(listener)[0]))
    return tuple(dict.fromkeys(pairs))


def _shard(text: str) -> Shard:
    from lab.run.interop import Shard

    number, slash, count = text.partition("/")
    if slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count) <= MAX_SHARDS:
        return Shard(int(number), int(count))
    raise argparse.ArgumentTypeError(f"{text!r} is no part such as 2/8, with at most {MAX_SHARDS} parts")


def selection(arguments: argparse.Namespace) -> Selection:
    """What the arguments select; what they do not name is all there is."""
    from lab.run.conformance import adapters

    everybody = tuple(adapters())
    checks = arguments.check if arguments.check and "all" not in arguments.check else [check.value for check in Check]
    given = {
        "transports": some_of(TRANSPORTS, "transport")(",".join(arguments.transport or TRANSPORTS)),
        "securities": arguments.security,
        "muxers": arguments.muxer,
        "nats": arguments.nat,
    }
    return Selection(
        arguments.dialer or everybody,
        arguments.listener or everybody,
        arguments.relay or everybody,
        tuple(Check(name) for name in checks),
        **{name: value for name, value in given.items() if value is not None},
    )


def matrix(arguments: argparse.Namespace) -> int:
    """Run a matrix of implementations, or go on with one."""
    from lab.run.evidence import find_run
    from lab.run.interop import Order, Shard, order_of

    if vain := [name for name in _OF_NATS if getattr(arguments, name) is not None]:
        raise argparse.ArgumentTypeError(f"--{vain[0]} is for the matrix of NATs, not for one of implementations")
    folder = find_run(arguments.runs, arguments.resume) if arguments.resume else None
    if folder is not None:
        order = order_of(folder)
        if arguments.runner not in (None, order.runner):
            told = f"{folder.name} runs peers {WORDS[order.runner]}, and goes on so: leave out --runner, or begin anew"
            raise argparse.ArgumentTypeError(told)
    else:
        shard = arguments.shard or Shard()
        order = Order(
            selection(arguments),
            arguments.full,
            arguments.seed,
            shard,
            keep=arguments.keep,
            jobs=arguments.jobs,
            runner=arguments.runner or PROCESS,
        )
    if not order.selection.implementations:
        raise argparse.ArgumentTypeError("nothing to try: these options leave no combination that makes sense")
    known = _known_failures(arguments.known)
    engine = _engine(order.runner)
    return in_sandbox(lambda: _run(arguments, order, folder, known, engine), engine)


def _engine(runner: str | None) -> Engine | None:
    """The engine that peers in containers need, with the image without which none of them has a network; LabError."""
    from lab.kernel.pods import HOLDER_IMAGE

    engine = engine_for(None, runner)
    if engine is not None:
        engine.require_image(HOLDER_IMAGE)
    return engine


def _run(
    arguments: argparse.Namespace,
    order: Order,
    folder: Path | None,
    known: tuple[KnownFailure, ...],
    engine: Engine | None,
) -> int:
    from lab.report.interop import load
    from lab.report.results import RESULTS
    from lab.run.conformance import adapters
    from lab.run.interop import Run, begin, plan, resume

    capabilities = _capabilities(arguments, order.selection.implementations, engine)
    planned = plan(order, capabilities)
    cells = resume(folder) if folder is not None else {}
    before = load(folder) if folder is not None and (folder / RESULTS).exists() else None
    folder = folder or begin(order, arguments.runs)
    run = Run(folder, order, planned, capabilities, known, adapters(), engine, cells)
    if before is not None:
        run.started, run.spent = before.started, before.seconds
    try:
        with progress(len(planned) - len(cells), "trying") as done:
            results = asyncio.run(run.play(done))
    except KeyboardInterrupt:
        _told(folder, load(folder))
        print(f"Interrupted; go on with: punchlab matrix --resume {folder.name}")
        raise
    return _told(folder, results)


def _known_failures(given: Path | None) -> tuple[KnownFailure, ...]:
    """Those of the file that is named, or of the lab's own."""
    from lab.model.known import load_known
    from lab.peers.own import SOURCE

    ours = SOURCE / "compose" / "peers" / "known-failures.toml"
    if given is None and not ours.exists():
        return ()
    return load_known(given if given is not None else ours)


def _told(folder: Path, results: Results) -> int:
    """Print results; the exit status that they mean."""
    from lab.report.interop_text import print_results
    from lab.report.terminal import stdout

    print_results(results, folder, stdout())
    if results.ok:
        return OK
    return NOT_AS_PREDICTED if any(finding.failed for finding in results.findings) else BROKEN


def _capabilities(
    arguments: argparse.Namespace, impls: Iterable[str], engine: Engine | None
) -> dict[str, Capabilities]:
    """What each can do, as found before of the very same peer, or found now; a line for each that is not there.

    With an engine it is images that are asked.
    """
    from lab.run import conformance
    from lab.run.interop import Order, Run, begin

    fresh = getattr(arguments, "fresh", False)
    found: dict[str, Capabilities] = {}
    unknown: list[str] = []
    for impl in impls:
        capabilities = conformance.absent(impl, engine) or (None if fresh else conformance.recall(impl, engine))
        if capabilities is None:
            unknown.append(impl)
            continue
        found[impl] = capabilities
        if capabilities.missing:
            print(f"{impl}: UNSUPPORTED: {capabilities.missing}", file=sys.stderr)
    if not unknown:
        return found
    runner = PROCESS if engine is None else CONTAINER
    order = Order(Selection((), (), ()), full=True, jobs=arguments.jobs, runner=runner)
    run = Run(begin(order, arguments.runs, "peers"), order, (), {}, (), conformance.adapters(), engine)
    if engine is not None:
        silent = asyncio.run(conformance.unheard(run, unknown))
        for capabilities in silent.values():
            print(f"{capabilities.impl}: INCONCLUSIVE: {capabilities.unheard}", file=sys.stderr)
        found |= silent
    if not (heard := [impl for impl in unknown if impl not in found]):
        return found
    suite = [probe for impl in heard for probe in conformance.probes(impl)]
    run.planned = planned = conformance.planned(suite)
    with progress(len(planned), "examining peers") as done:
        examined = asyncio.run(conformance.examine(run, suite, done))
    for capabilities in examined.values():
        conformance.remember(capabilities, engine)
    return found | examined


def add_peers_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `punchlab peers`."""
    parser.add_argument("impls", nargs="*", type=_name, metavar="IMPL", help="only these (default: all)")
    parser.add_argument("--fresh", action="store_true", help="prove it anew, whatever was found before")
    parser.add_argument("--jobs", type=above_zero, metavar="N", help="checks at a time (default: by processors)")


def peers(arguments: argparse.Namespace) -> int:
    """Print what each implementation's peer was seen to do."""
    from lab.report.peers import peers_table, reasons
    from lab.report.terminal import stdout
    from lab.run.conformance import adapters

    everybody = arguments.impls or tuple(adapters())
    engine = _engine(arguments.runner)

    def run() -> int:
        found = _capabilities(arguments, everybody, engine)
        ordered = [found[impl] for impl in everybody]
        console = stdout()
        console.print(peers_table(ordered))
        for line in reasons(ordered):
            console.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)
        return OK

    return in_sandbox(run, engine)


def merge(arguments: argparse.Namespace) -> int:
    """Join the results of several runs and print them."""
    import random
    import time

    from lab.run.evidence import find_run, new_run
    from lab.run.interop import write_results
    from lab.run.merge import merge as merged

    folders = [find_run(arguments.runs, name) for name in arguments.parts]
    into = new_run(arguments.runs, "merged", time.time(), random.SystemRandom())
    results = merged(folders, into)
    write_results(into, results)
    return _told(into, results)
