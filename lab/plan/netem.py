"""The same links by the kernel's own means: lines for `tc -batch`, of netem(8), tbf(8) and prio(8).

A qdisc shapes what leaves an interface. Towards the internet that is the neighbour's port, from it the core's; a cable
in a private network has two ports halfway along it. Each gets the same tree:

    prio ─┬─ 1:1   what finds neighbours (ARP, RFC 4861), which no link delays or loses
          └─ 1:2   netem: loss, duplicates, corruption, latency, reordering ── tbf: the rate and its buffer

The distance of two regions lies between two such trees. Each distance is a device of its own in the core, an ifb with
nothing but a delay: nft marks what has to travel it by the two ports, and a filter takes it there before it comes to
the port's tree, and only once. One netem for both would not do: it would need classes, one for each distance, and
several netems below one root share no buffer and may not duplicate (since Linux 6.16, and what it was brought to).

All of a tree is told again when a link changes: the kernel then changes it where it stands, and what is under way
keeps its time. netem remembers a rate and a corruption that it is not told of, so it is always told both.

netem puts packets on the wire in the order of the times that it gave them. With a rate of its own no packet is earlier
than the one before, which is what jitter means here; one so high that it adds nothing is told for that.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from lab.model.impairment import IDEAL, MAX_MTU, Impairment, gilbert
from lab.plan.names import CORE
from lab.plan.shaping import MIDWAY, NOT_SHAPED, TABLE, Shaping, far_port, near_port

PACKETS: Final = 100_000
"that netem holds; its own default of 1000 caps rate × latency"
IN_ORDER: Final = "100gbit"
_OVERHEAD: Final = "stab overhead -14 linklayer ethernet"
"our rates count IP packets; without this, at the root, the kernel would count their Ethernet headers too"
_TICKS: Final = 250
"parts of a second in which a busy machine may wake up late and the rate still be kept"
_BAND: Final = "1 " * 16
"of each of Linux's 16 priorities: the second"
_NEIGHBOURS: Final = (
    "protocol arp prio 1 handle 1 flower",
    "protocol ipv6 prio 2 handle 1 flower ip_proto icmpv6 type 135",
    "protocol ipv6 prio 2 handle 2 flower ip_proto icmpv6 type 136",
)


def commands(shaping: Shaping, space: str, before: Shaping = NOT_SHAPED) -> tuple[str, ...]:
    """What `tc -batch` has to be given in one space, the core, a neighbour, halfway, for `before` to become `shaping`.

    Nothing where nothing changes.
    """
    was = dict(_ways(before, space))
    lines: list[str] = []
    for port, impairment in _ways(shaping, space):
        if impairment != was.get(port, IDEAL):
            lines += tree(port, impairment, was.get(port, IDEAL))
    if space == CORE and before.distances != shaping.distances:
        lines += _distances(shaping)
    return tuple(lines)


def distance_devices(shaping: Shaping) -> tuple[str, ...]:
    """The devices of the core that hold packets for a distance, in the order of their marks, which begin with 1."""
    return tuple(_device(mark) for mark in _marks(shaping).values())


def distance_rules(shaping: Shaping) -> str:
    """nftables text for the core: packets are marked with the distance between the ports they come and leave by."""
    marks = _marks(shaping)
    pairs = [
        f'"{here.name}" . "{there.name}" : {marks[seconds]}'
        for here in shaping.uplinks
        for there in shaping.uplinks
        if here.name != there.name and (seconds := shaping.distance(here, there))
    ]
    return f"""table inet {TABLE} {{
  map distances {{ type ifname . ifname : mark; elements = {{ {", ".join(pairs)} }}; }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    meta mark set iifname . oifname map @distances
  }}
}}
"""


def tree(port: str, impairment: Impairment, before: Impairment = IDEAL) -> list[str]:
    """The tree of a port that was that of `before`."""
    lines = [
        f"qdisc replace dev {port} root handle 1: {_OVERHEAD} prio bands 2 priomap {_BAND.strip()}",
        *(f"filter replace dev {port} parent 1: {match} classid 1:1" for match in _NEIGHBOURS),
        f"qdisc replace dev {port} parent 1:2 handle 2: {' '.join(netem(impairment))}",
    ]
    if impairment.rate is not None:
        lines.append(f"qdisc replace dev {port} parent 2:1 handle 3: {' '.join(tbf(impairment))}")
    elif before.rate is not None:
        lines.append(f"qdisc del dev {port} parent 2:1")
    return lines


def detour(port: str, mark: int, device: str) -> str:
    """Have packets with that mark go by a device before they come to a port's tree."""
    action = f"action mirred egress redirect dev {device}"
    return f"filter replace dev {port} egress protocol all prio 1 handle {mark} fw {action}"


def netem(impairment: Impairment) -> tuple[str, ...]:
    """netem's arguments for everything but the rate."""
    told = ["netem", "limit", str(PACKETS), "delay", _time(impairment.latency)]
    told += [_time(impairment.jitter)] if impairment.jitter else []
    if impairment.loss and impairment.loss_burst is not None:
        told += ["loss", "gemodel", *(_share(chance) for chance in gilbert(impairment.loss, impairment.loss_burst))]
    elif impairment.loss:
        told += ["loss", "random", _share(impairment.loss)]
    told += ["duplicate", _share(impairment.duplicate)] if impairment.duplicate else []
    told += ["reorder", _share(impairment.reorder)] if impairment.reorder else []
    return (*told, "corrupt", _share(impairment.corrupt), "rate", IN_ORDER if impairment.jitter else "0bit")


def tbf(impairment: Impairment) -> tuple[str, ...]:
    """tbf's arguments for the rate and its buffer."""
    assert impairment.rate is not None
    burst = MAX_MTU + impairment.rate // 8 // _TICKS
    return ("tbf", "rate", f"{impairment.rate}bit", "burst", str(burst), "limit", str(impairment.queue))


def _ways(shaping: Shaping, space: str) -> Iterator[tuple[str, Impairment]]:
    """The ports of a space that links leave by, and what they do there."""
    if space == MIDWAY:
        for number, cable in enumerate(shaping.cables):
            yield near_port(number), cable.up
            yield far_port(number), cable.down
    for link in shaping.uplinks:
        if link.space == space:
            yield link.far, link.up
        elif space == CORE:
            yield link.name, link.down


def _distances(shaping: Shaping) -> Iterator[str]:
    """The core's devices for distances, and the ports whose packets may come from afar."""
    marks = _marks(shaping)
    for seconds, mark in marks.items():
        yield f"qdisc replace dev {_device(mark)} root handle 1: netem limit {PACKETS} delay {_time(seconds)}"
    for there in shaping.uplinks:
        away = {shaping.distance(here, there) for here in shaping.uplinks if here.name != there.name} - {0.0}
        if away:
            yield f"qdisc replace dev {there.name} clsact"
        for seconds in sorted(away):
            yield detour(there.name, marks[seconds], _device(marks[seconds]))


def _marks(shaping: Shaping) -> dict[float, int]:
    """The mark of what has so many seconds to go between two regions."""
    seconds = sorted({distance.latency for distance in shaping.distances} - {0.0})
    return {each: mark for mark, each in enumerate(seconds, 1)}


def _device(mark: int) -> str:
    """No neighbour is called so, for names have no dots."""
    return f"away.{mark}"


def _time(seconds: float) -> str:
    return f"{round(seconds * 1e6)}us"


def _share(share: float) -> str:
    return f"{share * 100:.6f}".rstrip("0").rstrip(".") + "%"
