"""From what a probe saw to what a NAT is: RFC 5780's tests for UDP, and the same idea for TCP and ICMP queries.

A probe sends from the LAN to four places, two addresses with two ports each, and back from them:

    mapping     one inner endpoint → A:p, A:q, B:p, B:q           which of them saw the same external port?
    filtering   another inner endpoint → A:p only; then A:q, B:p, B:q → its external port      who gets in?
    ports       fresh inner endpoints, one after another → A:p                  which port does each one get?
                another host's, with the same inner ports → A:p                 and if that one has an owner?
                all of them once more, after the NAT has forgotten them         and is it the same again?
    pooling     the external addresses of all of these            is it one address for each host?
    hairpin     one inner endpoint → another's external port      does it arrive, and from which source?
    unsolicited B:q → a port without a mapping                    what does the sender hear?

This module judges the results and holds them against the declared `Nat`; it sends nothing. A result that is none of the
behaviours that have a name (RFC 4787 §4.1, §4.2, §5) is `None`, never the nearest name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from typing import Final

from lab.model.nat import BLOCK_SIZES, Filtering, Hairpinning, Mapping, Nat, Pooling, Ports, Unsolicited
from lab.observe.endpoint import endpoint_text

Address = tuple[str, int]
"An address as text, and a port or the identifier of an ICMP query."

BLOCK_SHARE: Final = 5
"Ports of one host that have to lie close together to be a block; and again, or chance would do it once in 10 000."
SAME_AGAIN: Final = 0.75
"Share of the ports that a hash gives anew: the others met one that had an owner."


class Hairpin(Enum):
    """What comes of a packet from the LAN to an external port of the same NAT (RFC 4787 §6)."""

    NONE = "none"
    "it does not arrive"
    EXTERNAL = "external"
    "it arrives from the sender's external address and port (REQ-9 a)"
    EXTERNAL_OTHER_PORT = "external-other-port"
    "it arrives from a public address and a port of its own: the NAT's outside is a new destination to its mapping"
    INTERNAL = "internal"
    "it arrives from the sender's inner address, and an answer would bypass the NAT"


class Knock(Enum):
    """What became of an attempt from outside to reach an external port."""

    PASSED = "passed"
    DROPPED = "dropped"
    REFUSED = "refused"
    "by an RST"
    UNREACHABLE = "unreachable"
    "by an ICMP error"


_UNSOLICITED: Final = {
    Knock.DROPPED: Unsolicited.DROP,
    Knock.REFUSED: Unsolicited.RESET,
    Knock.UNREACHABLE: Unsolicited.ICMP,
}


@dataclass(frozen=True, slots=True)
class Allocation:
    """One fresh inner endpoint, and the external one that the contacted remote saw."""

    host: int
    inner: int
    external: Address

    @property
    def kept(self) -> bool:
        """Whether it has the same port outside."""
        return self.inner == self.external[1]


@dataclass(frozen=True, slots=True)
class Observed:
    """What one protocol's probe saw. All external addresses are as the remote end saw them."""

    mapped: tuple[tuple[Address, Address], ...]
    "(remote, external) for one inner endpoint that sent to all remotes"
    contacted: Address
    "the one remote that the endpoint behind `knocks` had sent to"
    knocks: tuple[tuple[Address, Knock], ...]
    "each remote that was not contacted, and how its attempt ended"
    allocated: tuple[Allocation, ...]
    "fresh endpoints, in the order in which they sent"
    hairpins: tuple[tuple[Address, Address], ...]
    "(the sender's external address, the source that the receiver saw) for each hairpinned packet that arrived"
    conflicts: tuple[Allocation, ...] = ()
    "another host's endpoints, with inner ports of some in `allocated`"
    again: tuple[Allocation, ...] = ()
    "some of those in `allocated` and `conflicts`, once the NAT had forgotten them"
    stray: Knock = Knock.DROPPED
    "what became of a packet to a port without a mapping"


@dataclass(frozen=True, slots=True)
class Behaviour:
    """One protocol's behaviour as measured; `None` is none of those that have a name."""

    mapping: Mapping | None
    filtering: Filtering | None
    ports: Ports | None
    hairpin: Hairpin | None
    unsolicited: Unsolicited | None = Unsolicited.DROP
    pooling: Pooling | None = Pooling.PAIRED


