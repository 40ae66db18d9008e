"""results.json: what is written is read back exactly, and nothing else is taken for results."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import LabError
from lab.model.nat import Filtering, Hairpinning, Mapping, Nat, Ports
from lab.report.results import (
    FORMAT,
    RESULTS,
    Cell,
    Machine,
    Mark,
    Party,
    Results,
    Seconds,
    load,
    results_from_json,
    results_to_json,
)

texts = st.text(max_size=12)
numbers = st.floats(0, 1e6, allow_nan=False)
nats = st.builds(
    Nat,
    mapping=st.sampled_from(Mapping),
    filtering=st.sampled_from(Filtering),
    ports=st.sampled_from(Ports),
    hairpin=st.sampled_from(Hairpinning),
    udp_timeout=st.integers(1, 1000).map(float),
    tcp_timeout=st.integers(1, 1000).map(float),
)
parties = st.builds(Party, texts, texts, texts, texts, st.none() | nats)
seconds = st.builds(Seconds, *[st.none() | numbers] * len(fields(Seconds)))
cells = st.builds(
    Cell,
    parties,
    parties,
    parties,
    texts,
    texts,
    texts,
    texts,
    texts,
    st.sampled_from(Mark),
    texts,
    seconds,
    texts,
    st.none() | st.integers(0, 9),
)
machines = st.builds(Machine, st.integers(1, 512), texts, texts, texts, texts)
results = st.builds(Results, texts, numbers, numbers, machines, st.lists(cells, max_size=3).map(tuple))

NAT = Nat(Mapping.ENDPOINT_INDEPENDENT, Filtering.ADDRESS_DEPENDENT, Ports.PRESERVING)
ALICE = Party("alice", "punchlab-python", "0.1.0", "home", NAT)
RELAY = Party("relay", "punchlab-python", "0.1.0", "internet", None)
ONE = Results(
    run="20261121-101010-two-homes-ab12",
    started=1_763_719_000.0,
    seconds=2.5,
    machine=Machine(2, "Debian GNU/Linux 12", "6.18", "3.11.2", "0.1.0"),
    cells=(
        Cell(ALICE, ALICE, RELAY, "tcp", "/noise", "/yamux/1.0.0", "direct", "direct", Mark.PASSED, "", Seconds(), "c"),
    ),
)


@settings(max_examples=60, deadline=None)
@given(results)
def test_results_read_back_exactly(value: Results) -> None:
    text = results_to_json(value)
    assert results_from_json(text) == value
    assert results_to_json(results_from_json(text)) == text


def test_a_file_begins_with_its_format() -> None:
    assert json.loads(results_to_json(ONE))["format"] == FORMAT


@pytest.mark.parametrize(
    ("path", "value", "why"),
    [
        (("format",), FORMAT + 1, f"this punchlab reads format {FORMAT}"),
        (("cells", 0, "verdict"), "MAYBE", r"results.cells\[0\].verdict must be one of PASSED, FAILED"),
        (("cells", 0, "dialer", "nat", "mapping"), "odd", r"results.cells\[0\].dialer.nat.mapping must be one of"),
        (("cells", 0, "seconds", "echo"), "1", r"results.cells\[0\].seconds.echo must be float"),
        (("machine", "processors"), True, "results.machine.processors must be int"),
        (("cells",), {}, "results.cells must be a list"),
        (("extra",), 1, "results must be an object with run, started"),
    ],
)
def test_a_wrong_part_is_named(path: tuple[str | int, ...], value: object, why: str) -> None:
    document: Any = json.loads(results_to_json(ONE))
    inner = document
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    with pytest.raises(LabError, match=why):
        results_from_json(json.dumps(document))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null", "[" * 100_000])
def test_what_is_no_results_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(LabError) as caught:
        results_from_json(text)
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_without_results_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"results\.json: cannot read"):
        load(tmp_path)
    (tmp_path / RESULTS).write_bytes(b"\xff")
    with pytest.raises(LabError, match=r"results\.json: cannot read"):
        load(tmp_path)
    (tmp_path / RESULTS).write_text(results_to_json(ONE))
    assert load(tmp_path) == ONE


@pytest.mark.parametrize(
    ("predicted", "seen", "verdict", "as_predicted"),
    [
        ("direct", "direct", Mark.PASSED, True),
        ("relayed", "direct", Mark.FAILED, False),
        ("direct", "direct", Mark.FAILED, False),
        ("direct", "", Mark.INCONCLUSIVE, False),
    ],
)
def test_only_a_passed_cell_on_the_predicted_path_is_as_predicted(
    predicted: str, seen: str, verdict: Mark, as_predicted: bool
) -> None:
    cell = Cell(ALICE, ALICE, RELAY, "tcp", "", "", predicted, seen, verdict, "", Seconds(), "")
    assert cell.as_predicted is as_predicted
