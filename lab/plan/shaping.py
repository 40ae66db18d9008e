"""Which links are shaped and how: the values, and the rules that bring packets to the userspace link.

Shaping happens where the internet is, in the core, once for each packet that it forwards:

    from its source's port → up of that uplink → distance of the two regions → down of the other uplink → out

The core translates nothing and so tracks no flows: the hook is `forward`, where both ports are known, and a packet that
waits there cannot upset a conntrack entry (in a NAT it could, before the entry is confirmed). The vantages from which
NATs are probed are the core's own addresses, and what goes to or from them is not forwarded.

A cable in a private network is shaped by itself, halfway between its ends (`lab.plan.midway`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_network
from typing import Final

from lab.model.impairment import IDEAL, Impairment

TABLE: Final = "punchlab_link"
PMTU_TABLE: Final = "punchlab_pmtu"
MIDWAY: Final = ".midway"
"the space that shaped cables pass through; no router or peer can be called so"
FIRST_QUEUE: Final = 1
"number of the first uplink's queue; one for each uplink, in order"


@dataclass(frozen=True, slots=True)
class Uplink:
    """A neighbour of the core and what its link does."""

    name: str
    "the neighbour's, and of the core's port towards it"
    space: str
    far: str
    "its own port towards the core"
    networks: tuple[str, ...]
    "addresses that are reached by it, `11.0.1.0/24`"
    up: Impairment = IDEAL
    down: Impairment = IDEAL
    region: str | None = None


@dataclass(frozen=True, slots=True)
class CableLink:
    """A cable between a router's LAN and who is plugged into it, and what its link does."""

    name: str
    "of the peer or router that is plugged in"
    space: str
    port: str
    "its own end"
    up: Impairment = IDEAL
    "towards the LAN"
    down: Impairment = IDEAL


@dataclass(frozen=True, slots=True)
class Distance:
    """Seconds, one way, from a region to another or within one."""

    here: str
    there: str
    latency: float


@dataclass(frozen=True, slots=True)
class Shaping:
    """All links of a plan. Same shaping and same packets in the same order, same fate of each."""

    seed: int = 0
    uplinks: tuple[Uplink, ...] = ()
    "every neighbour of the core, ideal ones too: their links may change while a scenario runs"
    distances: tuple[Distance, ...] = ()
    cables: tuple[CableLink, ...] = ()
    "those in private networks that were given a link; the others are ideal for good"

    @property
    def ideal(self) -> bool:
        """Whether nothing is asked for."""
        return self.ideal_internet and self.ideal_cables

    @property
    def ideal_internet(self) -> bool:
        """Whether nothing is asked for of uplinks and distances."""
        return not (self.sources or self.targets)

    @property
    def ideal_cables(self) -> bool:
        """Whether nothing is asked for of cables in private networks."""
        return all(link.up.does_nothing and link.down.does_nothing for link in self.cables)

    @property
    def owners(self) -> tuple[str, ...]:
        """Whoever has a link that can change: neighbours of the core, and those whose cable was given one."""
        return (*(link.name for link in self.uplinks), *(link.name for link in self.cables))

    @property
    def sources(self) -> tuple[str, ...]:
        """The uplinks all of whose packets towards the internet are looked at."""
        far = {distance.here for distance in self.distances}
        return tuple(link.name for link in self.uplinks if not link.up.does_nothing or link.region in far)

    @property
    def targets(self) -> tuple[str, ...]:
        """The uplinks whose packets from the internet are looked at, whoever sent them."""
        return tuple(link.name for link in self.uplinks if not link.down.does_nothing)

    def uplink(self, name: str) -> Uplink:
        """The uplink of that neighbour; KeyError if there is none."""
        for link in self.uplinks:
            if link.name == name:
                return link
        raise KeyError(name)

    def distance(self, here: Uplink, there: Uplink) -> float:
        """Seconds that the internet takes from one uplink to another."""
        pair = (here.region, there.region)
        return next((each.latency for each in self.distances if (each.here, each.there) == pair), 0.0)

    def changed(self, name: str, up: Impairment, down: Impairment) -> Shaping:
        """The same with another link for one owner of a link; KeyError if it has none."""
        if any(link.name == name for link in self.cables):
            cables = (replace(link, up=up, down=down) if link.name == name else link for link in self.cables)
            return replace(self, cables=tuple(cables))
        changed = replace(self.uplink(name), up=up, down=down)
        return replace(self, uplinks=tuple(changed if link.name == name else link for link in self.uplinks))

    def placed(self, networks: Mapping[str, tuple[str, ...]]) -> Shaping:
        """The same with these networks for the neighbours named."""
        return replace(
            self,
            uplinks=tuple(replace(link, networks=networks.get(link.name, link.networks)) for link in self.uplinks),
        )


