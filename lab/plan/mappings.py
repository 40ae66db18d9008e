"""The rules of one protocol at one external address: its state, and what each hook does with it.

A NAT with several public addresses has one `Mappings` for each, told apart by the `tag` of their sets and chains; ICMP
queries (`Queries`) have identifiers where UDP and TCP have ports (RFC 5508 §3), no port at the remote end, and nothing
that comes in by itself.

Two lifetimes make two tiers. Conntrack knows which of them a packet's flow is in, and tells it by the flow's remaining
time, which the packet has just renewed:

    ct expiration above the middle of both    the mapping is kept: kept_P gets its port
    FIN or RST                                it no longer is
    port in kept_P                            what is recorded lives long, otherwise short

so a mapping lives long as long as one flow over it does, and a short-lived flow cannot cut it off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from lab.model.nat import Filtering, Hairpinning, Mapping, Nat, Ports
from lab.plan.family import IPV6, Family, family_of
from lab.plan.names import LAN, WAN

MAPPINGS: Final = 4096
"mappings a protocol and address; further ones are not recorded"
PERMISSIONS: Final = 8192
POOL: Final = 1024
"ports that a sequential NAT goes through before it starts again"
SLOTS: Final = 4096
"ports that a hash can come to, spread over all"
ANY_PORT: Final = range(1024, 65536)
MARKS: Final = (1 << 32) - 1
"values of a mark that a hash can come to"


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """Seconds that a mapping lives: short until its flow is assured or established, long from then on."""

    short: int
    long: int

    @property
    def apart(self) -> bool:
        return self.short != self.long

    @property
    def middle(self) -> str:
        return f"{(self.short + self.long) * 500}ms"


class Rules(Protocol):
    """What each hook of a NAT's table wants to know of one protocol at one external address."""

    @property
    def tag(self) -> str: ...

    def state(self) -> list[str]:
        """Maps and sets."""

    def inbound(self) -> list[str]:
        """prerouting, nat: a new flow to the external address."""

    def known(self) -> list[str]:
        """postrouting, nat: the port that a mapping has."""

    def draw(self) -> list[str]:
        """postrouting, nat: a port for a new mapping."""

    def record(self) -> list[str]:
        """postrouting after nat: which packets make or refresh a mapping."""

    def check(self) -> list[str]:
        """postrouting after all records: which hairpinned packets go no further."""

    def chains(self) -> list[str]:
        """What the rules above jump to."""


def chain(name: str, hook: str | None, rules: list[str]) -> list[str]:
    """A chain's lines; a base chain with a hook accepts what no rule decides."""
    head = [f"  type {hook}; policy accept;"] if hook else []
    return [f"chain {name} {{", *head, *(f"  {rule}" for rule in rules), "}"]


def draws(nat: Nat, when: str, wan: str, tag: str, own: str, near: str, far: str, seed: int) -> list[str]:
    """How a fresh external port is chosen; `own` is the inner port, `near` and `far` what the mapping is known by."""
    keep = f"{when} {own} != @used_{tag} snat to {wan} : {own}"
    any_port = f"{when} snat to {wan} : {ANY_PORT.start}-{ANY_PORT.stop - 1} fully-random"
    following = f"{when} snat to {wan} : numgen inc mod {POOL} map @pool"
    match nat.ports:
        case Ports.PRESERVING:
            return [keep, any_port]
        case Ports.PRESERVING_THEN_SEQUENTIAL:
            return [keep, following]
        case Ports.SEQUENTIAL:
            return [following]
        case Ports.RANDOM:
            return [any_port]
        case Ports.HASHED:
            lines, hashed = [], near + far
            if far and family_of(wan) is IPV6:
                # Two endpoints of IPv6 and what else the rule needs are more than nft 1.0.6 has registers for.
                lines.append(f"{when} ct mark set jhash {far.removeprefix(' . ')} mod {MARKS} seed {seed:#x}")
                hashed = f"{near} . ct mark"
            slot = f"jhash {hashed} mod {SLOTS} seed {seed:#x} map @slots"
            return [*lines, f"{when} {near}{far} != @clash_{tag} snat to {wan} : {slot}", any_port]
        case Ports.BLOCK:
            return []  # who the subscriber is decides that, ahead of this


