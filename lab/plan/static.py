"""1:1 NAT: every inner host has a public address of its own with all its ports, so nothing has to be allocated.

What remains of a NAT's state is who may send in: perm_P, per protocol P, of (public address, port, remote address
[, remote port]). With endpoint-independent filtering there is none, and hosts are as open as on the internet.
"""

from __future__ import annotations

from lab.model.nat import Filtering, Hairpinning, Nat
from lab.plan.family import family_of
from lab.plan.mappings import PERMISSIONS, chain
from lab.plan.names import LAN, WAN


def one_to_one(nat: Nat, publics: tuple[str, ...], hosts: tuple[str, ...]) -> list[str]:
    """The lines of the table up to its closed door, for the host of each public address."""
    pairs = list(zip(hosts, publics, strict=False))
    protocols = () if nat.transparent else (("udp", nat.udp_timeout), ("tcp", nat.tcp_timeout))
    lines = [_permissions(nat, proto, round(seconds), family_of(publics[0]).address) for proto, seconds in protocols]
    lines += chain("prefilter", "filter hook prerouting priority -150", ["ct state invalid drop"])
    lines += chain(
        "dstnat",
        "nat hook prerouting priority dstnat",
        [rule for host, public in pairs for rule in _inward(nat, host, public)],
    )
    lines += chain(
        "srcnat",
        "nat hook postrouting priority srcnat",
        [rule for host, public in pairs for rule in _outward(nat, host, public)],
    )
    record = [rule for proto, _ in protocols for rule in _record(nat, proto, family_of(publics[0]).ip)]
    return lines + chain("record", "filter hook postrouting priority 110", record)


def _permissions(nat: Nat, proto: str, seconds: int, address: str) -> str:
    port = " . inet_service" if nat.filtering is Filtering.ADDRESS_AND_PORT_DEPENDENT else ""
    kind = f"{address} . inet_service . {address}{port}"
    return f"set perm_{proto} {{ type {kind}; flags dynamic,timeout; timeout {seconds}s; size {PERMISSIONS}; }}"


def _permitted(nat: Nat, owned: str, address: str, port: str) -> str:
    with_port = f" . {port}" if nat.filtering is Filtering.ADDRESS_AND_PORT_DEPENDENT else ""
    return f"{owned} . {address}{with_port}"


def _inward(nat: Nat, host: str, public: str) -> list[str]:
    to, ip = f"dnat to {host}", family_of(public).ip
    if nat.transparent:
        lines = [f"iifname {WAN} {ip} daddr {public} {to}"]
    else:
        lines = [
            f"iifname {WAN} {ip} daddr {public} meta l4proto {proto}"
            f" {_permitted(nat, f'{ip} daddr . {proto} dport', f'{ip} saddr', f'{proto} sport')} @perm_{proto} {to}"
            for proto in ("udp", "tcp")
        ]
    return lines + ([f"iifname {LAN} {ip} daddr {public} {to}"] if nat.hairpin else [])


def _outward(nat: Nat, host: str, public: str) -> list[str]:
    ip = family_of(public).ip
    lines = [f"iifname {LAN} oifname {WAN} {ip} saddr {host} snat to {public}"]
    if nat.hairpin is Hairpinning.EXTERNAL_SOURCE:
        lines.append(f"iifname {LAN} oifname {LAN} ct status & dnat != 0 {ip} saddr {host} snat to {public}")
    return lines


def _record(nat: Nat, proto: str, ip: str) -> list[str]:
    """Whom a host has written to, and which hairpinned packets its neighbour did not ask for."""
    ways = [f"iifname {LAN} oifname {WAN}"]
    lines = []
    hairpinned = f"iifname {LAN} oifname {LAN} ct status & dnat != 0"
    if nat.hairpin is Hairpinning.EXTERNAL_SOURCE:
        ways.append(hairpinned)
    for way in ways:
        for direction in ("original", "reply"):
            remote = f"ct {direction} {ip} daddr", f"ct {direction} proto-dst"
            element = _permitted(nat, f"{ip} saddr . {proto} sport", *remote)
            lines.append(f"{way} meta l4proto {proto} ct direction {direction} update @perm_{proto} {{ {element} }}")
    if nat.hairpin is Hairpinning.EXTERNAL_SOURCE:
        owned = f"ct original {ip} daddr . ct original proto-dst"
        asked = _permitted(nat, owned, f"{ip} saddr", f"{proto} sport")
        lines.append(f"{hairpinned} ct state new meta l4proto {proto} {asked} != @perm_{proto} drop")
    return lines
