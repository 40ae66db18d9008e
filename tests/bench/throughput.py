"""How fast one stream is between two processes on loopback: TCP, Noise and yamux, by `/perf/1.0.0`.

Each round measures every contender once, in an order that is turned by one from round to round, with fresh processes
and one connection; a first transfer over it warms up windows, caches and compilers and is not counted. Amounts differ,
so that transfers take about equally long. Rates suffer from whatever else the machine does meanwhile; the processor
time that both sides together spend on a GiB hardly does.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from tests.bench.figures import Figure, Section
from tests.bench.foreign import Foreign, available
from tests.bench.program import LISTEN, BenchError, Node, Program

MIB: Final = 1 << 20
MIB_PER_S: Final = "MiB/s"


@dataclass(frozen=True, slots=True)
class Rates:
    """MiB/s of one transfer; `down` is None where up is both."""

    up: float
    down: float | None
    cpu: float
    "processor seconds of both sides per GiB moved"


@dataclass(frozen=True, slots=True)
class Contender:
    """Something that moves bytes: `measure(mib, times)` gives the rates of so many transfers over one connection."""

    name: str
    share: float
    "of the amount that our node moves"
    measure: Callable[[int, int], Iterator[Rates]]


def run(mib: int, rounds: int) -> Section:
    """Measure all, `rounds` times; transfers of our node are of `mib` MiB."""
    foreign, notes = available()
    contenders = [
        Contender("raw", 2.0, lambda amount, times: by_programs(_bare("raw"), amount, times)),
        Contender("pipe", 1.5, lambda amount, times: by_programs(_bare("pipe"), amount, times)),
        Contender("ours", 1.0, by_nodes),
        Contender("ours, TLS", 1.0, lambda amount, times: by_nodes(amount, times, "--security", "tls")),
    ]
    contenders += [_contender(each) for each in foreign]
    measured: dict[str, list[Rates]] = {contender.name: [] for contender in contenders}
    for number in range(rounds):
        turned = [*contenders[number % len(contenders) :], *contenders[: number % len(contenders)]]
        for contender in turned:
            try:
                rates = list(contender.measure(max(16, int(mib * contender.share)), 2))
            except BenchError as error:
                raise BenchError(f"{contender.name}: {error}") from None
            measured[contender.name].append(rates[-1])
    figures = _figures(measured, [each.name for each in foreign])
    return Section("throughput", "One stream over TCP, Noise and yamux, two processes on loopback", figures, (*notes,))


def _figures(measured: dict[str, list[Rates]], foreign: Sequence[str]) -> tuple[Figure, ...]:
    pipe, up, down = _ups("bare Noise + yamux pipe", measured["pipe"]), *_both("our node", measured["ours"])
    slower = Figure("", MIB_PER_S, tuple(map(min, up.values, down.values)))
    rates, ratios = [_ups("raw asyncio TCP", measured["raw"]), pipe, up, down], []
    ratios.append(slower.over(pipe, "ours, slower way / pipe", "≥ 0.65"))
    for noise, tls in zip((up, down), _both("our node, TLS", measured["ours, TLS"]), strict=True):
        rates.append(tls)
        ratios.append(tls.over(noise, f"{tls.name} / Noise"))
    for name in foreign:
        aim = "≥ 7" if name.startswith("py") else "≥ 3"
        for ours, theirs in zip((up, down), _both(name, measured[name]), strict=True):
            rates.append(theirs)
            ratios.append(ours.over(theirs, f"ours / {theirs.name}", aim))
    return (*rates, *ratios, *_costs(measured, foreign))


def _costs(measured: dict[str, list[Rates]], foreign: Sequence[str]) -> Iterator[Figure]:
    """Processor time, and how many times ours it is."""
    costs = {
        name: Figure(f"{name}: CPU", "s/GiB", tuple(rate.cpu for rate in rates)) for name, rates in measured.items()
    }
    yield from costs.values()
    yield costs["pipe"].over(costs["ours"], "CPU, pipe / ours")
    yield costs["ours, TLS"].over(costs["ours"], "CPU, TLS / Noise")
    for name in foreign:
        yield costs[name].over(costs["ours"], f"CPU, {name} / ours")


def _ups(name: str, rates: Sequence[Rates]) -> Figure:
    return Figure(name, MIB_PER_S, tuple(rate.up for rate in rates))


def _both(name: str, rates: Sequence[Rates]) -> tuple[Figure, Figure]:
    downs = tuple(rate.up if rate.down is None else rate.down for rate in rates)
    return _ups(f"{name}, up", rates), Figure(f"{name}, down", MIB_PER_S, downs)


def _contender(foreign: Foreign) -> Contender:
    share = 0.125 if foreign.name.startswith("py") else 0.25
    return Contender(foreign.name, share, lambda mib, times: by_programs(foreign.command, mib, times))


def _bare(kind: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "tests.bench.bare", kind)


def by_programs(command: Sequence[str], mib: int, times: int, listen: Sequence[str] = ()) -> Iterator[Rates]:
    """By two programs of the shape that `tests.bench.foreign` describes."""
    with Program([*command, "listen", *listen]) as listener:
        address, amount = listener.line(), str(mib * MIB)
        with Program([*command, "dial", address, amount, amount, str(times)]) as dialer:
            for _ in range(times):
                spent = _Spending(listener, dialer)
                said = dialer.json()
                up, down = said["upload_seconds"], said["download_seconds"]
                if down is None:
                    yield Rates(mib / up, None, spent.per_gib(mib))
                else:
                    yield Rates(mib / up, mib / down, spent.per_gib(2 * mib))


def by_nodes(mib: int, times: int, *flags: str, listen: str = LISTEN) -> Iterator[Rates]:
    """By two of our nodes, as the lab would ask them."""
    with ExitStack() as running:
        listener, dialer = (running.enter_context(Node(name, *flags, listen=listen)) for name in ("listener", "dialer"))
        address = listener.ready()
        dialer.ready()
        peer = dialer.ask("dial", addr=address)["peer"]
        for _ in range(times):
            spent = _Spending(listener, dialer)
            took = dialer.ask("perf", peer=peer, upload=mib * MIB, download=mib * MIB)
            yield Rates(mib / took["upload_seconds"], mib / took["download_seconds"], spent.per_gib(2 * mib))


class _Spending:
    """What programs spend from now on."""

    def __init__(self, *programs: Program) -> None:
        self._programs = programs
        self._before = self._sum()

    def per_gib(self, mib: int) -> float:
        """Processor seconds since, per GiB."""
        return (self._sum() - self._before) * 1024 / mib

    def _sum(self) -> float:
        return sum(program.cpu() for program in self._programs)