@dataclass(frozen=True, slots=True)
class QueryBehaviour:
    """How ICMP queries are translated, by their identifiers (RFC 5508 §3); `None` as with `Behaviour`."""

    mapping: Mapping | None
    ports: Ports | None


def expected(nat: Nat, protocol: str) -> Behaviour:
    """What a probe of a NAT that is as declared measures for `UDP` or `TCP`."""
    return Behaviour(
        nat.mapping,
        nat.filtering,
        nat.ports,
        expected_hairpin(nat),
        expected_unsolicited(nat, protocol),
        nat.pooling,
    )


def expected_query(nat: Nat) -> QueryBehaviour:
    """The same for ICMP queries: their remotes have no ports that a mapping could depend on."""
    independent = nat.mapping is Mapping.ENDPOINT_INDEPENDENT
    return QueryBehaviour(nat.mapping if independent else Mapping.ADDRESS_DEPENDENT, nat.ports)


def expected_hairpin(nat: Nat) -> Hairpin:
    """What hairpinning comes to on a NAT that is as declared.

    Where the mapping depends on the destination, the NAT's own outside is a new destination: the packet leaves from a
    port of its own, and the receiver, whose port was opened by sending elsewhere, hears it only if its filtering is
    endpoint-independent.
    """
    match nat.hairpin:
        case Hairpinning.NONE:
            return Hairpin.NONE
        case Hairpinning.INTERNAL_SOURCE:
            return Hairpin.INTERNAL
    if nat.mapping is Mapping.ENDPOINT_INDEPENDENT:
        return Hairpin.EXTERNAL
    return Hairpin.EXTERNAL_OTHER_PORT if nat.filtering is Filtering.ENDPOINT_INDEPENDENT else Hairpin.NONE


def expected_unsolicited(nat: Nat, protocol: str) -> Unsolicited:
    """What the sender of an unsolicited packet hears: UDP has no RST, and open hosts answer for themselves."""
    if nat.transparent:
        return Unsolicited.RESET if protocol == "TCP" else Unsolicited.ICMP
    return Unsolicited.DROP if (nat.unsolicited, protocol) == (Unsolicited.RESET, "UDP") else nat.unsolicited


def classify(observed: Observed) -> Behaviour:
    """Name the behaviour that one protocol's probe saw."""
    return Behaviour(
        mapping=classify_mapping(observed.mapped),
        filtering=classify_filtering(observed.contacted, observed.knocks),
        ports=classify_ports(observed.allocated, overflow(observed), observed.again),
        hairpin=classify_hairpin(observed.hairpins),
        unsolicited=_UNSOLICITED.get(observed.stray),
        pooling=classify_pooling((*observed.allocated, *observed.conflicts)),
    )


def classify_query(observed: Observed) -> QueryBehaviour:
    """Name how ICMP queries were translated; such a probe sends to two remotes, and nobody knocks."""
    mapping = classify_mapping(observed.mapped)
    if mapping is Mapping.ADDRESS_AND_PORT_DEPENDENT:
        mapping = Mapping.ADDRESS_DEPENDENT  # one remote an address: the same
    return QueryBehaviour(mapping, classify_ports(observed.allocated, overflow(observed), observed.again))


def classify_mapping(mapped: Sequence[tuple[Address, Address]]) -> Mapping | None:
    """Name the mapping of one inner endpoint from (remote, external) pairs: two addresses, two ports each."""
    externals = {external for _, external in mapped}
    if len(externals) == 1:
        return Mapping.ENDPOINT_INDEPENDENT
    if len(externals) == len(mapped):
        return Mapping.ADDRESS_AND_PORT_DEPENDENT
    by_address: dict[str, set[Address]] = {}
    for remote, external in mapped:
        by_address.setdefault(remote[0], set()).add(external)
    if len(externals) == len(by_address) and all(len(ports) == 1 for ports in by_address.values()):
        return Mapping.ADDRESS_DEPENDENT
    return None


def classify_filtering(contacted: Address, knocks: Sequence[tuple[Address, Knock]]) -> Filtering | None:
    """Name the filtering of an endpoint that had sent to `contacted` alone from the fates of others' knocks."""
    near = {knock is Knock.PASSED for remote, knock in knocks if remote[0] == contacted[0]}
    far = {knock is Knock.PASSED for remote, knock in knocks if remote[0] != contacted[0]}
    if near == far == {True}:
        return Filtering.ENDPOINT_INDEPENDENT
    if near == {True} and far == {False}:
        return Filtering.ADDRESS_DEPENDENT
    if near == far == {False}:
        return Filtering.ADDRESS_AND_PORT_DEPENDENT
    return None


