"""A NAT's value as nftables text: every mapping × filtering × ports × hairpinning, over IPv4 and IPv6 alike.

State, per protocol P and public address, all of it with the mapping's lifetime (`lab.plan.mappings`):

    out_P    inner endpoint [. remote address [. remote port]] → external port; its key is the mapping behaviour
    in_P     external port → inner endpoint
    used_P   external ports that somebody owns
    perm_P   external port . remote address [. remote port]: who may send to it; absent if everybody may
    kept_P   external ports whose mapping lives long; absent if there is one lifetime
    clash_P  keys whose hashed port has another owner; absent if ports are not hashed

and the hooks, in the order in which packets meet them (conntrack's own look-up is at prerouting -200, so packets of a
known flow are translated without seeing the nat chains):

    prerouting  -150  invalid packets go
    prerouting  -100  nat: a new flow from outside is translated if in_P knows the port and perm_P the sender
    input          0  what was not translated is dropped, or refused if the NAT is one that does
    forward        0  nobody routes straight into the LAN
    postrouting  100  nat: a new flow from inside gets the port that out_P has for it, or draws one
    postrouting  110  the packet is translated: its mapping and its permission are recorded or refreshed

Recording after the translation is what makes every combination possible: the port is the one that was really given.

Why the rest is as it is:

* Input drops (or refuses) at this very hook: a dropped packet's conntrack entry is never confirmed. Otherwise a packet
  that comes before the mapping exists takes the very tuple that the mapping is about to need, and the kernel gives it
  another port; for TCP the router's own RST would end the other side's attempt.
* `snat to X : port` with one port skips the kernel's uniqueness test. It never gives another port in silence, but two
  owners of one port would be a dropped packet; `used_P` sees to it that there is one. A fresh draw (mark 1) that hits
  an owned port is dropped and the sender's retransmission draws again.
* `snat to X : 1024-65535` without `fully-random` would be endpoint-independent: the kernel looks for a known source.
* Both interfaces are matched, or the router's own RSTs and ICMP errors would make mappings.
* `ct … proto-src` has no type in a rule that does not say `meta l4proto udp` or `tcp`.
* The sequential pool is a map: `numgen … offset` gives byte-swapped ports (nft 1.0.6) or is refused (1.1.3). So
  are the slots of a hash, and their key is called numgen's: nft 1.0.6 dies when it lists a map of `typeof jhash`.
* A hash that comes to an owned port does so again: that packet is dropped like any clash, and the key noted, so that
  the retransmission draws from all ports.
* A NAT with several addresses chooses one by a verdict map, and from there on is a NAT with that address.
* What records into a map comes last in its chain: the kernel's side writes these statements of IPv6 by itself
  (`lab.kernel.map_updates`), because nft 1.0.6 aborts on them.
* Sets of 4096 are allocated in 3 ms; 65535 would take 57 ms and 16 MiB a NAT.
* A packet into the LAN by hairpin is checked at 110, where its sender's external port is known, and its own permission
  has been recorded even if it is dropped, so that two hosts of one LAN can punch towards each other.
"""

from __future__ import annotations

import random
from typing import Final

from lab.errors import TopologyError
from lab.model.nat import ICMP_TIMEOUT, Hairpinning, Nat, Pooling, Ports, Unsolicited
from lab.plan.family import IPV4, family_of
from lab.plan.mappings import ANY_PORT, POOL, SLOTS, Lifetimes, Mappings, Queries, Rules, chain
from lab.plan.names import LAN, PORT_MAPPED, TABLE, WAN
from lab.plan.static import one_to_one

POOL_BASES: Final = range(20000, 32768 - POOL)
"where a run of ports may start: below those that systems give to sockets (32768 and up), which would be met by chance"
HASHED_PORTS: Final = range(ANY_PORT.start, ANY_PORT.start + 15 * SLOTS, 15)
"spread, so that a hash is not taken for a block"

_FOREIGN: Final = tuple(
    f"iifname {here} oifname {there} ct mark & {PORT_MAPPED:#x} != 0 accept" for here, there in ((WAN, LAN), (LAN, WAN))
)
"flows by a port map, which are IPv4, are not the NAT's: what they made would outlive the lease"