@dataclass(frozen=True, slots=True)
class Mappings:
    """UDP's or TCP's rules."""

    nat: Nat
    proto: str
    life: Lifetimes
    wan: str
    tag: str
    seed: int

    @property
    def when(self) -> str:
        return f"meta l4proto {self.proto}"

    @property
    def family(self) -> Family:
        return family_of(self.wan)

    @property
    def permissions(self) -> str | None:
        """The type of perm_P's elements; None if everybody may send."""
        match self.nat.filtering:
            case Filtering.ENDPOINT_INDEPENDENT:
                return None
            case Filtering.ADDRESS_DEPENDENT:
                return f"inet_service . {self.family.address}"
            case Filtering.ADDRESS_AND_PORT_DEPENDENT:
                return f"inet_service . {self.family.address} . inet_service"

    def remote(self, address: str, port: str) -> str:
        """The remote part of out_P's key."""
        match self.nat.mapping:
            case Mapping.ENDPOINT_INDEPENDENT:
                return ""
            case Mapping.ADDRESS_DEPENDENT:
                return f" . {address}"
            case Mapping.ADDRESS_AND_PORT_DEPENDENT:
                return f" . {address} . {port}"

    def permitted(self, owned: str, address: str, port: str) -> str:
        """An element of perm_P: at `owned`, that remote endpoint may send."""
        with_port = f" . {port}" if self.nat.filtering is Filtering.ADDRESS_AND_PORT_DEPENDENT else ""
        return f"{owned} . {address}{with_port}"

    def state(self) -> list[str]:
        tag, life = self.tag, f"flags dynamic,timeout; timeout {self.life.short}s"
        inner = _inner_type(self.family)
        out_key = inner + self.remote(self.family.address, "inet_service")
        lines = [
            f"map out_{tag} {{ type {out_key} : inet_service; {life}; size {MAPPINGS}; }}",
            f"map in_{tag} {{ type inet_service : {inner}; {life}; size {MAPPINGS}; }}",
            f"set used_{tag} {{ type inet_service; {life}; size {MAPPINGS}; }}",
        ]
        if self.permissions:
            lines.append(f"set perm_{tag} {{ type {self.permissions}; {life}; size {PERMISSIONS}; }}")
        if self.nat.ports is Ports.HASHED:
            lines.append(f"set clash_{tag} {{ type {out_key}; {life}; size {MAPPINGS}; }}")
        if self.life.apart:
            kept = f"flags dynamic,timeout; timeout {self.life.long}s"
            lines.append(f"set kept_{tag} {{ type inet_service; {kept}; size {MAPPINGS}; }}")
        return lines

    def inbound(self) -> list[str]:
        p, ip = self.proto, self.family.ip
        first = "tcp flags & (syn|ack|rst|fin) == syn " if p == "tcp" else ""
        to = f"dnat {ip} to {p} dport map @in_{self.tag}"
        asked = self.permitted(f"{p} dport", f"{ip} saddr", f"{p} sport")
        check = f"{asked} @perm_{self.tag} " if self.permissions else ""
        lines = [f"iifname {WAN} {ip} daddr {self.wan} {first}{self.when} {check}{to}"]
        if self.nat.hairpin:
            lines.append(f"iifname {LAN} {ip} daddr {self.wan} {first}{self.when} {to}")
        return lines

    def known(self) -> list[str]:
        return [f"{self.when} snat to {self.wan} : {''.join(self._key)} map @out_{self.tag}"]

    def draw(self) -> list[str]:
        return draws(self.nat, self.when, self.wan, self.tag, f"{self.proto} sport", *self._key, self.seed)

    def record(self) -> list[str]:
        ip = self.family.ip
        lines = [f"iifname {LAN} oifname {WAN} {self.when} {ip} saddr {self.wan} jump rec_{self.tag}"]
        if self.nat.hairpin is Hairpinning.EXTERNAL_SOURCE:
            lines.append(f"iifname {LAN} oifname {LAN} {self.when} {ip} saddr {self.wan} jump rec_{self.tag}")
        lines += [
            f"iifname {WAN} oifname {LAN} {self.when} ct direction {direction} ct {direction} {ip} daddr {self.wan}"
            f" jump {direction}_{self.tag}"
            for direction in ("original", "reply")
        ]
        return lines

    def check(self) -> list[str]:
        if self.nat.hairpin is not Hairpinning.EXTERNAL_SOURCE or not self.permissions:
            return []
        ip = self.family.ip
        wrong = self.permitted("ct original proto-dst", f"{ip} saddr", f"{self.proto} sport")
        hairpinned = f"iifname {LAN} oifname {LAN} ct original {ip} daddr {self.wan} ct state new {self.when}"
        return [f"{hairpinned} {wrong} != @perm_{self.tag} drop"]

    def chains(self) -> list[str]:
        """The records, for a packet that leaves with its external source, and for one that has come in."""
        owned = f"{self.proto} sport"
        fresh = [f"meta mark 0x1 {owned} @used_{self.tag} counter drop"]
        if self.nat.ports is Ports.HASHED:
            key = f"ct original {self.family.ip} saddr . ct original proto-src{self._far('original')}"
            fresh.insert(0, f"meta mark 0x1 {self.when} {owned} @used_{self.tag} update @clash_{self.tag} {{ {key} }}")
        lines = self._tiers(f"rec_{self.tag}", owned, fresh, self._made("", owned), self._made(self._long, owned))
        for direction in ("original", "reply"):
            owned = f"ct {direction} proto-dst"
            short, long = self._renewed("", direction, owned), self._renewed(self._long, direction, owned)
            lines += self._tiers(f"{direction}_{self.tag}", owned, [], short, long)
        return lines

    @property
    def _key(self) -> tuple[str, str]:
        """What out_P knows a packet from the LAN by, before it is translated: its own end, and the other one."""
        ip = self.family.ip
        return f"{ip} saddr . {self.proto} sport", self.remote(f"ct original {ip} daddr", "ct original proto-dst")

    @property
    def _long(self) -> str:
        return f" timeout {self.life.long}s"

    def _far(self, direction: str) -> str:
        return self.remote(f"ct {direction} {self.family.ip} daddr", f"ct {direction} proto-dst")

    def _tiers(self, name: str, owned: str, first: list[str], short: list[str], long: list[str]) -> list[str]:
        """A chain that records, and if there are two lifetimes a second one for those that are kept."""
        if not self.life.apart:
            return chain(name, None, [*first, *short])
        kept = f"@kept_{self.tag}"
        sort = [f"{self.when} ct expiration > {self.life.middle} update {kept} {{ {owned} }}"]
        if self.proto == "tcp":
            sort.append(f"tcp flags & (fin|rst) != 0 delete {kept} {{ {owned} }}")
        sort.append(f"{self.when} {owned} {kept} goto kept_{name}")
        return [*chain(name, None, [*first, *sort, *short]), *chain(f"kept_{name}", None, long)]

    def _made(self, life: str, owned: str) -> list[str]:
        """The records themselves, in either direction of a flow."""
        lines, ip = [], self.family.ip
        for direction in ("original", "reply"):
            when = f"{self.when} ct direction {direction}"
            inner = f"ct {direction} {ip} saddr . ct {direction} proto-src"
            lines.append(f"{when} update @used_{self.tag} {{ {owned}{life} }}")
            if self.permissions:
                remote = f"ct {direction} {ip} daddr", f"ct {direction} proto-dst"
                lines.append(f"{when} update @perm_{self.tag} {{ {self.permitted(owned, *remote)}{life} }}")
            # An answer to a flow from outside leaves by that flow's port whatever the mapping would say, so only where
            # a mapping has one port for all remotes does it tell the mapping.
            if direction == "original" or self.nat.mapping is Mapping.ENDPOINT_INDEPENDENT:
                lines.append(f"{when} update @out_{self.tag} {{ {inner}{self._far(direction)}{life} : {owned} }}")
            lines.append(f"{when} update @in_{self.tag} {{ {owned}{life} : {inner} }}")
        return lines

    def _renewed(self, life: str, direction: str, owned: str) -> list[str]:
        """What a packet from outside renews (RFC 4787 REQ-6, where inbound refresh is a choice)."""
        ip = self.family.ip
        inner = f"{ip} daddr . {self.proto} dport"
        lines = [
            f"{self.when} update @used_{self.tag} {{ {owned}{life} }}",
            f"{self.when} update @in_{self.tag} {{ {owned}{life} : {inner} }}",
        ]
        if direction == "reply" or self.nat.mapping is Mapping.ENDPOINT_INDEPENDENT:
            # Or the mapping would be forgotten while its port still had an owner, and move when it next sends.
            remote = self.remote(f"{ip} saddr", f"{self.proto} sport")
            lines.append(f"{self.when} update @out_{self.tag} {{ {inner}{remote}{life} : {owned} }}")
        return lines


