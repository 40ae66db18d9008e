"""What ought to happen: from the values of two NATs, whether their peers end up direct or relayed, and why.

The prediction knows nothing of the run. Peers are taken to exchange public endpoints only, as DCUtR does, and to write
to each other at about the same time; a cell that does not come out as predicted is a finding.

A peer with several uplinks begins by the preferred one: it is known by the endpoint which that has outside, and by what
is open to everybody on the others, its own public address above all. One such way that works is enough.

Behind several routers all of them must let a packet in (`lab.model.layers`), and peers with the same outermost one meet
at its outside, by hairpin. A firewall keeps packets from leaving: they open nothing and arrive nowhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Final, Literal, TypeAlias

from lab.model import layers
from lab.model.firewall import Firewall
from lab.model.ipv6 import Ip
from lab.model.nat import Filtering, Hairpinning, Mapping, Nat
from lab.model.punch import can_hairpin, can_punch, keeps_its_port, lets_in
from lab.model.topology import INTERNET, PORT, Peer, Router, Topology

_PAST_IT: Final = "brings packets to its own address back in from their inner source, and answers go past it"
TRANSPORTS: Final = ("tcp", "udp")

_Placed: TypeAlias = tuple[str, str]
"a peer, and the place of one of its uplinks"


@dataclass(frozen=True, slots=True)
class Side:
    """A peer and what is in front of it."""

    peer: str
    router: str | None
    "the nearest; None: it is on the internet"
    nat: Nat | None
    firewall: Firewall | None = None
    outer: tuple[Router, ...] = ()
    "the routers that the nearest one is behind"
    port: int = PORT
    "where it listens"

    @property
    def stack(self) -> layers.Stack:
        """All NATs in front of it, the nearest first."""
        return () if self.nat is None else (self.nat, *(router.nat for router in self.outer))

    @property
    def names(self) -> tuple[str, ...]:
        """All routers in front of it, the nearest first."""
        return () if self.router is None else (self.router, *(router.name for router in self.outer))

    @property
    def firewalls(self) -> tuple[Firewall | None, ...]:
        """What each of them lets out."""
        return () if self.router is None else (self.firewall, *(router.firewall for router in self.outer))

    @property
    def as_one(self) -> Side:
        """The same with one NAT in place of all."""
        return Side(self.peer, " behind ".join(self.names) or None, layers.composite(self.stack), port=self.port)


@dataclass(frozen=True, slots=True)
class Prediction:
    """The path two peers should end up with."""

    path: Literal["direct", "relayed", "none"]
    why: str
    "a sentence in plain words, without its full stop"


def side_of(topology: Topology, peer: str, place: str | None = None) -> Side:
    """One peer's side, by its preferred uplink or by the one at that place; KeyError if there is no such peer."""
    routers, port = topology.routers_of(peer, place), topology.peer(peer).port
    if not routers:
        return Side(peer, None, None, port=port)
    return Side(peer, routers[0].name, routers[0].nat, routers[0].firewall, routers[1:], port)


def forecast(topology: Topology, dialer: str, listener: str, relay: str, transport: str) -> Prediction:
    """The path of a connection between two peers of a topology, by whatever version of IP; KeyError for no peer."""
    for one, other in ((listener, relay), (dialer, relay), (dialer, listener)):
        if not _versions(topology, one) & _versions(topology, other):
            alone = f"{one} and {other} have no version of IP in common, and addresses are not names, which DNS64 needs"
            return Prediction("none" if other == relay else "relayed", alone)
    common = _versions(topology, dialer) & _versions(topology, listener)
    if common == {Ip.V6}:
        return _best_by_ipv6(topology, dialer, listener, transport)
    by_ipv4 = _best_by_ipv4(topology, dialer, listener, relay, transport)
    if Ip.V6 not in common or by_ipv4.path == "direct":
        return by_ipv4
    by_ipv6 = _best_by_ipv6(topology, dialer, listener, transport)
    return replace(by_ipv6, why=f"by IPv6 {by_ipv6.why}") if by_ipv6.path == "direct" else by_ipv4


def _versions(topology: Topology, peer: str) -> set[Ip]:
    """The versions of IP that a peer has; KeyError for no peer."""
    held = topology.peer(peer).ip or topology.ip
    return {Ip.V4, Ip.V6} if held is Ip.DUAL else {held}