def ruleset(nat: Nat, publics: tuple[str, ...], subscribers: tuple[str, ...], seed: str) -> str:
    """The whole table, for a router with these external and these inner addresses; chance depends on the seed alone.

    Raises `TopologyError` where there are more subscribers than blocks of ports.
    """
    if nat.one_to_one:
        lines = one_to_one(nat, publics, subscribers)
    else:
        lines = _translating(nat, publics, subscribers, random.Random(seed))
    lines += chain("input", "filter hook input priority 0", _closed(nat, publics))
    routed = f"iifname {WAN} ct state new ct status & dnat == 0 drop"
    lines += chain("forward", "filter hook forward priority 0", [routed])
    return "\n".join([f"table {family_of(publics[0]).ip} {TABLE} {{", *(f"  {line}" for line in lines), "}", ""])


def public_addresses(nat: Nat, hosts: int) -> int:
    """How many external addresses a router with so many inner hosts has."""
    return max(hosts, 1) if nat.one_to_one else nat.public_addresses


def _translating(nat: Nat, publics: tuple[str, ...], subscribers: tuple[str, ...], chance: random.Random) -> list[str]:
    pool_base, seed = chance.choice(POOL_BASES), chance.getrandbits(31)
    protocols = {
        "udp": _each(nat, "udp", Lifetimes(round(nat.udp_new_timeout), round(nat.udp_timeout)), publics, seed),
        "tcp": _each(nat, "tcp", Lifetimes(round(nat.tcp_transitory_timeout), round(nat.tcp_timeout)), publics, seed),
        "icmp": _queries(nat, publics, seed),
    }
    every = [rules for each in protocols.values() for rules in each]
    lines = [*_tables(nat, pool_base), *(line for rules in every for line in rules.state())]
    lines += chain("prefilter", "filter hook prerouting priority -150", ["ct state invalid drop"])
    lines += chain("dstnat", "nat hook prerouting priority dstnat", [r for rules in every for r in rules.inbound()])
    outbound = [line for proto in protocols for line in _outbound(nat, proto, publics)]
    outbound.append(f"iifname {LAN} oifname {WAN} snat to {publics[0]}")
    lines += chain("srcnat", "nat hook postrouting priority srcnat", outbound)
    records = [*(r for rules in every for r in rules.record()), *(r for rules in every for r in rules.check())]
    foreign = _FOREIGN if family_of(publics[0]) is IPV4 else ()
    lines += chain("record", "filter hook postrouting priority 110", [*foreign, *records])
    for proto, each in protocols.items():
        lines += _alloc(nat, proto, each, publics, subscribers)
        lines += [line for rules in each for line in rules.chains()]
    return lines


def _each(nat: Nat, proto: str, life: Lifetimes, publics: tuple[str, ...], seed: int) -> list[Rules]:
    return [Mappings(nat, proto, life, wan, tag, seed) for wan, tag in _tags(proto, publics)]


def _queries(nat: Nat, publics: tuple[str, ...], seed: int) -> list[Rules]:
    return [Queries(nat, round(ICMP_TIMEOUT), wan, tag, seed) for wan, tag in _tags("icmp", publics)]


def _tags(proto: str, publics: tuple[str, ...]) -> list[tuple[str, str]]:
    if len(publics) == 1:
        return [(publics[0], proto)]
    return [(wan, f"{proto}_{index}") for index, wan in enumerate(publics)]


def _outbound(nat: Nat, proto: str, publics: tuple[str, ...]) -> list[str]:
    """Which new flows get a port."""
    family = family_of(publics[0])
    if proto == "icmp":
        return [f"iifname {LAN} oifname {WAN} {family.icmp} type echo-request goto alloc_icmp"]
    lines = [f"iifname {LAN} oifname {WAN} meta l4proto {proto} goto alloc_{proto}"]
    if nat.hairpin is Hairpinning.EXTERNAL_SOURCE:
        turned = f"ct original {family.ip} daddr {_any_of(publics)}"
        lines.append(f"iifname {LAN} oifname {LAN} {turned} meta l4proto {proto} goto alloc_{proto}")
    return lines


