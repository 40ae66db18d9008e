"""One ordered list out of packets, mappings, events and steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.model.classical import cell_topology
from lab.observe import timeline as module
from lab.observe.facts import judge
from lab.observe.flows import Endpoint
from lab.observe.timeline import Entry, Names, timeline
from lab.plan.build import build

if TYPE_CHECKING:
    from tests.unit.lab.conftest import Scene

BEGAN = 1_763_719_000.0
SYN, PSH = 0x02, 0x18
Scenes = Callable[..., "Scene"]
PLAN = build(cell_topology("home", "home"), 1)
EMPTY = judge(PLAN, [])


def brief(entries: list[Entry]) -> list[tuple[float, str, str]]:
    return [(round(entry.at, 4), entry.who, entry.what) for entry in entries]


def mapping(kind: str, ms: float, **fields: Any) -> dict[str, Any]:
    return {
        "at": BEGAN + ms / 1000,
        "router": "home-a",
        "kind": kind,
        "proto": "tcp",
        "orig": ["192.168.1.10", 4001, "11.0.2.2", 4001],
        "reply": ["11.0.2.2", 4001, "11.0.1.2", 4001],
        **fields,
    }


def test_every_address_of_a_pool_has_its_routers_name() -> None:
    home_b = next(router for router in PLAN.routers if router.name == "home-b")
    pooled = replace(home_b, publics=(home_b.wan, "11.0.2.3"))
    routers = tuple(pooled if router == home_b else router for router in PLAN.routers)
    names = Names(replace(PLAN, routers=routers))
    assert names.of(Endpoint("11.0.2.3", 4001), "alice") == "home-b 11.0.2.3:4001"


def test_a_punch_reads_in_the_order_in_which_it_happened(scene: Scenes) -> None:
    stage = scene()
    stage.send(100, "alice", "bob", SYN, seq=100, until="home-b/wan")
    stage.opened(105, "bob", "alice")
    stage.talked(110, "alice", "bob", 30)
    facts = stage.facts([{"at": BEGAN + 0.099, "who": "bob", "event": "punch", "stage": "sync-sent", "attempt": 1}])
    steps = [
        {"at": BEGAN + 0.09, "who": "lab", "event": "step", "name": "both punch", "stage": "begin"},
        {"at": BEGAN + 0.2, "who": "lab", "event": "step", "name": "both punch", "stage": "end", "seconds": 0.11},
    ]
    entries = timeline(facts, [mapping("new", 100.05)], steps, began=BEGAN)
    assert brief(entries) == [
        (0.09, "lab", "begins"),
        (0.099, "bob", "punch sync-sent"),
        (0.1, "alice", "SYN"),
        (0.1, "home-a", "maps"),
        (0.1004, "home-b", "drops SYN"),
        (0.105, "bob", "SYN"),
        (0.106, "alice", "SYN-ACK"),
        (0.107, "bob", "established"),
        (0.1074, "alice", "established"),
        (0.11, "alice", "first byte"),
        (0.111, "bob", "first byte"),
        (0.2, "lab", "ends"),
    ]
    by_what = {entry.what: entry.detail for entry in entries}
    assert by_what["SYN"] == (
        "to home-a 11.0.1.2:4001 from 192.168.1.10:4001 as 11.0.2.2:4001; reaches alice after 0.44 ms"
    )
    assert entries[2].detail.endswith("dropped at home-b")
    assert "no mapping for TCP port 4001 yet" in by_what["drops SYN"]
    assert by_what["maps"] == "tcp alice 192.168.1.10:4001 as 11.0.1.2:4001 for home-b 11.0.2.2:4001"
    assert by_what["ends"] == "both punch (0.110 s)"


def test_a_packet_without_news_is_told_only_when_everything_is(scene: Scenes) -> None:
    stage = scene()
    stage.opened(100, "alice", "bob")
    stage.talked(110, "alice", "bob", 30)
    stage.talked(120, "alice", "bob", 40)
    facts = stage.facts()
    assert sum("40 B" in entry.detail for entry in timeline(facts, began=BEGAN)) == 0
    assert sum("40 B" in entry.detail for entry in timeline(facts, began=BEGAN, everything=True)) == 2


def test_each_side_of_a_datagram_flow_is_told_once(scene: Scenes) -> None:
    stage = scene()
    for n in range(3):
        stage.send(100 + 10 * n, "alice", "bob", proto="udp", payload=20)
        stage.send(105 + 10 * n, "bob", "alice", proto="udp", payload=20)
    entries = timeline(stage.facts(), began=BEGAN)
    assert brief(entries) == [(0.1, "alice", "first datagram"), (0.105, "bob", "first datagram")]


def test_an_inbound_mapping_is_told_from_the_lans_side() -> None:
    line = mapping("new", 5, orig=["11.0.2.2", 4001, "11.0.1.2", 40001], reply=["192.168.1.10", 4001, "11.0.2.2", 4001])
    (entry,) = timeline(EMPTY, [line], began=BEGAN)
    assert entry.detail == "tcp alice 192.168.1.10:4001 as 11.0.1.2:40001 for home-b 11.0.2.2:4001"


@pytest.mark.parametrize(
    ("kind", "state", "everything", "told"),
    [
        ("update", "SYN_RECV", False, []),
        ("update", "SYN_RECV", True, ["sees"]),
        ("destroy", None, False, ["forgets"]),
    ],
)
def test_mappings_changes_are_told_when_they_matter(kind: str, state: str, everything: bool, told: list[str]) -> None:
    line = mapping(kind, 5, tcp_state=state)
    assert [entry.what for entry in timeline(EMPTY, [line], began=BEGAN, everything=everything)] == told


def test_a_step_that_failed_says_why() -> None:
    step = {"at": BEGAN, "who": "lab", "event": "step", "name": "x", "stage": "end", "seconds": 1, "error": "E: no"}
    (entry,) = timeline(EMPTY, [], [step], began=BEGAN)
    assert entry.detail == "x (1 s): E: no"


def test_peers_are_called_by_their_names_and_strangers_by_the_ends_of_their_ids() -> None:
    bob, stranger = "12D3KooWGzBbUNxCPZ1jmPVFxDLhLyFnBbdJcDMbZFYgqWCp9xQm", "Qm" + 44 * "x"
    names = Names(PLAN, [{"event": "ready", "who": "bob", "peer": bob}])
    assert names.in_text(f"/ip4/11.0.3.2/tcp/4001/p2p/{bob}") == "/ip4/11.0.3.2/tcp/4001/p2p/bob"
    assert names.in_text(f"/p2p/{stranger}") == "/p2p/…xxxxxx"
    assert names.in_text("a sentence,\nof two lines") == "a sentence, of two lines"


def test_chatter_is_told_only_with_everything() -> None:
    facts = judge(PLAN, [], [{"at": BEGAN, "who": "bob", "event": "stream", "protocol": "/echo/1.0.0"}])
    assert timeline(facts, began=BEGAN) == []
    assert timeline(facts, began=BEGAN, everything=True) == [Entry(0.0, "bob", "stream", "protocol /echo/1.0.0")]


def test_a_long_run_says_what_it_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ENTRIES", 3)
    lines = [mapping("new", n) for n in range(5)]
    entries = timeline(EMPTY, lines, began=BEGAN)
    assert len(entries) == 4
    assert entries[-1].detail == "2 further entries are not shown"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
keys = st.sampled_from(["at", "who", "event", "stage", "name", "seconds", "error", "router", "kind", "proto", "orig"])


@settings(max_examples=100)
@given(st.lists(st.dictionaries(keys, values, max_size=8), max_size=4))
def test_a_peer_may_say_what_it_likes(lines: list[dict[str, Any]]) -> None:
    """An event is a peer's word: whatever it holds, the timeline is made and ordered."""
    facts = judge(PLAN, [], lines)
    entries = timeline(facts, lines, lines, began=0.0)
    assert entries == sorted(entries, key=lambda entry: entry.at)
    assert all(len(entry.detail) <= module.MAX_DETAIL for entry in entries)
