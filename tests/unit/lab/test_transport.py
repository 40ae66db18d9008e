"""What a peer listens on: read, planned, predicted and reported for each transport."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lab.errors import LabError, TopologyError
from lab.model.classical import cell_topology
from lab.model.topology import Topology, parse
from lab.model.transport import BOTH, TRANSPORTS
from lab.peers.own import OWN
from lab.plan.build import build
from lab.report.results import Cell, Machine, Mark, Party, Results, Seconds
from lab.report.terminal import markdown
from lab.run.forecast import forecast_run, shared_transports
from lab.run.matrix import Order

TEXT = """
name = "two"
[router.home]
nat = "home"
firewall = "udp-blocked"
[router.away]
nat = "home"
[peer.relay]
at = "internet"
role = "relay"
transports = ["tcp", "quic"]
[peer.alice]
at = "home"
transports = {alice}
[peer.bob]
at = "away"
transports = ["tcp", "quic"]
"""


def two(alice: str) -> Topology:
    return parse(TEXT.replace("{alice}", alice), "two.toml")


def test_a_peer_that_does_not_say_listens_on_tcp() -> None:
    assert parse('name = "one"\n[peer.a]\nat = "internet"\n', "one.toml").peer("a").transports == ("tcp",)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ('"quic"', ["two.toml:14: [peer.alice] transports = 'quic'", "list of names", "tcp, quic, ws"]),
        ("[]", ["list of names"]),
        ("[7]", ["list of names"]),
        ('["quick"]', ["no transport 'quick' (did you mean 'quic'?)"]),
        ('["tcp", "ws"]', ["tcp and ws both need the peer's TCP port"]),
    ],
)
def test_what_is_no_list_of_transports_is_refused(value: str, words: list[str]) -> None:
    with pytest.raises(TopologyError) as caught:
        two(value)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_the_program_is_told_to_listen_on_each() -> None:
    plan = build(two('["quic", "tcp"]'), 1)
    argv = OWN.argv(next(launch for launch in plan.launches if launch.peer == "alice"), ())
    listen = [argv[index + 1] for index, word in enumerate(argv) if word == "--listen"]
    assert listen == ["/ip4/0.0.0.0/udp/4001/quic-v1", "/ip4/0.0.0.0/tcp/4001"]


def test_a_written_topology_keeps_its_transports() -> None:
    topology = cell_topology("home", "home", "quic")
    again = parse(topology.text, "again.toml")
    assert [peer.transports for peer in again.peers] == [("quic",)] * 3


def test_a_cell_of_both_transports_has_an_observer_of_the_second() -> None:
    topology = cell_topology("home", "home", BOTH, "loss=1%")
    assert shared_transports(topology, "alice", "bob", "relay") == ("tcp", "quic")
    assert topology.peer("observer").transports == ("quic",)
    assert topology.peer("bob").dials == ("observer",)
    assert cell_topology("home", "home").peers[-1].name == "bob"


def test_one_transport_that_gets_through_is_enough() -> None:
    parts = ("alice", "bob", "relay")
    assert forecast_run(two('["quic"]'), *parts).path == "none"
    assert forecast_run(two('["tcp"]'), *parts).path == "direct"
    assert forecast_run(two('["quic", "tcp"]'), *parts).path == "direct"


def test_nobody_makes_holes_for_a_websocket() -> None:
    topology = cell_topology("home", "home")
    topology = replace(topology, peers=tuple(replace(peer, transports=("ws",)) for peer in topology.peers))
    prediction = forecast_run(topology, "alice", "bob", "relay")
    assert (prediction.path, prediction.why) == ("relayed", "nobody makes holes for ws")


def test_peers_without_a_common_transport_are_refused() -> None:
    with pytest.raises(LabError, match=r"no transport in common \(alice: ws; bob: tcp, quic; relay: tcp, quic\)"):
        shared_transports(two('["ws"]'), "alice", "bob", "relay")


def test_a_matrix_has_a_part_for_each_transport() -> None:
    order = Order(("home", "symmetric"), ("home",), ("tcp", "quic"))
    assert order.cells == [
        ("home", "home", "tcp"),
        ("symmetric", "home", "tcp"),
        ("home", "home", "quic"),
        ("symmetric", "home", "quic"),
    ]
    results = Results("r", 0.0, 1.0, Machine(2, "", "", "", ""), tuple(_cell(*key) for key in order.cells))
    lines = markdown(results).splitlines()
    assert [line for line in lines if "from" in line] == ["| tcp: from ↓ to → | home |", "| quic: from ↓ to → | home |"]
    assert len({cell_topology(*key).name for key in order.cells}) == len(order.cells)


def _cell(dialer: str, listener: str, transport: str) -> Cell:
    a, b, relay = (Party("peer", "own", "1", nat, None) for nat in (dialer, listener, "internet"))
    return Cell(a, b, relay, transport, "", "", "direct", "direct", Mark.PASSED, "", Seconds(direct=0.1), "c")


def test_each_transport_knows_what_carries_it() -> None:
    assert {name: one.listen(7) for name, one in TRANSPORTS.items()} == {
        "tcp": "/tcp/7",
        "quic": "/udp/7/quic-v1",
        "ws": "/tcp/7/ws",
    }


def test_the_uplinks_of_a_matrix_are_what_the_words_say() -> None:
    topology = cell_topology("home", "symmetric", "quic", "latency=20ms loss=1% down.loss-burst=4")
    for router in topology.routers:
        assert router.link is not None
        assert (router.link.up.latency, router.link.down.loss, router.link.down.loss_burst) == (0.02, 0.01, 4.0)
        assert router.link.up.loss_burst != 4.0
    assert parse(topology.text, "again.toml") == replace(topology, path=None)
    assert cell_topology("home", "home", "tcp", "wifi").routers[0].link_preset == "wifi"
    assert cell_topology("home", "home", "tcp", "ideal").routers[0].link is not None
