"""Feeds what strangers send, broken in every way, to all that reads it. `make fuzz SECONDS=1800`

    python -m tests.fuzz [--seconds N] [TARGET …]

Each target gets its share of the time: bytes of pure chance, and valid messages with a few bytes changed, dropped or
doubled. Whatever is raised but the node's typed errors is an escape; it is shrunk, printed, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings

from tests.fuzz.mutations import broken
from tests.fuzz.targets import TARGETS, Target, accept

BATCH = 250
"""Examples between two looks at the clock."""

_UNBOUNDED = settings(
    max_examples=BATCH,
    deadline=None,
    database=None,
    phases=(Phase.generate, Phase.shrink),
    verbosity=Verbosity.quiet,
    suppress_health_check=list(HealthCheck),
)


def main(arguments: Sequence[str]) -> int:
    """Fuzz; returns the exit status."""
    options = _parser().parse_args(arguments)
    chosen = [target for target in TARGETS if not options.targets or target.name in options.targets]
    share = options.seconds / len(chosen)
    escapes = 0
    for target in chosen:
        examples, escape = fuzz(target, share)
        print(f"{target.name:<28} {examples:>9,} examples" + (f"   ESCAPE {escape}" if escape else ""), flush=True)
        escapes += escape is not None
    print(f"{escapes} escapes in {len(chosen)} targets")
    return int(escapes > 0)


def fuzz(target: Target, seconds: float) -> tuple[int, str | None]:
    """Feed a target in batches until the time is over; how often it was fed, and what escaped, by which input."""
    until, fed, last = time.monotonic() + seconds, 0, b""

    @_UNBOUNDED
    @given(broken(target.seeds))
    def feed(data: bytes) -> None:
        nonlocal fed, last
        fed, last = fed + 1, data
        accept(target, data)

    while time.monotonic() < until:
        try:
            seed(time.time_ns())(feed)()
        except Exception as error:  # noqa: BLE001 - whatever it is: that is what is looked for
            # The last input is the smallest: shrinking ends by trying it again.
            return fed, f"{type(error).__name__}: {error}; by {last!r}"
    return fed, None


def _parser() -> argparse.ArgumentParser:
    names = [target.name for target in TARGETS]
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=str(__doc__).partition("\n\n")[0])
    parser.add_argument("targets", nargs="*", choices=[*names, []], metavar="TARGET", help=f"of {', '.join(names)}")
    parser.add_argument("--seconds", type=float, default=60.0, metavar="N", help="for all targets together (60)")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
