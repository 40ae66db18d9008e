"""What is sent through a NAT to measure it, for UDP and TCP alike (`lab.observe.nat` judges what comes of it).

    A:p, A:q, B:p, B:q      the four vantages: two addresses of the core, two ports each
    inner endpoints         sockets on hosts of the router's LAN

`measure` gives the behaviours. `spring` tries the traps: what makes a NAT of the laboratory fail hole punching although
it measures right, unless its rules took care.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Final, Self

from lab.model.nat import Nat, Ports
from lab.observe.nat import Address, Knock, Observed, Trap, classify_mapping
from lab.run.probes import Arrival, End, Probe, ProbeError, Space

PATIENCE: Final = 2.5
"Seconds for what a trap may have swallowed; more than the second after which TCP sends a lost SYN again."
CLOSED_PORT: Final = 1023
"A port that no mapping ever has: allocation begins above it, and inner endpoints have the kernel's ephemeral ports."


@dataclass(frozen=True, slots=True)
class Bench:
    """One protocol's probe set up around one NAT."""

    probe: Probe
    hosts: tuple[Space, ...]
    wan: str
    vantages: tuple[End, End, End, End]
    "A:p, A:q, B:p, B:q"

    @classmethod
    def around(cls, probe: Probe, hosts: tuple[Space, ...], wan: str, core: Space, addresses: tuple[str, str]) -> Self:
        """Open the vantages. Raises `ProbeError`."""
        a, b = addresses
        vantages = (probe.end(core, a), probe.end(core, a), probe.end(core, b), probe.end(core, b))
        return cls(probe, hosts, wan, vantages)

    def inner(self, host: int = 0, port: int = 0) -> End:
        """A fresh inner endpoint on one of the LAN's hosts."""
        return self.probe.end(self.hosts[host], port=port)

    def knock_of(self, token: bytes) -> Knock:
        """What became of an attempt, now that it has had its time."""
        if self.probe.arrival(token) is not None:
            return Knock.PASSED
        return Knock.REFUSED if self.probe.refused(token) else Knock.DROPPED


async def measure(bench: Bench) -> Observed:
    """Probe mapping, filtering, allocation and hairpinning. Raises `ProbeError` if a control does not arrive."""
    probe, (contacted, *others) = bench.probe, bench.vantages
    walker, guest, left, right = bench.inner(), bench.inner(), bench.inner(), bench.inner(-1)
    fresh = (walker, guest, left, right, bench.inner())
    # All in one go: a packet from elsewhere in between would draw a port of its own, and awaiting lets it.
    first = [end.send(contacted.address) for end in fresh]
    walk = [walker.send(vantage.address) for vantage in others]
    seen = [arrival.source for arrival in await probe.delivered((*first, *walk))]
    if untranslated := {source[0] for source in seen} - {bench.wan}:
        raise ProbeError(f"packets leave from {', '.join(sorted(untranslated))}, not from {bench.wan}")

    _, guest_port, left_port, right_port, _ = seen[: len(first)]
    knocks = [(vantage.address, vantage.send(guest_port)) for vantage in others]
    # From both sides, and again: where filtering is strict, a packet opens the port that it leaves from.
    crossing = ((left, left_port, right, right_port), (right, right_port, left, left_port)) * 2
    hairpins = [(source, sender.send(target), receiver) for sender, source, receiver, target in crossing]
    ways_out = [(end, contacted.address) for end in (left, right)]
    await probe.settle(*ways_out, *((contacted, port) for port in (guest_port, left_port, right_port)))
    return Observed(
        mapped=tuple(zip((v.address for v in bench.vantages), (seen[0], *seen[len(first) :]), strict=True)),
        contacted=contacted.address,
        knocks=tuple((remote, bench.knock_of(token)) for remote, token in knocks),
        allocated=tuple((end.address[1], source[1]) for end, source in zip(fresh, seen, strict=False)),
        hairpins=tuple(
            (source, arrival.source)
            for source, token, receiver in hairpins
            if (arrival := probe.arrival(token)) is not None and arrival.end is receiver
        ),
    )


async def spring(bench: Bench, nat: Nat) -> tuple[Trap, ...]:
    """Try every trap of this protocol; that of two hosts only where the LAN has two."""
    traps = [await early_inbound(bench, nat)]
    if bench.probe.protocol == "TCP":
        traps.append(await unsolicited_syn(bench))
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
    inner = bench.inner()
    port = control[1] + 1 if nat.ports is Ports.SEQUENTIAL else inner.address[1]
    early = contacted.send((bench.wan, port))
    await probe.settle((contacted, control))
    knock = bench.knock_of(early)
    if knock is not Knock.DROPPED:
        return False, f"it was to be dropped, and {knock.value} at {bench.wan}:{port}"
    tokens = [inner.send(vantage.address) for vantage in bench.vantages]
    mapped = _pairs(bench, await probe.delivered(tokens, PATIENCE))
    ports = ", ".join(str(external[1]) for _, external in mapped)
    kept = nat.ports is not Ports.PRESERVING or mapped[0][1][1] == port
    if classify_mapping(mapped) is not nat.mapping or not kept:
        return False, f"the mapping is spoilt: {inner.address[1]} left from {ports}"
    return True, f"it was dropped, then {inner.address[1]} left from {ports}"


async def unsolicited_syn(bench: Bench) -> Trap:
    """A SYN to a port without a mapping must be dropped: an RST ends the sender's half of a hole punch."""
    name = "TCP: an unsolicited SYN"
    try:
        control = await _mapped(bench, bench.inner())
        contacted, *_, stranger = bench.vantages
        token = stranger.send((bench.wan, CLOSED_PORT))
        await bench.probe.settle((contacted, control))
    except ProbeError as error:
        return Trap(name, ok=False, detail=str(error))
    knock = bench.knock_of(token)
    return Trap(name, knock is Knock.DROPPED, f"it was {knock.value} at {bench.wan}:{CLOSED_PORT}")


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