def _best_by_ipv4(topology: Topology, dialer: str, listener: str, relay: str, transport: str) -> Prediction:
    """By the preferred uplinks, or by a public address that a peer has on another one."""
    sides = [
        [side_of(topology, name, place) for place in dict.fromkeys((peer.at, *(p for p in peer.also if p == INTERNET)))]
        for name in (dialer, listener)
        for peer in [topology.peer(name)]
    ]
    asked = side_of(topology, relay, INTERNET) if topology.peer(relay).public else side_of(topology, relay)
    return _best(predict(one, other, transport, asked) for one, other in product(*sides))


def _best_by_ipv6(topology: Topology, dialer: str, listener: str, transport: str) -> Prediction:
    """The same, where what a router lets everybody in to is as good as public."""
    ways = [_open_by_ipv6(topology, topology.peer(name)) for name in (dialer, listener)]
    return _best(_by_ipv6(topology, (dialer, here), (listener, there), transport) for here, there in product(*ways))


def _open_by_ipv6(topology: Topology, peer: Peer) -> list[str]:
    fronts = {place: topology.routers_of(peer.name, place) for place in peer.also}
    unguarded = [p for p, routers in fronts.items() if all(r.guard and r.guard.filtering is None for r in routers)]
    return [peer.at, *unguarded]


def _best(predictions: Iterable[Prediction]) -> Prediction:
    """The first that is direct. Who does not reach the relay by the preferred uplink does not try another."""
    first, *others = predictions
    if first.path == "none":
        return first
    return next((each for each in (first, *others) if each.path == "direct"), first)


def _by_ipv6(topology: Topology, dialer: _Placed, listener: _Placed, transport: str) -> Prediction:
    """The same by IPv6, where only what is between the two matters; guards are NATs that translate nothing.

    A NAT that both are behind is between them, for each knows the other by that NAT's outer address. Other routers that
    both are behind are not, whether or not they exchange prefixes: what turns around there nobody filters.
    """
    common = [router for router in topology.routers_of(*dialer) if router in topology.routers_of(*listener)]
    turns = [router for router in common if router.nat66 is not None][-1:]
    one, other = (_side_by_ipv6(topology, peer, common, turns) for peer in (dialer, listener))
    if common and not turns and None in (one.router, other.router):
        return Prediction("direct", f"nothing filters what {other.peer if one.router else one.peer} is sent from there")
    return predict(one, other, transport)


def _side_by_ipv6(topology: Topology, peer: _Placed, common: Sequence[Router], turns: Sequence[Router]) -> Side:
    name, _ = peer
    routers = topology.routers_of(*peer)
    between = routers[: routers.index(turns[0]) + 1] if turns else [each for each in routers if each not in common]
    as_nats = [replace(router, nat=_nat_of(router)) for router in between]
    if not as_nats:
        return Side(name, None, None, port=topology.peer(name).port)
    nearest, *outer = as_nats
    return Side(name, nearest.name, nearest.nat, outer=tuple(outer), port=topology.peer(name).port)


def _nat_of(router: Router) -> Nat:
    """What a router does to IPv6; without either it would be in a network that has none."""
    if router.nat66 is not None:
        return router.nat66
    assert router.guard is not None
    return router.guard.as_nat


def predict(dialer: Side, listener: Side, transport: str, relay: Side | None = None) -> Prediction:
    """The path of a connection that starts over a public relay; ValueError if the transport is not tcp or udp.

    It is the same for both: the rule sets treat them alike, and a TCP simultaneous open needs what a UDP punch needs.
    Only an answer from another endpoint, past a NAT that hairpins with the inner source, is no use to TCP.
    """
    if transport not in TRANSPORTS:
        raise ValueError(f"no prediction for {transport}; there are {', '.join(TRANSPORTS)}")
    if any(dialer.firewalls + listener.firewalls):
        return _past_firewalls(dialer, listener, transport, relay.port if relay is not None else PORT)
    if dialer.outer or listener.outer:
        return _through_layers(dialer, listener)
    if listener.nat is None or dialer.nat is None:
        return _with_a_public_side(dialer, listener)
    if listener.router == dialer.router:
        return _behind_one(listener.router or "", listener.nat, transport)
    if can_punch(dialer.nat, listener.nat):
        return Prediction("direct", _why_direct(dialer, dialer.nat, listener, listener.nat))
    return Prediction("relayed", _why_relayed(dialer, dialer.nat, listener, listener.nat))


