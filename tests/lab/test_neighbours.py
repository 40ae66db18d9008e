"""Neighbours are known beforehand: nothing is left for ARP to find, so no lab fills the machine's table of it."""

from __future__ import annotations

import json
import select
import socket
import subprocess
from collections.abc import Callable

import pytest

from lab.kernel.changes import Changes
from lab.kernel.namespace import Namespace
from lab.kernel.network import Network
from lab.model.topology import parse
from lab.plan.amend import launch_of
from lab.plan.build import build
from lab.plan.neighbours import MAX_PAIRED

Inside = Callable[[Callable[[], None]], None]
DEADLINE = 5.0
_ETH_P_ALL = 3
TEXT = """
name = "x"
ip   = "dual-stack"
[router.home]
nat = "home"
[router.away]
nat = "home"
[router.inner]
nat = "home"
at  = "away"
lan = "10.9.0.0/24"
[peer.server]
at = "internet"
[peer.alice]
at = "home"
[peer.ann]
at = "home"
[peer.bob]
at = "away"
[peer.carol]
at = "inner"
"""


def table(space: Namespace) -> list[tuple[str, str]]:
    """Every neighbour that is known or looked for, and how well; groups are no neighbours."""
    with space.entered():
        shown = subprocess.run(["ip", "-j", "neigh", "show", "nud", "all"], capture_output=True, check=True).stdout
    entries = [(entry["dst"], " ".join(entry["state"])) for entry in json.loads(shown)]
    return [(address, state) for address, state in entries if state != "NOARP"]


def talk(network: Network, one: str, other: str) -> None:
    """A datagram there and back, by each version of IP that both have."""
    here, there = launch_of(network.plan, one), launch_of(network.plan, other)
    pairs = [(socket.AF_INET, here.address, there.address), (socket.AF_INET6, here.address6, there.address6)]
    for family, _, target in [pair for pair in pairs if None not in pair]:
        with (
            network.spaces[one].socket(family, socket.SOCK_DGRAM) as sender,
            network.spaces[other].socket(family, socket.SOCK_DGRAM) as receiver,
        ):
            sender.settimeout(DEADLINE)
            receiver.settimeout(DEADLINE)
            receiver.bind(("", 7000))
            sender.sendto(b"there", (target, 7000))
            data, source = receiver.recvfrom(100)
            receiver.sendto(data, source)
            assert sender.recv(100) == b"there"


def all_permanent(network: Network) -> bool:
    return all({state for _, state in table(space)} == {"PERMANENT"} for space in network.spaces.values())


def test_nothing_is_left_to_be_found_whatever_happens(inside: Inside) -> None:
    def check() -> None:
        with Network.build(build(parse(TEXT, "x.toml"), 1)) as network:
            changes = Changes(network)
            talk(network, "alice", "ann")
            for peer in ("alice", "bob", "carol"):
                talk(network, peer, "server")
            assert all_permanent(network)

            changes.change_address("home", "11.0.9.2")
            talk(network, "alice", "server")
            changes.change_address("home", "11.0.9.77")
            talk(network, "alice", "server")
            assert all_permanent(network)

            changes.pull("home")
            changes.put_back("home")
            changes.pull("alice")
            changes.put_back("alice")
            talk(network, "alice", "server")
            assert all_permanent(network)

            left = launch_of(network.plan, "alice").address
            changes.move("alice", "away", None)
            talk(network, "alice", "bob")
            talk(network, "alice", "server")
            assert all_permanent(network)
            assert left not in dict(table(network.spaces["home"])), "who has left is nobody's neighbour"

    inside(check)


def test_a_switch_sends_to_nobody_but_the_one_who_is_meant(inside: Inside) -> None:
    def check() -> None:
        with Network.build(build(parse(TEXT, "x.toml"), 1)) as network:
            with network.spaces["ann"].socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL)) as ear:
                talk(network, "alice", "server")
                Changes(network).move("bob", "home", None)
                talk(network, "alice", "bob")
                talk(network, "alice", "ann")
                heard = []
                while select.select([ear], (), (), 0)[0]:
                    heard.append(ear.recv(2000))
            datagrams = [frame for frame in heard if b"there" in frame]
            assert len(datagrams) == 4, "those with ann herself, by both versions of IP"

    inside(check)


@pytest.mark.parametrize("count", [MAX_PAIRED + 4])
def test_hosts_of_a_large_lan_still_find_each_other(inside: Inside, count: int) -> None:
    crowd = "".join(f'[peer.p{number}]\nat = "home"\n' for number in range(count))

    def check() -> None:
        plan = build(parse(f'name = "x"\n[router.home]\nnat = "home"\n{crowd}', "x.toml"), 1)
        with Network.build(plan) as network:
            talk(network, "p0", f"p{count - 1}")
            states = dict(table(network.spaces["p0"]))
            assert states[plan.routers[0].gateway] == "PERMANENT"
            assert states[launch_of(plan, f"p{count - 1}").address] in ("REACHABLE", "DELAY", "STALE")

    inside(check)