def _alloc(
    nat: Nat, proto: str, each: list[Rules], publics: tuple[str, ...], subscribers: tuple[str, ...]
) -> list[str]:
    """The known port of the mapping, or a new one, marked as freshly drawn, at the address that pooling gives."""
    known = [*(line for rules in each for line in rules.known()), "meta mark set 0x1"]
    if nat.ports is Ports.BLOCK:
        return _from_blocks(nat, proto, known, publics, subscribers)
    if len(each) == 1:
        return chain(f"alloc_{proto}", None, [*known, *each[0].draw()])
    chosen = [f"goto draw_{rules.tag}" for rules in each]
    if nat.pooling is Pooling.ARBITRARY:
        elements = ", ".join(f"{index} : {verdict}" for index, verdict in enumerate(chosen))
        known.append(f"numgen inc mod {len(each)} vmap {{ {elements} }}")
    else:
        pairs = (f"{host} : {chosen[index % len(each)]}" for index, host in enumerate(subscribers))
        known += [f"{family_of(publics[0]).ip} saddr vmap {{ {', '.join(pairs)} }}"] if subscribers else []
        known.append(chosen[0])
    # A chain has to be there before another one goes to it.
    lines = [line for rules in each for line in chain(f"draw_{rules.tag}", None, rules.draw())]
    return lines + chain(f"alloc_{proto}", None, known)


def _tables(nat: Nat, base: int) -> list[str]:
    """The constant maps that new ports are taken from."""
    match nat.ports:
        case Ports.SEQUENTIAL | Ports.PRESERVING_THEN_SEQUENTIAL:
            return [_numbered("pool", POOL, range(base, base + POOL))]
        case Ports.HASHED:
            return [_numbered("slots", SLOTS, HASHED_PORTS)]
        case _:
            return []


def _numbered(name: str, count: int, ports: range) -> str:
    elements = ", ".join(f"{index} : {port}" for index, port in enumerate(ports))
    return f"map {name} {{ typeof numgen inc mod {count} : udp sport; elements = {{ {elements} }}; }}"


def _from_blocks(
    nat: Nat, proto: str, known: list[str], publics: tuple[str, ...], subscribers: tuple[str, ...]
) -> list[str]:
    """A chain for each subscriber's block, as RFC 7422 gives them out.

    Whoever came to the LAN after the blocks were given out shares the last one. A map of blocks would do for IPv4; for
    IPv6 the kernel does not take one whose data are ranges.
    """
    size, each, family = nat.block_size, len(ANY_PORT) // nat.block_size, family_of(publics[0])
    if len(subscribers) >= each * len(publics):
        raise TopologyError(
            f"{len(subscribers)} subscribers; allowed: {each * len(publics) - 1}, for there are {each} blocks of {size}"
            f" ports on {len(publics)} public addresses, one of them for latecomers"
        )
    when = f"meta l4proto {family.icmp_proto if proto == 'icmp' else proto}"

    def within(public: str, block: int) -> str:
        first = ANY_PORT.start + block * size
        return f"{when} snat to {public} : {first}-{first + size - 1} fully-random"

    lines: list[str] = []
    for index, _ in enumerate(subscribers):
        rule = within(publics[index % len(publics)], index // len(publics))
        lines += chain(f"block_{proto}_{index}", None, [rule])
    whose = ", ".join(f"{subscriber} : goto block_{proto}_{index}" for index, subscriber in enumerate(subscribers))
    rules = [f"{family.ip} saddr vmap {{ {whose} }}"] if subscribers else []
    return [*lines, *chain(f"alloc_{proto}", None, [*known, *rules, within(publics[-1], each - 1)])]


def _closed(nat: Nat, publics: tuple[str, ...]) -> list[str]:
    """What happens to packets that were not translated inward."""
    family = family_of(publics[0])
    refusal = {
        Unsolicited.DROP: [],
        Unsolicited.RESET: ["meta l4proto tcp reject with tcp reset"],
        Unsolicited.ICMP: [f"meta l4proto {{ udp, tcp }} reject with {family.icmp} port-unreachable"],
    }[nat.unsolicited]
    ways = (f"iifname {WAN}", f"iifname {LAN} {family.ip} daddr {_any_of(publics)}")
    return [f"{way} {rule}" for way in ways for rule in (*refusal, "meta l4proto { udp, tcp } drop")]


def _any_of(publics: tuple[str, ...]) -> str:
    return publics[0] if len(publics) == 1 else f"{{ {', '.join(publics)} }}"
