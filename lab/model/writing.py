"""A topology as TOML: what `parse` reads back as the same network, for runs whose topology was made by a program."""

from __future__ import annotations

from lab.model.nat import Nat
from lab.model.topology import Router, Topology
from lab.model.units import format_duration


def to_toml(topology: Topology) -> str:
    """The text of a topology file."""
    tables = [f"name    = {_quoted(topology.name)}\nsummary = {_quoted(topology.summary)}\n"]
    tables += [f"[router.{router.name}]\nnat = {_nat(router)}\n" for router in topology.routers]
    tables += [
        f'[peer.{peer.name}]\nat   = "{peer.at}"\nimpl = "{peer.impl}"\nrole = "{peer.role}"\n'
        for peer in topology.peers
    ]
    return "\n".join(tables)


def nat_to_toml(nat: Nat) -> str:
    """The inline table that spells a NAT out."""
    keys = {
        "mapping": _quoted(nat.mapping.value),
        "filtering": _quoted(nat.filtering.value),
        "ports": _quoted(nat.ports.value),
        "hairpin": "true" if nat.hairpin else "false",
        "udp-timeout": _quoted(format_duration(nat.udp_timeout)),
        "tcp-timeout": _quoted(format_duration(nat.tcp_timeout)),
    }
    return "{ " + ", ".join(f"{key} = {value}" for key, value in keys.items()) + " }"


def _nat(router: Router) -> str:
    return _quoted(router.preset) if router.preset else nat_to_toml(router.nat)


def _quoted(text: str) -> str:
    """A TOML basic string; a topology's texts are printable, so only these two need escapes."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