NOT_SHAPED: Final = Shaping()


def near_port(number: int) -> str:
    """Halfway along the shaped cable of that number: the port towards the LAN."""
    return f"n{number}"


def far_port(number: int) -> str:
    """Halfway along the shaped cable of that number: the port towards who is plugged in."""
    return f"f{number}"


def mid_bridge(number: int) -> str:
    """The bridge between the two."""
    return f"b{number}"


def queue_number(position: int) -> int:
    """The number of the queue of the uplink at that position."""
    return FIRST_QUEUE + position


def queue_chain(position: int) -> str:
    """The chain that ends in the queue of the uplink at that position."""
    return f"queue_{queue_number(position)}"


def link_rules(shaping: Shaping) -> str:
    """nftables text: who is looked at, and a chain for each queue, still empty (`lab.kernel.nfqueue` fills them)."""
    positions = range(len(shaping.uplinks))
    chains = "\n".join(f"  chain {queue_chain(position)} {{ }}" for position in positions)
    ports = ", ".join(f'"{link.name}" : goto {queue_chain(n)}' for n, link in enumerate(shaping.uplinks))
    return f"""table inet {TABLE} {{
  set sources {{ type ifname; {_elements(shaping.sources)}}}
  set targets {{ type ifname; {_elements(shaping.targets)}}}
{chains}
  map queues {{ type ifname : verdict; elements = {{ {ports} }}; }}
  chain look {{ iifname vmap @queues; }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname @sources goto look
    oifname @targets goto look
  }}
}}
"""


def membership_rules(shaping: Shaping) -> str:
    """nftables commands that change who is looked at and let go of no packet that waits."""
    commands = []
    for name, members in (("sources", shaping.sources), ("targets", shaping.targets)):
        commands.append(f"flush set inet {TABLE} {name}")
        if members:
            commands.append(f"add element inet {TABLE} {name} {{ {_quoted(members)} }}")
    return "\n".join(commands) + "\n"


def black_hole_at_router() -> str:
    """Rules by which a router keeps to itself that a packet was too large (RFC 1191 §3, RFC 8201 §3)."""
    return f"""table inet {PMTU_TABLE} {{
  chain output {{
    type filter hook output priority filter; policy accept;
    icmp type destination-unreachable icmp code frag-needed drop
    icmpv6 type packet-too-big drop
  }}
}}
"""


def black_hole_in_core(networks: tuple[str, ...]) -> str:
    """The same in the core, about packets that were too large for the links of these networks, `11.0.1.0/24`."""
    drops = "\n".join(f"    {_about(network)} drop" for network in networks)
    return f"""table inet {PMTU_TABLE} {{
  chain output {{
    type filter hook output priority filter; policy accept;
{drops}
  }}
}}
"""


def _about(network: str) -> str:
    """A match of the ICMP error about a packet to that network, which follows the 8 bytes of the ICMP header."""
    prefix = ip_network(network)
    bits = f"{prefix.prefixlen} {int(prefix.network_address) >> prefix.max_prefixlen - prefix.prefixlen:#x}"
    if prefix.version == 4:
        return f"icmp type destination-unreachable icmp code frag-needed @th,{(8 + 16) * 8},{bits}"
    return f"icmpv6 type packet-too-big @th,{(8 + 24) * 8},{bits}"


def _elements(names: tuple[str, ...]) -> str:
    return f"elements = {{ {_quoted(names)} }}; " if names else ""


def _quoted(names: tuple[str, ...]) -> str:
    return ", ".join(f'"{name}"' for name in names)
