"""The networks that setups of several implementations are tried in: alice dials, bob listens, the relay relays."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from lab.model.interop import RELAYED_NAT, Scene, Setup
from lab.model.presets import PRESETS
from lab.model.runner import PROCESS
from lab.model.topology import INTERNET, Peer, Router, Topology
from lab.model.writing import to_toml

DIALER: Final = "alice"
LISTENER: Final = "bob"
RELAY: Final = "relay"
_LAN: Final = "home"


def network(setup: Setup, runner: str = PROCESS) -> Topology:
    """The network of a setup, with every peer run that way; KeyError if its NATs are no presets."""
    transports = (setup.stack.transport,)

    def peer(name: str, at: str, impl: str, role: str = "peer", addresses: int = 1) -> Peer:
        return Peer(name, at, impl, role, transports=transports, addresses=addresses, run=runner)

    homes = [_router(f"home-{side}", nat) for side, nat in zip("ab", setup.nats, strict=True) if nat]
    match setup.scene:
        case Scene.TALK:
            routers, places = [], (INTERNET, INTERNET)
        case Scene.RELAY | Scene.PUNCH:
            routers, places = homes, ("home-a", "home-b")
        case Scene.AUTONAT:
            routers, places = homes, ("home-a", INTERNET)
        case Scene.MDNS:
            routers, places = [_router(_LAN, RELAYED_NAT)], (_LAN, _LAN)
    peers = [peer(DIALER, places[0], setup.dialer)]
    if setup.scene is Scene.AUTONAT:
        # Our server dials back from an address that the client has not written to.
        peers.append(peer(LISTENER, INTERNET, setup.listener, "relay", 2 if setup.listener == "own" else 1))
    else:
        peers.append(peer(LISTENER, places[1], setup.listener))
    if setup.relay:
        peers.append(peer(RELAY, INTERNET, setup.relay, "relay"))
    name = f"{setup.scene.value}-{setup.dialer}-{setup.listener}"
    topology = Topology(name, f"{setup}.", tuple(routers), tuple(peers))
    return replace(topology, text=to_toml(topology))


def alone(impl: str, runner: str = PROCESS) -> Topology:
    """The network of one public peer, with nobody to talk to."""
    topology = Topology(f"start-{impl}", f"{impl} starts.", (), (Peer(DIALER, INTERNET, impl, run=runner),))
    return replace(topology, text=to_toml(topology))


def _router(name: str, preset: str) -> Router:
    return Router(name, PRESETS[preset].nat, preset)
