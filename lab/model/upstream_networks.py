"""The networks in which tests of libp2p's own suites run here, as topologies."""

from __future__ import annotations

import json
from typing import Final

from lab.model.link_words import link_to_toml
from lab.model.topology import Topology, parse
from lab.model.upstream import Case, Suite, Version

DIALER, LISTENER, RELAY = "dialer", "listener", "relay"
HOMES: Final = ("home-a", "home-b")
LINKS: Final = {Suite.HOLE_PUNCH_INTEROP: ("latency=50ms", "up.latency=25ms")}
"The links of both homes and of the relay, where upstream has them slow; elsewhere they are ideal."
_TRANSPORTS: Final = {
    "quic": "quic",
    "quic-v1": "quic",
    "webtransport": "quic",
    "webrtc-direct": "quic",
    "ws": "ws",
    "wss": "ws",
}
"What is like it among the transports of a topology; others are like TCP."


def network(case: Case, link: str | None = None) -> Topology:
    """A network of its own for a test; `link` is what both homes' uplinks are like, instead of upstream's."""
    if not case.suite.punches:
        peers = [_peer(case, name, version, "internet") for name, version in _pair(case)]
        return parse("\n".join([_head(case, "Two peers on the internet."), *peers]), case.slug)
    home, relay = LINKS.get(case.suite, (None, None))
    home = home if link is None else link
    # A relay is told of both LANs as if it could route to them, so they must not be the same.
    routers = [
        _router(name, nat, number, home) for number, (name, nat) in enumerate(zip(HOMES, case.nats, strict=True), 1)
    ]
    summary = f"A dialer behind {case.nats[0]}, a listener behind {case.nats[1]}, a public relay."
    peers = [_peer(case, RELAY, case.relay, "internet", 'role = "relay"', *_link(relay))]
    peers += [_peer(case, name, version, at) for (name, version), at in zip(_pair(case), HOMES, strict=True)]
    return parse("\n".join([_head(case, summary), *routers, *peers]), case.slug)


def _pair(case: Case) -> list[tuple[str, Version]]:
    return [(DIALER, case.dialer), (LISTENER, case.listener)]


def _head(case: Case, summary: str) -> str:
    return f"name = {json.dumps(case.slug[:64])}\nsummary = {json.dumps(summary)}\n"


def _router(name: str, nat: str, number: int, link: str | None) -> str:
    lines = [f"[router.{name}]", f'nat = "{nat}"', f'lan = "192.168.{number}.0/24"', *_link(link)]
    return "\n".join([*lines, ""])


def _peer(case: Case, name: str, version: Version, at: str, *more: str) -> str:
    transport = _TRANSPORTS.get(case.transport, "tcp")
    lines = [f"[peer.{name}]", f'at = "{at}"', 'impl = "upstream"', f'transports = ["{transport}"]', *more]
    lines += [f"program = {json.dumps(version.program, ensure_ascii=False)}"] if version.program else []
    lines += ['run = "container"', f"image = {json.dumps(version.image)}"] if version.image is not None else []
    if case.suite is Suite.HOLE_PUNCH:
        lines.append(f'interface = "{"wan0" if name == RELAY else "lan0"}"')
    return "\n".join([*lines, ""])


def _link(words: str | None) -> list[str]:
    return [] if words is None else [f"link = {link_to_toml(words)}"]
