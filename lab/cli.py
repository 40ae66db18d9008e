"""The command line, `punchlab`.

Exit status: 0 all well; 1 a scenario did not come out as predicted, or a NAT not as declared; 2 a mistake in what was
asked; 3 the lab itself failed or the machine lacks something. Errors are one line on stderr.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from lab.errors import EventError, LabError, MissingCapability, TopologyError

if TYPE_CHECKING:
    from lab.kernel.container import Engine
    from lab.lab import Lab
    from lab.model.topology import Topology
    from lab.report.results import Results

OK, NOT_AS_PREDICTED, MISTAKE, BROKEN = 0, 1, 2, 3


def entry() -> NoReturn:
    """What the console script calls."""
    sys.exit(main(sys.argv[1:]))


def main(argv: Sequence[str]) -> int:
    """Run one command; returns the exit status."""
    arguments = _parser().parse_args(argv)
    _find_programs()
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        return command(arguments)
    except (TopologyError, EventError, argparse.ArgumentTypeError) as error:
        print(f"punchlab: {error}", file=sys.stderr)
        return MISTAKE
    except LabError as error:
        print(f"punchlab: {error}", file=sys.stderr)
        return BROKEN
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone (`punchlab explain latest | head`); nothing is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK


def _find_programs() -> None:
    """`nft` and `ip` are in sbin, which is not on every user's path."""
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def in_sandbox(main: Callable[[], int], engine: Engine | None = None) -> int:
    """Run the rest of a command where it may make networks, with an engine containers' too; `MissingCapability`."""
    from lab.kernel import sandbox

    problem = sandbox.problem()
    if problem is not None:
        raise MissingCapability(problem)
    if shutil.which("nft") is None:
        raise MissingCapability("there is no `nft`, which makes the NATs; install it: sudo apt install nftables")
    return sandbox.run_in_sandbox(lambda: _reported(main), own_users=engine is None)


def engine_for(topology: Topology | None, runner: str | None = None) -> Engine | None:
    """Docker's engine where a network has containers, once what ended labs have left there is removed."""
    from lab.model.runner import CONTAINER, has_containers

    if runner != CONTAINER and (topology is None or not has_containers(topology)):
        return None
    from lab.kernel.container import Engine

    engine = Engine.find()
    engine.require_rights()
    engine.reap()
    return engine


def _clean(arguments: argparse.Namespace) -> int:
    from lab.kernel.container import Engine

    removed, living = Engine.find().reap()
    left = f", {living} left to labs that are running" if living else ""
    print(f"containers of labs that have ended: {removed} removed{left}")
    return OK


def _reported(main: Callable[[], int]) -> int:
    """`main`, with the lab's errors told as everywhere; inside the sandbox, whose parent sees only the status."""
    try:
        return main()
    except LabError as error:
        print(f"punchlab: {error}", file=sys.stderr)
        return BROKEN
    except KeyboardInterrupt:
        return 130


def _doctor(arguments: argparse.Namespace) -> int:
    from lab.kernel.doctor import examine

    findings = examine()
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        print(f"{'ok ' if finding.ok else '-- '} {finding.name:<{width}}  {finding.detail}")
        if not finding.ok and finding.advice:
            print(f"    {'':<{width}}  → {finding.advice}")
    return OK if all(finding.ok for finding in findings if finding.needed) else BROKEN


def _nats(arguments: argparse.Namespace) -> int:
    from lab.model.presets import PRESETS
    from lab.report.terminal import certificate_table, stdout
    from lab.run.certify import certify_presets

    if arguments.all:
        return in_sandbox(lambda: _grid(full=arguments.full))

    names = arguments.presets or list(PRESETS)

    def measure() -> int:
        certificates = asyncio.run(certify_presets(names, full=True))
        console = stdout()
        console.print(certificate_table(certificates, console.options.ascii_only))
        as_declared = sum(certificate.ok for certificate in certificates)
        seconds = max(certificate.seconds for certificate in certificates)
        print(f"{as_declared} of {len(certificates)} measured as declared, in {seconds:.1f} s")
        return OK if as_declared == len(certificates) else NOT_AS_PREDICTED

    return in_sandbox(measure)


def _links(arguments: argparse.Namespace) -> int:
    from lab.report.links import link_table, load_table, summary, to_json
    from lab.report.terminal import stdout
    from lab.run.links import LOADS, PACE, measure_links

    def measure() -> int:
        loads = () if arguments.no_load else LOADS
        report = measure_links(arguments.backend, loads=loads, pace=arguments.pace or PACE, machine=arguments.machine)
        console = stdout()
        console.print(link_table(report, console.options.ascii_only))
        if report.loads:
            console.print(load_table(report))
        print(summary(report))
        if arguments.save:
            arguments.save.write_text(to_json(report), "utf-8")
        return OK if all(row.ok for row in report.rows) else NOT_AS_PREDICTED

    return in_sandbox(measure)


