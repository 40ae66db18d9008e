"""Links in a real network: what was asked for is what probes find, and punches still come out."""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from lab.errors import KernelError
from lab.kernel.network import Network
from lab.kernel.shaping import USERSPACE, UserspaceLinks
from lab.lab import Lab
from lab.model.impairment import Impairment
from lab.model.topology import parse
from lab.observe.quality import Train, compare, delay
from lab.plan.build import build
from lab.plan.plan import Plan
from lab.run.links import BURSTS, CASES, Case, measure_cases, missed
from lab.run.plugin import topology
from tests.lab.round_trips import DEADLINE, address_of, distance, round_trip, udp

Inside = Callable[[Callable[[], None]], None]
THREE = """
name = "three"
[region.eu]
latency = {{ us = "30ms" }}
[region.us]
[router.home]
nat = "home"
link = {home}
[peer.alice]
at = "home"
[peer.one]
at = "internet"
link = {one}
[peer.two]
at = "internet"
[peer.three]
at = "internet"
region = "us"
[peer.four]
at = "internet"
region = "eu"
"""
WITHOUT = 'name = "w"\n[peer.one]\nat = "internet"\n[peer.two]\nat = "internet"\n'


def plan(one: str = "{}", home: str = "{}") -> Plan:
    return build(parse(THREE.format(one=one, home=home), "three.toml"), seed=1)


def arrives(sock: socket.socket, within: float) -> bool:
    return bool(select.select([sock], (), (), within)[0])


def userspace(network: Network) -> UserspaceLinks:
    assert isinstance(network.links, UserspaceLinks)
    return network.links


def test_every_impairment_measures_as_it_was_asked_for(inside: Inside) -> None:
    def check() -> None:
        cases = (*CASES, *(replace(case, count=12_000, rate=2400) for case in BURSTS))
        trains, _ = measure_cases(cases)
        rows = [row for case in cases for row in compare(case.name, case.asked, trains[case.name])]
        # Of delays only the shorter ones are the link's own, while other tests want the processor.
        assert not [row for row in rows if not row.ok and row.unit != "s"]
        for case in CASES:
            if case.asked.latency and not case.asked.jitter and not case.asked.reorder:
                assert abs(delay(trains[case.name], 0.2) - case.asked.latency) < 0.0005

    inside(check)


def test_a_probe_that_found_no_room_where_it_was_to_be_read_is_no_loss_of_the_link(inside: Inside) -> None:
    def check() -> None:
        with Network.build(build(parse(WITHOUT, "w.toml"), 1)) as network, udp(network.spaces["two"], 7000) as there:
            there.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            with udp(network.spaces["one"]) as here:
                for _ in range(100):
                    here.sendto(b"probe", (address_of(network, "two"), 7000))
            count = 0
            while arrives(there, 0.2):
                count += len(there.recv(10)) == 5
            assert 0 < count < 100
            assert missed(there) == 100 - count

    inside(check)


def test_the_same_seed_loses_doubles_and_spoils_the_same_packets(inside: Inside) -> None:
    def check() -> None:
        asked = Impairment(latency=0.01, jitter=0.01, loss=0.2, loss_burst=2.0, duplicate=0.2, corrupt=0.2)
        case = Case("all at once", asked, 400, 400, size=500)
        fates = [came(measure_cases((case,), USERSPACE, seed)[0][case.name]) for seed in (5, 5, 6)]
        assert fates[0] == fates[1]
        assert fates[0] != fates[2]

    inside(check)


def came(train: Train) -> list[int]:
    return sorted(arrival.number for arrival in train.arrivals)


def test_a_link_delays_both_ways_and_nobody_else(inside: Inside) -> None:
    def check() -> None:
        with Network.build(plan('{ up = { latency = "20ms" }, down = { latency = "50ms" } }')) as network:
            network.shape()
            assert 0.07 <= round_trip(network, "one", "two", below=0.08) < 0.08
            assert 0.07 <= round_trip(network, "two", "one", below=0.08) < 0.08
            assert round_trip(network, "two", "three", below=0.01) < 0.01
            assert 0.06 <= round_trip(network, "three", "four", below=0.07) < 0.07

    inside(check)


