"""Events in a running lab, each judged by the wire: what the capture shows and what probes outside the NATs receive."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from lab.errors import EventError, Inconclusive, KernelError, PeerError
from lab.kernel import sandbox
from lab.lab import Lab
from lab.model.nat import Ports
from lab.observe.nat import Address
from lab.observe.packets import RST
from lab.peers.handle import Peer
from lab.plan.amend import launch_of, router_of
from lab.run.plugin import topology
from lab.run.probes import DEADLINE, End, ProbeError, UdpProbe
from tests.lab.round_trips import distance

NOT_WITHIN = 0.3
"Seconds in which something that must not arrive would have."


class Bench:
    """A vantage outside, and endpoints inside; all of UDP."""

    def __init__(self, lab: Lab, probe: UdpProbe) -> None:
        self.lab, self.probe = lab, probe
        self.vantage = probe.end(lab.network.spaces["core"], lab.plan.vantages[0])

    def inner(self, host: str = "alice") -> End:
        return self.probe.end(self.lab.network.spaces[host])

    async def mapped(self, inner: End) -> Address:
        """The external endpoint of an inner one, as the vantage sees it now."""
        (arrival,) = await self.probe.delivered([inner.send(self.vantage.address)])
        return arrival.source

    async def reaches(self, external: Address, within: float = DEADLINE) -> bool:
        """Whether the vantage gets through to that external endpoint."""
        try:
            await self.probe.delivered([self.vantage.send(external)], within)
        except ProbeError:
            return False
        return True

    async def misses(self, external: Address) -> bool:
        """Whether it does not; for where it must not, as there it is not waited for long."""
        return not await self.reaches(external, NOT_WITHIN)


def wan(lab: Lab, router: str) -> str:
    return router_of(lab.plan, router).wan


async def meet(lab: Lab, relay: Peer, alice: Peer, bob: Peer) -> None:
    """Alice reaches bob through the relay, where he takes a slot first."""
    await bob.reserve(relay)
    assert (await alice.dial(bob.through(relay))).path == "relayed"


async def breaks(peer: Peer, other: Peer) -> None:
    """Talk, so that a connection that has come to nothing is noticed, until it is gone."""
    with suppress(PeerError):
        await peer.ping(other, timeout=5)
    await peer.saw("disconnected", within=10, where=lambda peer="", **_: peer == other.peer_id)


@topology("two-homes")
async def test_a_rebooted_nat_knows_no_mapping_until_the_next_packet_out(lab: Lab) -> None:
    async with UdpProbe() as probe:
        bench = Bench(lab, probe)
        inner = bench.inner()
        before = await bench.mapped(inner)
        assert await bench.reaches(before)

        happened = await lab.event("home-a", "reboot")
        assert await bench.misses(before)
        after = await bench.mapped(inner)
        assert after == before, "a preserving NAT gives the same port again"
        assert await bench.reaches(after)

    facts = await lab.facts()
    vantage = bench.vantage.address
    dropped = [
        drop for drop in facts.drops if drop.router == "home-a" and (drop.packet.src, drop.packet.sport) == vantage
    ]
    assert dropped
    assert all(drop.at > happened.at for drop in dropped)


@topology("two-homes")
async def test_a_preserving_nat_can_be_made_to_come_back_with_another_port(lab: Lab) -> None:
    async with UdpProbe() as probe:
        bench = Bench(lab, probe)
        inner = bench.inner()
        before = await bench.mapped(inner)
        await lab.event("home-a", "reboot other-ports")
        after = await bench.mapped(inner)

        assert after[0] == before[0]
        assert after[1] != before[1]
        assert await bench.reaches(after)
        assert await bench.misses(before)


@topology("sequential-home")
async def test_a_rebooted_sequential_nat_begins_its_run_of_ports_anew(lab: Lab) -> None:
    assert router_of(lab.plan, "home").nat.ports is Ports.SEQUENTIAL
    async with UdpProbe() as probe:
        bench = Bench(lab, probe)
        await lab.event("home", "reboot")
        first, second = [await bench.mapped(bench.inner()) for _ in range(2)]
        await lab.event("home", "reboot")
        again = await bench.mapped(bench.inner())

    assert second[1] == first[1] + 1
    assert again == first


@topology("same-nat-hairpin")
async def test_the_mappings_of_one_peer_expire_and_its_neighbours_stay(lab: Lab) -> None:
    async with UdpProbe() as probe:
        bench = Bench(lab, probe)
        alice, bob = bench.inner("alice"), bench.inner("bob")
        theirs = await bench.mapped(alice), await bench.mapped(bob)
        happened = await lab.event("alice", "expire")

        assert happened.detail.endswith("gone")
        assert [await bench.misses(theirs[0]), await bench.reaches(theirs[1])] == [True, True]
        assert await bench.mapped(alice) == theirs[0], "expired is not rebound"


@topology("two-homes")
async def test_all_mappings_of_a_router_expire_at_once(lab: Lab) -> None:
    async with UdpProbe() as probe:
        bench = Bench(lab, probe)
        inner = [bench.inner() for _ in range(5)]
        externals = [await bench.mapped(one) for one in inner]
        await lab.event("home-a", "expire")
        assert all([await bench.misses(external) for external in externals])


@topology("two-homes")
async def test_a_live_mapping_is_rebound_to_another_port(lab: Lab) -> None:
    async with UdpProbe() as probe:
        bench = Bench(lab, probe)
        inner, other = bench.inner(), bench.inner()
        before, unused = await bench.mapped(inner), await bench.mapped(other)
        assert await bench.reaches(before)
        await lab.event("alice", "rebind")

        after = await bench.mapped(inner)
        assert after[0] == before[0]
        assert after[1] not in (before[1], unused[1])
        assert await bench.reaches(after)
        assert await bench.misses(before)


@topology("two-homes")
async def test_a_rebound_tcp_connection_ends_and_the_peers_meet_again(lab: Lab) -> None:
    relay, alice, bob = lab.peers("relay", "alice", "bob")
    await meet(lab, relay, alice, bob)
    happened = await lab.event("alice", "rebind")
    # What the relay hears now comes from a port that it has no connection with, so it answers with an RST.
    await breaks(alice, relay)
    assert (await alice.dial(relay.address)).path == "direct"
    facts = await lab.facts()
    resets = [
        p for p in facts.packets if p.interface == "home-a/wan" and p.flags & RST and p.src == relay.launch.address
    ]
    assert resets
    assert all(packet.at > happened.at for packet in resets)


@topology("two-homes")
async def test_a_changed_address_is_what_others_observe(lab: Lab) -> None:
    relay, alice = lab.peers("relay", "alice")
    old = wan(lab, "home-a")
    await alice.dial(relay.address)
    await alice.saw("observed", within=10, where=lambda addr="", **_: f"/{old}/" in addr)
    async with UdpProbe() as probe:
        bench = Bench(lab, probe)
        inner = bench.inner()
        assert (await bench.mapped(inner))[0] == old
        happened = await lab.event("home-a", "address 11.0.9.2")
        mapped = await bench.mapped(inner)
        assert mapped[0] == "11.0.9.2" == wan(lab, "home-a")
        assert await bench.reaches(mapped)
        assert await bench.misses((old, mapped[1]))

        back = await lab.event("home-a", f"address {old}")
        assert (await bench.mapped(inner))[0] == old
        await lab.event("home-a", "address 11.0.1.77")
        assert (await bench.mapped(inner))[0] == "11.0.1.77", "another one of the same network"

    await breaks(alice, relay)
    await alice.dial(relay.address)
    await alice.saw("observed", within=10, where=lambda addr="", **_: "/11.0.1.77/" in addr)
    facts = await lab.facts()
    out = [p for p in facts.packets if p.interface == "home-a/wan" and p.dst == bench.vantage.address[0]]
    assert {p.src for p in out} == {old, "11.0.9.2", "11.0.1.77"}
    assert not [p for p in out if p.src == old and happened.done < p.at < back.at]


@topology("two-homes")
async def test_an_exhausted_nat_keeps_its_mappings_and_makes_no_new_ones(lab: Lab) -> None:
    async with UdpProbe() as probe:
        bench = Bench(lab, probe)
        known = bench.inner()
        external = await bench.mapped(known)
        await lab.event("home-a", "exhaust 2")
        late = [bench.inner() for _ in range(3)]
        for one in late[:2]:
            await bench.mapped(one)
        with pytest.raises(ProbeError):
            await probe.delivered([late[2].send(bench.vantage.address)], NOT_WITHIN)
        assert await bench.mapped(known) == external
        assert await bench.reaches(external)

        await lab.event("home-a", "replenish")
        await bench.mapped(late[2])


@topology("two-homes")
@pytest.mark.parametrize("place", ["alice", "home-a", "home-a/lan0"])
async def test_nothing_passes_a_cable_that_is_pulled_and_all_does_when_it_is_back(lab: Lab, place: str) -> None:
    async with UdpProbe() as probe:
        bench = Bench(lab, probe)
        inner = bench.inner()
        external = await bench.mapped(inner)
        await lab.event(place, "down")
        with pytest.raises(ProbeError):
            await probe.delivered([inner.send(bench.vantage.address)], NOT_WITHIN)
        assert await bench.misses(external)
        await lab.event(place, "up")
        assert await bench.mapped(inner) == external
        assert await bench.reaches(external)


@topology("two-homes")
async def test_parted_places_are_apart_from_each_other_only(lab: Lab) -> None:
    relay, alice, bob = lab.peers("relay", "alice", "bob")
    parted = await lab.event(alice, "partition relay")
    with pytest.raises(PeerError, match="alice could not dial"):
        await alice.dial(relay.address, timeout=1.5)
    await bob.dial(relay.address)
    healed = await lab.event("home-a", "heal")
    await alice.dial(relay.address)

    facts = await lab.facts()
    between = [p for p in facts.packets if p.interface == "relay/eth0" and wan(lab, "home-a") in (p.src, p.dst)]
    assert not any(parted.done <= packet.at < healed.at for packet in between)
    assert any(packet.at >= healed.at for packet in between)


@topology("two-homes")
async def test_a_peer_that_moves_to_another_lan_can_be_reached_again(lab: Lab) -> None:
    relay, alice, bob = lab.peers("relay", "alice", "bob")
    await meet(lab, relay, alice, bob)
    happened = await lab.event(alice, "move home-b")
    assert launch_of(lab.plan, "alice").router == "home-b"
    assert alice.launch.address != bob.launch.address

    # Connections from an address that it no longer has: whoever moves has to give them up, for nobody will tell it.
    for other in (relay, bob):
        await alice.ask("disconnect", peer=other.peer_id)
    await bob.ask("disconnect", peer=alice.peer_id)
    await alice.reserve(relay)
    await bob.dial(alice.through(relay))
    await bob.ping(alice)

    facts = await lab.facts()
    after = [packet for packet in facts.packets if packet.at > happened.done]
    reserved = [p for p in after if p.interface == "home-b/lan" and p.src == alice.launch.address]
    assert {p.dst for p in reserved} >= {relay.launch.address}
    assert not [p for p in after if p.interface == "home-a/wan" and p.src == wan(lab, "home-a")], "a ghost at home-a"


@topology("dual-stack")
@pytest.mark.parametrize("what", ["pulled", "moved"])
async def test_ipv6_survives_what_happens_to_cables(lab: Lab, what: str) -> None:
    _, alice, bob = lab.peers("relay", "alice", "bob")
    assert alice.launch.address6 is not None
    if what == "pulled":
        await lab.event(str(alice.launch.router), "down")
        await lab.event(str(alice.launch.router), "up")
    else:
        await lab.event("alice", f"move {bob.launch.router}")
    before = lab.network.spaces["core"].traffic()
    with lab.network.spaces["alice"].socket(socket.AF_INET6, socket.SOCK_STREAM) as there:
        there.setblocking(False)
        relay = launch_of(lab.plan, "relay")
        async with asyncio.timeout(5):
            await asyncio.get_running_loop().sock_connect(there, (relay.address6, relay.port))
        assert there.getsockname()[0] == alice.launch.address6
    assert lab.network.spaces["core"].traffic() > before


@topology("two-homes")
async def test_a_killed_relay_takes_slots_along_and_gives_them_again_when_it_is_back(lab: Lab) -> None:
    relay, alice, bob = lab.peers("relay", "alice", "bob")
    await meet(lab, relay, alice, bob)
    identity = relay.peer_id
    killed = await lab.event(relay, "kill")
    await bob.saw("disconnected", within=10, where=lambda peer="", **_: peer == identity)
    with pytest.raises(PeerError, match="relay was killed"):
        await relay.ask("info")

    await lab.event("relay", "start")
    relay = lab.peer("relay")
    assert relay.peer_id == identity, "a relay that comes back is still the same peer"
    await bob.reserve(relay)
    facts = await lab.facts()
    assert any(p.is_syn and p.interface == "relay/eth0" and p.at > killed.done for p in facts.packets)


def lines(lab: Lab) -> list[dict[str, Any]]:
    """The events that the lab itself has recorded."""
    path = Path(str(lab._record.capture)).with_name("events.jsonl")
    recorded = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in recorded if line["who"] == "lab"]


@topology("two-homes")
async def test_an_event_is_on_the_timeline_with_its_target_and_its_length(lab: Lab) -> None:
    happened = await lab.event("home-a", "address 11.0.9.2")
    (line,) = [line for line in lines(lab) if line["event"] == "event"]
    assert (line["target"], line["what"]) == ("home-a", "address 11.0.9.2")
    assert line["at"] == happened.at
    assert line["seconds"] == pytest.approx(happened.seconds)
    assert "error" not in line


@topology("two-homes")
async def test_an_event_that_fails_says_so_and_ends_its_step_as_inconclusive(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise KernelError("home-a: nft: no")

    monkeypatch.setattr("lab.kernel.memory.nft.load", refused)
    with pytest.raises(Inconclusive, match="home-a reboot: home-a: nft: no"):
        async with lab.step("the router loses its power"):
            await lab.event("home-a", "reboot")
    event, step = lines(lab)[-2:]
    assert (event["event"], event["what"], event["error"]) == ("event", "reboot", "home-a: nft: no")
    assert step["stage"] == "end"
    assert step["error"].startswith("INCONCLUSIVE: ")


@topology("two-homes")
async def test_an_event_that_makes_no_sense_is_refused_in_one_line_that_names_what_exists(lab: Lab) -> None:
    for target, what, complaint in (
        ("home-c", "reboot", "no 'home-c' in two-homes; routers: home-a, home-b; peers: relay, alice, bob"),
        ("home-a", "rebot", "did you mean reboot?"),
        ("alice", "reboot", "reboot does not happen to a peer like alice; what does: expire, rebind"),
        ("relay", "expire", "relay is behind no router"),
        ("home-a", "partition nowhere", "no 'nowhere' in two-homes"),
        ("alice", "partition home-a", "both behind home-a"),
        ("home-a", "heal", "nothing parts home-a from anybody"),
        ("home-a", "address 11.0.2.9", "in a network of home-b's"),
        ("home-a", "address 10.0.9.2", "does not look public"),
        ("home-a", "address 11.0.1.1", "11.0.1.1 is core's"),
        ("alice", "move home-a", "alice is behind home-a already"),
        ("alice", "move home-b 192.168.1.10", "192.168.1.10 is bob's"),
        ("alice", "move home-b 10.0.0.1", "not on home-b's LAN"),
        ("relay", "move home-b", "no LAN to leave"),
        ("alice", "start", "alice is running"),
        ("alice/eth1", "down", "cables end at: core/home-a, home-a/wan"),
    ):
        with pytest.raises(EventError) as caught:
            await lab.event(target, what)
        assert complaint in str(caught.value)
        assert "\n" not in str(caught.value)


@topology("two-homes")
async def test_a_link_that_becomes_slow_is_slow_from_then_on(lab: Lab) -> None:
    relay, alice = lab.peers("relay", "alice")
    await alice.dial(relay.address)
    assert await distance(alice, relay, below=0.1) < 0.1
    await lab.event("home-a", "link latency=60ms")
    assert 0.12 <= await distance(alice, relay, below=0.3) < 0.3
    with pytest.raises(EventError, match="alice has no link of its own"):
        await lab.event("alice", "link wifi")
    await lab.event("home-a", "address 11.0.9.2")
    await breaks(alice, relay)
    await alice.dial(relay.address)
    assert 0.12 <= await distance(alice, relay, below=0.3) < 0.3, "the link is the router's, whatever its address"
    await lab.event("home-a", "link ideal")
    assert await distance(alice, relay, below=0.1) < 0.1


@pytest.fixture
def lasting(tmp_path: Path) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """`punchlab event` for a lab that `punchlab up` keeps running, in a folder deeper than a socket's path may be."""
    if reason := sandbox.problem():
        pytest.skip(reason)
    runs = tmp_path / ("deep" * 30)
    argv = [sys.executable, "-m", "lab"]

    def event(*words: str) -> subprocess.CompletedProcess[str]:
        command = [*argv, "event", *words, "--runs", str(runs)]
        return subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)

    with subprocess.Popen([*argv, "up", "two-homes", "--runs", str(runs)], stdout=subprocess.PIPE, text=True) as lab:
        assert lab.stdout is not None
        try:
            for line in lab.stdout:
                if "Ctrl-C" in line:
                    break
            yield event
        finally:
            lab.send_signal(signal.SIGINT)
            lab.wait(180)
    assert "is not running" in event("home-a", "reboot").stderr


def test_a_shell_makes_things_happen_in_a_running_lab(
    lasting: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = lasting("home-a", "address", "11.0.9.2")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("home-a address 11.0.9.2: was 11.0.1.2 (")

    wrong = lasting("home-a", "fly")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("punchlab: no event 'fly'; there are: reboot,")
    assert wrong.stderr.count("\n") == 1

    nobody = lasting("home-z", "reboot")
    assert nobody.returncode == 2
    assert "routers: home-a, home-b; peers: relay, alice, bob" in nobody.stderr
    assert "reboot [other-ports]" in lasting().stdout
