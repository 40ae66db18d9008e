"""A NAT's value as nftables text: every mapping × filtering × port allocation × hairpinning, for UDP and TCP alike.

State, per protocol P, all of it with the mapping's lifetime:

    out_P    inner endpoint [. remote address [. remote port]] → external port; its key is the mapping behaviour
    in_P     external port → inner endpoint
    used_P   external ports that somebody owns
    perm_P   external port . remote address [. remote port]: who may send to it; absent if everybody may

and the hooks, in the order in which packets meet them (conntrack's own look-up is at prerouting -200, so packets of a
known flow are translated without seeing the nat chains):

    prerouting  -150  invalid packets go
    prerouting  -100  nat: a new flow from outside is translated if in_P knows the port and perm_P the sender
    input          0  what was not translated is dropped
    forward        0  nobody routes straight into the LAN
    postrouting  100  nat: a new flow from inside gets the port that out_P has for it, or draws one
    postrouting  110  the packet is translated: its mapping and its permission are recorded or refreshed

Recording after the translation is what makes every combination possible: the port is the one that was really given.

Why the rest is as it is:

* Input drops instead of rejecting, and at this hook: a dropped packet's conntrack entry is never confirmed. Otherwise
  a packet that comes before the mapping exists takes the very tuple that the mapping is about to need, and the kernel
  gives it another port; for TCP the router's own RST would end the other side's attempt.
* `snat to X : port` with one port skips the kernel's uniqueness test. It never gives another port in silence, but two
  owners of one port would be a dropped packet; `used_P` sees to it that there is one. A fresh draw (mark 1) that hits
  an owned port is dropped and the sender's retransmission draws again.
* `snat to X : 1024-65535` without `fully-random` would be endpoint-independent: the kernel looks for a known source.
* Both interfaces are matched, or the router's own RSTs and ICMP errors would make mappings.
* `ct … proto-src` has no type in a rule that does not say `meta l4proto udp` or `tcp`.
* The sequential pool is a map: `numgen … offset` gives byte-swapped ports (nft 1.0.6) or is refused (1.1.3).
* Sets of 4096 are allocated in 3 ms; 65535 would take 57 ms and 16 MiB a NAT.
* A packet into the LAN by hairpin is checked at 110, where its sender's external port is known, and its own permission
  has been recorded even if it is dropped, so that two hosts of one LAN can punch towards each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from lab.model.nat import Filtering, Mapping, Nat, Ports
from lab.plan.names import LAN, PORT_MAPPED, TABLE, WAN

MAPPINGS: Final = 4096
"mappings a protocol; further ones are not recorded"
PERMISSIONS: Final = 8192
POOL: Final = 1024
"ports that a sequential NAT goes through before it starts again"
POOL_BASES: Final = range(20000, 60000)
"where a sequential NAT may start"

_FOREIGN = [
    f"iifname {here} oifname {there} ct mark & {PORT_MAPPED:#x} != 0 accept" for here, there in ((WAN, LAN), (LAN, WAN))
]
"flows by a port map are not the NAT's: what they made would outlive the lease"
_INNER = "ipv4_addr . inet_service"
_REMOTE_TYPE = {
    Mapping.ENDPOINT_INDEPENDENT: "",
    Mapping.ADDRESS_DEPENDENT: " . ipv4_addr",
    Mapping.ADDRESS_AND_PORT_DEPENDENT: " . ipv4_addr . inet_service",
}
_PERMISSION_TYPE = {
    Filtering.ADDRESS_DEPENDENT: "inet_service . ipv4_addr",
    Filtering.ADDRESS_AND_PORT_DEPENDENT: "inet_service . ipv4_addr . inet_service",
}


@dataclass(frozen=True, slots=True)
class _Rules:
    """The rules of one protocol, chain by chain."""

    nat: Nat
    wan: str
    proto: str
    seconds: int

    @property
    def permissions(self) -> str | None:
        """The type of perm_P's elements; None if everybody may send."""
        return _PERMISSION_TYPE.get(self.nat.filtering)

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
        p, life = self.proto, f"flags dynamic,timeout; timeout {self.seconds}s"
        out_key = _INNER + _REMOTE_TYPE[self.nat.mapping]
        lines = [
            f"map out_{p} {{ type {out_key} : inet_service; {life}; size {MAPPINGS}; }}",
            f"map in_{p} {{ type inet_service : {_INNER}; {life}; size {MAPPINGS}; }}",
            f"set used_{p} {{ type inet_service; {life}; size {MAPPINGS}; }}",
        ]
        if self.permissions:
            lines.append(f"set perm_{p} {{ type {self.permissions}; {life}; size {PERMISSIONS}; }}")
        return lines

    def inbound(self) -> list[str]:
        """prerouting, nat: a new flow to the external address."""
        p = self.proto
        first = "tcp flags & (syn|ack|rst|fin) == syn " if p == "tcp" else ""
        to = f"dnat ip to {p} dport map @in_{p}"
        check = f"{self.permitted(f'{p} dport', 'ip saddr', f'{p} sport')} @perm_{p} " if self.permissions else ""
        lines = [f"iifname {WAN} ip daddr {self.wan} {first}meta l4proto {p} {check}{to}"]
        if self.nat.hairpin:
            lines.append(f"iifname {LAN} ip daddr {self.wan} {first}meta l4proto {p} {to}")
        return lines

    def outbound(self) -> list[str]:
        """postrouting, nat: which new flows get a port here."""
        p = self.proto
        lines = [f"iifname {LAN} oifname {WAN} meta l4proto {p} goto alloc_{p}"]
        if self.nat.hairpin:
            lines.append(f"iifname {LAN} oifname {LAN} ct original ip daddr {self.wan} meta l4proto {p} goto alloc_{p}")
        return lines

    def alloc(self) -> list[str]:
        """The known port of the mapping, or a new one, marked as freshly drawn."""
        p, proto = self.proto, f"meta l4proto {self.proto}"
        key = f"ip saddr . {p} sport" + self.remote("ct original ip daddr", "ct original proto-dst")
        any_port = f"{proto} snat to {self.wan} : 1024-65535 fully-random"
        known = [f"{proto} snat to {self.wan} : {key} map @out_{p}", "meta mark set 0x1"]
        match self.nat.ports:
            case Ports.PRESERVING:
                return [*known, f"{proto} {p} sport != @used_{p} snat to {self.wan} : {p} sport", any_port]
            case Ports.SEQUENTIAL:
                return [*known, f"{proto} snat to {self.wan} : numgen inc mod {POOL} map @pool"]
            case Ports.RANDOM:
                return [*known, any_port]

    def record(self) -> list[str]:
        """postrouting after nat: which packets make, check or refresh a mapping."""
        p = self.proto
        lines = [f"iifname {LAN} oifname {WAN} meta l4proto {p} ip saddr {self.wan} jump rec_{p}"]
        if self.nat.hairpin:
            hairpinned = f"iifname {LAN} oifname {LAN} ct original ip daddr {self.wan}"
            lines.append(f"{hairpinned} meta l4proto {p} jump rec_{p}")
            if self.permissions:
                wrong = self.permitted("ct original proto-dst", "ip saddr", f"{p} sport")
                lines.append(f"{hairpinned} ct state new meta l4proto {p} {wrong} != @perm_{p} drop")
        lines += [
            f"iifname {WAN} oifname {LAN} meta l4proto {p} ct direction {direction}"
            f" update @in_{p} {{ ct {direction} proto-dst : ip daddr . {p} dport }}"
            f" update @used_{p} {{ ct {direction} proto-dst }}"
            for direction in ("original", "reply")
        ]
        return lines

    def made(self) -> list[str]:
        """The records themselves, for a packet that leaves with its external source, in either direction."""
        p = self.proto
        lines = [f"meta mark 0x1 {p} sport @used_{p} counter drop"]
        for direction in ("original", "reply"):
            when = f"meta l4proto {p} ct direction {direction}"
            inner = f"ct {direction} ip saddr . ct {direction} proto-src"
            address, port = f"ct {direction} ip daddr", f"ct {direction} proto-dst"
            # An answer to a flow from outside leaves by that flow's port whatever the mapping would say, so only where
            # a mapping has one port for all remotes does it tell the mapping.
            if direction == "original" or self.nat.mapping is Mapping.ENDPOINT_INDEPENDENT:
                lines.append(f"{when} update @out_{p} {{ {inner}{self.remote(address, port)} : {p} sport }}")
            lines.append(f"{when} update @in_{p} {{ {p} sport : {inner} }}")
            lines.append(f"{when} update @used_{p} {{ {p} sport }}")
            if self.permissions:
                lines.append(f"{when} update @perm_{p} {{ {self.permitted(f'{p} sport', address, port)} }}")
        return lines


