"""Which tests upstream's suites come to here, their names and keys, and files of versions."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lab.errors import TopologyError
from lab.model.topology import load
from lab.model.upstream import OWN, Case, Suite, Version, Wish, cases, read_versions
from lab.model.upstream_networks import DIALER, LISTENER, RELAY, network

GO = Version("go-v0.48", ("/opt/go-ping",), ("tcp", "wss", "quic-v1"), frozenset({"wss"}), ("tls", "noise"), ("yamux",))


def names(wish: Wish) -> list[str]:
    return [case.name for case in cases(wish)]


def test_tests_are_what_all_who_take_part_can_do() -> None:
    assert names(Wish(Suite.TRANSPORT_INTEROP, (GO,), (OWN,))) == [
        "go-v0.48 x punchlab (tcp, noise, yamux)",
        "go-v0.48 x punchlab (tcp, tls, yamux)",
        "go-v0.48 x punchlab (quic-v1)",
    ]
    wss = Wish(Suite.TRANSPORT, (GO,), (GO, OWN), transports=("wss",), securities=("tls",))
    assert names(wss) == ["go-v0.48 x punchlab (wss, tls, yamux)"], "go only dials by wss"
    assert names(Wish(Suite.HOLE_PUNCH_INTEROP, (OWN,), (OWN,))) == [
        "punchlab x punchlab (tcp)",
        "punchlab x punchlab (quic)",
    ]
    unified = Wish(Suite.HOLE_PUNCH, (OWN,), (OWN,), (GO,), ("tcp",), ("noise",), dialer_nats=("home", "symmetric"))
    assert names(unified) == [
        "punchlab x punchlab (tcp, noise, yamux) [dr - home, rly - go-v0.48, lr - home]",
        "punchlab x punchlab (tcp, noise, yamux) [dr - symmetric, rly - go-v0.48, lr - home]",
    ]


def test_nothing_to_test_is_a_mistake() -> None:
    with pytest.raises(TopologyError, match=r"no test of transport that all of go-v0\.48, punchlab can take part in"):
        cases(Wish(Suite.TRANSPORT, (GO,), (OWN,), muxers=("mplex",), transports=("tcp",)))


def test_a_key_is_what_unified_testings_shell_makes_of_the_name() -> None:
    # echo "punchlab x punchlab (quic-v1)" | sha256sum | cut -c1-8
    assert Case(Suite.TRANSPORT, OWN, OWN, "quic-v1").key == "67511b93"


def test_every_test_has_a_network_and_a_folder_of_its_own(tmp_path: Path) -> None:
    found = [
        case
        for suite in Suite
        for case in cases(Wish(suite, (OWN, GO), (OWN,), (OWN, GO), dialer_nats=("home", "symmetric")))
    ]
    assert len({(case.suite, case.slug) for case in found}) == len(found)
    for case in found:
        topology = network(case, "latency=5ms")
        assert [peer.impl for peer in topology.peers] == ["upstream"] * len(topology.peers)
        path = tmp_path / "network.toml"
        path.write_text(topology.text, "utf-8")
        assert replace(load(path), path=None) == topology


def test_names_of_interfaces_and_delays_are_upstreams() -> None:
    old = tomllib.loads(network(Case(Suite.HOLE_PUNCH_INTEROP, OWN, OWN, "tcp")).text)
    assert old["router"]["home-a"]["link"] == {"latency": "50ms"}
    assert old["peer"]["relay"]["link"] == {"up": {"latency": "25ms"}}
    unified = network(Case(Suite.HOLE_PUNCH, OWN, GO, "tcp", "noise", "yamux"))
    assert {peer.name: peer.interface for peer in unified.peers} == {
        "relay": "wan0",
        "dialer": "lan0",
        "listener": "lan0",
    }
    assert unified.peer("listener").program == ("/opt/go-ping",)
    lans = [router.lan for router in unified.routers]
    assert len(set(lans)) == 2, "a relay that routes to both needs them to differ"


def write(tmp_path: Path, value: Any) -> Path:
    path = tmp_path / "versions.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value), "utf-8")
    return path


def test_versions_are_read_in_test_plans_form(tmp_path: Path) -> None:
    one = {
        "id": "go-v0.48",
        "containerImageID": "ghcr.io/x",
        "transports": ["tcp", {"name": "wss", "onlyDial": True}, "quic-v1"],
        "secureChannels": ["tls", "noise"],
        "muxers": ["yamux"],
        "program": "/opt/go-ping",
    }
    assert read_versions(write(tmp_path, one)) == {"go-v0.48": GO}
    other = {"id": "rust", "transports": ["tcp"], "program": ["/opt/rust", "-v"], "legacy": True, "timeoutSecs": 20}
    rust = Version("rust", ("/opt/rust", "-v"), ("tcp",), legacy=True, timeout=20)
    assert read_versions(write(tmp_path, [one, other])) == {"go-v0.48": GO, "rust": rust}
    image = f"sha256:{'9f' * 32}"
    theirs = {"id": "js", "transports": ["ws"], "containerImageID": image}
    assert read_versions(write(tmp_path, theirs)) == {"js": Version("js", transports=("ws",), image=image)}


def test_an_image_is_a_container_in_its_network_and_nothing_else_is() -> None:
    case = Case(Suite.HOLE_PUNCH, Version("rust", image="hole-punch-rust:v0.56"), OWN, "tcp", "noise", "yamux")
    peers = {peer.name: (peer.run, peer.image) for peer in network(case).peers}
    assert peers[DIALER] == ("container", "hole-punch-rust:v0.56")
    assert peers[LISTENER] == peers[RELAY] == ("process", None)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("{", "not JSON"),
        ([{}], "version 1 has no `id`"),
        ([{"id": "a", "transports": [], "program": "x"}] * 2, "two versions are called 'a'"),
        ({"id": "a", "program": "x"}, "a: `transports` must be a list"),
        ({"id": "a", "transports": ["tcp"]}, "a: `containerImageID` or `program` is missing"),
        ({"id": "a", "transports": ["tcp"], "containerImageID": "A B"}, "a: `containerImageID` must be the name"),
        ({"id": "a", "transports": ["tcp"], "program": [1]}, "a: `program` must be a list of texts"),
        ({"id": "a", "transports": ["tcp"], "program": "x", "muxers": "yamux"}, "a: `muxers` must be a list"),
        ({"id": "a", "transports": ["tcp"], "program": "x", "timeoutSecs": "9"}, "a: `timeoutSecs` must be"),
    ],
)
def test_a_file_that_cannot_be_used_names_what_is_wrong(tmp_path: Path, value: Any, why: str) -> None:
    path = write(tmp_path, value)
    with pytest.raises(TopologyError, match=why) as caught:
        read_versions(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match="No such file"):
        read_versions(tmp_path / "none.json")


ENTRIES = Path(__file__).resolve().parents[3] / "compose" / "upstream"


def test_our_own_entry_for_test_plans_says_what_our_node_can_do() -> None:
    transport, punch = (
        read_versions(ENTRIES / f"{suite.value}.json")["punchlab"]
        for suite in (Suite.TRANSPORT_INTEROP, Suite.HOLE_PUNCH_INTEROP)
    )
    assert (transport.transports, punch.transports) == (
        Suite.TRANSPORT_INTEROP.transports,
        Suite.HOLE_PUNCH_INTEROP.transports,
    )
    assert (transport.securities, transport.muxers) == (OWN.securities, OWN.muxers)
