"""A plan made real: namespaces, interfaces, addresses, routes, rule sets; and taken down by letting go of it.

The order is what keeps it short. `nft` runs as a program of its own, so it is started first and works on the other
core while the interfaces are made: rules name interfaces as text and need none to be there. Settings of conntrack come
last, when loading the rules has brought conntrack into the namespace; all others come before the interfaces, which
inherit them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Final

from lab.errors import KernelError
from lab.kernel import conntrack, nft, offload, portmap, shaping, translator
from lab.kernel.carrier import await_local, await_operational
from lab.kernel.link import LOOPBACK, Links, VethEnd
from lab.kernel.namespace import Namespace
from lab.kernel.switch import configure
from lab.model.impairment import Impairment
from lab.plan.midway import as_made
from lab.plan.neighbours import Neighbour, Station, neighbours, stations
from lab.plan.plan import Plan, Port, RuleSet, Space
from lab.plan.shaping import MIDWAY

_AFTER_RULES = "netfilter/"
NONE_HELD: Final[Mapping[str, Namespace]] = MappingProxyType({})


class Network:
    """The network of a plan, alive until `close()` or the end of the process. All its methods block."""

    def __init__(
        self,
        plan: Plan,
        spaces: Mapping[str, Namespace],
        mappers: Mapping[str, portmap.Daemon],
        owned: ExitStack,
    ) -> None:
        self.plan = plan
        "What holds now; events change it (`lab.kernel.changes`)."
        self.spaces = {name: space for name, space in spaces.items() if name != MIDWAY}
        "Every space of the plan, by name."
        self.midway = spaces.get(MIDWAY)
        "What shaped cables of private networks pass through, if there are such."
        self._all_spaces = spaces
        self._mappers = mappers
        self._owned = owned
        self._shaping = plan.shaping
        self._links: shaping.Links | None = None

    @classmethod
    def build(cls, plan: Plan, held: Mapping[str, Namespace] = NONE_HELD) -> Network:
        """Make all of it, in some 30 ms for two homes, or nothing. Raises KernelError, MissingCapability.

        `held` are spaces that exist, empty, and whose owner closes them.
        """
        whole = as_made(plan)
        with ExitStack() as owned:
            spaces = {
                space.name: held.get(space.name) or owned.enter_context(Namespace(space.name)) for space in whole.spaces
            }
            _settle(whole.spaces, spaces, after_rules=False)
            with ExitStack() as unfinished:
                loadings = [nft.Loading(spaces[rules.space], rules.text) for rules in _rules(plan)]
                for loading in loadings:
                    unfinished.callback(loading.abandon)
                _wire(whole, spaces, neighbours(plan), stations(plan))
                configure(plan.lans, spaces)
                for loading in loadings:
                    loading.finish()
                unfinished.pop_all()
            _settle(whole.spaces, spaces, after_rules=True)
            mappers: dict[str, portmap.Daemon] = {}
            for mapper in plan.port_mappers:
                mappers[mapper.space] = portmap.Daemon(spaces[mapper.space], mapper)
                owned.callback(mappers[mapper.space].close)
            translators: list[translator.Daemon] = []
            for each in plan.translators:
                translators.append(translator.Daemon(spaces[each.space], each))
                owned.callback(translators[-1].close)
            for daemon in mappers.values():
                daemon.ready()
            for program in translators:
                program.ready()
            return cls(plan, spaces, mappers, owned.pop_all())
        raise AssertionError("the stack swallows nothing")

    def __enter__(self) -> Network:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def forget(self, router: str) -> None:
        """Have a router lose every mapping, lease, permission and flow, as by a restart. Raises KernelError."""
        ns = self.spaces[router]
        for rules in self._rules_of(router):
            nft.load(ns, rules.text)
        conntrack.flush(ns)
        self.restart_mapper(router)

    def restart_mapper(self, router: str) -> None:
        """Have a router's port mapping begin anew, if it offers any. Raises KernelError."""
        if router in self._mappers:
            self._mappers[router].restart()

    def lose_leases(self, router: str) -> None:
        """Have a router's port maps vanish while it goes on answering. Raises KernelError."""
        if router not in self._mappers:
            raise KernelError(f"{router} offers no port mapping; those that do: {', '.join(self._mappers) or 'none'}")
        self._mappers[router].lose_leases()

    def shape(self, backend: str | None = None) -> None:
        """Have the links be those of the plan; they are ideal before. Raises KernelError, MissingCapability.

        Does nothing where the plan's links are ideal too. `backend` is netem or userspace, by default what there is.
        """
        if self._shaping.ideal and self._links is None and backend is None:
            return
        if self._links is None:
            self._links = shaping.choose(self._all_spaces, backend)
            self._owned.callback(self._links.close)
        self._links.shape(self._shaping)

    def follow(self, plan: Plan) -> None:
        """Have an event's plan be the one that holds; links and neighbours learn who is where. Raises KernelError."""
        changed = {
            (end.space, end.name) for cable in {*self.plan.cables} ^ {*plan.cables} for end in (cable.a, cable.b)
        }
        was, now = neighbours(self.plan), neighbours(plan)
        joined = stations(plan) - stations(self.plan)
        self.plan = plan
        # An interface that lost its last address for a moment lost its neighbours too.
        self._introduce((now - was) | {each for each in now if (each.space, each.port) in changed}, was - now)
        for station in joined:
            with Links(self.spaces[station.space]) as links:
                links.add_station(station, self.spaces[station.space].interfaces()[station.port])
        placed = self._shaping.placed({link.name: link.networks for link in plan.shaping.uplinks})
        if placed != self._shaping:
            self._shaping = placed
            self.shape()

    def set_link(self, name: str, up: Impairment, down: Impairment | None = None) -> None:
        """Change the link of a router or peer that has one, both ways alike without `down`. Raises KernelError."""
        try:
            self._shaping = self._shaping.changed(name, up, up if down is None else down)
        except KeyError:
            known = ", ".join(self._shaping.owners)
            raise KernelError(f"{name} has no link of its own; those that have: {known}") from None
        self.shape()

    def reintroduce(self, port: Port) -> None:
        """Put back the neighbours of an interface that was switched off. Raises KernelError."""
        lost = (each for each in neighbours(self.plan) if (each.space, each.port) == (port.space, port.name))
        self._introduce(lost, ())

    def _introduce(self, new: Iterable[Neighbour], old: Iterable[Neighbour]) -> None:
        """Change tables of neighbours; those that go, first."""
        changes: defaultdict[str, tuple[list[Neighbour], list[Neighbour]]] = defaultdict(lambda: ([], []))
        for kind, entries in enumerate((old, new)):
            for entry in entries:
                changes[entry.space][kind].append(entry)
        for space, (gone, come) in changes.items():
            numbers = self.spaces[space].interfaces()
            with Links(self.spaces[space]) as links:
                for entry in gone:
                    links.remove_neighbour(entry, numbers[entry.port])
                for entry in come:
                    links.add_neighbour(entry, numbers[entry.port])

    @property
    def links(self) -> shaping.Links | None:
        """What makes the links, if they are not ideal."""
        return self._links

    def close(self) -> None:
        """Let the kernel take everything down; it finishes that on its own time."""
        self._owned.close()

    def _rules_of(self, space: str) -> Iterator[RuleSet]:
        return (rules for rules in _rules(self.plan) if rules.space == space)