def _grid(*, full: bool) -> int:
    """Measure every NAT that has rules."""
    import time

    from lab.model.grid import grid, refused
    from lab.report.terminal import grid_summary, stdout
    from lab.run.grid import VERSIONS, certify_grid

    nats, began = grid(), time.monotonic()
    with progress(len(nats) * len(VERSIONS), "measuring") as done:
        certificates = asyncio.run(certify_grid(nats, full=full, done=done))
    for line in grid_summary(certificates, refused(), time.monotonic() - began):
        stdout().print(line, markup=False, highlight=False, soft_wrap=True)
    return OK if all(certificate.ok for certificate in certificates) else NOT_AS_PREDICTED


def _truth(arguments: argparse.Namespace) -> int:
    """The oracle against a puncher that knows nothing of libp2p."""
    import time

    from lab.model.ipv6 import Ip
    from lab.report.terminal import stdout
    from lab.run.truth import punches_of_a_round, summary, try_rounds

    def run() -> int:
        began, each = time.monotonic(), arguments.sample or punches_of_a_round()
        with progress(arguments.rounds * each) as done:
            trying = try_rounds(
                arguments.rounds, arguments.seed, ip=Ip(arguments.ip), sample=arguments.sample, done=done
            )
            tried = asyncio.run(trying)
        for line in summary(tried, time.monotonic() - began):
            stdout().print(line, markup=False, highlight=False, soft_wrap=True)
        return OK if all(punch.agrees for punch in tried) else NOT_AS_PREDICTED

    return in_sandbox(run)


def _asked(arguments: argparse.Namespace) -> Topology:
    """The topology of the command line, once it is sure that it can be built; TopologyError."""
    from lab.model.runner import all_run_as
    from lab.model.topology import load
    from lab.plan.build import build
    from lab.run.library import locate

    topology = load(locate(arguments.topology))
    if arguments.runner is not None:
        topology = all_run_as(topology, arguments.runner)
    build(topology, arguments.seed)
    return topology


def _run(arguments: argparse.Namespace) -> int:
    from lab.run.cell import cast
    from lab.run.matrix import run_single

    topology = _asked(arguments)
    cast(topology)
    engine = engine_for(topology)
    return in_sandbox(lambda: _told(*asyncio.run(run_single(topology, arguments.runs, arguments.seed, engine))), engine)


def _matrix(arguments: argparse.Namespace) -> int:
    from lab import cli_matrix
    from lab.model.classical import CLASSICAL
    from lab.model.runner import PROCESS
    from lab.model.transport import BOTH, PUNCHABLE
    from lab.report.punches import campaign, save, tally_line
    from lab.run.matrix import Order, run_matrix

    if cli_matrix.wanted(arguments):
        return cli_matrix.matrix(arguments)
    asked = arguments.transport or PUNCHABLE
    transports = cli_matrix.some_of((*PUNCHABLE, BOTH), "transport to punch with")(",".join(asked))
    order = Order(
        arguments.dialers or CLASSICAL,
        arguments.listeners or CLASSICAL,
        transports,
        arguments.link,
        arguments.jobs,
        arguments.seed,
        arguments.runner or PROCESS,
        engine_for(None, arguments.runner),
    )

    def run() -> int:
        worst, rounds = OK, []
        for _ in range(arguments.repeat or 1):
            with progress(len(order.cells)) as done:
                folder, results = asyncio.run(run_matrix(order, arguments.runs, done))
            worst = max(worst, _told(folder, results))
            rounds.append(results)
            if arguments.save is not None:
                save(arguments.save, campaign(order.link, rounds))
        if len(rounds) > 1:
            print(f"all {len(rounds)} rounds:", *map(tally_line, campaign(order.link, rounds).tallies), sep="\n")
        return worst

    return in_sandbox(run, order.engine)


