"""What is sent through a NAT to measure it, for UDP and TCP alike (`lab.observe.nat` judges what comes of it).

    A:p, A:q, B:p, B:q      the four vantages: two addresses of the core, two ports each
    inner endpoints         sockets on hosts of the router's LAN

`measure` gives the behaviours, `measure_queries` those of ICMP; `repeat` asks for ports again once the NAT has
forgotten them. `spring` tries the traps: what makes a NAT of the laboratory fail hole punching although it measures
right, unless its rules took care.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Final, Self

from lab.model.nat import Nat, Ports, Unsolicited
from lab.observe.certificate import Trap
from lab.observe.endpoint import endpoint_text
from lab.observe.nat import Address, Allocation, Knock, Observed, classify_mapping, expected_unsolicited
from lab.run.icmp_probe import IcmpProbe
from lab.run.probes import PORT_TRIALS, Arrival, End, Probe, ProbeError
from lab.run.versions import Space

PATIENCE: Final = 2.5
"Seconds for what a trap may have swallowed; more than the second after which TCP sends a lost SYN again."
CLOSED_PORT: Final = 1023
"A port that no mapping ever has: allocation begins above it, and inner endpoints have the kernel's ephemeral ports."
ENOUGH: Final = 5
"Fresh endpoints on one host: what tells a block of ports from any ports."
TWINS: Final = 3
"Endpoints of another host with the same inner ports: what tells the next port from any port."
KEEPING: Final = (Ports.PRESERVING, Ports.PRESERVING_THEN_SEQUENTIAL)
"allocations under which a lone inner endpoint has its own port outside"


@dataclass(frozen=True, slots=True)
class Bench:
    """One protocol's probe set up around one NAT."""

    probe: Probe
    hosts: tuple[Space, ...]
    publics: tuple[str, ...]
    vantages: tuple[End, ...]
    "A:p, A:q, B:p, B:q; for ICMP queries A, B"

    @classmethod
    def around(
        cls,
        probe: Probe,
        hosts: tuple[Space, ...],
        publics: tuple[str, ...],
        outside: Space,
        addresses: tuple[str, str],
    ) -> Self:
        """Open the vantages. Raises `ProbeError`."""
        each = 1 if isinstance(probe, IcmpProbe) else 2
        vantages = tuple(probe.end(outside, address) for address in addresses for _ in range(each))
        return cls(probe, hosts, publics, vantages)

    def inner(self, host: int = 0, port: int = 0) -> End:
        """A fresh inner endpoint on one of the LAN's hosts."""
        return self.probe.end(self.hosts[host], port=port)

    def knock_of(self, token: bytes) -> Knock:
        """What became of an attempt, now that it has had its time."""
        if self.probe.arrival(token) is not None:
            return Knock.PASSED
        if self.probe.unreachable(token):
            return Knock.UNREACHABLE
        return Knock.REFUSED if self.probe.refused(token) else Knock.DROPPED


@dataclass(frozen=True, slots=True)
class _Endpoints:
    """What every measurement begins with: fresh inner endpoints that have sent to A:p, one of them everywhere."""

    ends: tuple[End, ...]
    "walker, guest, left, right, and some more"
    external: tuple[Address, ...]
    "of each of them, at A:p"
    mapped: tuple[tuple[Address, Address], ...]
    allocated: tuple[Allocation, ...]
    conflicts: tuple[Allocation, ...]


async def _begin(bench: Bench) -> _Endpoints:
    probe, (contacted, *others) = bench.probe, bench.vantages
    hosts = (0, 0, 0, len(bench.hosts) - 1, *(0,) * (ENOUGH - 3))
    fresh = tuple(bench.inner(host) for host in hosts)
    walker = fresh[0]
    # All in one go: a packet from elsewhere in between would draw a port of its own, and awaiting lets it.
    first = [end.send(contacted.address) for end in fresh]
    walk = [walker.send(vantage.address) for vantage in others]
    seen = [arrival.source for arrival in await probe.delivered((*first, *walk))]
    if untranslated := {source[0] for source in seen} - set(bench.publics):
        raise ProbeError(f"packets leave from {', '.join(sorted(untranslated))}, not from {', '.join(bench.publics)}")
    external = tuple(seen[: len(first)])
    return _Endpoints(
        fresh,
        external,
        tuple(zip((v.address for v in bench.vantages), (seen[0], *seen[len(first) :]), strict=True)),
        tuple(Allocation(host, end.address[1], seen) for host, end, seen in zip(hosts, fresh, external, strict=True)),
        await _twins(bench, fresh[:TWINS]),
    )


