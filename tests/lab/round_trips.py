"""How long a datagram takes from one host of a network to another and back."""

from __future__ import annotations

import socket
import time

from lab.kernel.namespace import Namespace
from lab.kernel.network import Network

DEADLINE = 10.0
"Seconds for any one packet."
ROUNDS = 40
AGREEING = 3
"Round trips as short as the shortest, but for SLACK: what the others have more is the machine's, not the link's."
SLACK = 0.001


def udp(ns: Namespace, port: int = 0) -> socket.socket:
    sock = ns.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(DEADLINE)
    sock.bind(("", port))
    return sock


def address_of(network: Network, peer: str) -> str:
    return next(launch.address for launch in network.plan.launches if launch.peer == peer)


def round_trip(network: Network, near: str, far: str, data: bytes = b"probe") -> float:
    """The shortest of so many that some agree: a busy machine only adds to it, as ARP does."""
    took: list[float] = []
    with udp(network.spaces[near]) as here, udp(network.spaces[far], 7000) as there:
        while len(took) < ROUNDS and sum(each < min(took) + SLACK for each in took) < AGREEING:
            began = time.monotonic()
            here.sendto(data, (address_of(network, far), 7000))
            received, source = there.recvfrom(2000)
            there.sendto(received, source)
            here.recv(2000)
            took.append(time.monotonic() - began)
    return min(took)