def _inner_type(family: Family) -> str:
    return f"{family.address} . inet_service"


@dataclass(frozen=True, slots=True)
class Queries:
    """ICMP queries' rules: echo requests leave, and conntrack lets in the answers of whom they went to."""

    nat: Nat
    seconds: int
    wan: str
    tag: str
    seed: int

    def state(self) -> list[str]:
        life = f"flags dynamic,timeout; timeout {self.seconds}s; size {MAPPINGS}"
        inner = _inner_type(self.family)
        key = inner if self.nat.mapping is Mapping.ENDPOINT_INDEPENDENT else f"{inner} . {self.family.address}"
        lines = [
            f"map out_{self.tag} {{ type {key} : inet_service; {life}; }}",
            f"set used_{self.tag} {{ type inet_service; {life}; }}",
        ]
        return lines + ([f"set clash_{self.tag} {{ type {key}; {life}; }}"] if self.nat.ports is Ports.HASHED else [])

    def inbound(self) -> list[str]:
        return []

    def known(self) -> list[str]:
        return [f"{self._when} snat to {self.wan} : {''.join(self._key)} map @out_{self.tag}"]

    def draw(self) -> list[str]:
        return draws(self.nat, self._when, self.wan, self.tag, "ct original proto-src", *self._key, self.seed)

    def record(self) -> list[str]:
        ours = f"{self.family.ip} saddr {self.wan} {self.family.icmp} type echo-request"
        return [f"iifname {LAN} oifname {WAN} {ours} jump rec_{self.tag}"]

    def check(self) -> list[str]:
        return []

    def chains(self) -> list[str]:
        owned, key = "ct reply proto-src", "".join(self._key)
        rules = [f"meta mark 0x1 {self._when} {owned} @used_{self.tag} counter drop"]
        if self.nat.ports is Ports.HASHED:
            rules.insert(0, f"meta mark 0x1 {self._when} {owned} @used_{self.tag} update @clash_{self.tag} {{ {key} }}")
        rules += [
            f"{self._when} update @used_{self.tag} {{ {owned} }}",
            f"{self._when} update @out_{self.tag} {{ {key} : {owned} }}",
        ]
        return chain(f"rec_{self.tag}", None, rules)

    @property
    def family(self) -> Family:
        return family_of(self.wan)

    @property
    def _when(self) -> str:
        return f"meta l4proto {self.family.icmp_proto}"

    @property
    def _key(self) -> tuple[str, str]:
        """Translated or not, the flow's original endpoint: an identifier has no other type that fits a set of ports."""
        ip = self.family.ip
        remote = "" if self.nat.mapping is Mapping.ENDPOINT_INDEPENDENT else f" . ct original {ip} daddr"
        return f"ct original {ip} saddr . ct original proto-src", remote
