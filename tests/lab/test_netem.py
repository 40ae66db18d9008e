"""Links by netem, where the kernel has it: the trees it is given, and what only shows on a wire."""

from __future__ import annotations

import json
import select
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from lab.errors import MissingCapability
from lab.kernel import netem, sandbox
from lab.kernel.namespace import Namespace
from lab.kernel.network import Network
from lab.kernel.shaping import ENVIRONMENT, NETEM, USERSPACE, UserspaceLinks, choice
from lab.model.impairment import Impairment
from lab.model.topology import parse
from lab.observe.quality import overtaking
from lab.plan.build import build
from lab.plan.names import CORE
from lab.run.links import Case, measure_cases
from lab.run.pathmtu import measure_sizes

Inside = Callable[[Callable[[], None]], None]
DEADLINE = 10.0
ALL_AT_ONCE = (
    '{ latency = "20ms", jitter = "5ms", loss = "2%", loss-burst = 4, duplicate = "1%", reorder = "3%",'
    ' corrupt = "1%", rate = "10Mbit", buffer = "50ms" }'
)
TEXT = """
name = "pair"
[region.eu]
latency = {{ us = "30ms" }}
[region.us]
[peer.near]
at = "internet"
region = "eu"
link = {near}
[peer.far]
at = "internet"
region = "us"
link = {{ down = {far} }}
[peer.nowhere]
at = "internet"
"""


@pytest.fixture
def with_netem(inside: Inside) -> Inside:
    """The same as `inside`, where there is netem."""

    def tried() -> bytes:
        return (netem.problem() or "").encode()

    if problem := sandbox.fork_into_sandbox(tried, 60.0):
        pytest.skip(problem.decode())
    return inside


def network(near: str = "{}", far: str = "{}") -> Network:
    return Network.build(build(parse(TEXT.format(near=near, far=far), "pair.toml"), seed=1))


def address_of(made: Network, peer: str) -> str:
    return next(launch.address for launch in made.plan.launches if launch.peer == peer)


def shown(space: Namespace, what: str, *more: str) -> list[dict[str, Any]]:
    with space.entered():
        done = subprocess.run(["tc", "-j", "-s", what, "show", *more], capture_output=True, text=True, check=True)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def udp(ns: Namespace, port: int = 0) -> socket.socket:
    sock = ns.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(DEADLINE)
    sock.bind(("", port))
    return sock


def arriving(sock: socket.socket, quiet: float) -> int:
    """How many datagrams come until none has for so long."""
    return len(received(sock, quiet))


def received(sock: socket.socket, quiet: float) -> list[bytes]:
    """The datagrams that come until none has for so long."""
    datagrams = []
    sock.setblocking(False)
    while select.select([sock], (), (), quiet)[0]:
        with suppress(BlockingIOError):  # what came is looked at only now, and its checksum was wrong
            datagrams.append(sock.recv(2000))
    return datagrams


def send(made: Network, source: str, target: str, number: int, size: int = 100) -> None:
    """Datagrams of so many bytes of IP."""
    with udp(made.spaces[source]) as sock:
        for _ in range(number):
            sock.sendto(bytes(size - 28), (address_of(made, target), 7000))