def overflow(observed: Observed) -> tuple[Address, ...]:
    """What mappings got whose inner port had an owner outside: conflicting ones, and one endpoint's later ones."""
    first = observed.mapped[0][1]
    later = [external for _, external in observed.mapped if external != first and external[1] != first[1]]
    conflicting = [each.external for each in observed.conflicts if not each.kept]
    return tuple(dict.fromkeys([*later, *conflicting]))


def classify_ports(
    allocated: Sequence[Allocation], overflowed: Sequence[Address] = (), again: Sequence[Allocation] = ()
) -> Ports | None:
    """Name the allocation from at least four fresh endpoints in sending order.

    Sequential is judged on the ports as a set: two CPUs may hand packets to a NAT in another order than they were sent.
    Steps of equal size other than one have no name (nft 1.0.6 allocates in steps of 256 where a byte swap is missing).
    """
    kept = sum(each.kept for each in allocated)
    if kept == len(allocated):
        return Ports.PRESERVING_THEN_SEQUENTIAL if len(overflowed) > 1 and _in_runs(overflowed) else Ports.PRESERVING
    externals = [each.external for each in allocated]
    if _in_runs(externals):
        return Ports.SEQUENTIAL
    steps = _steps([port for _, port in externals])
    if max(steps.count(step) for step in steps) > len(steps) // 2 or kept > len(allocated) // 2:
        return None
    if _in_blocks((*allocated, *again)):
        return Ports.BLOCK
    return Ports.HASHED if _same_again(allocated, again) else Ports.RANDOM


def classify_pooling(allocated: Iterable[Allocation]) -> Pooling:
    """Whether every host has kept to one external address."""
    pairs = {(each.host, each.external[0]) for each in allocated}
    return Pooling.PAIRED if len(pairs) == len({host for host, _ in pairs}) else Pooling.ARBITRARY


def _in_runs(externals: Sequence[Address]) -> bool:
    """Whether the ports of each external address follow one another; a pool may wrap once."""
    addresses = {address for address, _ in externals}
    runs = [_steps(sorted(port for at, port in externals if at == address)) for address in addresses]
    return any(runs) and all(
        all(step > 0 for step in steps) and sum(step != 1 for step in steps) <= (len(steps) > 1) for steps in runs
    )


def _in_blocks(allocated: Sequence[Allocation]) -> bool:
    """Whether each host's ports lie close together, and no other host's among them."""
    spans: list[tuple[str, int, int]] = []
    enough = False
    for host in {each.host for each in allocated}:
        externals = [each.external for each in allocated if each.host == host]
        if len({address for address, _ in externals}) > 1:
            return False
        ports = [port for _, port in externals]
        spans.append((externals[0][0], min(ports), max(ports)))
        enough = enough or len(ports) >= BLOCK_SHARE
    close = all(last - first < BLOCK_SIZES.stop for _, first, last in spans)
    return enough and close and all(one[0] != two[0] or one[2] < two[1] for one, two in pairwise(sorted(spans)))


def _same_again(allocated: Sequence[Allocation], again: Sequence[Allocation]) -> bool:
    before = {(each.host, each.inner): each.external for each in allocated}
    compared = [before[each.host, each.inner] == each.external for each in again if (each.host, each.inner) in before]
    return len(compared) > 1 and sum(compared) >= SAME_AGAIN * len(compared)


def _steps(ports: Sequence[int]) -> list[int]:
    return [after - before for before, after in pairwise(ports)]


def classify_hairpin(hairpins: Sequence[tuple[Address, Address]]) -> Hairpin | None:
    """Name the hairpinning from (sender's external address, source seen) of the packets that arrived."""
    outside = {external[0] for external, _ in hairpins}
    kinds = {_hairpin_kind(external, source, outside) for external, source in hairpins}
    if not kinds:
        return Hairpin.NONE
    return kinds.pop() if len(kinds) == 1 else None


def _hairpin_kind(external: Address, source: Address, outside: set[str]) -> Hairpin:
    if source == external:
        return Hairpin.EXTERNAL
    return Hairpin.EXTERNAL_OTHER_PORT if source[0] in outside else Hairpin.INTERNAL


