"""NAT64 laid over a plan: a translator beside each router that has one, and peers with one version of IP alone.

    alice ── lan ── home ── wan                     2a11:1:1::10 → 64:ff9b::b00:202
              │      │                              routed by home to the translator, as the prefix is
              └── home.64 ══ nat64 (tayga)          198.18.0.7 → 11.0.2.2, an address of the pool for alice's
                     │                              routed back to home, which maps it like any host's
                     └──────── lan ── home ── wan   11.0.1.2 → 11.0.2.2

The translator is a host on the router's LAN: it translates address by address and keeps no ports, so that the router's
own NAT, and its value, is what maps and filters (RFC 6146 by the parts of RFC 7915 and RFC 4787).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from lab.model import lans
from lab.model.ipv6 import Ip
from lab.model.topology import Router, Topology
from lab.plan import names
from lab.plan.ipv6 import FIRST_HOST
from lab.plan.plan import Cable, Capture, Launch, Plan, Port, Route, RouterPlan, Space, SpaceKind, Translator

POOL: Final = "198.18.0.0/24"
"RFC 2544: no LAN of a topology has it, and nobody outside sees it"
OWN4, OWN6 = "198.18.0.1", "fd64::1"
"what a translator itself sends errors from"
DEVICE: Final = "nat64"


def lay_nat64(topology: Topology, plan: Plan) -> Plan:
    """The plan with its translators, and without what peers do not have."""
    for router in topology.routers:
        if router.nat64 is not None:
            plan = _translated(topology, plan, router, router.nat64)
    lacking = {peer.name: peer.ip for peer in topology.peers if peer.ip is not None}
    return _without(plan, lacking) if lacking else plan


def _translated(topology: Topology, plan: Plan, router: Router, prefix: str) -> Plan:
    own = next(each for each in plan.routers if each.name == router.name)
    index = sum(cable.a.space == router.name for cable in plan.cables)
    if index >= lans.capacity(own.lan):
        raise topology.error(
            router, f"its LAN {own.lan} has no room for what translates nat64; allowed: a shorter prefix"
        )
    space, port = names.translator(router.name), names.lan_port(index)
    gateway6 = _gateway6(plan, router.name)
    address = lans.host(own.lan, index)
    address6 = f"{gateway6.removesuffix('1')}{FIRST_HOST + index:x}"
    cable = Cable(
        Port(router.name, port, bridge=names.LAN, mac=names.mac(plan.seed, router.name, port)),
        Port(
            space,
            names.ETH,
            (f"{address}/{lans.length(own.lan)}", f"{address6}/64", f"fe80::{FIRST_HOST + index:x}/64"),
            mac=names.mac(plan.seed, space, names.ETH),
        ),
    )
    return replace(
        plan,
        spaces=(*plan.spaces, Space(space, SpaceKind.HOST, sysctls=_forwarding(plan, router.name))),
        loose=(*plan.loose, Port(space, DEVICE)),
        cables=(*plan.cables, cable),
        routes=(
            *plan.routes,
            Route(space, "default", own.gateway, names.ETH),
            Route(space, "default", gateway6, names.ETH),
            Route(router.name, POOL, address, names.LAN),
            Route(router.name, prefix, address6, names.LAN),
        ),
        captures=(*plan.captures, Capture(space, names.ETH, names.capture(space, names.ETH))),
        routers=tuple(_with_guest(each, space) if each is own else each for each in plan.routers),
        translators=(*plan.translators, Translator(space, DEVICE, prefix, POOL, _config(prefix))),
    )


def _gateway6(plan: Plan, router: str) -> str:
    """A router's own IPv6 address on its LAN."""
    held = (each for port in plan.loose if (port.space, port.name) == (router, names.LAN) for each in port.addresses)
    return next(each.partition("/")[0] for each in held if ":" in each and not each.startswith("fe80:"))


def _forwarding(plan: Plan, router: str) -> tuple[tuple[str, str], ...]:
    """What makes the router forward, without what makes it a NAT."""
    own = next(space for space in plan.spaces if space.name == router)
    return tuple(setting for setting in own.sysctls if setting[0].startswith(("ipv4/", "ipv6/")))


def _with_guest(router: RouterPlan, space: str) -> RouterPlan:
    return replace(router, guests=(*router.guests, space))


def _config(prefix: str) -> str:
    settings = {
        "tun-device": DEVICE,
        "ipv4-addr": OWN4,
        "ipv6-addr": OWN6,
        "prefix": prefix,
        "dynamic-pool": POOL,
    }
    return "".join(f"{key} {value}\n" for key, value in settings.items())


def _without(plan: Plan, lacking: dict[str, Ip]) -> Plan:
    """The plan in which these peers have that version alone."""

    def keeps(space: str, address: str | None) -> bool:
        return space not in lacking or address is None or (":" in address) is (lacking[space] is Ip.V6)

    def bare(port: Port) -> Port:
        return replace(port, addresses=tuple(each for each in port.addresses if keeps(port.space, each)))

    def alone(launch: Launch) -> Launch:
        match lacking.get(launch.peer):
            case Ip.V6:
                return replace(launch, address=launch.address6 or "")
            case Ip.V4:
                return replace(launch, address6=None)
            case _:
                return launch

    return replace(
        plan,
        cables=tuple(Cable(cable.a, bare(cable.b)) for cable in plan.cables),
        routes=tuple(route for route in plan.routes if keeps(route.space, route.gateway)),
        launches=tuple(map(alone, plan.launches)),
    )