async def _twins(bench: Bench, ends: tuple[End, ...]) -> tuple[Allocation, ...]:
    """Endpoints of another host with the inner ports of these, which have their mappings already."""
    if len(bench.hosts) == 1:
        return ()
    ports = [end.address[1] for end in ends]
    tokens = [bench.inner(1, port).send(bench.vantages[0].address) for port in ports]
    arrivals = await bench.probe.delivered(tokens)
    return tuple(Allocation(1, port, arrival.source) for port, arrival in zip(ports, arrivals, strict=True))


async def measure(bench: Bench) -> Observed:
    """Probe all that a protocol with ports has. Raises `ProbeError` if a control does not arrive."""
    probe, (contacted, *others) = bench.probe, bench.vantages
    probe.watch(bench.hosts[0])
    if len(bench.hosts) > 1:
        probe.watch(bench.hosts[-1])
    begun = await _begin(bench)
    _, left, right = begun.ends[1:4]
    guest_port, left_port, right_port = begun.external[1:4]
    knocks = [(vantage.address, vantage.send(guest_port)) for vantage in others]
    stray = others[-1].send((bench.publics[0], CLOSED_PORT))
    # From both sides, and again: where filtering is strict, a packet opens the port that it leaves from.
    crossing = ((left, left_port, right, right_port), (right, right_port, left, left_port)) * 2
    hairpins = [(sender, source, sender.send(target), receiver) for sender, source, receiver, target in crossing]
    ways_out = [(end, contacted.address) for end in (left, right)]
    await probe.settle(*ways_out, *((contacted, port) for port in (guest_port, left_port, right_port)))
    arrived = [
        (source, seen)
        for sender, source, token, receiver in hairpins
        if (seen := _seen_by(bench, token, sender, receiver)) is not None
    ]
    return Observed(
        mapped=begun.mapped,
        contacted=contacted.address,
        knocks=tuple((remote, bench.knock_of(token)) for remote, token in knocks),
        allocated=begun.allocated,
        hairpins=tuple(arrived),
        conflicts=begun.conflicts,
        stray=bench.knock_of(stray),
    )


def _seen_by(bench: Bench, token: bytes, sender: End, receiver: End) -> Address | None:
    """The source that a hairpinned token, or the attempt at one, had where it arrived."""
    arrival = bench.probe.arrival(token)
    if arrival is not None and arrival.end is receiver:
        return arrival.source
    return bench.probe.attempted(receiver, sender, bench.publics)


async def measure_queries(bench: Bench, probe: IcmpProbe) -> Observed:
    """Probe what ICMP queries have: mapping and identifiers. Raises `ProbeError` if a request or a reply is lost."""
    begun = await _begin(bench)
    token = begun.ends[0].send(bench.vantages[0].address)
    await probe.answered(token)
    return Observed(
        mapped=begun.mapped,
        contacted=bench.vantages[0].address,
        knocks=(),
        allocated=begun.allocated,
        hairpins=(),
        conflicts=begun.conflicts,
    )


async def repeat(probe: Probe, hosts: tuple[Space, ...], outside: Space, observed: Observed) -> tuple[Allocation, ...]:
    """Send to A:p from the same inner endpoints as before, once the NAT has forgotten them. Raises `ProbeError`."""
    address, port = observed.contacted
    contacted = await probe.end_again(outside, address, port)
    ends = [(one, await probe.end_again(hosts[one.host], port=one.inner)) for one in observed.allocated]
    arrivals = await probe.delivered(end.send(contacted.address) for _, end in ends)
    return tuple(
        Allocation(one.host, one.inner, arrival.source) for (one, _), arrival in zip(ends, arrivals, strict=True)
    )


async def spring(bench: Bench, nat: Nat) -> tuple[Trap, ...]:
    """Try every trap of this protocol; that of two hosts only where the LAN has two."""
    # Nothing comes too early where everything comes in.
    traps = [] if nat.transparent else [await early_inbound(bench, nat)]
    if len(bench.hosts) > 1:
        traps.append(await same_port_on_two_hosts(bench, nat))
    return tuple(traps)


async def early_inbound(bench: Bench, nat: Nat) -> Trap:
    """A packet to an external port that is about to be mapped, before the first one out of it.

    Where it reaches the router itself it leaves a conntrack entry or, for TCP, an RST, and the inner endpoint gets
    another port, no answer, or a refused peer.
    """
    name = f"{bench.probe.protocol}: a packet in before the first one out"
    try:
        return Trap(name, *await _early_inbound(bench, nat))
    except ProbeError as error:
        return Trap(name, ok=False, detail=f"the mapping is spoilt: {error}")