def _through_layers(dialer: Side, listener: Side) -> Prediction:
    one, other = dialer.as_one, listener.as_one
    if one.nat is None or other.nat is None:
        return _with_a_public_side(dialer, listener)
    outermost = dialer.names[-1]
    if outermost == listener.names[-1]:
        both = f"both are behind {outermost}, which"
        if not dialer.stack[-1].hairpin:
            return Prediction("relayed", f"{both} does not bring packets to its own address back in")
        if dialer.stack[-1].hairpin is Hairpinning.INTERNAL_SOURCE:
            return Prediction("relayed", f"{both} {_PAST_IT}")
        if layers.can_hairpin(dialer.stack, listener.stack):
            return Prediction("direct", f"{both} brings packets to its own address back in, as from the internet")
    elif layers.can_punch(dialer.stack, listener.stack):
        if not can_punch(one.nat, other.nat):
            return Prediction("direct", "the NATs that move the port are open to everybody, those behind them keep it")
        return Prediction("direct", _why_direct(one, one.nat, other, other.nat))
    return Prediction("relayed", _why_relayed(one, one.nat, other, other.nat))


def _past_firewalls(dialer: Side, listener: Side, transport: str, relay: int) -> Prediction:
    """Firewalls first: who cannot reach the relay reaches nobody, and what does not get out opens no port."""
    for side in (listener, dialer):
        wall = _wall(side, transport, relay, None)
        if wall is not None:
            return Prediction("none", f"{side.peer} does not reach the relay's port {relay}: {wall}")
    common = dialer.names[-1] if dialer.names and dialer.names[-1:] == listener.names[-1:] else None
    if common is not None and dialer.stack[-1].hairpin is not Hairpinning.EXTERNAL_SOURCE:
        return _through_layers(dialer, listener)
    for source, target in ((dialer, listener), (listener, dialer)):
        if _arrives(source, target, transport, common):
            why = f"{target.names[-1]} lets in what {source.peer} sends" if target.names else "can be written to"
            return Prediction("direct", why if target.names else f"{target.peer} is on the internet and {why}")
    walls = (_wall(s, transport, _outer_port(t), common) for s, t in ((dialer, listener), (listener, dialer)))
    wall = next(filter(None, walls), None)
    if wall is None:
        return _through_layers(dialer, listener)
    return Prediction("relayed", f"nobody knows the other's port beforehand, and {wall}")


def _arrives(source: Side, target: Side, transport: str, common: str | None) -> bool:
    """Whether a packet to the target's advertised endpoint arrives, given all firewalls and NATs on the way."""
    if _wall(source, transport, _outer_port(target), common) is not None:
        return False
    asked = _outer_port(source)
    for depth, nat in enumerate(layers.as_reached(target.stack), 1):
        written = _wall_below(target, depth, transport, asked, common) is None
        if nat.filtering is not Filtering.ENDPOINT_INDEPENDENT and not written:
            return False
    return layers.lets_in(target.stack, source.stack)


def _outer_port(side: Side) -> int | None:
    """The port that others write to; None where a NAT chooses it."""
    return None if side.names else side.port


def _wall(side: Side, transport: str, port: int | None, common: str | None) -> str | None:
    return _wall_below(side, len(side.names), transport, port, common)


def _wall_below(side: Side, depth: int, transport: str, port: int | None, common: str | None) -> str | None:
    """The first of the `depth` nearest firewalls that stops a new flow to a port, if it goes beyond `common`."""
    for name, firewall in list(zip(side.names, side.firewalls, strict=True))[:depth]:
        if name == common:
            return None
        if firewall is not None and not firewall.lets_out(transport, port):
            return f"{name} {firewall}"
    return None


def _with_a_public_side(dialer: Side, listener: Side) -> Prediction:
    if listener.nat is None:
        return Prediction("direct", f"{listener.peer} is on the internet, where anybody can write to it")
    return Prediction("direct", f"{dialer.peer} is on the internet, where {listener.peer} can write to it")


def _behind_one(router: str, nat: Nat, transport: str) -> Prediction:
    both = f"both are behind {router}, which"
    if not nat.hairpin:
        return Prediction("relayed", f"{both} does not bring packets to its own address back in")
    if nat.hairpin is Hairpinning.INTERNAL_SOURCE:
        return Prediction("direct" if can_hairpin(nat, transport) else "relayed", f"{both} {_PAST_IT}")
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
