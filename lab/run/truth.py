"""The truth table: what the oracle predicts for every pair of NATs, against what a bare puncher sees.

One network holds every kind of NAT twice, and once more with two hosts for those that share a NAT. A round takes every
pair of families (the ports, which the prediction does not depend on, are drawn anew each time) with both transports and
all offsets, in random order, many at a time; each punch has ports of its own.

A pool that gives any of its addresses is here with endpoint-independent mappings only: with others it is left to chance
whether the next mapping has the address that the peer knows.
"""

from __future__ import annotations

import asyncio
import random
import resource
from collections.abc import Callable, Iterator
from collections.abc import Mapping as ReadOnly
from dataclasses import dataclass, replace
from itertools import count, product
from typing import Final

from lab.errors import LabError
from lab.kernel.network import Network
from lab.model.classical import translating
from lab.model.ipv6 import Ip
from lab.model.nat import (
    BLOCK_SIZES,
    Filtering,
    Hairpinning,
    Mapping,
    Nat,
    Pooling,
    Ports,
    Unsolicited,
)
from lab.model.topology import INTERNET, Peer, Router, Topology
from lab.model.writing import nat_words
from lab.observe.nat import Address
from lab.plan.build import build
from lab.plan.names import CORE
from lab.run.oracle import Side, predict
from lab.run.puncher import Rendezvous, punch
from lab.run.versions import Space

OFFSETS: Final = (0.0, 0.05, -0.05, 0.5, -0.5)
"seconds by which the right side begins later than the left"
TRANSPORTS: Final = ("udp", "tcp")
AT_ONCE: Final = 160
"punches under way at a time"
FIRST_PORT: Final = 10000
"inner ports count up from here: none is used twice"
PUBLIC: Final = "internet"

Family = tuple[Nat | None, ...]
"NATs that the prediction treats alike; None is no NAT"


def families() -> tuple[Family, ...]:
    """All kinds of NAT that the table is about."""
    plain = [
        tuple(_brief(Nat(mapping, filtering, ports)) for ports in Ports)
        for mapping, filtering in product(Mapping, Filtering)
    ]
    strict = [Nat(mapping, Filtering.ADDRESS_AND_PORT_DEPENDENT, Ports.PRESERVING) for mapping in Mapping]
    refusing = [
        (_brief(replace(nat, unsolicited=unsolicited)),)
        for nat, unsolicited in product((strict[0], strict[-1]), (Unsolicited.RESET, Unsolicited.ICMP))
    ]
    pools = [
        (_brief(replace(strict[0], public_addresses=2, pooling=Pooling.ARBITRARY)),),
        (_brief(replace(strict[-1], public_addresses=2)),),
    ]
    static = [
        (_brief(Nat(Mapping.ENDPOINT_INDEPENDENT, filtering, Ports.PRESERVING, one_to_one=True)),)
        for filtering in Filtering
    ]
    return (*plain, *refusing, *pools, *static, (None,))


def shared() -> tuple[Nat, ...]:
    """The NATs that two hosts are behind together."""
    kinds = [Nat(*values) for values in product(Mapping, Filtering, (Ports.PRESERVING,), Hairpinning)]
    kinds += [
        Nat(Mapping.ENDPOINT_INDEPENDENT, filtering, Ports.PRESERVING, hairpin, one_to_one=True)
        for filtering, hairpin in product(Filtering, Hairpinning)
    ]
    return tuple(map(_brief, kinds))


def _brief(nat: Nat) -> Nat:
    """With short lifetimes and large blocks: thousands of punches pass through each NAT."""
    block = BLOCK_SIZES[-1] if nat.ports is Ports.BLOCK else nat.block_size
    return replace(nat, tcp_timeout=60.0, tcp_transitory_timeout=20.0, udp_timeout=20.0, block_size=block)


@dataclass(frozen=True, slots=True)
class Punch:
    """One punch of the table, and how it came out."""

    left: str
    "host"
    right: str
    left_nat: Nat | None
    right_nat: Nat | None
    transport: str
    offset: float
    predicted: bool
    why: str
    seen: bool | None = None
    "whether they got through; None: not tried, or the lab failed"

    @property
    def agrees(self) -> bool:
        return self.predicted is self.seen

    def __str__(self) -> str:
        sides = " → ".join(nat_words(nat) if nat else "no NAT" for nat in (self.left_nat, self.right_nat))
        where = "behind one NAT" if self.left[0] == "s" else "between"
        seen = {True: "through", False: "not through", None: "not to be tried"}
        return (
            f"{self.transport} {self.offset * 1000:+.0f} ms {where} {sides}: predicted {seen[self.predicted]}, "
            f"seen {seen[self.seen]} ({self.why})"
        )


@dataclass(frozen=True, slots=True)
class Field:
    """The network of the table: which hosts are behind which NAT."""

    topology: Topology
    families: tuple[tuple[tuple[str, str, Nat | None], ...], ...]
    "for each family its (left host, right host, NAT)"
    shared: tuple[tuple[str, str, Nat], ...]

    def round(self, chance: random.Random) -> list[Punch]:
        """Every pair of families, and every shared NAT, with both transports and all offsets, in random order."""
        punches = list(self._round(chance))
        chance.shuffle(punches)
        return punches

    def _round(self, chance: random.Random) -> Iterator[Punch]:
        for one, other in product(self.families, repeat=2):
            for transport, offset in product(TRANSPORTS, OFFSETS):
                left, _, left_nat = chance.choice(one)
                _, right, right_nat = chance.choice(other)
                yield _predicted(left, right, left_nat, right_nat, transport, offset)
        for left, right, nat in self.shared:
            for transport, offset in product(TRANSPORTS, OFFSETS):
                yield _predicted(left, right, nat, nat, transport, offset)