async def _early_inbound(bench: Bench, nat: Nat) -> tuple[bool, str]:
    probe, contacted = bench.probe, bench.vantages[0]
    control = await _mapped(bench, bench.inner())
    inner = _unlike(bench, probe.sources())
    port = inner.address[1] if nat.ports in KEEPING else CLOSED_PORT
    if nat.ports is Ports.SEQUENTIAL:
        port = control[1] + 1
    early = [contacted.send((public, port)) for public in bench.publics]
    await probe.settle((contacted, control))
    expected = _fate(nat, probe.protocol)
    for public, token in zip(bench.publics, early, strict=True):
        if (knock := bench.knock_of(token)) is not expected:
            return False, f"it was to be {expected.value}, and {knock.value} at {endpoint_text(public, port)}"
    tokens = [inner.send(vantage.address) for vantage in bench.vantages]
    mapped = _pairs(bench, await probe.delivered(tokens, PATIENCE))
    ports = ", ".join(str(external[1]) for _, external in mapped)
    kept = nat.ports not in KEEPING or mapped[0][1][1] == port
    if classify_mapping(mapped) is not nat.mapping or not kept:
        return False, f"the mapping is spoilt: {inner.address[1]} left from {ports}"
    return True, f"it was {expected.value}, then {inner.address[1]} left from {ports}"


def _unlike(bench: Bench, taken: frozenset[int]) -> End:
    """A fresh inner endpoint whose port is not among those that are mapped: who counts has given some away by now."""
    for _ in range(PORT_TRIALS):
        inner = bench.inner()
        if inner.address[1] not in taken:
            return inner
    raise ProbeError(f"no {bench.probe.protocol} port that is not mapped already after {PORT_TRIALS} trials")


def _fate(nat: Nat, protocol: str) -> Knock:
    """What is to become of a packet to a port that is not mapped."""
    fates = {
        Unsolicited.DROP: Knock.DROPPED,
        Unsolicited.RESET: Knock.REFUSED,
        Unsolicited.ICMP: Knock.UNREACHABLE,
    }
    return fates[expected_unsolicited(nat, protocol)]


async def same_port_on_two_hosts(bench: Bench, nat: Nat) -> Trap:
    """Two hosts of the LAN send from one port number: each keeps a mapping of the declared kind, and its own ports."""
    name = f"{bench.probe.protocol}: the same port on two hosts"
    try:
        return Trap(name, *await _same_port_on_two_hosts(bench, nat))
    except ProbeError as error:
        return Trap(name, ok=False, detail=str(error))


async def _same_port_on_two_hosts(bench: Bench, nat: Nat) -> tuple[bool, str]:
    probe, contacted = bench.probe, bench.vantages[0]
    one = bench.inner(0)
    two = bench.inner(1, port=one.address[1])
    # Interleaved, and to different remotes first: the kernel's own port choice is only unique per remote.
    order = [(two, bench.vantages[2]), (one, contacted), *product((two, one), bench.vantages)]
    tokens = {(end, vantage): end.send(vantage.address) for end, vantage in order}
    await probe.delivered(tokens.values(), PATIENCE)
    mapped = {end: _pairs(bench, [_sure(bench, tokens[end, v]) for v in bench.vantages]) for end in (one, two)}
    ports = {end: {external for _, external in pairs} for end, pairs in mapped.items()}
    answers = await probe.delivered((contacted.send(mapped[end][0][1]) for end in (one, two)), PATIENCE)
    seen = " and ".join(", ".join(str(external[1]) for _, external in mapped[end]) for end in (one, two))
    detail = f"{one.address[1]} left from {seen}"
    if ports[one] & ports[two]:
        return False, f"they share an external port: {detail}"
    if any(classify_mapping(pairs) is not nat.mapping for pairs in mapped.values()):
        return False, f"a mapping is not as declared: {detail}"
    if [answer.end for answer in answers] != [one, two]:
        return False, f"an answer reached the wrong host: {detail}"
    return True, detail


async def _mapped(bench: Bench, inner: End) -> Address:
    """The external address that an inner endpoint has towards A:p, once that works in both directions."""
    contacted = bench.vantages[0]
    (arrival,) = await bench.probe.delivered([inner.send(contacted.address)])
    await bench.probe.delivered([contacted.send(arrival.source)])
    return arrival.source


def _pairs(bench: Bench, arrivals: list[Arrival]) -> tuple[tuple[Address, Address], ...]:
    """(remote, external) of one inner endpoint's arrivals at the four vantages."""
    return tuple((vantage.address, arrival.source) for vantage, arrival in zip(bench.vantages, arrivals, strict=True))


def _sure(bench: Bench, token: bytes) -> Arrival:
    arrival = bench.probe.arrival(token)
    assert arrival is not None, "it was waited for"
    return arrival
