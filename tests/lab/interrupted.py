"""A program for a test: a matrix of ours and of a peer that never says a word, in the folder that it is given.

It says on stdout who dialled in the setup that is done.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import lab.lab
from lab.kernel import sandbox
from lab.model.interop import Check, Selection
from lab.report.interop import Cell
from lab.run.conformance import adapters
from lab.run.interop import Order, Run, begin, plan


def main() -> int:
    lab.lab.READY_WITHIN = 100.0  # until then the silent one is waited for
    order = Order(Selection(("own", "stuck"), ("own",), (), (Check.CONNECT,), ("tcp",), ("noise",)))
    run = Run(begin(order, Path(sys.argv[1])), order, plan(order, {}), {}, (), adapters())
    return 0 if asyncio.run(run.play(say)).ok else 1


def say(cell: Cell) -> None:
    sys.stdout.write(f"{cell.setup.dialer}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(sandbox.run_in_sandbox(main))
