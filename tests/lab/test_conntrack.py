"""Conntrack events of a real router, and flushing them away."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lab.kernel import conntrack
from lab.kernel.conntrack import ConntrackEvent, ConntrackKind, ConntrackWatch
from lab.kernel.network import Network
from lab.model.topology import parse
from lab.plan.build import build

Inside = Callable[[Callable[[], None]], None]
DEADLINE = 10.0
ONE_HOME = """
name = "one-home"
summary = "One home and a public peer."
[router.home]
nat = "port-restricted"
[peer.server]
at = "internet"
role = "relay"
[peer.alice]
at = "home"
"""


@contextmanager
def home() -> Iterator[tuple[Network, str, str]]:
    """A network, the server's address and the router's."""
    plan = build(parse(ONE_HOME, "one-home.toml"), seed=1)
    server = next(launch.address for launch in plan.launches if launch.peer == "server")
    with Network.build(plan) as network:
        yield network, server, plan.routers[0].wan


def events_until(watch: ConntrackWatch, last: Callable[[ConntrackEvent], bool]) -> list[ConntrackEvent]:
    poll = select.poll()
    poll.register(watch, select.POLLIN)
    events: list[ConntrackEvent] = []
    deadline = time.monotonic() + DEADLINE
    while not any(last(event) for event in events):
        assert poll.poll(max(deadline - time.monotonic(), 0) * 1000), events
        events += watch.drain()
    return events


def connect(network: Network, server: str) -> None:
    """Alice connects to port 4001 of the server from her port 5000, and both close."""
    with network.spaces["server"].socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind((server, 4001))
        listener.listen()
        with network.spaces["alice"].socket(socket.AF_INET, socket.SOCK_STREAM) as client:
            client.settimeout(DEADLINE)
            client.bind(("0.0.0.0", 5000))  # noqa: S104 - any address of the namespace
            client.connect((server, 4001))
            listener.accept()[0].close()


def test_a_tcp_connection_is_followed_from_its_syn_with_both_sides_of_the_translation(inside: Inside) -> None:
    def check() -> None:
        with home() as (network, server, wan), ConntrackWatch(network.spaces["home"], "home") as watch:
            before = time.time()
            connect(network, server)
            events = events_until(watch, lambda event: event.tcp_state == "ESTABLISHED")
            first = events[0]
            assert (first.kind, first.proto, first.router) == (ConntrackKind.NEW, "tcp", "home")
            assert first.orig == ("192.168.1.10", 5000, server, 4001)
            assert first.reply == (server, 4001, wan, 5000)
            assert (first.tcp_state, first.seen_reply) == ("SYN_SENT", False)
            assert [event.tcp_state for event in events[:3]] == ["SYN_SENT", "SYN_RECV", "ESTABLISHED"]
            assert before - 0.1 <= first.at <= time.time() + 0.1
            assert [event.at for event in events] == sorted(event.at for event in events)

    inside(check)


def test_a_flush_destroys_every_entry(inside: Inside) -> None:
    def check() -> None:
        with home() as (network, server, _), ConntrackWatch(network.spaces["home"], "home") as watch:
            connect(network, server)
            conntrack.flush(network.spaces["home"])
            events = events_until(watch, lambda event: event.kind is ConntrackKind.DESTROY)
            destroyed = [event for event in events if event.kind is ConntrackKind.DESTROY]
            assert [event.orig for event in destroyed] == [("192.168.1.10", 5000, server, 4001)]

    inside(check)


def test_a_packet_that_the_nat_drops_makes_no_entry(inside: Inside) -> None:
    def check() -> None:
        with home() as (network, server, wan), ConntrackWatch(network.spaces["home"], "home") as watch:
            with network.spaces["server"].socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                stranger.sendto(b"unasked", (wan, 6000))
            connect(network, server)
            events = events_until(watch, lambda event: event.tcp_state == "ESTABLISHED")
            assert {event.proto for event in events} == {"tcp"}

    inside(check)


def test_draining_a_quiet_watch_returns_at_once_and_empty(inside: Inside) -> None:
    def check() -> None:
        with home() as (network, _, _), ConntrackWatch(network.spaces["home"], "home") as watch:
            assert watch.drain() == []

    inside(check)


def test_an_event_of_the_kernel_reads_back_as_json() -> None:
    event = ConntrackEvent(1.5, "home", ConntrackKind.NEW, "udp", ("a", 1, "b", 2), ("b", 2, "c", 3), seen_reply=False)
    assert event.to_json() == {
        "at": 1.5,
        "router": "home",
        "kind": "new",
        "proto": "udp",
        "orig": ["a", 1, "b", 2],
        "reply": ["b", 2, "c", 3],
        "seen_reply": False,
        "assured": None,
        "tcp_state": None,
    }
