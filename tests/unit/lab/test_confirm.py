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


def test_who_is_identified_had_sent_that_much_before(scene: Scenes) -> None:
    stage = scene()
    alice, bob = of(stage, "alice", "bob")
    stage.send(100, "bob", "alice", 0x18, payload=400)
    with pytest.raises(PeerError, match="alice says identified, no payload had gone both ways"):
        confirm.has_told(stage.facts(), bob, alice, "tcp", 300, BEGAN + 1)
    stage.talked(200, "bob", "alice", 100)
    confirm.has_told(stage.facts(), bob, alice, "tcp", 500, BEGAN + 1)
    with pytest.raises(PeerError, match="the wire shows less to have come until then"):
        confirm.has_told(stage.facts(), bob, alice, "tcp", 501, BEGAN + 1)
    with pytest.raises(PeerError, match="the wire shows less to have come until then"):
        confirm.has_told(stage.facts(), bob, alice, "tcp", 600, BEGAN + 0.2015)
    with pytest.raises(PeerError, match="no payload had gone both ways"):
        confirm.has_told(stage.facts(), bob, alice, "tcp", 300, BEGAN + 0.2)
    with pytest.raises(PeerError, match="the peers say quic, the wire shows tcp"):
        confirm.has_told(stage.facts(), bob, alice, "quic", 300, BEGAN + 1)


def dial_of(stage: Scene, ms: float, proto: str, until: str | None = None, dport: int = 4001) -> None:
    """The relay writes to alice's NAT on a flow that it begins."""
    payload = 200 if proto == "udp" else 0
    stage.send(ms, "relay", "alice", 0x02, payload=payload, until=until, proto=proto, dport=dport)


@pytest.mark.parametrize("proto", ["tcp", "udp"])
def test_a_dial_back_is_told_by_how_far_it_came(scene: Scenes, proto: str) -> None:
    def shown(stage: Scene, port: int = 4001) -> confirm.DialBack:
        alice, relay = of(stage, "alice", "relay")
        asked = f"/ip4/{stage.plan.routers[0].wan}/{proto}/{port}"
        return confirm.dial_back(stage.facts(), alice, relay, asked, BEGAN)

    stage = scene()
    assert shown(stage) is confirm.DialBack.NEVER
    # What the client has begun is no dial of the server's, whatever comes back on it.
    stage.send(10, "alice", "relay", 0x02, payload=300, proto=proto)
    stage.send(20, "relay", "alice", 0x12, payload=300, proto=proto)
    assert shown(stage) is confirm.DialBack.NEVER
    for until in ("relay/eth0", "home-a/wan"):
        stage = scene()
        dial_of(stage, 10, proto, until)
        assert shown(stage) is confirm.DialBack.LOST
        assert shown(stage, 4002) is confirm.DialBack.NEVER
    dial_of(stage, 20, proto)
    assert shown(stage) is confirm.DialBack.REFUSED
    stage.send(30, "alice", "relay", 0x14, proto=proto)
    assert shown(stage) is confirm.DialBack.REFUSED
    stage.send(40, "relay", "alice", 0x18, payload=300, proto=proto)
    stage.send(50, "alice", "relay", 0x18, payload=300, proto=proto, until="home-a/wan")
    assert shown(stage) is confirm.DialBack.REFUSED
    stage.send(60, "alice", "relay", 0x18, payload=300, proto=proto)
    assert shown(stage) is confirm.DialBack.TAKEN


def test_dials_of_before_and_of_others_do_not_count(scene: Scenes) -> None:
    stage = scene()
    alice, bob, relay = of(stage, "alice", "bob", "relay")
    asked = f"/ip4/{stage.plan.routers[0].wan}/tcp/4001"
    dial_of(stage, 10, "tcp")
    stage.send(20, "bob", "relay", 0x02)
    assert confirm.dial_back(stage.facts(), alice, relay, asked, BEGAN + 1) is confirm.DialBack.NEVER
    assert confirm.dial_back(stage.facts(), alice, bob, asked, BEGAN) is confirm.DialBack.NEVER
    with pytest.raises(PeerError, match="alice gives '/dns4/home/tcp/4001' for an address of its own"):
        confirm.dial_back(stage.facts(), alice, relay, "/dns4/home/tcp/4001", BEGAN)


def test_a_server_that_dials_what_nobody_asked_about_is_told(scene: Scenes) -> None:
    stage = scene()
    alice, relay = of(stage, "alice", "relay")
    asked = f"/ip4/{stage.plan.routers[0].wan}/tcp/4001"
    stage.opened(10, "alice", "relay", outer=4100)
    dial_of(stage, 20, "tcp")
    confirm.dialled_no_other(stage.facts(), alice, relay, asked, BEGAN)
    dial_of(stage, 30, "udp", "home-a/wan")
    with pytest.raises(PeerError, match=r"asked about was /ip4/\S+/tcp/4001, the wire shows relay dialling udp"):
        confirm.dialled_no_other(stage.facts(), alice, relay, asked, BEGAN)
    confirm.dialled_no_other(stage.facts(), alice, relay, asked.replace("tcp", "udp"), BEGAN + 0.025)
    stage = scene()
    dial_of(stage, 20, "tcp", "relay/eth0", dport=4002)
    with pytest.raises(PeerError, match=r"the wire shows relay dialling tcp \S+:4002"):
        confirm.dialled_no_other(stage.facts(), alice, relay, asked, BEGAN)
