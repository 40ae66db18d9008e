"""Cables with a link in a private network: each goes by a space of its own on the way, where packets can be held back.

    home/lan0 ──────────────── alice/eth0            as everybody plans with it: one cable
    home/lan0 ── n0 [b0] f0 ── alice/eth0            as it is made: a bridge in between that both are plugged into

A switch forwards what stays on a LAN without its router ever seeing it, so there is no place in the router at which all
packets of one cable pass. Halfway along the cable there is. Until a link is asked for the bridge carries everything;
the kernel's netem shapes its two ports, the userspace link takes the bridge's place (`lab.kernel.cablelink`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from lab.plan.plan import Cable, Plan, Port, Space, SpaceKind
from lab.plan.shaping import MIDWAY, far_port, mid_bridge, near_port

SYSCTLS: Final = (
    ("ipv6/conf/all/disable_ipv6", "1"),
    ("ipv6/conf/default/disable_ipv6", "1"),
    ("bridge/bridge-nf-call-iptables", "0"),
    ("bridge/bridge-nf-call-ip6tables", "0"),
)


def as_made(plan: Plan) -> Plan:
    """The plan with every shaped cable in two pieces; the plan itself if no cable is shaped."""
    if not plan.shaping.cables:
        return plan
    numbers = {(link.space, link.port): number for number, link in enumerate(plan.shaping.cables)}
    pieces: list[Cable] = []
    for cable in plan.cables:
        number = numbers.get((cable.b.space, cable.b.name))
        pieces += [cable] if number is None else _pieces(cable, number)
    bridges = tuple(mid_bridge(number) for number in numbers.values())
    return replace(plan, spaces=(*plan.spaces, Space(MIDWAY, SpaceKind.HOST, bridges, SYSCTLS)), cables=tuple(pieces))


def _pieces(cable: Cable, number: int) -> tuple[Cable, Cable]:
    bridge = mid_bridge(number)
    near, far = (Port(MIDWAY, name, bridge=bridge) for name in (near_port(number), far_port(number)))
    return Cable(cable.a, near), Cable(far, cable.b)