def field(ip: Ip = Ip.V4) -> Field:
    """Lay the network out, of that version of IP alone."""
    routers: list[Router] = []
    peers: list[Peer] = []
    number = count()
    laid: list[tuple[tuple[str, str, Nat | None], ...]] = []
    for family in families():
        members: list[tuple[str, str, Nat | None]] = []
        for nat in family:
            index = next(number)
            left, right = f"l{index}", f"r{index}"
            for name in (left, right):
                routers += [translating(f"{name}-nat", nat, ip)] if nat else []
                peers.append(Peer(name, f"{name}-nat" if nat else INTERNET))
            members.append((left, right, nat))
        laid.append(tuple(members))
    together: list[tuple[str, str, Nat]] = []
    for index, nat in enumerate(shared()):
        names = f"s{index}a", f"s{index}b"
        routers.append(translating(f"s{index}-nat", nat, ip))
        peers += [Peer(name, f"s{index}-nat") for name in names]
        together.append((*names, nat))
    topology = Topology("truth", "Every kind of NAT.", tuple(routers), tuple(peers), ip=ip)
    return Field(topology, tuple(laid), tuple(together))


def punches_of_a_round() -> int:
    """How many there are."""
    return (len(families()) ** 2 + len(shared())) * len(TRANSPORTS) * len(OFFSETS)


def _predicted(
    left: str, right: str, left_nat: Nat | None, right_nat: Nat | None, transport: str, offset: float
) -> Punch:
    sides = [
        Side(host, (f"s{host[1:-1]}-nat" if host[0] == "s" else f"{host}-nat") if nat else None, nat)
        for host, nat in ((left, left_nat), (right, right_nat))
    ]
    prediction = predict(sides[0], sides[1], transport)
    return Punch(left, right, left_nat, right_nat, transport, offset, prediction.path == "direct", prediction.why)


async def try_rounds(
    rounds: int,
    seed: int,
    *,
    ip: Ip = Ip.V4,
    sample: int | None = None,
    done: Callable[[Punch], None] = lambda _: None,
) -> list[Punch]:
    """Build the network and try so many rounds, or of each round only a sample; has to run in a sandbox.

    Raises `LabError` if the network cannot be built or its rendezvous does not answer.
    """
    _allow_files()
    laid, chance = field(ip), random.Random(seed)
    plan = build(laid.topology, seed)
    network = await asyncio.to_thread(Network.build, plan)
    try:
        async with Rendezvous(network.spaces[CORE], plan.vantages[0]) as rendezvous:
            tried: list[Punch] = []
            ports = count(FIRST_PORT)
            for _ in range(rounds):
                punches = laid.round(chance)[:sample]
                tried += await _try(punches, network.spaces, rendezvous.address, ports, done)
            return tried
    finally:
        await asyncio.to_thread(network.close)


async def _try(
    punches: list[Punch],
    spaces: ReadOnly[str, Space],
    rendezvous: Address,
    ports: Iterator[int],
    done: Callable[[Punch], None],
) -> list[Punch]:
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(planned: Punch) -> Punch:
        async with slots:
            number = next(ports)
            port = FIRST_PORT + number % (2**16 - FIRST_PORT - 1)
            left, right = (spaces[planned.left], port), (spaces[planned.right], port)
            token = number.to_bytes(8, "big")
            seen = await punch(planned.transport, left, right, rendezvous, planned.offset, token)
        result = replace(planned, seen=seen)
        done(result)
        return result

    failures: list[Exception] = []
    tasks: list[asyncio.Task[Punch]] = []
    try:
        async with asyncio.TaskGroup() as group:
            tasks += [group.create_task(one(planned)) for planned in punches]
    except* LabError as failed:
        failures += failed.exceptions
    if failures:
        raise LabError(f"the truth table cannot be had: {failures[0]}")
    return [task.result() for task in tasks]


def summary(tried: list[Punch], seconds: float) -> list[str]:
    """Each disagreement, then how many punches of each transport agree, and how many got through."""
    lines = [str(punch) for punch in tried if not punch.agrees]
    for transport in TRANSPORTS:
        mine = [punch for punch in tried if punch.transport == transport]
        agree, through = sum(punch.agrees for punch in mine), sum(punch.seen is True for punch in mine)
        lines.append(f"{transport}: {agree} of {len(mine)} as predicted, {through} through")
    kinds = {(punch.left_nat, punch.right_nat) for punch in tried}
    lines.append(
        f"{sum(not punch.agrees for punch in tried)} disagreements in {len(tried)} punches between {len(kinds)} pairs"
        f" of NATs, in {seconds:.1f} s"
    )
    return lines


def _allow_files() -> None:
    """Six sockets for each punch, and a namespace for each host and router."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
