"""Gives a plan its links: who is shaped how, what fits through, and who is not told when something does not."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_interface

from lab.model.impairment import Link
from lab.model.topology import INTERNET, Peer, Router, Topology
from lab.plan.names import CORE
from lab.plan.plan import Cable, Plan, Port, RuleSet, SpaceKind
from lab.plan.shaping import CableLink, Distance, Shaping, Uplink, black_hole_at_router, black_hole_in_core

IDEAL_LINK = Link()


def lay_links(topology: Topology, plan: Plan) -> Plan:
    """The same plan with the topology's links in it; the plan itself where all of them are ideal."""
    owners: list[Router | Peer] = [*topology.routers, *topology.peers]
    links = {owner.name: owner.link or IDEAL_LINK for owner in owners}
    regions = {owner.name: owner.region for owner in owners}
    uplinks = tuple(
        _uplink(plan, cable, links[cable.b.space], regions[cable.b.space])
        for cable in plan.cables
        if cable.a.space == CORE
    )
    given = {owner.name for owner in owners if owner.link is not None and not _on_internet(owner)}
    cables = tuple(
        CableLink(cable.b.space, cable.b.space, cable.b.name, links[cable.b.space].up, links[cable.b.space].down)
        for cable in plan.cables
        if cable.b.space in given
    )
    distances = tuple(Distance(*distance) for distance in topology.distances)
    return replace(
        plan,
        cables=tuple(_sized(cable, links) for cable in plan.cables),
        rules=(*plan.rules, *_black_holes(plan, uplinks, links)),
        shaping=Shaping(plan.seed, uplinks, distances, cables),
    )


def _on_internet(owner: Router | Peer) -> bool:
    return owner.public if isinstance(owner, Peer) else owner.at == INTERNET


def _uplink(plan: Plan, cable: Cable, link: Link, region: str | None) -> Uplink:
    here = cable.a
    own = (str(held.network) for held in map(ip_interface, here.addresses) if not held.is_link_local)
    routed = (route.destination for route in plan.routes if (route.space, route.port) == (CORE, here.name))
    return Uplink(here.name, cable.b.space, cable.b.name, (*own, *routed), link.up, link.down, region)


def _sized(cable: Cable, links: dict[str, Link]) -> Cable:
    """A cable to the core with the MTU of its link, at both ends: one that differs drops silently."""
    mtu = links[cable.b.space].mtu if cable.a.space == CORE else None
    if mtu is None:
        return cable
    return Cable(_with_mtu(cable.a, mtu), _with_mtu(cable.b, mtu))


def _with_mtu(port: Port, mtu: int) -> Port:
    return replace(port, mtu=mtu)


def _black_holes(plan: Plan, uplinks: tuple[Uplink, ...], links: dict[str, Link]) -> list[RuleSet]:
    holes = [uplink for uplink in uplinks if links[uplink.name].pmtu_black_hole]
    routers = {space.name for space in plan.spaces if space.kind is SpaceKind.ROUTER}
    rules = [RuleSet(hole.space, black_hole_at_router()) for hole in holes if hole.space in routers]
    if holes:
        rules.append(RuleSet(CORE, black_hole_in_core(tuple(network for hole in holes for network in hole.networks))))
    return rules
