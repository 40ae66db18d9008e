"""How long a datagram takes from one host of a network to another and back, and a ping of a peer's.

A busy machine only adds to either: both are the shortest of several, and of so many more where that is too long.
"""

from __future__ import annotations

import socket
import time

from lab.kernel.namespace import Namespace
from lab.kernel.network import Network
from lab.peers.handle import Peer

DEADLINE = 10.0
"Seconds for any one packet."
PATIENCE = 20.0
"Seconds for as short a round trip as is asked for."
ROUNDS = 40
AGREEING = 3
"Round trips as short as the shortest, but for SLACK: what the others have more is the machine's, not the link's."
SLACK = 0.001
PINGS = 5


def udp(ns: Namespace, port: int = 0) -> socket.socket:
    sock = ns.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(DEADLINE)
    sock.bind(("", port))
    return sock


def address_of(network: Network, peer: str) -> str:
    return next(launch.address for launch in network.plan.launches if launch.peer == peer)


def round_trip(network: Network, near: str, far: str, below: float, data: bytes = b"probe") -> float:
    """The shortest of so many that some agree and are below a bound, if such come at all."""
    took: list[float] = []
    deadline = time.monotonic() + PATIENCE
    with udp(network.spaces[near]) as here, udp(network.spaces[far], 7000) as there:
        while (
            (len(took) < ROUNDS and sum(each < min(took) + SLACK for each in took) < AGREEING) or min(took) >= below
        ) and time.monotonic() < deadline:
            began = time.monotonic()
            here.sendto(data, (address_of(network, far), 7000))
            received, source = there.recvfrom(2000)
            there.sendto(received, source)
            here.recv(2000)
            took.append(time.monotonic() - began)
    return min(took)


async def distance(here: Peer, there: Peer, below: float) -> float:
    """Seconds to a peer and back by their direct connection, the shortest of five pings or of more."""
    took: list[float] = []
    deadline = time.monotonic() + PATIENCE
    while (len(took) < PINGS or min(took) >= below) and time.monotonic() < deadline:
        ping = await here.ping(there)
        assert ping.path == "direct"
        took.append(ping.rtt)
    return min(took)
