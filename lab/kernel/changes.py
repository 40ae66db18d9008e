"""Changes of a network that lives: cables, addresses, routes, who is plugged in where, and who is cut off from whom.

What a change comes to is a plan (`lab.plan.amend`); this makes the kernel follow it and then asks the kernel: a change
that cannot be read back raises. All of it blocks, for some 5 to 50 ms.

Facts about the kernel that decide how:

* A cable is pulled at its socket, the end in the core or in a bridge. Whoever is plugged in sees the carrier go and
  keeps addresses and routes, as a laptop does; switched off itself it would lose its routes for good.
* Neighbours that are told for good (`lab.plan.neighbours`) outlast a carrier that goes, but not an interface that is
  switched off; and whoever moves or gets another address is another neighbour.
* The last address that leaves an interface takes all routes through it along, so these are set again.
* A veth end may change its namespace and leaves its bridge by that; its other end, and whoever captures there, stays.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Sequence
from typing import Final

from lab.errors import EventError, KernelError
from lab.kernel import memory, nft, switch
from lab.kernel.carrier import await_local, await_operational
from lab.kernel.link import Links
from lab.kernel.namespace import Namespace
from lab.kernel.network import Network
from lab.model.impairment import Impairment
from lab.plan import amend
from lab.plan.names import CORE
from lab.plan.plan import Cable, Plan, Port
from lab.plan.shaping import far_port

APART_TABLE: Final = "punchlab_apart"
MAX_APART: Final = 1024
"Pairs of the core's ports between which nothing passes, at most."
_ANY_PORT: Final = 9
"Nothing is sent there: connecting a datagram socket only asks for the route."


class Changes:
    """Makes events happen to one network; `plan` is what holds now. One change at a time: callers take turns."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._apart: set[frozenset[str]] = set()

    @property
    def plan(self) -> Plan:
        """The plan of the network as it is now."""
        return self._network.plan

    def reboot(self, router: str, *, other_ports: bool) -> str:
        """Have a router begin anew; with `other_ports` those that were mapped are taken for a while."""
        memory.forget(self._space(router), self._rules(router), hold=other_ports)
        self._network.restart_mapper(router)
        return ""

    def expire(self, router: str, hosts: Sequence[str]) -> str:
        """End the mappings of these inner addresses of a router; without any, all of them."""
        return _count(memory.forget_some(self._space(router), hosts), "gone")

    def rebind(self, router: str, hosts: Sequence[str]) -> str:
        """The same, and keep the external ports from being given again."""
        return _count(memory.forget_some(self._space(router), hosts, hold=True), "held")

    def exhaust(self, router: str, left: int) -> str:
        """Leave a router that many ports for new mappings."""
        memory.make_scarce(self._space(router), left)
        return ""

    def replenish(self, router: str) -> str:
        """The end of `exhaust`."""
        memory.make_plentiful(self._space(router))
        return ""

    def change_address(self, router: str, address: str) -> str:
        """Give a router another outer address; raises EventError where it cannot have it."""
        was, plan = self.plan, amend.with_address(self.plan, router, address)
        old, new = amend.cable_of(was, router), amend.cable_of(plan, router)
        before = amend.router_of(was, router).wan
        self._address(old.b, new.b)
        self._address(old.a, new.a)
        self._route(plan, new.b)
        self._network.follow(plan)
        for rules in plan.rules:
            if rules.space == CORE and rules not in was.rules:
                nft.load(self._space(CORE), rules.text)
        memory.forget(self._space(router), self._rules(router))
        self._network.restart_mapper(router)
        _expect_gone(self._space(router), before)
        self._expect_route(router, plan.vantages[0], address)
        return f"was {before}"

    def move(self, peer: str, target: str, address: str | None) -> str:
        """Plug a peer into another router's LAN; raises EventError where it cannot go."""
        was, plan = self.plan, amend.with_move(self.plan, peer, target, address)
        old, new = amend.cable_of(was, peer), amend.cable_of(plan, peer)
        self._replug(old, new)
        switch.configure((lan for lan in plan.lans if lan.router == target), self._network.spaces)
        self._address(old.b, new.b)
        self._route(plan, new.b)
        self._network.follow(plan)
        launch = amend.launch_of(plan, peer)
        before = amend.launch_of(was, peer)
        if before.address != launch.address:
            _expect_gone(self._space(peer), before.address)
        self._expect_route(peer, plan.vantages[0], launch.address)
        return f"from {before.router} {before.address}, now {launch.address}"

    def lose_leases(self, router: str) -> str:
        """Have a router's port maps vanish."""
        self._network.lose_leases(router)
        return ""

    def set_link(self, place: str, up: Impairment, down: Impairment) -> str:
        """Have the link of a router or public peer be another; raises EventError where it has none."""
        if place not in self.plan.shaping.owners:
            hint = "a cable in a private network has one if the topology gives it one, `link = {}` at least"
            raise EventError(f"{place} has no link of its own: {hint}")
        self._network.set_link(place, up, down)
        return ""

    def pull(self, place: str) -> str:
        """Pull a cable."""
        return self._switch(amend.cable_of(self.plan, place), on=False)

    def put_back(self, place: str) -> str:
        """Put it back."""
        return self._switch(amend.cable_of(self.plan, place), on=True)

    def part(self, ports: Iterable[str]) -> str:
        """Have the core forward nothing between two of its ports."""
        self._apart.add(frozenset(ports))
        self._set_apart()
        return ""

    def heal(self, port: str, other: str | None) -> int:
        """End the partition of two ports, or all of the one; returns how many there were."""
        healed = {pair for pair in self._apart if port in pair and (other is None or other in pair)}
        self._apart -= healed
        self._set_apart()
        return len(healed)

    def _space(self, name: str) -> Namespace:
        return self._network.spaces[name]

    def _rules(self, router: str) -> list[str]:
        return [rules.text for rules in self.plan.rules if rules.space == router]

    def _switch(self, cable: Cable, *, on: bool) -> str:
        end = cable.a
        self._switch_midway(cable, on=on)
        with Links(self._space(end.space)) as links:
            index = _number(self._space(end.space), end.name)
            if on:
                links.bring_up(index)
            else:
                links.switch_off(index)
        if on:
            # IPv4 comes back with the interface, all that is IPv6 went when it was switched off.
            with Links(self._space(end.space)) as links:
                for address in _of(6, end):
                    links.add_address(index, address)
            self._route(self.plan, end)
            self._network.reintroduce(end)
        both = {cable.a.space: [cable.a.name], cable.b.space: [cable.b.name]}
        await_operational(self._network.spaces, both, up=on)
        await_local(self._network.spaces, (cable.a, cable.b))
        return f"{cable.a.space}/{cable.a.name} – {cable.b.space}/{cable.b.name}"

    def _switch_midway(self, cable: Cable, *, on: bool) -> None:
        """Whoever is plugged in sees the carrier of the half that it holds."""
        for number, link in enumerate(self.plan.shaping.cables):
            if self._network.midway is not None and (link.space, link.port) == (cable.b.space, cable.b.name):
                with Links(self._network.midway) as links:
                    index = _number(self._network.midway, far_port(number))
                    if on:
                        links.bring_up(index)
                    else:
                        links.switch_off(index)

    def _address(self, was: Port, now: Port) -> None:
        """Old addresses go before new ones come, the first at last: its network's others would go along with it."""
        ns = self._space(now.space)
        index = _number(ns, now.name)
        with Links(ns) as links:
            for family in (4, 6):
                old, new = _of(family, was), _of(family, now)
                if old != new:
                    for address in reversed(old):
                        links.remove_address(index, address)
                    for address in new:
                        links.add_address(index, address)
        await_local(self._network.spaces, [now])

    def _route(self, plan: Plan, port: Port) -> None:
        """Set the routes by an interface that went with its addresses, or have another gateway now."""
        ns = self._space(port.space)
        index = _number(ns, port.name)
        with Links(ns) as links:
            for route in plan.routes:
                if (route.space, route.port) == (port.space, port.name):
                    links.add_route(route, index, replace=True)

    def _replug(self, old: Cable, new: Cable) -> None:
        """Carry the socket's end of a cable to another router, and wait until both ends know."""
        left, joined = self._space(old.a.space), self._space(new.a.space)
        host = {new.b.space: [new.b.name]}
        with Links(left) as links:
            index = _number(left, old.a.name)
            links.switch_off(index)
        self._switch_midway(old, on=False)
        await_operational(self._network.spaces, host, up=False)
        with Links(left) as links:
            links.hand_over(index, new.a.name, joined)
        with Links(joined) as links:
            index = _number(joined, new.a.name)
            links.bring_up(index)
        self._switch_midway(new, on=True)
        await_operational(self._network.spaces, {new.a.space: [new.a.name], **host})
        if new.a.bridge is not None:
            with Links(joined) as links:
                links.plug(index, _number(joined, new.a.bridge))

    def _set_apart(self) -> None:
        core = self._space(CORE)
        nft.load(core, _apart_rules(self._apart))
        listed = [
            entry["set"] for entry in nft.as_json(core, "sets") if entry.get("set", {}).get("table") == APART_TABLE
        ]
        found = {frozenset(element["concat"]) for holder in listed for element in holder.get("elem", ())}
        if found != self._apart:
            raise KernelError(f"core: parted are {_pairs(found)}, and should be {_pairs(self._apart)}")

    def _expect_route(self, space: str, to: str, source: str) -> None:
        """Ask the kernel by which address it would send."""
        try:
            with self._space(space).socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
                asked.connect((to, _ANY_PORT))
                seen = str(asked.getsockname()[0])
        except OSError as error:
            raise KernelError(f"{space}: no way to {to}: {error.strerror}") from error
        if seen != source:
            raise KernelError(f"{space}: sends from {seen}, not from {source}")


