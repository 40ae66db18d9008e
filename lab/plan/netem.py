"""The same links by the kernel's own means: lines for `tc -batch`, of netem(8), and for the rate of tbf(8) or htb(8).

A qdisc shapes what leaves an interface. Towards the internet that is the neighbour's port, from it the core's:

    neighbour's port    netem(up), and in it tbf(up's rate, buffer)
    core's port         the same for down; or, where sources are in regions, htb(down's rate) with a class for each
                        distance, and in each netem(down + distance), which then holds the buffer too, in full packets;
                        nft chooses the class by the port that a packet came from (`class_rules`)

netem's jitter lets packets overtake each other, the userspace link's does not. netem takes a seed only since Linux 6.6,
and no `tc` of the distributions in use passes one: this backend does not repeat itself.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from typing import Final

from lab.model.impairment import MAX_LATENCY, MAX_MTU, MAX_RATE, Impairment, gilbert
from lab.plan.names import CORE
from lab.plan.shaping import TABLE, Shaping, Uplink

PACKETS: Final = 100_000
"that netem holds; its own default of 1000 caps rate × latency"
OVERHEAD: Final = ("stab", "overhead", "-14", "linklayer", "ethernet")
"our rates count IP packets; without this, at the root, the kernel would count their Ethernet headers too"
_BURST: Final = 3200
"bytes that go out at once, at least: two full packets"
_TICKS: Final = 250
"a second, at least, in the kernels of the distributions: a faster link has to send more at once"
_QUANTUM: Final = 3028
_ROOT, _ALL, _FIRST_CLASS = 1, 1, 10


def commands(shaping: Shaping, space: str) -> tuple[str, ...]:
    """What `tc -batch` has to be given in one space, the core or a neighbour; nothing where all is ideal."""
    lines: list[str] = []
    for link in shaping.uplinks:
        if link.space == space:
            lines += _towards_internet(link)
        elif space == CORE:
            lines += _from_internet(link, shaping)
    return tuple(lines)


def class_rules(shaping: Shaping) -> str:
    """nftables text for the core: the class of the next port's htb, by the port that a packet came from."""
    rules = []
    for link in shaping.uplinks:
        distances = _distances(link, shaping)
        classes = _classes(distances)
        rules += [
            f'    iifname "{other.name}" oifname "{link.name}" meta priority set {_ROOT:x}:{classes[seconds]:x}'
            for other, seconds in distances.items()
            if seconds
        ]
    told = "\n".join(rules)
    return f"""table inet {TABLE} {{
  chain forward {{
    type filter hook forward priority filter; policy accept;
{told}
  }}
}}
"""


def netem(impairment: Impairment, limit: int = PACKETS) -> tuple[str, ...]:
    """netem's arguments for everything but the rate."""
    told = ["netem", "limit", str(limit)]
    if impairment.latency:
        told += ["delay", _time(impairment.latency)]
        told += [_time(impairment.jitter)] if impairment.jitter else []
    if impairment.loss and impairment.loss_burst is not None:
        told += ["loss", "gemodel", *(_share(chance) for chance in gilbert(impairment.loss, impairment.loss_burst))]
    elif impairment.loss:
        told += ["loss", "random", _share(impairment.loss)]
    for name in ("duplicate", "corrupt", "reorder"):
        share = getattr(impairment, name)
        told += [name, _share(share)] if share else []
    return tuple(told)


def tbf(impairment: Impairment) -> tuple[str, ...]:
    """tbf's arguments for the rate and its buffer."""
    assert impairment.rate is not None
    return (
        "tbf",
        "rate",
        f"{impairment.rate}bit",
        "burst",
        str(_burst(impairment.rate)),
        "limit",
        str(impairment.queue),
    )


def _towards_internet(link: Uplink) -> list[str]:
    return [] if link.up.does_nothing else _pair(link.far, link.up)


def _pair(port: str, impairment: Impairment) -> list[str]:
    """netem, and in it tbf if there is a rate."""
    root, told = f"qdisc replace dev {port} root handle 1:", " ".join(netem(impairment))
    if impairment.rate is None:
        return [f"{root} {told}"]
    return [
        f"{root} {' '.join(OVERHEAD)} {told}",
        f"qdisc add dev {port} parent 1:1 handle 2: {' '.join(tbf(impairment))}",
    ]


def _from_internet(link: Uplink, shaping: Shaping) -> list[str]:
    distances = _distances(link, shaping)
    if any(distances.values()):
        return _by_distance(link, distances)
    return [] if link.down.does_nothing else _pair(link.name, link.down)


def _by_distance(link: Uplink, distances: dict[Uplink, float]) -> list[str]:
    """A class for each distance that packets come from; those from nowhere in particular are in the first."""
    classes = _classes(distances)
    device, rate = f"dev {link.name}", link.down.rate or MAX_RATE
    stab = f"{' '.join(OVERHEAD)} " if link.down.rate else ""
    bound = f"htb rate {rate}bit ceil {rate}bit burst {_burst(rate)} cburst {_burst(rate)} quantum {_QUANTUM}"
    lines = [
        f"qdisc replace {device} root handle {_ROOT}: {stab}htb default {classes[0.0]:x}",
        f"class add {device} parent {_ROOT}: classid {_ROOT}:{_ALL} {bound}",
    ]
    for seconds, number in classes.items():
        away = replace(link.down, latency=min(link.down.latency + seconds, MAX_LATENCY))
        lines += [
            f"class add {device} parent {_ROOT}:{_ALL} classid {_ROOT}:{number:x} {bound}",
            f"qdisc add {device} parent {_ROOT}:{number:x} handle {number:x}: {' '.join(netem(away, _limit(away)))}",
        ]
    return lines


def _distances(link: Uplink, shaping: Shaping) -> dict[Uplink, float]:
    return {other: shaping.distance(other, link) for other in shaping.uplinks if other.name != link.name}


def _classes(distances: dict[Uplink, float]) -> dict[float, int]:
    """The number of each distance's class; the first is for no distance."""
    return {seconds: number for number, seconds in enumerate(sorted({0.0, *distances.values()}), _FIRST_CLASS)}


def _limit(impairment: Impairment) -> int:
    """Full packets in flight and in the buffer, where netem has to hold both."""
    if impairment.rate is None:
        return PACKETS
    held = impairment.rate / 8 * (impairment.latency + impairment.jitter) + impairment.queue
    return ceil(held / MAX_MTU) + 1


def _burst(rate: int) -> int:
    return max(_BURST, rate // 8 // _TICKS)


def _time(seconds: float) -> str:
    return f"{round(seconds * 1e6)}us"


def _share(share: float) -> str:
    return f"{share * 100:.6f}".rstrip("0").rstrip(".") + "%"
