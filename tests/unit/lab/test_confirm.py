"""What peers claim and the wire does not show is told, and what it shows is let pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from lab.errors import PeerError
from lab.plan.plan import Launch
from lab.run import confirm

if TYPE_CHECKING:
    from tests.unit.lab.conftest import Scene

BEGAN = 1_763_719_000.0
Scenes = Callable[..., "Scene"]


def of(stage: Scene, *names: str) -> tuple[Launch, ...]:
    launches = {launch.peer: launch for launch in stage.plan.launches}
    return tuple(launches[name] for name in names)


def test_payload_between_the_two_is_what_a_direct_path_has_to_show(scene: Scenes) -> None:
    stage = scene()
    alice, bob = of(stage, "alice", "bob")
    with pytest.raises(PeerError, match="no payload both ways between alice and bob"):
        confirm.is_direct(stage.facts(), alice, bob, "tcp")
    stage.talked(100, "alice", "bob", 300)
    confirm.is_direct(stage.facts(), alice, bob, "tcp")
    confirm.is_direct(stage.facts(), alice, bob, "ws")
    with pytest.raises(PeerError, match="the peers say quic, the wire shows tcp"):
        confirm.is_direct(stage.facts(), alice, bob, "quic")
    with pytest.raises(PeerError, match="no payload both ways"):
        confirm.is_direct(stage.facts(), alice, bob, "tcp", BEGAN + 1)


def test_a_relayed_path_shows_at_the_relay_and_nowhere_between_the_two(scene: Scenes) -> None:
    stage = scene()
    alice, bob, relay = of(stage, "alice", "bob", "relay")
    stage.talked(100, "alice", "relay", 300)
    stage.talked(101, "bob", "relay", 300)
    confirm.is_relayed(stage.facts(), alice, bob, relay, BEGAN, 300)
    with pytest.raises(PeerError, match="the wire shows 1200 B at the relay"):
        confirm.is_relayed(stage.facts(), alice, bob, relay, BEGAN, 301)
    stage.talked(200, "alice", "bob", 1)
    with pytest.raises(PeerError, match="the wire shows a direct flow between alice and bob"):
        confirm.is_relayed(stage.facts(), alice, bob, relay, BEGAN, 300)


def test_an_interface_has_to_have_carried_an_echo_twice(scene: Scenes) -> None:
    (alice,) = of(scene(), "alice")
    confirm.has_carried(alice, 1000, 3000, 1000)
    with pytest.raises(PeerError, match="alice says 1000 B each way, its interface has carried 1999 B in all"):
        confirm.has_carried(alice, 1000, 2999, 1000)


def test_who_is_found_by_mdns_was_heard(scene: Scenes) -> None:
    stage = scene()
    alice, bob = of(stage, "alice", "bob")
    stage.talked(100, "alice", "bob", 300)
    (sample,) = [packet for packet in stage.seen if packet.interface == "bob/eth0" and packet.dst == bob.address]
    group, port = confirm.MDNS
    heard = replace(sample, src=alice.address, dst=group, dport=port, proto="udp", flags=0)
    stage.seen.append(heard)
    with pytest.raises(PeerError, match="no mDNS of bob at alice"):
        confirm.found_each_other(stage.facts(), alice, bob)
    stage.seen.append(replace(heard, src=bob.address, interface="alice/eth0"))
    confirm.found_each_other(stage.facts(), alice, bob)