def ruleset(nat: Nat, wan: str, pool_base: int) -> str:
    """The whole table, for a router with the external address `wan`; a sequential NAT starts at `pool_base`."""
    protocols = (_Rules(nat, wan, "udp", round(nat.udp_timeout)), _Rules(nat, wan, "tcp", round(nat.tcp_timeout)))
    lines: list[str] = []
    if nat.ports is Ports.SEQUENTIAL:
        elements = ", ".join(f"{index} : {pool_base + index}" for index in range(POOL))
        lines.append(f"map pool {{ typeof numgen inc mod {POOL} : udp sport; elements = {{ {elements} }}; }}")
    lines += [line for rules in protocols for line in rules.state()]
    lines += _chain("prefilter", "filter hook prerouting priority -150", ["ct state invalid drop"])
    lines += _chain("dstnat", "nat hook prerouting priority dstnat", [r for p in protocols for r in p.inbound()])
    others = f"iifname {LAN} oifname {WAN} snat to {wan}"
    lines += _chain(
        "srcnat", "nat hook postrouting priority srcnat", [*(r for p in protocols for r in p.outbound()), others]
    )
    records = [*_FOREIGN, *(r for p in protocols for r in p.record())]
    lines += _chain("record", "filter hook postrouting priority 110", records)
    for rules in protocols:
        lines += _chain(f"alloc_{rules.proto}", None, rules.alloc())
        lines += _chain(f"rec_{rules.proto}", None, rules.made())
    closed = [
        f"iifname {WAN} meta l4proto {{ udp, tcp }} drop",
        f"iifname {LAN} ip daddr {wan} meta l4proto {{ udp, tcp }} drop",
    ]
    lines += _chain("input", "filter hook input priority 0", closed)
    routed = f"iifname {WAN} ct state new ct status & dnat == 0 drop"
    lines += _chain("forward", "filter hook forward priority 0", [routed])
    return "\n".join([f"table ip {TABLE} {{", *(f"  {line}" for line in lines), "}", ""])


def _chain(name: str, hook: str | None, rules: list[str]) -> list[str]:
    head = [f"  type {hook}; policy accept;"] if hook else []
    return [f"chain {name} {{", *head, *(f"  {rule}" for rule in rules), "}"]
