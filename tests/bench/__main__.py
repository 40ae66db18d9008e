"""The project's numbers, as ratios within one run where there is something to compare with.

    python -m tests.bench [lab] [node] [throughput] [quic] [interop] [matrix] [predict]   all by default; `make bench`

Prints tables and keeps everything in `.bench/results.json`. No number fails anything: machines differ.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from rich.console import Console

from tests.bench import interop, labs, matrices, nodes, predictions, quic, throughput
from tests.bench.figures import Section, keep, show
from tests.bench.foreign import PLACE
from tests.bench.program import BenchError

NAMES = ("lab", "node", "throughput", "quic", "interop", "matrix", "predict")


def main(arguments: Sequence[str]) -> int:
    """Run what was asked for; the exit status is 1 if something could not be measured."""
    options = _parser().parse_args(arguments)
    parts: dict[str, Callable[[], Section]] = {
        "lab": lambda: labs.run(options.builds, options.labs),
        "node": lambda: nodes.run(options.starts, options.rounds, options.handshakes),
        "throughput": lambda: throughput.run(options.mib, options.rounds),
        "quic": lambda: quic.run(max(1, options.mib // 16), options.rounds, options.handshakes),
        "interop": lambda: interop.run(max(16, options.mib // 8), options.rounds, max(10, options.handshakes // 6)),
        "matrix": lambda: matrices.run(options.repeat),
        "predict": lambda: predictions.run(options.punches, options.link),
    }
    console, failed = Console(), False
    for name in dict.fromkeys(options.parts or NAMES):
        try:
            section = parts[name]()
        except BenchError as error:
            sys.stderr.write(f"bench {name}: {error}\n")
            failed = True
            continue
        show(section, console)
        keep(section, PLACE / "results.json")
    return int(failed)


def _parser() -> argparse.ArgumentParser:
    about, _, more = str(__doc__).partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description=about, epilog=more, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=[*NAMES, []], metavar="PART", help=f"of {', '.join(NAMES)}")
    for option, default, help in (
        ("builds", 20, "networks to build and take down"),
        ("labs", 5, "whole labs, with their NATs measured and their peers started"),
        ("starts", 7, "starts of each node"),
        ("handshakes", 300, "handshakes a round"),
        ("rounds", 5, "rounds of handshakes and of throughput"),
        ("mib", 512, "MiB that our node moves in one transfer"),
        ("repeat", 1, "whole matrices in a row"),
        ("punches", 3, "rounds of each pair whose ports are predicted"),
    ):
        parser.add_argument(f"--{option}", type=_count, default=default, metavar="N", help=f"{help} ({default})")
    parser.add_argument("--link", metavar="WORDS", help="uplinks of those pairs, as `latency=20ms loss=1%%` (ideal)")
    return parser


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 100_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 100000")
    return int(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
