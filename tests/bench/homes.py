"""How long a hundred homes take: 201 namespaces with their cables, addresses, routes, NATs; built and taken down.

    python -m tests.bench.homes [--homes 100] [--rounds 5] [--json]

Each round is a sandbox of its own. `gone` is when the kernel has really taken everything down, not only been asked to:
a cable into the last namespace that was let go of has vanished with it. Nobody waits for that; it grows by some 20 ms a
home, nearly all of it for bridges that lose their ports (the same without bridges: 0.1 s for a hundred).

Memory is what the machine has less of, and what the lab's own process holds more of, while all of it stands. Left over
is what is on the machine after a round:
interfaces that were not there before; and in its sandbox, before that ends and takes all with it: namespaces that some
process still holds, and descriptors of the lab.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import socket
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from lab.kernel.network import Network
from lab.kernel.sandbox import fork_into_sandbox
from lab.model.topology import parse
from lab.plan.build import build
from tests.bench.witness import everything_gone


@dataclass(frozen=True, slots=True)
class Round:
    """What one round came to: seconds, MiB, counts."""

    namespaces: int
    plan: float
    build: float
    gone: float
    kernel_mib: float
    process_mib: float
    descriptors: int
    "left open in the lab"
    held: tuple[str, ...]
    "namespaces of the round that a process is in or holds open"


@dataclass(frozen=True, slots=True)
class Result:
    """Medians over all rounds, and what they left on the machine."""

    homes: int
    namespaces: int
    plan: float
    build: float
    gone: float
    kernel_mib: float
    process_mib: float
    leftovers: tuple[str, ...]


def homes(count: int) -> str:
    """A topology of that many homes with one peer each."""
    parts = (f'[router.home-{n}]\nnat = "home"\n[peer.host-{n}]\nat = "home-{n}"' for n in range(count))
    return "\n".join(['name = "homes"', *parts])


def run(count: int, rounds: int) -> Result:
    """Build and take down `count` homes, `rounds` times."""
    before = set(_interfaces())
    results = [_round(count) for _ in range(rounds)]
    leftovers = [
        *sorted(set(_interfaces()) - before),
        *(name for result in results for name in result.held),
        *(f"{result.descriptors} descriptors" for result in results if result.descriptors),
    ]
    plan, built, gone, kernel, process = (
        statistics.median(values)
        for values in zip(*((r.plan, r.build, r.gone, r.kernel_mib, r.process_mib) for r in results), strict=True)
    )
    return Result(count, results[0].namespaces, plan, built, gone, kernel, process, tuple(leftovers))


def _round(count: int) -> Round:
    def inside() -> bytes:
        return json.dumps(asdict(_measure(count))).encode()

    return Round(**json.loads(fork_into_sandbox(inside)))


def _measure(count: int) -> Round:
    start = time.perf_counter()
    plan = build(parse(homes(count), "homes.toml"), seed=1)
    planned = time.perf_counter()
    descriptors, available, resident = _descriptors(), _available(), _resident()
    begun = time.perf_counter()
    network = Network.build(plan)
    built = time.perf_counter()
    kernel, process = available - _available(), _resident() - resident
    ours = {f"net:[{os.fstat(space.fd).st_ino}]" for space in network.spaces.values()}
    with everything_gone():
        closing = time.perf_counter()
        network.close()
    gone = time.perf_counter()
    left, held = _descriptors() - descriptors, tuple(sorted(ours & set(_held_namespaces())))
    return Round(len(plan.spaces), planned - start, built - begun, gone - closing, kernel, process, left, held)


def _interfaces() -> list[str]:
    return [name for _, name in socket.if_nameindex()]


def _held_namespaces() -> Iterator[str]:
    """The network namespaces that a process is in or holds open."""
    for process in Path("/proc").glob("[0-9]*"):
        for link in (process / "ns/net", *_listed(process / "fd")):
            try:
                target = str(link.readlink())
            except OSError:  # it ended meanwhile, or is somebody else's
                continue
            if target.startswith("net:["):
                yield target


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _descriptors() -> int:
    gc.collect()  # what waits for it may hold some
    return len(list(Path("/proc/self/fd").iterdir()))


def _available() -> float:
    return _kib("/proc/meminfo", "MemAvailable") / 1024


def _resident() -> float:
    return _kib("/proc/self/status", "VmRSS") / 1024


def _kib(path: str, key: str) -> int:
    line = next(line for line in Path(path).read_text("ascii").splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1])


def main() -> None:
    """Parse the command line and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--homes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    options = parser.parse_args()
    result = run(options.homes, options.rounds)
    if options.json:
        sys.stdout.write(json.dumps(asdict(result)) + "\n")
        return
    sys.stdout.write(
        f"{result.homes} homes, {result.namespaces} namespaces\n"
        f"planned    {result.plan:6.2f} s\n"
        f"built      {result.build:6.2f} s\n"
        f"taken down {result.gone:6.2f} s\n"
        f"memory     {result.kernel_mib:6.0f} MiB of the machine, {result.process_mib:.0f} MiB of them the lab's own\n"
        f"left over  {len(result.leftovers):6}  {', '.join(result.leftovers)}\n"
    )


if __name__ == "__main__":
    main()