def test_a_router_delays_what_is_behind_it(inside: Inside) -> None:
    def check() -> None:
        with Network.build(plan('{ latency = "5ms" }', '{ latency = "20ms" }')) as network:
            network.shape()
            assert 0.05 <= round_trip(network, "alice", "one", below=0.06) < 0.06

    inside(check)


def test_a_link_that_changes_keeps_what_is_under_way(inside: Inside) -> None:
    def check() -> None:
        with Network.build(plan('{ latency = "300ms" }')) as network, udp(network.spaces["two"], 7000) as there:
            network.shape()
            with udp(network.spaces["one"]) as here:
                changed = took = 1.0
                deadline = time.monotonic() + DEADLINE
                # A busy machine lets us change it late, and look late.
                while (changed > 0.2 or took >= 0.4) and time.monotonic() < deadline:
                    network.set_link("one", Impairment(latency=0.3))
                    began = time.monotonic()
                    here.sendto(b"slow", (address_of(network, "two"), 7000))
                    network.set_link("one", Impairment(latency=0.001))
                    here.sendto(b"fast", (address_of(network, "two"), 7000))
                    changed = time.monotonic() - began
                    heard = [there.recv(10), there.recv(10)]
                    took = time.monotonic() - began
                assert heard == [b"fast", b"slow"]
                assert 0.29 < took < 0.4

    inside(check)


def test_a_link_may_begin_and_end_while_the_network_runs(inside: Inside) -> None:
    def check() -> None:
        with Network.build(build(parse(WITHOUT, "w.toml"), 1)) as network:
            network.shape()
            assert network.links is None
            network.set_link("two", Impairment(latency=0.02), Impairment(latency=0.03))
            assert 0.05 <= round_trip(network, "one", "two", below=0.06) < 0.06
            network.set_link("two", Impairment())
            assert round_trip(network, "one", "two", below=0.01) < 0.01
            network.set_link("two", Impairment(loss=1.0))
            with udp(network.spaces["two"], 7000) as there, udp(network.spaces["one"]) as here:
                here.sendto(b"lost", (address_of(network, "two"), 7000))
                assert not arrives(there, 0.1)

    inside(check)


def test_a_cable_that_was_given_no_link_has_none(inside: Inside) -> None:
    def check() -> None:
        told = "alice has no link of its own; those that have: home, one"
        with Network.build(plan()) as network, pytest.raises(KernelError, match=told):
            network.set_link("alice", Impairment(latency=0.1))

    inside(check)


def test_a_link_whose_program_was_killed_carries_nothing_and_says_so(inside: Inside) -> None:
    def check() -> None:
        with Network.build(plan('{ latency = "1ms" }')) as network:
            network.shape(USERSPACE)
            links = userspace(network)
            assert links.problems() == ()
            os.kill(links.pid, signal.SIGKILL)
            with udp(network.spaces["two"], 7000) as there, udp(network.spaces["one"]) as here:
                here.sendto(b"lost", (address_of(network, "two"), 7000))
                assert not arrives(there, 0.2)
            assert "ended with status -9" in links.problems()[0]
            with pytest.raises(KernelError, match="the userspace link has ended"):
                network.set_link("one", Impairment(latency=0.1))

    inside(check)


def test_a_link_that_reads_late_lets_go_in_time(inside: Inside) -> None:
    def check() -> None:
        with (
            Network.build(plan('{ up = { latency = "300ms" } }')) as network,
            udp(network.spaces["two"], 7000) as there,
        ):
            network.shape(USERSPACE)
            pid, target = userspace(network).pid, (address_of(network, "two"), 7000)
            with udp(network.spaces["one"]) as here:
                # Before the first packet the kernel may not take the time yet.
                here.sendto(b"first", target)
                assert there.recv(10) == b"first"
                stopped = took = 1.0
                deadline = time.monotonic() + DEADLINE
                # A busy machine lets us look late, too; a link that counts from when it reads is never early.
                while took > 0.3 + stopped / 2 and time.monotonic() < deadline:
                    os.kill(pid, signal.SIGSTOP)
                    began = time.monotonic()
                    here.sendto(b"probe", target)
                    assert not arrives(there, 0.1)
                    os.kill(pid, signal.SIGCONT)
                    stopped = time.monotonic() - began
                    assert there.recv(10) == b"probe"
                    took = time.monotonic() - began
                assert 0.3 <= took <= 0.3 + stopped / 2

    inside(check)


