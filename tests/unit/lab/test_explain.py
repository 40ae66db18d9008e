"""Runs explain themselves from their folders, whole or not."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from lab.errors import LabError
from lab.model.plain import to_plain
from lab.report.explain import closing, explain, read_story, summarise_capture, tell
from lab.report.results import RESULTS, Cell, Machine, Mark, Party, Results, Seconds, results_to_json

if TYPE_CHECKING:
    from tests.unit.lab.conftest import Scene

BEGAN = 1_763_719_000.0
SYN, ACK, SYN_ACK = 0x02, 0x10, 0x12
PEER = "12D3KooWGzBbUNxCPZ1jmPVFxDLhLyFnBbdJcDMbZFYgqWCp9xQm"
EVENTS: list[dict[str, Any]] = [
    {"at": BEGAN + 0.01, "who": "lab", "event": "step", "name": "both punch", "stage": "begin"},
    {"at": BEGAN + 0.02, "who": "bob", "event": "ready", "peer": PEER},
    {"at": BEGAN + 0.03, "who": "alice", "event": "punch", "stage": "sync-received", "peer": PEER, "attempt": 1},
]
MAPPING = {
    "at": BEGAN + 0.1,
    "router": "home-a",
    "kind": "new",
    "proto": "tcp",
    "orig": ["192.168.1.10", 4001, "11.0.2.2", 4001],
    "reply": ["11.0.2.2", 4001, "11.0.1.2", 4001],
}
CELL = Cell(
    dialer=Party("alice", "punchlab-python", "0.1.0", "home", None),
    listener=Party("bob", "punchlab-python", "0.1.0", "home", None),
    relay=Party("relay", "punchlab-python", "0.1.0", "internet", None),
    transport="tcp",
    security="/noise",
    muxer="/yamux/1.0.0",
    predicted="direct",
    seen="direct",
    verdict=Mark.PASSED,
    why="each lets the other in",
    seconds=Seconds(),
    capture="capture.pcapng",
)


def lines(values: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


def write(folder: Path, stage: Scene, events: list[dict[str, Any]] = EVENTS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").write_text(json.dumps(to_plain(stage.plan)))
    (folder / "run.json").write_text(json.dumps({"started": BEGAN, "finished": BEGAN + 9}))
    (folder / "events.jsonl").write_text(lines(events))
    (folder / "conntrack.jsonl").write_text(lines([MAPPING]))
    stage.capture(folder / "capture.pcapng")
    return folder


def results(folder: Path, *cells: Cell) -> None:
    text = results_to_json(Results("r", BEGAN, 1.0, Machine(2, "Debian", "6", "3.11", "0"), cells))
    (folder / RESULTS).write_text(text)


def told(folder: Path, *, terminal: bool = False, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None)
    with console.capture() as capture:
        tell(read_story(folder), console)
    return capture.get()


@pytest.fixture
def met(scene: Callable[..., Scene]) -> Scene:
    """Alice's SYN is dropped, bob's meets her socket."""
    stage = scene()
    stage.send(100, "alice", "bob", SYN, seq=100, until="home-b/wan")
    stage.send(105, "bob", "alice", SYN, seq=500)
    stage.send(106, "alice", "bob", SYN_ACK, seq=100, ack=501)
    stage.send(107, "bob", "alice", ACK, seq=501, ack=101)
    stage.talked(110, "alice", "bob", 30)
    return stage


@pytest.fixture
def symmetric(scene: Callable[..., Scene]) -> Scene:
    """Every SYN is dropped, thrice."""
    stage = scene("symmetric-random", "symmetric-random")
    for n in range(3):
        stage.send(100 + 1000 * n, "alice", "bob", SYN, seq=100, outer=41000, dport=20000, until="home-b/wan")
        stage.send(101 + 1000 * n, "bob", "alice", SYN, seq=500, outer=42000, dport=30000, until="home-a/wan")
    return stage


def test_a_direct_run_says_how_it_became_direct(tmp_path: Path, met: Scene) -> None:
    results(write(tmp_path, met), CELL)
    assert closing(read_story(tmp_path)) == [
        "alice and bob talk directly over the internet, 11.0.1.2:4001 ↔ 11.0.2.2:4001: bob's SYN met alice's socket, "
        "whose own SYN had opened the way before it was lost; first SYN at 0.100 s, established at 0.107 s; "
        "first byte at 0.110 s.",
        "home-b dropped 1 SYN, the first at 0.100 s: home-b: no mapping for TCP port 4001 yet: the first packet from "
        "that port left 4.6 ms later.",
        "PASSED: predicted direct, seen direct: each lets the other in.",
    ]


def test_a_relayed_run_says_what_was_in_the_way(tmp_path: Path, symmetric: Scene) -> None:
    gave_up = {"at": BEGAN + 5, "who": "bob", "event": "punch", "stage": "gave-up", "why": f"no hole to {PEER}"}
    write(tmp_path, symmetric, [*EVENTS, gave_up])
    story = read_story(tmp_path)
    assert closing(story) == [
        "alice and bob did not become direct: alice's first SYN left at 0.100 s and bob's first SYN left at 0.101 s.",
        "home-b dropped 3 SYNs, the first at 0.100 s: home-b: no mapping for TCP port 20000: no packet ever left from "
        "that port.",
        "home-a dropped 3 SYNs, the first at 0.101 s: home-a: no mapping for TCP port 30000: no packet ever left from "
        "that port.",
        "bob gave up punching: no hole to bob.",
    ]
    drops = [entry.detail for entry in story.entries if entry.what == "drops SYN"]
    assert [detail.endswith("as before") for detail in drops] == [False, False, True, True, True, True]


def test_a_pipe_gets_a_line_for_each_entry(tmp_path: Path, met: Scene) -> None:
    text = told(write(tmp_path, met), width=40)
    rows = [line for line in text.splitlines() if re.match(r" +\d+\.\d{4} ", line)]
    assert rows[0] == "   0.0100  lab     begins               both punch"
    assert rows[2] == "   0.0300  alice   punch sync-received  peer bob, attempt 1"
    assert any(
        row.split()[1:4] == ["home-b", "drops", "SYN"] and "no mapping for TCP port 4001 yet" in row for row in rows
    )
    assert any(row.split()[1:3] == ["home-a", "maps"] for row in rows)
    assert [float(row.split()[0]) for row in rows] == sorted(float(row.split()[0]) for row in rows)
    assert text.startswith("port-restricted--port-restricted--tcp, seed 1\nhome-a          11.0.1.2 ")


def test_a_terminal_wraps_details_in_their_column(tmp_path: Path, met: Scene) -> None:
    text = told(write(tmp_path, met), terminal=True, width=90)
    begins = next(n for n, line in enumerate(text.splitlines()) if "0.0100" in line)
    ends = next(n for n, line in enumerate(text.splitlines()) if n > begins and not line.strip())
    assert max(map(len, text.splitlines()[begins:ends])) <= 90


def test_a_cell_finds_its_verdict_in_the_matrix(tmp_path: Path, met: Scene) -> None:
    folder = write(tmp_path / "cells" / "home--home", met)
    other = replace(CELL, capture="cells/other/capture.pcapng", verdict=Mark.FAILED)
    results(tmp_path, other, replace(CELL, capture="cells/home--home/capture.pcapng"))
    story = read_story(folder)
    assert story.cell is not None
    assert story.cell.verdict is Mark.PASSED
    assert "seed 1: PASSED" in told(folder)


def test_a_cell_of_a_matrix_of_implementations_is_explained_without_a_verdict(tmp_path: Path, met: Scene) -> None:
    (tmp_path / RESULTS).write_text('{"kind": "interop", "format": 1}')
    story = read_story(write(tmp_path / "cells" / "talk.own.go", met))
    assert story.cell is None
    assert story.facts.direct_flow("alice", "bob") is not None


def test_a_lab_that_was_killed_explains_itself_as_far_as_it_got(tmp_path: Path, met: Scene) -> None:
    write(tmp_path, met)
    (tmp_path / "conntrack.jsonl").unlink()
    (tmp_path / "run.json").unlink()
    capture = tmp_path / "capture.pcapng"
    capture.write_bytes(capture.read_bytes()[:-7])
    (tmp_path / "events.jsonl").write_text(lines(EVENTS) + '{"at": 17')
    text = told(tmp_path)
    assert "The folder has no conntrack.jsonl." in text
    assert "punch sync-received" in text


def test_a_run_without_a_capture_still_tells_its_events(tmp_path: Path, met: Scene) -> None:
    write(tmp_path, met)
    (tmp_path / "capture.pcapng").unlink()
    text = told(tmp_path)
    assert "The folder has no capture.pcapng." in text
    assert "alice and bob did not become direct: neither sent a SYN to the other." in text


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("plan.json", "{", "not JSON"),
        ("events.jsonl", "nonsense\n{}\n", r"events\.jsonl:1: not JSON"),
        ("events.jsonl", "[1]\n", r"events\.jsonl:1: not a JSON object"),
        ("capture.pcapng", "nonsense", "not a pcapng"),
        ("run.json", "nonsense", r"run\.json: not JSON"),
        (RESULTS, "nonsense", r"results\.json: not JSON"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, met: Scene, name: str, content: str, why: str) -> None:
    (write(tmp_path, met) / name).write_text(content)
    with pytest.raises(LabError, match=why):
        read_story(tmp_path)


def test_a_folder_that_is_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"no plan\.json.*name a cell"):
        explain(tmp_path)


def test_a_capture_is_summarised_by_interface(tmp_path: Path, met: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    summarise_capture(write(tmp_path, met))
    out = capsys.readouterr().out
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if "/" in line}
    assert rows["home-b/wan"] == ["6", "1", "2", "60"]
    assert rows["home-b/lan"] == ["5", "1", "1", "60"]
    assert "wireshark" in out


def test_explaining_prints(tmp_path: Path, met: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    explain(write(tmp_path, met), everything=True)
    assert "alice and bob talk directly" in capsys.readouterr().out
