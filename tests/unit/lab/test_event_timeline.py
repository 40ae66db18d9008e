"""How events are told: one line each, with names that hold before and after."""

from __future__ import annotations

from typing import Any

from lab.model.topology import parse
from lab.observe.facts import judge
from lab.observe.flows import Endpoint
from lab.observe.timeline import Entry, Names, timeline
from lab.plan.build import build
from lab.plan.replay import plans

HOME = """
name = "one"
summary = "One home."
[router.home]
nat = "home"
[router.cell]
nat = "full-cone"
[peer.alice]
at = "home"
[peer.bob]
at = "cell"
"""


def told(*lines: dict[str, Any]) -> list[Entry]:
    *former, plan = plans(build(parse(HOME, "one.toml"), 1), lines)
    events = [{"at": 10.0 + n, "who": "lab", "event": "event", **line} for n, line in enumerate(lines)]
    return timeline(judge(plan, (), former=former), (), events, began=10.0)


def test_an_event_is_told_with_its_target_its_detail_and_its_length() -> None:
    line = {"target": "home", "what": "address 11.0.9.2", "seconds": 0.0412, "detail": "was 11.0.1.2"}
    assert told(line) == [Entry(0.0, "lab", "event", "home address 11.0.9.2: was 11.0.1.2 (0.041 s)")]


def test_an_event_that_failed_says_so() -> None:
    (entry,) = told({"target": "home", "what": "reboot", "seconds": 0.5, "error": "home: nft: no"})
    assert entry.detail == "home reboot FAILED: home: nft: no (0.500 s)"


def test_addresses_have_names_under_the_plan_that_was_and_the_plan_that_is() -> None:
    began = build(parse(HOME, "one.toml"), 1)
    lines = [
        {"event": "event", "target": "home", "what": "address 11.0.9.2"},
        {"event": "event", "target": "alice", "what": "move cell"},
    ]
    *former, last = plans(began, lines)
    names = Names(last, (), former)
    assert names.of(Endpoint("11.0.1.2", 1), "core") == "home 11.0.1.2:1"
    assert names.of(Endpoint("11.0.9.2", 1), "core") == "home 11.0.9.2:1"
    moved = next(launch for launch in last.launches if launch.peer == "alice")
    assert names.of(Endpoint(moved.address, 1), "cell") == f"alice {moved.address}:1"
    assert names.of(Endpoint(began.launches[0].address, 1), "home").startswith("alice ")