def test_it_counts_what_it_does(inside: Inside) -> None:
    def check() -> None:
        with Network.build(plan('{ up = { loss = "100%" } }')) as network:
            network.shape(USERSPACE)
            with udp(network.spaces["one"]) as here:
                for _ in range(20):
                    here.sendto(b"lost", (address_of(network, "two"), 7000))
            deadline = time.monotonic() + DEADLINE
            while (count := userspace(network).counts()[1]).taken < 20 and time.monotonic() < deadline:
                pass
            assert (count.name, count.taken, count.lost, count.dropped) == ("one", 20, 20, 0)

    inside(check)


def test_what_is_too_large_for_a_link_is_answered(inside: Inside) -> None:
    def check() -> None:
        with Network.build(plan("{ mtu = 1000 }")) as network:
            assert too_large(network)

    inside(check)


def test_a_black_hole_answers_nothing(inside: Inside) -> None:
    def check() -> None:
        with Network.build(plan("{ mtu = 1000, pmtu-black-hole = true }")) as network:
            assert not too_large(network)

    inside(check)


def too_large(network: Network) -> bool:
    """Whether a sender learns that its datagram did not fit."""
    ip_mtu_discover, ip_pmtudisc_do, ip_recverr = 10, 2, 11
    with udp(network.spaces["two"]) as here:
        here.setsockopt(socket.IPPROTO_IP, ip_mtu_discover, ip_pmtudisc_do)
        here.setsockopt(socket.IPPROTO_IP, ip_recverr, 1)
        here.connect((address_of(network, "one"), 7000))
        here.send(bytes(1200))
        poll = select.poll()
        poll.register(here, 0)
        return bool(poll.poll(300))


async def meet(lab: Lab) -> float:
    """Alice reaches bob through the relay, and they punch; when the direct connection was there."""
    relay, alice, bob = lab.peers("relay", "alice", "bob")
    async with lab.step("bob reserves a slot"):
        await bob.reserve(relay)
    async with lab.step("alice reaches bob through the relay"):
        assert (await alice.dial(bob.through(relay))).path == "relayed"
    async with lab.step("both punch"):
        await bob.saw("punch", within=40, where=lambda stage="", **_: stage == "succeeded")
    direct = await alice.saw(
        "connected", within=15, where=lambda path="", peer="", **_: path == "direct" and peer == bob.peer_id
    )
    assert (await alice.echo(bob)).path == "direct"
    return direct.at


@topology("two-far-homes")
async def test_homes_that_are_40_ms_apart_punch_and_the_wire_shows_the_distance(lab: Lab) -> None:
    _, alice, bob = lab.peers("relay", "alice", "bob")
    await meet(lab)
    assert 0.08 <= await distance(alice, bob, below=0.1) < 0.1
    flow = (await lab.facts()).direct_flow(alice, bob)
    assert flow is not None
    assert {end.address for end in flow.ends} == {router.wan for router in lab.plan.routers}


@topology("lossy-wifi")
async def test_a_punch_comes_through_bad_wifi(lab: Lab) -> None:
    _, alice, bob = lab.peers("relay", "alice", "bob")
    await meet(lab)
    assert (await lab.facts()).direct_flow(alice, bob) is not None


@topology("two-regions")
async def test_a_punch_crosses_an_ocean(lab: Lab) -> None:
    _, alice, bob = lab.peers("relay", "alice", "bob")
    await meet(lab)
    # 14 ± 3 ms of cable, 45 ms of ocean and 2 ms of fibre, there and back.
    assert 0.115 < await distance(alice, bob, below=0.14) < 0.14


@topology("two-far-homes")
async def test_a_link_changes_under_a_connection(lab: Lab) -> None:
    _, alice, bob = lab.peers("relay", "alice", "bob")
    await meet(lab)
    await lab.set_link("home-a", Impairment(latency=0.2))
    assert 0.44 <= await distance(alice, bob, below=0.5) < 0.5
