"""The wire's facts from a real network: kernel NATs, kernel captures, TCP between sockets of this test."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from lab.kernel.capture import CaptureSet
from lab.kernel.network import Network
from lab.model.classical import cell_topology
from lab.observe.facts import Facts, WirePath, gather
from lab.observe.holepunch import Opening
from lab.observe.packets import Packet
from lab.plan.build import build
from lab.plan.plan import Plan

PORT = 4001
Check = Callable[[], None]


class Stage:
    """Sockets in a network that is recorded."""

    def __init__(self, network: Network, plan: Plan, captures: CaptureSet, path: Path) -> None:
        self._network, self._plan, self._captures, self._path = network, plan, captures, path
        self._sockets = ExitStack()
        self.public = {router.name: router.wan for router in plan.routers}
        self.relay = next(launch.address for launch in plan.launches if launch.role == "relay")

    def close(self) -> None:
        self._sockets.close()

    def until_syn_at(self, interface: str) -> None:
        """Wait until a SYN to that router's public address has been recorded there."""
        address = self.public[interface.partition("/")[0]]
        deadline = time.monotonic() + 10
        while not any(p.is_syn and p.dst == address and p.interface == interface for p in self._packets()):
            assert time.monotonic() < deadline, f"no SYN came to {interface}"
            self._captures.drain()

    def _packets(self) -> tuple[Packet, ...]:
        return gather(self._plan, self._path, growing=True).packets

    def bound(self, host: str) -> socket.socket:
        """A non-blocking TCP socket on the port that peers listen on."""
        made = self._sockets.enter_context(self._network.spaces[host].socket(socket.AF_INET, socket.SOCK_STREAM))
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind(("0.0.0.0", PORT))  # noqa: S104 - inside a namespace
        made.setblocking(False)
        return made

    def dial(self, host: str, address: str) -> socket.socket:
        """A connection under way."""
        made = self.bound(host)
        made.connect_ex((address, PORT))
        return made

    def serve(self, host: str) -> socket.socket:
        """A listener."""
        made = self.bound(host)
        made.listen()
        return made

    def accept(self, listener: socket.socket) -> socket.socket:
        """Its next connection."""
        listener.settimeout(5)
        return self._sockets.enter_context(listener.accept()[0])


def talk(one: socket.socket, other: socket.socket, size: int) -> None:
    """A payload there and back."""
    for sender, receiver in ((one, other), (other, one)):
        sender.settimeout(5)
        receiver.settimeout(5)
        sender.sendall(bytes(size))
        left = size
        while left:
            left -= len(receiver.recv(left))


def record(dialer: str, listener: str, path: Path, act: Callable[[Stage], None]) -> Facts:
    """The facts of `act` in a fresh network."""
    plan = build(cell_topology(dialer, listener), 1)
    with Network.build(plan) as network, CaptureSet(plan.captures, network.spaces, path) as captures:
        stage = Stage(network, plan, captures, path)
        act(stage)
        stage.close()
    return gather(plan, path)


def through_the_relay(stage: Stage, size: int) -> None:
    """Payload from alice to the relay and from the relay to bob."""
    listener = stage.serve("relay")
    for peer in ("alice", "bob"):
        connection = stage.dial(peer, stage.relay)
        talk(connection, stage.accept(listener), size)


def test_a_syn_opens_its_own_nat_and_is_dropped_at_the_other(inside: Callable[[Check], None], tmp_path: Path) -> None:
    times: list[float] = []

    def punch(stage: Stage) -> None:
        through_the_relay(stage, 1000)
        times.append(time.time())
        alice = stage.dial("alice", stage.public["home-b"])
        stage.until_syn_at("home-b/wan")
        bob = stage.dial("bob", stage.public["home-a"])
        talk(alice, bob, 20_000)

    def check() -> None:
        facts = record("port-restricted", "port-restricted", tmp_path / "capture.pcapng", punch)
        assert facts.path("alice", "bob", "relay", after=times[0]) is WirePath.DIRECT
        assert facts.path("alice", "bob", "relay", before=times[0]) is WirePath.RELAYED
        assert facts.bytes("relay", before=times[0]) == 4000
        seen = facts.punch("alice", "bob")
        assert seen.direct is not None
        assert seen.direct.payload == (20_000, 20_000)
        assert seen.direct.began is not None
        assert (seen.direct.began.how, seen.direct.began.opener) == (Opening.MET, "bob")
        assert seen.direct.began.established < seen.direct.first_byte
        assert seen.drops
        for drop in seen.drops:  # the kernel repeats its SYN after a second, if bob has not begun by then
            assert drop.router == "home-b"
            assert (
                "lets in only endpoints that TCP port 4001 has written to; 11.0.1.2:4001 was not one of them yet"
                in drop.why
            )

    inside(check)


def test_a_symmetric_pair_drops_every_syn_and_says_why(inside: Callable[[Check], None], tmp_path: Path) -> None:
    def punch(stage: Stage) -> None:
        through_the_relay(stage, 1000)
        stage.dial("alice", stage.public["home-b"])
        stage.dial("bob", stage.public["home-a"])
        stage.until_syn_at("home-a/wan")

    def check() -> None:
        facts = record("symmetric-random", "symmetric-random", tmp_path / "capture.pcapng", punch)
        seen = facts.punch("alice", "bob")
        assert seen.direct is None
        assert {drop.router for drop in seen.drops} == {"home-a", "home-b"}
        assert all("no mapping for TCP port 4001" in drop.why for drop in seen.drops)

    inside(check)
