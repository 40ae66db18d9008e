"""A router's IPv6 firewall as nftables text, and with it the exchange of prefixes (NPTv6), if it does that."""

from __future__ import annotations

from typing import Final

from lab.model.ipv6 import TCP_TIMEOUT, UDP_TIMEOUT, Guard
from lab.model.nat import Filtering
from lab.plan import names
from lab.plan.mappings import chain

MAX_ENTRIES: Final = 4096
"endpoints that a guard remembers for each protocol"


def guard_rules(guard: Guard, inner: str = "", outer: str = "") -> str:
    """The table of a guard; an open one has no rules. `inner` and `outer` are the prefixes that it exchanges, if any.

    What has been sent is remembered, in a set with the lifetime that RFC 6092 asks for, because conntrack's own memory
    is per pair of endpoints, which is the strictest filtering. Anything else from outside is dropped, in silence.

    What conntrack takes for invalid passes like the rest. A host that gave up a dial leaves a half-open flow there;
    when the peer's SYN comes next, the answer of the host's listener does not continue that flow, and dropping it
    would undo a hole punch that both ends have done right (RFC 6092 asks for simultaneous opens to work).
    """
    lines: list[str] = []
    if guard.filtering is not None:
        lines += [_set(guard.filtering, proto, life) for proto, life in (("udp", UDP_TIMEOUT), ("tcp", TCP_TIMEOUT))]
        lines += ["chain forward {", "  type filter hook forward priority 0; policy drop;"]
        lines += [f"  {rule}" for proto in ("udp", "tcp") for rule in _out_and_in(guard.filtering, proto)]
        errors = "destination-unreachable, packet-too-big, time-exceeded, parameter-problem"
        lines += [f"  iifname {names.LAN} accept", "  ct state established,related accept"]
        lines += [f"  icmpv6 type {{ {errors} }} accept", "}"]
        closed = f"  iifname {names.WAN} meta l4proto {{ udp, tcp }} drop"
        lines += ["chain input {", "  type filter hook input priority 0; policy accept;", closed, "}"]
    if guard.translates:
        lines += _exchange(inner, outer)
    return "\n".join([f"table ip6 {names.TABLE} {{", *(f"  {line}" for line in lines), "}", ""])


def _set(filtering: Filtering, proto: str, lifetime: float) -> str:
    remote = {
        Filtering.ENDPOINT_INDEPENDENT: "",
        Filtering.ADDRESS_DEPENDENT: " . ipv6_addr",
        Filtering.ADDRESS_AND_PORT_DEPENDENT: " . ipv6_addr . inet_service",
    }[filtering]
    life = f"flags dynamic,timeout; timeout {lifetime:.0f}s"
    return f"set open_{proto} {{ type ipv6_addr . inet_service{remote}; {life}; size {MAX_ENTRIES}; }}"


def _out_and_in(filtering: Filtering, proto: str) -> tuple[str, str]:
    """What remembers an endpoint that sends, and what lets others in to it."""
    there = {
        Filtering.ENDPOINT_INDEPENDENT: ("", ""),
        Filtering.ADDRESS_DEPENDENT: (" . ip6 daddr", " . ip6 saddr"),
        Filtering.ADDRESS_AND_PORT_DEPENDENT: (f" . ip6 daddr . {proto} dport", f" . ip6 saddr . {proto} sport"),
    }
    to, by = there[filtering]
    return (
        f"iifname {names.LAN} oifname {names.WAN} update @open_{proto} {{ ip6 saddr . {proto} sport{to} }}",
        f"iifname {names.WAN} ip6 daddr . {proto} dport{by} @open_{proto} accept",
    )


def _exchange(inner: str, outer: str) -> list[str]:
    """Chains that give packets the other prefix, and leave the rest of the address and the port as they are.

    Filtering comes between the two: it sees inner addresses. Nobody outside may use those, whoever they would reach. A
    packet from the LAN to one of its own outer addresses turns around, and comes from the sender's outer one (RFC 6296
    §2.2 asks for that).
    """
    exchanged = f"ip6 saddr {inner} snat ip6 prefix to {outer}"
    straight = f"iifname {names.WAN} ct state new ct status & dnat == 0 drop"
    return [
        *chain("straight", "filter hook forward priority -5", [straight]),
        *chain("dstnat", "nat hook prerouting priority dstnat", [f"ip6 daddr {outer} dnat ip6 prefix to {inner}"]),
        *chain(
            "srcnat",
            "nat hook postrouting priority srcnat",
            [
                f"iifname {names.LAN} oifname {names.WAN} {exchanged}",
                f"iifname {names.LAN} oifname {names.LAN} ct status & dnat != 0 {exchanged}",
            ],
        ),
    ]