def differences(protocol: str, nat: Nat, observed: Observed) -> tuple[str, ...]:
    """One sentence for each thing in which a protocol's probe (`UDP`, `TCP`) saw another NAT than the declared one."""
    measured, wanted = classify(observed), expected(nat, protocol)
    compared: tuple[tuple[str, Enum | None, Enum | None, str], ...] = (
        ("mapping", wanted.mapping, measured.mapping, _mapped(observed)),
        ("filtering", wanted.filtering, measured.filtering, _knocks(observed)),
        ("ports", _distinguishable(nat, observed), measured.ports, _allocated(observed)),
        ("hairpin", wanted.hairpin, measured.hairpin, _hairpins(observed)),
        ("unsolicited", wanted.unsolicited, measured.unsolicited, f"a stray packet was {observed.stray.value}"),
        ("pooling", wanted.pooling, measured.pooling, _allocated(observed)),
    )
    found = _unequal(protocol, compared)
    refused = {knock for _, knock in observed.knocks} - {Knock.PASSED}
    if odd := {knock for knock in refused if _UNSOLICITED[knock] is not wanted.unsolicited}:
        kinds = ", ".join(sorted(knock.value for knock in odd))
        found.append(f"{protocol} that the filter does not let in is {kinds} instead of {_fate(wanted.unsolicited)}")
    return (*found, *_addresses(protocol, nat, observed))


def query_differences(nat: Nat, observed: Observed) -> tuple[str, ...]:
    """The same for ICMP queries."""
    measured, wanted = classify_query(observed), expected_query(nat)
    compared = (
        ("mapping", wanted.mapping, measured.mapping, _mapped(observed)),
        ("identifiers", _distinguishable(nat, observed), measured.ports, _allocated(observed)),
    )
    return tuple(_unequal("ICMP", compared))


def _unequal(protocol: str, compared: Iterable[tuple[str, Enum | None, Enum | None, str]]) -> list[str]:
    found = []
    for aspect, declared, seen, evidence in compared:
        if seen is not declared and declared is not None:
            name = seen.value if seen else "nothing that has a name"
            found.append(f"{protocol} {aspect}: declared {declared.value}, measured {name} ({evidence})")
    return found


def _distinguishable(nat: Nat, observed: Observed) -> Ports:
    """The declared allocation, or the one that it looks like where too few mappings met a port that had an owner."""
    too_few = not any(
        len([address for address, _ in overflow(observed) if address == at]) > 1 for at, _ in overflow(observed)
    )
    if nat.ports is Ports.PRESERVING_THEN_SEQUENTIAL and too_few:
        return Ports.PRESERVING
    return nat.ports


def _addresses(protocol: str, nat: Nat, observed: Observed) -> Iterable[str]:
    """Whether all public addresses are in use that can be, with so many hosts."""
    every = (*observed.allocated, *observed.conflicts)
    hosts, seen = len({each.host for each in every}), len({each.external[0] for each in every})
    wanted = hosts if nat.one_to_one else nat.public_addresses
    if nat.pooling is Pooling.PAIRED:
        wanted = min(wanted, hosts)
    if seen != min(wanted, len(every)):
        yield f"{protocol} leaves from {seen} public addresses, not from {wanted}"


def _fate(unsolicited: Unsolicited | None) -> str:
    return next(knock.value for knock, kind in _UNSOLICITED.items() if kind is unsolicited)


def _mapped(observed: Observed) -> str:
    return ", ".join(f"{_text(remote)} saw port {external[1]}" for remote, external in observed.mapped)


def _knocks(observed: Observed) -> str:
    knocks = ", ".join(f"{_text(remote)} {knock.value}" for remote, knock in observed.knocks)
    return f"{_text(observed.contacted)} was contacted; {knocks}"


def _allocated(observed: Observed) -> str:
    several = len({each.external[0] for each in observed.allocated}) > 1
    groups = (("", observed.allocated), ("; another host's ", observed.conflicts), ("; again ", observed.again))
    return "".join(
        title
        + ", ".join(f"{each.inner} → {_text(each.external) if several else each.external[1]}" for each in allocated)
        for title, allocated in groups
        if allocated
    )


def _hairpins(observed: Observed) -> str:
    seen = ", ".join(f"{_text(external)} seen as {_text(source)}" for external, source in observed.hairpins)
    return seen or "nothing arrived"


def _text(address: Address) -> str:
    return endpoint_text(*address)
