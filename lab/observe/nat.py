"""From what a probe saw to what a NAT is: RFC 5780's tests for UDP, and the same idea for TCP.

A probe sends from the LAN to four places, two addresses with two ports each, and back from them:

    mapping     one inner endpoint → A:p, A:q, B:p, B:q           which of them saw the same external port?
    filtering   another inner endpoint → A:p only; then A:q, B:p, B:q → its external port      who gets in?
    ports       fresh inner endpoints, one after another → A:p                  which port does each one get?
    hairpin     one inner endpoint → another's external port           does it arrive, and from which source?

This module judges the results and holds them against the declared `Nat`; it sends nothing. A result that is none of the
behaviours that RFC 4787 names (§4.1, §4.2, §5) is `None`, never the nearest name.
"""

from __future__ import annotations

from collections.abc import Mapping as Table
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from typing import Any, TypeVar

from lab.errors import LabError
from lab.model.nat import Filtering, Mapping, Nat, Ports

Address = tuple[str, int]
"An IPv4 address as text, and a port."


class Hairpin(Enum):
    """What comes of a packet from the LAN to an external port of the same NAT (RFC 4787 §6)."""

    NONE = "none"
    "it does not arrive"
    EXTERNAL = "external"
    "it arrives from the sender's external address and port (REQ-9 a)"
    EXTERNAL_OTHER_PORT = "external-other-port"
    "it arrives from the external address and a port of its own: the NAT's outside is a new destination to its mapping"
    INTERNAL = "internal"
    "it arrives from the sender's inner address, and an answer would bypass the NAT"


class Knock(Enum):
    """What became of an attempt from outside to reach an external port."""

    PASSED = "passed"
    DROPPED = "dropped"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Observed:
    """What one protocol's probe saw. All external addresses are as the remote end saw them."""

    mapped: tuple[tuple[Address, Address], ...]
    "(remote, external) for one inner endpoint that sent to all remotes"
    contacted: Address
    "the one remote that the endpoint behind `knocks` had sent to"
    knocks: tuple[tuple[Address, Knock], ...]
    "each remote that was not contacted, and how its attempt ended"
    allocated: tuple[tuple[int, int], ...]
    "(inner port, external port) of fresh endpoints, in the order in which they sent"
    hairpins: tuple[tuple[Address, Address], ...]
    "(the sender's external address, the source that the receiver saw) for each hairpinned packet that arrived"


@dataclass(frozen=True, slots=True)
class Behaviour:
    """One protocol's behaviour as measured; `None` is none of those that have a name."""

    mapping: Mapping | None
    filtering: Filtering | None
    ports: Ports | None
    hairpin: Hairpin | None


@dataclass(frozen=True, slots=True)
class Trap:
    """One way in which NATs of a laboratory go wrong unseen, and whether this one does."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Certificate:
    """A NAT as declared and as measured. It is worth what it says only if `ok`."""

    router: str
    declared: Nat
    udp: Behaviour | None
    "None: the probe itself failed, and `differences` says how"
    tcp: Behaviour | None
    traps: tuple[Trap, ...]
    differences: tuple[str, ...]
    "one sentence for each thing that is not as declared"
    seconds: float
    "what the probe took"

    @property
    def ok(self) -> bool:
        """Whether everything was measured, and measured as declared."""
        return not self.differences and self.udp is not None and self.tcp is not None


def expected(nat: Nat) -> Behaviour:
    """What a probe of a NAT that is as declared measures, for UDP and TCP alike."""
    return Behaviour(nat.mapping, nat.filtering, nat.ports, expected_hairpin(nat))


def expected_hairpin(nat: Nat) -> Hairpin:
    """What hairpinning comes to on a NAT that is as declared.

    Where the mapping depends on the destination, the NAT's own outside is a new destination: the packet leaves from a
    port of its own, and the receiver, whose port was opened by sending elsewhere, hears it only if its filtering is
    endpoint-independent.
    """
    if not nat.hairpin:
        return Hairpin.NONE
    if nat.mapping is Mapping.ENDPOINT_INDEPENDENT:
        return Hairpin.EXTERNAL
    return Hairpin.EXTERNAL_OTHER_PORT if nat.filtering is Filtering.ENDPOINT_INDEPENDENT else Hairpin.NONE


def classify(observed: Observed) -> Behaviour:
    """Name the behaviour that one protocol's probe saw."""
    return Behaviour(
        mapping=classify_mapping(observed.mapped),
        filtering=classify_filtering(observed.contacted, observed.knocks),
        ports=classify_ports(observed.allocated),
        hairpin=classify_hairpin(observed.hairpins),
    )


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


def classify_ports(allocated: Sequence[tuple[int, int]]) -> Ports | None:
    """Name the allocation from (inner port, external port) of at least four fresh endpoints in sending order.

    Sequential is judged on the ports as a set: two CPUs may hand packets to a NAT in another order than they were sent.
    Steps of equal size other than one have no name (nft 1.0.6 allocates in steps of 256 where a byte swap is missing).
    """
    kept = sum(inner == external for inner, external in allocated)
    if kept == len(allocated):
        return Ports.PRESERVING
    externals = [external for _, external in allocated]
    gaps = _steps(sorted(externals))
    if all(gap > 0 for gap in gaps) and sum(gap != 1 for gap in gaps) <= 1:  # a pool may wrap once
        return Ports.SEQUENTIAL
    steps = _steps(externals)
    regular = max(steps.count(step) for step in steps) > len(steps) // 2 or kept > len(allocated) // 2
    return None if regular else Ports.RANDOM