def _of(family: int, port: Port) -> list[str]:
    return [address for address in port.addresses if (":" in address) is (family == 6)]


def _expect_gone(ns: Namespace, address: str) -> None:
    """Only the holder of an address can bind it."""
    with ns.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            asked.bind((address, 0))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                return
            raise KernelError(f"{ns.name}: {address}: {error.strerror}") from error
    raise KernelError(f"{ns.name}: still has the address {address}")


def _number(ns: Namespace, interface: str) -> int:
    try:
        with ns.entered():
            return socket.if_nametoindex(interface)
    except OSError as error:
        raise KernelError(f"{ns.name}: there is no interface {interface}") from error


def _apart_rules(pairs: set[frozenset[str]]) -> str:
    ways = [way for one, other in map(sorted, pairs) for way in (f'"{one}" . "{other}"', f'"{other}" . "{one}"')]
    elements = f"elements = {{ {', '.join(ways)} }};" if ways else ""
    return f"""table inet {APART_TABLE} {{
  set apart {{ type ifname . ifname; {elements} }}
  chain forward {{
    type filter hook forward priority -20; policy accept;
    iifname . oifname @apart counter drop
  }}
}}
"""


def _pairs(pairs: Iterable[frozenset[str]]) -> str:
    return ", ".join(" and ".join(sorted(pair)) for pair in pairs) or "none"


def _count(ports: int, what: str) -> str:
    return f"{ports} external port{'' if ports == 1 else 's'} {what}"
