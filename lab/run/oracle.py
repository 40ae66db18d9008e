"""What ought to happen: from the values of two NATs, whether their peers end up direct or relayed, and why.

The prediction knows nothing of the run. Peers are taken to exchange public endpoints only, as DCUtR does, and to write
to each other at about the same time; a cell that does not come out as predicted is a finding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from lab.model.nat import Filtering, Mapping, Nat
from lab.model.punch import can_hairpin, can_punch, keeps_its_port, lets_in
from lab.model.topology import Topology

TRANSPORTS: Final = ("tcp", "udp")


@dataclass(frozen=True, slots=True)
class Side:
    """A peer and what is in front of it."""

    peer: str
    router: str | None
    "None: it is on the internet"
    nat: Nat | None


@dataclass(frozen=True, slots=True)
class Prediction:
    """The path two peers should end up with."""

    path: Literal["direct", "relayed"]
    why: str
    "a sentence in plain words, without its full stop"


def side_of(topology: Topology, peer: str) -> Side:
    """One peer's side; KeyError if there is no such peer."""
    nat = topology.nat_of(peer)
    return Side(peer, None if nat is None else topology.peer(peer).at, nat)


def predict(dialer: Side, listener: Side, transport: str) -> Prediction:
    """The path of a connection that starts over a public relay; ValueError if the transport is not tcp or udp.

    It is the same for both: the rule sets treat them alike, and a TCP simultaneous open needs what a UDP punch needs.
    """
    if transport not in TRANSPORTS:
        raise ValueError(f"no prediction for {transport}; there are {', '.join(TRANSPORTS)}")
    if listener.nat is None or dialer.nat is None:
        return _with_a_public_side(dialer, listener)
    if listener.router == dialer.router:
        return _behind_one(listener.router or "", listener.nat)
    if can_punch(dialer.nat, listener.nat):
        return Prediction("direct", _why_direct(dialer, dialer.nat, listener, listener.nat))
    return Prediction("relayed", _why_relayed(dialer, dialer.nat, listener, listener.nat))


def _with_a_public_side(dialer: Side, listener: Side) -> Prediction:
    if listener.nat is None:
        return Prediction("direct", f"{listener.peer} is on the internet, where anybody can write to it")
    return Prediction("direct", f"{dialer.peer} is on the internet, where {listener.peer} can write to it")


def _behind_one(router: str, nat: Nat) -> Prediction:
    both = f"both are behind {router}, which"
    if not nat.hairpin:
        return Prediction("relayed", f"{both} does not bring packets to its own address back in")
    if can_hairpin(nat):
        whom = "anybody" if nat.filtering is Filtering.ENDPOINT_INDEPENDENT else "whom it has written to"
        return Prediction("direct", f"{both} brings packets to its own address back in, and lets in {whom}")
    return Prediction("relayed", f"{both} {_moves(nat)}, and lets in only whom that port has written to")


def _why_direct(dialer: Side, dialer_nat: Nat, listener: Side, listener_nat: Nat) -> str:
    open_to_all = [
        side.router
        for side, nat in ((listener, listener_nat), (dialer, dialer_nat))
        if nat.filtering is Filtering.ENDPOINT_INDEPENDENT
    ]
    if open_to_all:
        return f"{open_to_all[0]} lets in anybody"
    if keeps_its_port(dialer_nat) and keeps_its_port(listener_nat):
        return f"{dialer.router} and {listener.router} keep one port for all destinations, so each lets the other in"
    inward = lets_in(listener_nat, dialer_nat)
    host, guest, guest_nat = (listener, dialer, dialer_nat) if inward else (dialer, listener, listener_nat)
    return (
        f"{guest.router} {_moves(guest_nat)}, but {host.router} keeps its own "
        "and lets in every port of an address it has written to"
    )


def _why_relayed(dialer: Side, dialer_nat: Nat, listener: Side, listener_nat: Nat) -> str:
    if keeps_its_port(dialer_nat):
        return f"{dialer.router} lets in only whom it has written to, and {listener.router} {_moves(listener_nat)}"
    if keeps_its_port(listener_nat):
        return f"{listener.router} lets in only whom it has written to, and {dialer.router} {_moves(dialer_nat)}"
    each = "destination" if dialer_nat.mapping is listener_nat.mapping is _PER_ENDPOINT else "address"
    return (
        f"{dialer.router} and {listener.router} both use a new port for every {each}, "
        "and let in only whom that port has written to"
    )


_PER_ENDPOINT: Final = Mapping.ADDRESS_AND_PORT_DEPENDENT


def _moves(nat: Nat) -> str:
    each = "destination" if nat.mapping is _PER_ENDPOINT else "address"
    return f"uses a new port for every {each}"
