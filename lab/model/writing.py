"""A topology as TOML: what `parse` reads back as the same network, for runs whose topology was made by a program."""

from __future__ import annotations

from typing import Final

from lab.model.ipv6 import Ip
from lab.model.nat import Filtering, Mapping, Nat, Ports, Unsolicited
from lab.model.peer_keys import ETH
from lab.model.runner import PROCESS
from lab.model.topology import Peer, Router, Topology
from lab.model.transport import DEFAULT
from lab.model.units import format_duration

_PLAIN: Final = Nat(Mapping.ENDPOINT_INDEPENDENT, Filtering.ENDPOINT_INDEPENDENT, Ports.PRESERVING)


def to_toml(topology: Topology) -> str:
    """The text of a topology file."""
    ip = "" if topology.ip is Ip.V4 else f"ip      = {_quoted(topology.ip.value)}\n"
    tables = [f"name    = {_quoted(topology.name)}\nsummary = {_quoted(topology.summary)}\n{ip}"]
    tables += [_router(router, topology.ip) for router in topology.routers]
    tables += [_peer(peer) for peer in topology.peers]
    return "\n".join(tables)


def nat_to_toml(nat: Nat) -> str:
    """The inline table that spells a NAT out."""
    keys = {
        "mapping": _quoted(nat.mapping.value),
        "filtering": _quoted(nat.filtering.value),
        "ports": _quoted(nat.ports.value),
        "hairpin": _quoted(nat.hairpin.value),
        "udp-timeout": _quoted(format_duration(nat.udp_timeout)),
        "tcp-timeout": _quoted(format_duration(nat.tcp_timeout)),
    }
    keys |= {key: text for key, text in _seldom(nat).items() if text != _seldom(_PLAIN).get(key)}
    return "{ " + ", ".join(f"{key} = {value}" for key, value in keys.items()) + " }"


def nat_words(nat: Nat) -> str:
    """A NAT in one line, for people: what it says, without what is as in most NATs."""
    kinds = (nat.mapping.value, nat.filtering.value)
    words = [" / ".join(kind.removesuffix("-independent").removesuffix("-dependent") for kind in kinds)]
    words.append(nat.ports.value)
    words += [f"hairpin {nat.hairpin.value}"] if nat.hairpin else []
    words += [f"answers {nat.unsolicited.value}"] if nat.unsolicited is not Unsolicited.DROP else []
    if nat.public_addresses > 1:
        words.append(f"{nat.public_addresses} addresses, {nat.pooling.value}")
    return ", ".join([*words, "one-to-one"] if nat.one_to_one else words)


def _seldom(nat: Nat) -> dict[str, str]:
    """What is only written where it is not as in most NATs."""
    keys = {
        "udp-new-timeout": _quoted(format_duration(nat.udp_new_timeout)),
        "tcp-transitory-timeout": _quoted(format_duration(nat.tcp_transitory_timeout)),
        "unsolicited": _quoted(nat.unsolicited.value),
        "public-addresses": str(nat.public_addresses),
        "pooling": _quoted(nat.pooling.value),
        "one-to-one": "true" if nat.one_to_one else "false",
    }
    return keys | ({"block-size": str(nat.block_size)} if nat.ports is Ports.BLOCK else {})


def _peer(peer: Peer) -> str:
    transports = ", ".join(_quoted(name) for name in peer.transports)
    lines = [f'at   = "{peer.at}"', f'impl = "{peer.impl}"', f'role = "{peer.role}"']
    lines += [f"transports = [{transports}]"] if peer.transports != DEFAULT else []
    dials = ", ".join(_quoted(name) for name in peer.dials)
    lines += [f"dials = [{dials}]"] if peer.dials else []
    lines += [f"addresses = {peer.addresses}"] if peer.addresses > 1 else []
    lines += [f"program = [{', '.join(map(_quoted, peer.program))}]"] if peer.program else []
    lines += [f"interface = {_quoted(peer.interface)}"] if peer.interface != ETH else []
    lines += [f"run = {_quoted(peer.run)}"] if peer.run != PROCESS else []
    lines += [f"image = {_quoted(peer.image)}"] if peer.image is not None else []
    return "\n".join([f"[peer.{peer.name}]", *lines, ""])


def _router(router: Router, ip: Ip) -> str:
    lines = [f"[router.{router.name}]"]
    if ip is not Ip.V6:
        lines.append(f"nat = {_quoted(router.preset) if router.preset else nat_to_toml(router.nat)}")
    if router.nat66 is not None:
        lines.append(f"nat66 = {_quoted(router.nat66_preset) if router.nat66_preset else nat_to_toml(router.nat66)}")
    return "\n".join([*lines, ""])


def _quoted(text: str) -> str:
    """A TOML basic string; a topology's texts are printable, so only these two need escapes."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