@contextmanager
def progress(cells: int, what: str = "punching") -> Iterator[Callable[[object], None]]:
    """A bar on stderr while cells run; nothing where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=cells)
        yield lambda _: progress.advance(task)


def _told(folder: Path, results: Results) -> int:
    """Print results; the exit status that they mean."""
    from lab.report.results import Mark
    from lab.report.terminal import print_results, stdout

    print_results(results, folder, stdout())
    if results.ok:
        return OK
    broken = all(cell.as_predicted or cell.verdict is Mark.INCONCLUSIVE for cell in results.cells)
    return BROKEN if broken else NOT_AS_PREDICTED


def _up(arguments: argparse.Namespace) -> int:
    import time
    from random import SystemRandom

    from lab.run.evidence import Evidence, new_run
    from lab.run.up import up

    topology = _asked(arguments)
    engine = engine_for(topology)
    folder = new_run(arguments.runs, topology.name, time.time(), SystemRandom())
    announce = _announcer(folder)
    return in_sandbox(
        lambda: asyncio.run(up(topology, Evidence(folder), arguments.seed, announce, engine)) or OK, engine
    )


def _announcer(folder: Path) -> Callable[[Lab], None]:
    from lab.model.writing import nat_words

    def announce(lab: Lab) -> None:
        for router in (*lab.plan.routers, *lab.plan.routers6):
            print(f"{router.name:<12} {router.wan:<15} LAN {router.lan}  {nat_words(router.nat)}")
        for peer in lab.all_peers:
            for way in peer.launch.ways:
                behind = f"behind {way.router}" if way.router else "on the internet"
                print(f"{peer.name:<12} {way.address:<15} {behind:<20} {peer.peer_id}")
        print(f"\nA shell in one of them: punchlab shell {lab.all_peers[-1].name}")
        if lab.plan.routers:
            print(f"Have something happen:  punchlab event {lab.plan.routers[0].name} reboot")
        print(f"Evidence: {folder}\nCtrl-C ends it.", flush=True)

    return announce


def _shell(arguments: argparse.Namespace) -> int:
    from lab.run.evidence import find_run
    from lab.run.up import shell

    shell(find_run(arguments.runs, arguments.run), arguments.peer, arguments.argv)
    return OK


def _event(arguments: argparse.Namespace) -> int:
    from lab.model.event import KINDS
    from lab.run.events import ask
    from lab.run.evidence import find_run

    if arguments.target is None:
        for kind in KINDS.values():
            targets = ", ".join(sorted(target.value for target in kind.targets))
            print(f"{kind.usage:<22} {kind.summary}; to {targets}")
        return OK
    print(ask(find_run(arguments.runs, arguments.run), arguments.target, " ".join(arguments.what)))
    return OK


def _explain(arguments: argparse.Namespace) -> int:
    from lab.report.explain import explain
    from lab.run.evidence import find_cell

    explain(find_cell(arguments.runs, arguments.run), everything=arguments.all)
    return OK


def _capture(arguments: argparse.Namespace) -> int:
    from lab.report.explain import summarise_capture
    from lab.run.evidence import find_cell

    summarise_capture(find_cell(arguments.runs, arguments.run))
    return OK


def _report(arguments: argparse.Namespace) -> int:
    from lab.report import interop_text
    from lab.report.interop import is_interop
    from lab.report.terminal import report
    from lab.run.evidence import find_run

    folder = find_run(arguments.runs, arguments.run)
    (interop_text.report if is_interop(folder) else report)(folder, arguments.format)
    return OK


def _topologies(arguments: argparse.Namespace) -> int:
    from lab.model.topology import load
    from lab.run.library import OURS

    for path in sorted({*OURS.glob("*.toml"), *Path("topologies").resolve().glob("*.toml")}):
        topology = load(path)
        print(f"{topology.name:<22} {topology.summary}")
    return OK


def _parser() -> argparse.ArgumentParser:
    from lab import cli_matrix, cli_resuming, cli_upstream

    parser = argparse.ArgumentParser(prog="punchlab", description="A laptop-sized internet with real NATs, for libp2p.")
    runs = argparse.ArgumentParser(add_help=False)
    runs.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="DIR", help="folder of the runs (default: runs)"
    )
    seed = argparse.ArgumentParser(add_help=False)
    seed.add_argument("--seed", type=int, default=1, help="chance of the plan: same seed, same plan (default: 1)")
    runner = argparse.ArgumentParser(add_help=False)
    runner.add_argument("--runner", choices=("process", "container"), help="how peers are run, whatever topologies say")
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")

    def verb(name: str, run: Callable[[argparse.Namespace], int], help: str, *parents: argparse.ArgumentParser):  # type: ignore[no-untyped-def]
        made = verbs.add_parser(name, help=help, description=help, parents=parents)
        made.set_defaults(command=run)
        return made

    verb("doctor", _doctor, "tell what this machine offers and what to do where something is missing")
    nats = verb("nats", _nats, "build NATs, measure them, compare with what they declare")
    nats.add_argument("presets", nargs="*", metavar="PRESET", help="only these (default: all presets)")
    nats.add_argument("--all", action="store_true", help="every NAT that has rules, preset or not")
    nats.add_argument("--full", action="store_true", help="with --all: try the traps, too (presets always do)")
    links = verb("links", _links, "ask links for latency, loss, rates, … one at a time, and measure what they do")
    links.add_argument("--backend", choices=("netem", "userspace"), help="instead of what this machine would use")
    links.add_argument("--no-load", action="store_true", help="leave out how many packets a second they carry")
    links.add_argument("--pace", type=above_zero, metavar="N", help="at most so many probes/s, on a slow machine")
    links.add_argument("--machine", default="", metavar="TEXT", help="what the saved measurements call this machine")
    links.add_argument("--save", type=Path, metavar="FILE", help="write the measurements there, as JSON")
    truth = verb("truth", _truth, "punch between all kinds of NAT without libp2p, and compare with the theory", seed)
    truth.add_argument(
        "--rounds", type=int, default=1, metavar="N", help="times that every pair has its turn (default: 1)"
    )
    truth.add_argument("--ip", choices=("ipv4", "ipv6"), default="ipv4", help="over which version (default: ipv4)")
    truth.add_argument("--sample", type=int, default=None, metavar="N", help="only so many punches of each round")
    matrix = verb(
        "matrix", _matrix, "punch through every pair of NATs, or try implementations together", runs, seed, runner
    )
    _matrix_arguments(matrix)
    told = "have things happen to two peers that talk, and take the seconds until there is direct traffic again"
    cli_resuming.add_resuming_arguments(verb("resuming", cli_resuming.resuming, told, runs, seed))
    peers = verb("peers", cli_matrix.peers, "what the peer of each implementation is, and was seen to do", runs, runner)
    cli_matrix.add_peers_arguments(peers)
    merge = verb("merge", cli_matrix.merge, "join the results of several shards of a matrix of implementations", runs)
    merge.add_argument("parts", nargs="+", metavar="RUN", help="ids, the starts of some, folders")
    told = "run programs that were written for libp2p's own test suites"
    cli_upstream.add_upstream_arguments(verb("upstream", cli_upstream.upstream, told, runs, seed))
    for name, run, help in (
        ("run", _run, "one topology: reserve, reach through the relay, punch, echo; and the verdict"),
        ("up", _up, "build a topology, start its peers, stay until Ctrl-C"),
    ):
        verb(name, run, help, runs, seed, runner).add_argument("topology", help="a name in topologies/ or a TOML file")
    shell = verb("shell", _shell, "open a shell inside a peer's or router's network namespace", runs)
    shell.add_argument("peer", help="a peer, a router, or core")
    shell.add_argument("argv", nargs=argparse.REMAINDER, metavar="COMMAND", help="instead of a shell")
    shell.add_argument("--run", default="latest", help="which running lab (default: latest)")
    event = verb("event", _event, "have something happen in a running lab; without arguments: what can", runs)
    event.add_argument("target", nargs="?", help="a router, a peer, or a port such as home-a/lan0")
    event.add_argument("what", nargs="*", help="reboot, expire, address 11.0.9.2, down, move home-b, …")
    event.add_argument("--run", default="latest", help="which running lab (default: latest)")
    for name, run, help in (
        ("explain", _explain, "one run as one timeline: packets, mappings, peers' events"),
        ("capture", _capture, "what a run's capture holds, by interface"),
        ("report", _report, "the results of a run"),
    ):
        made = verb(name, run, help, runs)
        made.add_argument("run", nargs="?", default="latest", help="latest, an id, a cell of one, a folder")
        if name == "explain":
            made.add_argument("--all", action="store_true", help="every packet, not only those that decide")
        if name == "report":
            made.add_argument("--format", choices=("text", "markdown", "json"), default="text")
    verb("clean", _clean, "remove containers that labs which were killed have left")
    verb("topologies", _topologies, "list the library of topologies")
    return parser


def above_zero(text: str) -> int:
    """The reader of an option that counts something."""
    number = int(text) if text.isascii() and text.isdigit() else 0
    if not number:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, not {text!r}")
    return number


def _matrix_arguments(parser: argparse.ArgumentParser) -> None:
    from lab import cli_matrix
    from lab.model.presets import PRESETS
    from lab.model.transport import BOTH, TRANSPORTS

    names = cli_matrix.some_of(PRESETS, "NAT preset")
    parser.add_argument("--dialers", type=names, metavar="NATS", help="presets, comma-separated")
    parser.add_argument("--listeners", type=names, metavar="NATS", help="likewise")
    by = cli_matrix.some_of((*TRANSPORTS, BOTH), "transport")
    parser.add_argument("--transport", type=by, metavar="NAMES", help=f"tcp, quic, {BOTH}; a matrix for each")
    parser.add_argument(
        "--link", type=cli_matrix.link, metavar="VALUES", help="of both homes: 'latency=20ms loss=1%%', wifi, …"
    )
    parser.add_argument("--jobs", type=above_zero, metavar="N", help="cells at a time (default: by processors)")
    parser.add_argument("--repeat", type=above_zero, metavar="N", help="whole matrices in a row")
    parser.add_argument("--save", type=Path, metavar="FILE", help="keep success, attempts and seconds there, as JSON")
    cli_matrix.add_matrix_arguments(parser)