def _rules(plan: Plan) -> tuple[RuleSet, ...]:
    """Every rule set of a plan."""
    return (*plan.rules, *(RuleSet(mapper.space, mapper.rules) for mapper in plan.port_mappers))


def _settle(wanted: Iterable[Space], spaces: Mapping[str, Namespace], *, after_rules: bool) -> None:
    """Write the sysctls that belong before, or after, the rule sets."""
    for space in wanted:
        settings = [(path, value) for path, value in space.sysctls if path.startswith(_AFTER_RULES) is after_rules]
        if settings:
            with spaces[space.name].entered():
                for path, value in settings:
                    _set(space.name, path, value)


def _set(space: str, path: str, value: str) -> None:
    try:
        Path("/proc/sys/net", path).write_text(value)
    except FileNotFoundError:
        # A kernel without IPv6 or the bridge filter has nothing to switch off; what a NAT's timeouts are is measured.
        return
    except OSError as error:
        raise KernelError(f"{space}: net/{path} = {value}: {error.strerror}") from error


def _wire(
    plan: Plan, spaces: Mapping[str, Namespace], entries: Iterable[Neighbour], plugged: Iterable[Station]
) -> None:
    """Make interfaces, give them addresses, routes and neighbours, one conversation with the kernel per space."""
    index = _Indexes(plan)
    with ExitStack() as open_links:
        links = {name: open_links.enter_context(Links(ns)) for name, ns in spaces.items()}
        macs = {(port.space, port.name): port.mac for port in plan.loose}
        for space in plan.spaces:
            links[space.name].bring_up(LOOPBACK)
            for bridge in space.bridges:
                links[space.name].add_bridge(index[space.name, bridge], bridge, macs.get((space.name, bridge)))
        for cable in plan.cables:
            links[cable.a.space].add_veth(index.end(cable.a), index.end(cable.b), spaces[cable.b.space])
        # The far ends have to be there before their own spaces speak of them.
        for space_links in links.values():
            space_links.commit()
        for cable in plan.cables:
            links[cable.b.space].bring_up(index[cable.b.space, cable.b.name])
        for space_links in links.values():
            space_links.commit()
        await_operational(spaces, index.cabled)
        # A port that is operational when it is plugged in forwards at once, and so does a bridge that has such a port
        # when it is switched on.
        for port in index.ports:
            if port.bridge is not None:
                links[port.space].plug(index[port.space, port.name], index[port.space, port.bridge])
        for space in plan.spaces:
            for bridge in space.bridges:
                links[space.name].bring_up(index[space.name, bridge])
        for port in index.ports:
            for address in port.addresses:
                links[port.space].add_address(index[port.space, port.name], address)
        for route in plan.routes:
            links[route.space].add_route(route, index[route.space, route.port])
        for policy in plan.policies:
            links[policy.space].add_policy(policy)
        for entry in entries:
            links[entry.space].add_neighbour(entry, index[entry.space, entry.port])
        for station in plugged:
            links[station.space].add_station(station, index[station.space, station.port])
        for space_links in links.values():
            space_links.commit()
    await_local(spaces, index.ports)
    for name, interfaces in index.cabled.items():
        offload.switch_off(spaces[name], interfaces)


class _Indexes:
    """The number of every interface, chosen here, so that the kernel need not be asked for any."""

    def __init__(self, plan: Plan) -> None:
        ends = [end for cable in plan.cables for end in (cable.a, cable.b)]
        self.ports = (*plan.loose, *ends)
        self.cabled: defaultdict[str, list[str]] = defaultdict(list)
        self._numbers: dict[tuple[str, str], int] = {(space.name, "lo"): LOOPBACK for space in plan.spaces}
        free = defaultdict[str, "count[int]"](lambda: count(LOOPBACK + 1))
        for space in plan.spaces:
            for bridge in space.bridges:
                self._numbers[space.name, bridge] = next(free[space.name])
        for end in ends:
            self._numbers[end.space, end.name] = next(free[end.space])
            self.cabled[end.space].append(end.name)

    def __getitem__(self, key: tuple[str, str]) -> int:
        try:
            return self._numbers[key]
        except KeyError:
            raise KernelError(f"{key[0]}: the plan has no interface {key[1]}") from None

    def end(self, port: Port) -> VethEnd:
        return VethEnd(self[port.space, port.name], port.name, port.mac, port.mtu)
