"""`punchlab resuming`: the seconds until traffic flows again, whatever happens to it (docs/resuming.md)."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from lab.cli import NOT_AS_PREDICTED, OK, above_zero, in_sandbox, progress
from lab.cli_matrix import some_of


def add_resuming_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    from lab.model.resuming import CASES
    from lab.model.transport import PUNCHABLE

    names = [case.name for case in CASES]
    parser.add_argument("--cases", type=some_of(names, "case"), metavar="NAMES", help=f"of {', '.join(names)}")
    parser.add_argument(
        "--transport", type=some_of(PUNCHABLE, "transport to punch with"), metavar="NAMES", help="tcp, quic"
    )
    parser.add_argument(
        "--rounds", type=above_zero, default=5, metavar="N", help="times that each is tried (default: 5)"
    )
    parser.add_argument(
        "--silence", type=above_zero, default=15, metavar="S", help="seconds until a silent peer is asked (default: 15)"
    )
    parser.add_argument("--jobs", type=above_zero, metavar="N", help="tries at a time (default: processors)")
    parser.add_argument("--save", type=Path, metavar="FILE", help="keep the seconds there, as JSON")


def resuming(arguments: argparse.Namespace) -> int:
    """Try all cases and print how soon there was traffic again."""
    from rich.table import Table

    from lab.model.resuming import CASES
    from lab.model.transport import PUNCHABLE
    from lab.report.resumedoc import HEAD, cells
    from lab.report.resuming import save
    from lab.report.terminal import stdout
    from lab.run.resuming import Order, try_all

    cases = tuple(case for case in CASES if case.name in (arguments.cases or {case.name}))
    transports = arguments.transport or PUNCHABLE
    order = Order(cases, transports, arguments.rounds, float(arguments.silence), arguments.jobs, arguments.seed)

    def run() -> int:
        with progress(len(cases) * len(transports) * order.rounds, "resuming") as done:
            folder, campaign = asyncio.run(try_all(order, arguments.runs, done))
        table = Table("case", *HEAD[1:])
        for row in campaign.rows:
            table.add_row(row.case, *cells(row)[1:])
        stdout().print(table)
        print(*campaign.findings, f"evidence: {folder}", sep="\n")
        if arguments.save is not None:
            save(arguments.save, campaign)
        return NOT_AS_PREDICTED if campaign.findings else OK

    return in_sandbox(run)