def test_the_environment_chooses_among_what_there_is(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    def check() -> None:
        there = netem.problem() is None
        monkeypatch.delenv(ENVIRONMENT, raising=False)
        assert choice()[0] == (NETEM if there else USERSPACE)
        monkeypatch.setenv(ENVIRONMENT, USERSPACE)
        assert choice() == (USERSPACE, "as PUNCHLAB_LINKS says")
        monkeypatch.setenv(ENVIRONMENT, "magic")
        with pytest.raises(MissingCapability, match="PUNCHLAB_LINKS=magic: links are made by netem or by userspace"):
            choice()
        if not there:
            with pytest.raises(MissingCapability, match="asked for: no netem in this kernel"):
                choice(NETEM)

    inside(check)


def test_the_kernel_has_what_was_asked_for(with_netem: Inside) -> None:
    def check() -> None:
        with network(ALL_AT_ONCE) as made:
            made.shape(NETEM)
            tree = {each["kind"]: each["options"] for each in shown(made.spaces["near"], "qdisc", "dev", "eth0")}
            told, bucket = tree["netem"], tree["tbf"]
            assert told["delay"] == {"delay": 0.02, "jitter": 0.005, "correlation": 0}
            assert told["loss-gemodel"]["p"] == pytest.approx(0.0051, abs=1e-4)
            assert told["loss-gemodel"]["r"] == pytest.approx(0.25)
            assert (told["duplicate"]["duplicate"], told["reorder"]["reorder"], told["corrupt"]["corrupt"]) == (
                pytest.approx(0.01),
                pytest.approx(0.03),
                pytest.approx(0.01),
            )
            assert told["gap"] == 1, "each packet by itself"
            assert bucket["rate"] == 10_000_000 // 8
            made.set_link("near", Impairment(latency=0.05))
            tree = {each["kind"]: each["options"] for each in shown(made.spaces["near"], "qdisc", "dev", "eth0")}
            told = tree["netem"]
            assert told["delay"] == {"delay": 0.05, "jitter": 0, "correlation": 0}
            # Of the reordering it says the share but does it only with a gap.
            assert (told["gap"], told.keys() & {"loss-gemodel", "duplicate", "corrupt", "rate"}) == (0, set())
            assert "tbf" not in tree

    with_netem(check)


def test_neighbours_are_found_past_a_link_that_loses_everything(with_netem: Inside) -> None:
    def check() -> None:
        with network('{ loss = "100%" }') as made, udp(made.spaces["near"], 7000) as there:
            made.shape(NETEM)
            send(made, "far", "near", 3)
            assert arriving(there, 0.3) == 0
            made.set_link("near", Impairment())
            # Had its question been lost, the kernel would ask again after a second.
            send(made, "far", "near", 1)
            assert arriving(there, 0.5) == 1

    with_netem(check)


def test_only_packets_from_afar_travel_the_distance(with_netem: Inside) -> None:
    def check() -> None:
        with network(far='{ duplicate = "100%" }') as made, udp(made.spaces["far"], 7000) as there:
            made.shape(NETEM)
            send(made, "near", "far", 5)
            assert arriving(there, 0.3) == 10, "two netems, one of which doubles, are no tree that the kernel refuses"
            (away,) = shown(made.spaces[CORE], "qdisc", "dev", "away.1")
            assert away["packets"] == 5, "once each, and what the vantages and neighbours say goes past it"
            send(made, "nowhere", "far", 5)
            assert arriving(there, 0.3) == 10
            assert shown(made.spaces[CORE], "qdisc", "dev", "away.1")[0]["packets"] == 5

    with_netem(check)


def test_jitter_keeps_the_order(with_netem: Inside) -> None:
    def check() -> None:
        case = Case("jitter", Impairment(latency=0.02, jitter=0.015), 300, 300)
        trains, _ = measure_cases((case,), NETEM)
        assert len(trains[case.name].arrivals) == 300
        assert overtaking(trains[case.name]) == 0.0

    with_netem(check)


@pytest.mark.parametrize("backend", [NETEM, USERSPACE])
def test_a_buffer_holds_bytes_however_small_the_packets(backend: str, request: pytest.FixtureRequest) -> None:
    def check() -> None:
        # On its way down, for a sender feels how full its own queue is and waits.
        with network(far='{ rate = "8kbit", buffer = "20000B" }') as made:
            made.shape(backend)
            send(made, "near", "far", 400)
            # 200 fit; ten leave in a second, and by netem as many as a burst holds at once.
            assert 200 <= 400 - dropped(made, 140) < 260

    request.getfixturevalue("with_netem" if backend == NETEM else "inside")(check)


def dropped(made: Network, least: int) -> int:
    """Packets that found no room in far's buffer, once they are so many."""
    deadline, count = time.monotonic() + DEADLINE, 0
    while count < least and time.monotonic() < deadline:
        if isinstance(made.links, UserspaceLinks):
            count = sum(each.dropped for each in made.links.counts())
        else:
            tree = shown(made.spaces[CORE], "qdisc", "dev", "far")
            count = sum(each["drops"] for each in tree if each["kind"] == "tbf")
    return count


def test_packets_that_are_too_large_are_told_of_by_netem_too(with_netem: Inside) -> None:
    def check() -> None:
        assert [row for row in measure_sizes(NETEM) if not row.ok] == []

    with_netem(check)


@pytest.mark.parametrize("backend", [NETEM, USERSPACE])
def test_what_is_spoiled_is_not_taken_for_whole(backend: str, request: pytest.FixtureRequest) -> None:
    def check() -> None:
        with network('{ corrupt = "100%" }') as made, udp(made.spaces["far"], 7000) as there:
            made.shape(backend)
            send(made, "near", "far", 200)
            whole = received(there, 0.3)
            # The checksums are written and looked at. netem may hit the sender's MAC, 6 bytes of 114, to no effect.
            assert set(whole) <= {bytes(72)}
            assert len(whole) < (30 if backend == NETEM else 1)

    request.getfixturevalue("with_netem" if backend == NETEM else "inside")(check)