def _steps(ports: Sequence[int]) -> list[int]:
    return [after - before for before, after in pairwise(ports)]


def classify_hairpin(hairpins: Sequence[tuple[Address, Address]]) -> Hairpin | None:
    """Name the hairpinning from (sender's external address, source seen) of the packets that arrived."""
    kinds = {_hairpin_kind(external, source) for external, source in hairpins}
    if not kinds:
        return Hairpin.NONE
    return kinds.pop() if len(kinds) == 1 else None


def _hairpin_kind(external: Address, source: Address) -> Hairpin:
    if source == external:
        return Hairpin.EXTERNAL
    return Hairpin.EXTERNAL_OTHER_PORT if source[0] == external[0] else Hairpin.INTERNAL


def differences(protocol: str, nat: Nat, observed: Observed) -> tuple[str, ...]:
    """One sentence for each thing in which a protocol's probe (`UDP`, `TCP`) saw another NAT than the declared one."""
    measured = classify(observed)
    compared: tuple[tuple[str, Enum, Enum | None, str], ...] = (
        ("mapping", nat.mapping, measured.mapping, _mapped(observed)),
        ("filtering", nat.filtering, measured.filtering, _knocks(observed)),
        ("ports", nat.ports, measured.ports, ", ".join(f"{inner} → {port}" for inner, port in observed.allocated)),
        ("hairpin", expected_hairpin(nat), measured.hairpin, _hairpins(observed)),
    )
    found = []
    for aspect, declared, seen, evidence in compared:
        if seen is not declared:
            name = seen.value if seen else "nothing that has a name"
            found.append(f"{protocol} {aspect}: declared {declared.value}, measured {name} ({evidence})")
    if any(knock is Knock.REFUSED for _, knock in observed.knocks):
        found.append(f"{protocol} that the filter does not let in is refused instead of dropped")
    return tuple(found)


def _mapped(observed: Observed) -> str:
    return ", ".join(f"{_text(remote)} saw port {external[1]}" for remote, external in observed.mapped)


def _knocks(observed: Observed) -> str:
    knocks = ", ".join(f"{_text(remote)} {knock.value}" for remote, knock in observed.knocks)
    return f"{_text(observed.contacted)} was contacted; {knocks}"


def _hairpins(observed: Observed) -> str:
    seen = ", ".join(f"{_text(external)} seen as {_text(source)}" for external, source in observed.hairpins)
    return seen or "nothing arrived"


E = TypeVar("E", bound=Enum)


def _text(address: Address) -> str:
    return f"{address[0]}:{address[1]}"


def certificate_to_json(certificate: Certificate) -> dict[str, Any]:
    """The certificate as JSON values; `certificate_from_json` is its inverse."""
    nat = certificate.declared
    return {
        "router": certificate.router,
        "ok": certificate.ok,
        "declared": {
            "mapping": nat.mapping.value,
            "filtering": nat.filtering.value,
            "ports": nat.ports.value,
            "hairpin": nat.hairpin,
            "udp_timeout": nat.udp_timeout,
            "tcp_timeout": nat.tcp_timeout,
        },
        "udp": _behaviour_to_json(certificate.udp),
        "tcp": _behaviour_to_json(certificate.tcp),
        "traps": [{"name": trap.name, "ok": trap.ok, "detail": trap.detail} for trap in certificate.traps],
        "differences": list(certificate.differences),
        "seconds": certificate.seconds,
    }


def certificate_from_json(value: Any) -> Certificate:
    """The certificate in JSON values. Raises `LabError` where they are none."""
    try:
        declared = value["declared"]
        return Certificate(
            router=str(value["router"]),
            declared=Nat(
                mapping=Mapping(declared["mapping"]),
                filtering=Filtering(declared["filtering"]),
                ports=Ports(declared["ports"]),
                hairpin=bool(declared["hairpin"]),
                udp_timeout=float(declared["udp_timeout"]),
                tcp_timeout=float(declared["tcp_timeout"]),
            ),
            udp=_behaviour_from_json(value["udp"]),
            tcp=_behaviour_from_json(value["tcp"]),
            traps=tuple(Trap(str(t["name"]), bool(t["ok"]), str(t["detail"])) for t in value["traps"]),
            differences=tuple(str(text) for text in value["differences"]),
            seconds=float(value["seconds"]),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise LabError(f"not a NAT certificate: {type(error).__name__} {error}") from error


def _behaviour_to_json(behaviour: Behaviour | None) -> dict[str, str | None] | None:
    if behaviour is None:
        return None
    return {
        aspect: value.value if value is not None else None
        for aspect, value in (
            ("mapping", behaviour.mapping),
            ("filtering", behaviour.filtering),
            ("ports", behaviour.ports),
            ("hairpin", behaviour.hairpin),
        )
    }


def _behaviour_from_json(value: Table[str, Any] | None) -> Behaviour | None:
    if value is None:
        return None
    return Behaviour(
        mapping=_optional(Mapping, value["mapping"]),
        filtering=_optional(Filtering, value["filtering"]),
        ports=_optional(Ports, value["ports"]),
        hairpin=_optional(Hairpin, value["hairpin"]),
    )


def _optional(kind: type[E], value: str | None) -> E | None:
    return None if value is None else kind(value)
