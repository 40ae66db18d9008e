"""The five classical NATs and the topologies that the punch matrix and the NAT check make of them."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from lab.model.ipv6 import Ip
from lab.model.link_words import link_to_toml
from lab.model.nat import Nat
from lab.model.presets import PRESETS
from lab.model.topology import INTERNET, Peer, Router, Topology, parse
from lab.model.transport import TRANSPORTS
from lab.model.writing import to_toml

CLASSICAL: Final = (
    "full-cone",
    "address-restricted",
    "port-restricted",
    "symmetric-sequential",
    "symmetric-random",
)


def cell_topology(dialer_nat: str, listener_nat: str, transport: str = "tcp", link: str | None = None) -> Topology:
    """Alice behind `home-a` dials bob behind `home-b`; the relay is public; KeyError if not presets.

    With `tcp+quic` both homes have both. The relay is reached by TCP, and how QUIC leaves a NAT is seen by an observer.
    `link` is what the uplinks of both homes are like, in the words of a shell (`lab.model.link_words`).
    """
    transports = tuple(TRANSPORTS[name].name for name in transport.split("+"))
    observers = (Peer("observer", INTERNET, transports=transports[1:]),) if transports[1:] else ()
    dials = tuple(peer.name for peer in observers)
    plain = _with_text(
        Topology(
            name=f"{dialer_nat}--{listener_nat}--{'-'.join(transports)}",
            summary=f"A dialer behind {dialer_nat}, a listener behind {listener_nat}, a public relay.",
            routers=(
                Router("home-a", PRESETS[dialer_nat].nat, dialer_nat),
                Router("home-b", PRESETS[listener_nat].nat, listener_nat),
            ),
            peers=(
                Peer("relay", INTERNET, role="relay", transports=transports),
                Peer("alice", "home-a", transports=transports, dials=dials),
                Peer("bob", "home-b", transports=transports, dials=dials),
                *observers,
            ),
        )
    )
    if link is None:
        return plain
    line = f"link = {link_to_toml(link)}"
    text = re.sub(r"(?m)^(\[router\..*\])$", lambda header: f"{header[1]}\n{line}", plain.text)
    return parse(text, plain.name)


def probe_topology(nat: Nat, name: str = "probe", ip: Ip = Ip.V4) -> Topology:
    """One NAT called `router` with `host-a` and `host-b` behind it: what measuring it with all its traps needs."""
    return _with_text(
        Topology(
            name=name,
            summary="One NAT with two hosts behind it.",
            routers=(translating("router", nat, ip),),
            peers=(Peer("host-a", "router"), Peer("host-b", "router")),
            ip=ip,
        )
    )


def translating(name: str, nat: Nat, ip: Ip) -> Router:
    """A router that is this NAT in a network of that version of IP alone."""
    return Router(name, nat) if ip is Ip.V4 else Router(name, PRESETS["full-cone"].nat, nat66=nat)


def _with_text(topology: Topology) -> Topology:
    return replace(topology, text=to_toml(topology))
