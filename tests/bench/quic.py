"""How fast one stream and handshakes are over QUIC, beside aioquic alone and py-libp2p; two processes on loopback each.

Every packet costs Python the same work whoever drives it, so the processor time of both sides is the steadier figure.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar

from tests.bench import handshakes
from tests.bench.figures import Figure, Section
from tests.bench.foreign import Foreign, py
from tests.bench.program import BenchError, Program
from tests.bench.throughput import MIB_PER_S, Rates, by_nodes, by_programs

LISTEN: Final = "/ip4/127.0.0.1/udp/0/quic-v1"
BARE: Final = (sys.executable, "-m", "tests.bench.bare_quic")
TRIALS: Final = 3
SHARE: Final = 1 / 16
"of what our node moves and dials: py-libp2p would take minutes"

Measured = TypeVar("Measured")


def run(mib: int, rounds: int, dials: int) -> Section:
    """Measure all, `rounds` times, in turns; transfers are of `mib` MiB, `dials` handshakes one after another."""
    notes: list[str] = []
    try:
        foreign: Foreign | None = py()
    except BenchError as error:
        foreign = None
        notes.append(f"py-libp2p is left out: {error}")
    streams: dict[str, Callable[[], Iterator[Rates]]] = {
        "our node": lambda: by_nodes(mib, 2, listen=LISTEN),
        "bare aioquic": lambda: by_programs(BARE, mib, 2),
    }
    greetings: dict[str, Callable[[], float]] = {
        "our node": lambda: handshakes.dials(dials, quic=True),
        "bare aioquic": lambda: _greet(BARE, (), dials),
    }
    if foreign is not None:
        command, listen = foreign.command, (LISTEN,)
        streams[foreign.name] = lambda: by_programs(command, max(1, int(mib * SHARE)), 2, listen)
        greetings[foreign.name] = lambda: _greet(command, listen, max(5, int(dials * SHARE)))
    measured: dict[str, list[Rates]] = {name: [] for name in streams}
    greeted: dict[str, list[float]] = {name: [] for name in greetings}
    for number in range(rounds):
        names = list(streams)
        for name in (*names[number % len(names) :], *names[: number % len(names)]):
            measured[name].append(_tried(name, lambda: list(streams[name]())[-1], notes))  # noqa: B023 - at once
            greeted[name].append(_tried(name, greetings[name], notes))
    return Section("quic", "QUIC, two processes on loopback", tuple(_figures(measured, greeted)), tuple(notes))


def _tried(name: str, measure: Callable[[], Measured], notes: list[str]) -> Measured:
    """What is measured at last; py-libp2p's QUIC breaks off now and then, which is noted."""
    for trial in range(1, TRIALS + 1):
        try:
            return measure()
        except BenchError as error:
            if trial == TRIALS:
                raise BenchError(f"{name}: {error}") from None
            notes.append(f"{name} once more: {error}")
    raise AssertionError("the last trial returns or raises")


def _figures(measured: dict[str, list[Rates]], greeted: dict[str, list[float]]) -> Iterator[Figure]:
    ups = {name: Figure(f"{name}, up", MIB_PER_S, tuple(rate.up for rate in rates)) for name, rates in measured.items()}
    yield from _compared(ups, "ours / {}", bare="≥ 0.9", others="≥ 5")
    costs = {
        name: Figure(f"{name}: CPU", "s/GiB", tuple(rate.cpu for rate in rates)) for name, rates in measured.items()
    }
    yield from costs.values()
    for name, cost in costs.items():
        if name != "our node":
            yield cost.over(costs["our node"], f"CPU, {name} / ours")
    dials = {name: Figure(f"{name}, handshakes", "/s", tuple(values)) for name, values in greeted.items()}
    yield from _compared(dials, "handshakes, ours / {}", bare="≥ 0.9", others="≥ 5")


def _compared(figures: dict[str, Figure], title: str, *, bare: str, others: str) -> Iterator[Figure]:
    """All of them, and ours over each other."""
    yield from figures.values()
    for name, figure in figures.items():
        if name != "our node":
            yield figures["our node"].over(figure, title.format(name), bare if name.startswith("bare") else others)


def _greet(command: Sequence[str], listen: Sequence[str], count: int) -> float:
    """Handshakes a second of a program of the shape that `tests.bench.foreign` describes."""
    with (
        Program([*command, "listen", *listen]) as listener,
        Program([*command, "greet", listener.line(), str(count)]) as dialer,
    ):
        return float(dialer.json()["dials_per_second"])
