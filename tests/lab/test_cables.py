"""Links of cables in private networks: a host's to its LAN, and a router's to the one that it is behind."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import time
from collections.abc import Callable

import pytest

from lab.errors import KernelError
from lab.kernel.changes import Changes
from lab.kernel.network import Network
from lab.kernel.shaping import USERSPACE, UserspaceLinks
from lab.model.impairment import Impairment
from lab.model.topology import parse
from lab.plan.build import build
from lab.plan.plan import Plan
from lab.run import leaks
from tests.lab.round_trips import DEADLINE, address_of, round_trip, udp

Inside = Callable[[Callable[[], None]], None]
TEXT = """
name = "cables"
[router.home]
nat = "home"
[router.isp]
nat = "home"
[router.flat]
nat  = "home"
at   = "isp"
link = {flat}
[peer.alice]
at   = "home"
link = {alice}
[peer.ann]
at = "home"
[peer.bob]
at = "flat"
[peer.server]
at = "internet"
"""


def plan(alice: str = "{}", flat: str = "{}") -> Plan:
    return build(parse(TEXT.format(alice=alice, flat=flat), "cables.toml"), seed=1)


def test_a_cable_delays_what_crosses_it_and_nothing_else(inside: Inside) -> None:
    def check() -> None:
        with Network.build(plan('{ up = { latency = "20ms" }, down = { latency = "50ms" } }')) as network:
            assert round_trip(network, "alice", "ann", below=0.01) < 0.01, "a link is ideal until it is asked for"
            network.shape()
            assert 0.07 <= round_trip(network, "alice", "ann", below=0.08) < 0.08, "the router sees none of these"
            assert 0.07 <= round_trip(network, "alice", "server", below=0.08) < 0.08
            assert round_trip(network, "ann", "server", below=0.01) < 0.01

    inside(check)


def test_a_cable_between_two_routers_is_shaped_like_any_other(inside: Inside) -> None:
    def check() -> None:
        with Network.build(plan(flat='{ latency = "30ms" }')) as network:
            network.shape()
            assert 0.06 <= round_trip(network, "bob", "server", below=0.07) < 0.07
            assert round_trip(network, "alice", "server", below=0.01) < 0.01
            network.set_link("flat", Impairment(latency=0.005))
            assert 0.01 <= round_trip(network, "bob", "server", below=0.02) < 0.02
            network.set_link("alice", Impairment(latency=0.01))
            assert 0.02 <= round_trip(network, "alice", "ann", below=0.03) < 0.03

    inside(check)


def test_a_shaped_cable_is_no_way_around_anything(inside: Inside) -> None:
    def check() -> None:
        made = plan('{ latency = "1ms" }', '{ latency = "1ms" }')
        with Network.build(made) as network:
            assert asyncio.run(leaks.check(network, made)) == []
            network.shape()
            assert asyncio.run(leaks.check(network, made)) == []

    inside(check)


def test_a_shaped_cable_is_pulled_and_put_back_and_moves_with_its_host(inside: Inside) -> None:
    def check() -> None:
        with Network.build(plan('{ latency = "20ms" }')) as network:
            network.shape()
            changes = Changes(network)
            changes.pull("alice")
            with udp(network.spaces["server"], 7001) as there, udp(network.spaces["alice"]) as here:
                here.sendto(b"lost", (address_of(network, "server"), 7001))
                assert not select.select([there], (), (), 0.2)[0]
            changes.put_back("alice")
            assert 0.04 <= round_trip(network, "alice", "server", below=0.05) < 0.05
            changes.move("alice", "flat", None)
            assert 0.04 <= round_trip(network, "alice", "bob", below=0.05) < 0.05, "the phone's radio is slow"

    inside(check)


def test_frames_are_lost_doubled_and_spoiled_as_often_as_asked_for(inside: Inside) -> None:
    def check() -> None:
        sent = 2000
        asked = '{ up = { loss = "20%", duplicate = "10%", corrupt = "10%" } }'
        with Network.build(plan(asked)) as network, udp(network.spaces["ann"], 7000) as there:
            network.shape(USERSPACE)
            there.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            with udp(network.spaces["alice"]) as here:
                for number in range(sent):
                    here.sendto(number.to_bytes(4, "big"), (address_of(network, "ann"), 7000))
                    if number % 50 == 0:
                        time.sleep(0)
            links = network.links
            assert isinstance(links, UserspaceLinks)
            deadline = time.monotonic() + DEADLINE
            while (count := links.counts()[0]).taken < sent and time.monotonic() < deadline:
                pass
            assert (count.name, count.taken, count.overruns) == ("alice/eth0", sent, 0)
            kept = sent - count.lost
            assert abs(count.lost / sent - 0.2) < 3 * (0.2 * 0.8 / sent) ** 0.5
            assert abs(count.doubled / kept - 0.1) < 3 * (0.1 * 0.9 / kept) ** 0.5
            assert abs(count.spoiled / kept - 0.1) < 3 * (0.1 * 0.9 / kept) ** 0.5
            # A bit that flips in the ports or the checksum costs the datagram; one in the payload as well.
            arrived = [there.recv(100) for _ in range(kept - count.spoiled)]
            while select.select([there], (), (), 0.1)[0]:
                arrived.append(there.recv(100))
            assert len(arrived) <= kept + count.doubled

    inside(check)


def test_a_cable_whose_program_was_killed_carries_nothing_and_says_so(inside: Inside) -> None:
    def check() -> None:
        with Network.build(plan('{ latency = "1ms" }')) as network:
            network.shape(USERSPACE)
            links = network.links
            assert isinstance(links, UserspaceLinks)
            assert links.problems() == ()
            assert links._cables is not None
            os.kill(links._cables.pid, signal.SIGKILL)
            with udp(network.spaces["ann"], 7000) as there, udp(network.spaces["alice"]) as here:
                here.sendto(b"lost", (address_of(network, "ann"), 7000))
                assert not select.select([there], (), (), 0.2)[0]
            assert "ended with status -9" in links.problems()[0]
            with pytest.raises(KernelError, match="the userspace link has ended"):
                network.set_link("alice", Impairment(latency=0.1))

    inside(check)
