"""How long a NAT's mappings live: fresh endpoints fall silent, and somebody outside knocks before and after their time.

    new            one packet out, none in
    assured        packets both ways for longer than the two seconds after which conntrack calls a UDP flow assured
    transitory     a TCP connection that was reset
    established    one that is open

Each endpoint is knocked at once only: a packet from outside renews the mapping. All of them wait at the same time, so
that measuring takes as long as the longest lifetime, and is for NATs with short ones. Filtering has to be
endpoint-independent, for the knocker must be somebody else: the flow itself is conntrack's, the mapping is the NAT's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from lab.kernel.network import Network
from lab.model.nat import Filtering
from lab.observe.nat import Knock
from lab.plan.plan import RouterPlan
from lab.run.measure import Bench
from lab.run.probes import End, Probe, UdpProbe
from lab.run.tcp_probe import TcpProbe
from lab.run.versions import version_of

LONGEST: Final = 10.0
"Seconds: what a lifetime may be to be measured."
BEFORE: Final = 0.6
"Share of its time after which a mapping must still be there."
AFTER: Final = 1.0
"Seconds after its time when it must be gone; conntrack and sets count a little late, never early."
ASSURED: Final = 2.4
"Seconds of packets both ways that make a UDP flow assured."
TURN: Final = 0.4
"Seconds from one of these packets to the next."


@dataclass(frozen=True, slots=True)
class Lifetime:
    """One kind of mapping, the seconds it should live, and whether it was there before and gone after them."""

    kind: str
    seconds: float
    there_before: bool
    gone_after: bool

    @property
    def ok(self) -> bool:
        return self.there_before and self.gone_after

    def __str__(self) -> str:
        before = "there" if self.there_before else "gone"
        after = "gone" if self.gone_after else "there"
        return (
            f"{self.kind}: {before} after {BEFORE * self.seconds:.1f} s, {after} after {self.seconds + AFTER:.1f} s;"
            f" it is to live {self.seconds:g} s"
        )


Prepare = Callable[[Bench, End], Awaitable[None]]


async def lifetimes(network: Network, router: RouterPlan, vantages: tuple[str, str]) -> tuple[Lifetime, ...]:
    """Measure those of a router that are short enough. Raises `ProbeError`; ValueError where filtering is strict."""
    nat = router.nat
    if nat.filtering is not Filtering.ENDPOINT_INDEPENDENT or nat.one_to_one:
        raise ValueError(f"{router.name} does not let a stranger knock, or has nothing that expires")
    kinds: tuple[tuple[str, float, type[Probe], Prepare], ...] = (
        ("UDP, new", nat.udp_new_timeout, UdpProbe, _say_once),
        ("UDP, assured", nat.udp_timeout, UdpProbe, _converse),
        ("TCP, transitory", nat.tcp_transitory_timeout, TcpProbe, _begin_and_end),
        ("TCP, established", nat.tcp_timeout, TcpProbe, _say_once),
    )
    hosts = tuple(network.spaces[host] for host in router.hosts)
    version = version_of(router.wan)
    async with UdpProbe(version) as udp, TcpProbe(version) as tcp:
        benches: dict[type[Probe], Bench] = {
            type(probe): Bench.around(probe, hosts, router.publics, network.spaces[router.outside], vantages)
            for probe in (udp, tcp)
        }
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_measure(benches[probe], kind, seconds, prepare))
                for kind, seconds, probe, prepare in kinds
                if seconds <= LONGEST
            ]
    return tuple(task.result() for task in tasks)


async def _measure(bench: Bench, kind: str, seconds: float, prepare: Prepare) -> Lifetime:
    async with asyncio.TaskGroup() as group:
        before = group.create_task(_there(bench, BEFORE * seconds, prepare))
        after = group.create_task(_there(bench, seconds + AFTER, prepare))
    return Lifetime(kind, seconds, before.result(), not after.result())


async def _there(bench: Bench, silence: float, prepare: Prepare) -> bool:
    """Whether a fresh endpoint's mapping lets a stranger in after so many seconds of silence."""
    probe, contacted, stranger = bench.probe, bench.vantages[0], bench.vantages[-1]
    inner = bench.inner()
    (arrival,) = await probe.delivered([inner.send(contacted.address)])
    await prepare(bench, inner)
    await asyncio.sleep(silence)
    token = stranger.send(arrival.source)
    control = bench.inner()
    (opened,) = await probe.delivered([control.send(contacted.address)])
    await probe.settle((stranger, opened.source))
    return bench.knock_of(token) is Knock.PASSED


async def _say_once(_bench: Bench, _inner: End) -> None:
    """The packet that made the mapping was all; for TCP a whole handshake, which leaves an open connection."""


async def _converse(bench: Bench, inner: End) -> None:
    contacted = bench.vantages[0]
    for _ in range(round(ASSURED / TURN) + 1):
        (arrival,) = await bench.probe.delivered([inner.send(contacted.address)])
        await bench.probe.delivered([contacted.send(arrival.source)])
        await asyncio.sleep(TURN)
    await bench.probe.delivered([inner.send(contacted.address)])


async def _begin_and_end(bench: Bench, inner: End) -> None:
    inner.hang_up(bench.vantages[0].address)
