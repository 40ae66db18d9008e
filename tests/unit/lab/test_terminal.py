"""What results look like: in a wide terminal, a narrow one, a pipe, and on a CI job's page."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from lab.errors import LabError
from lab.model.classical import CLASSICAL
from lab.model.nat import Nat
from lab.model.presets import PRESETS
from lab.observe.certificate import Certificate, Trap
from lab.observe.nat import expected, expected_query
from lab.report.results import RESULTS, Cell, Machine, Mark, Party, Results, Seconds, results_to_json
from lab.report.terminal import certificate_table, markdown, matrix_table, print_results, report, summary

RELAY = Party("relay", "punchlab-python", "0.1.0", "internet", None)


def cell(dialer: str, listener: str) -> Cell:
    seen = "relayed" if "symmetric" in dialer and "symmetric" in listener else "direct"
    return Cell(
        dialer=Party("alice", "punchlab-python", "0.1.0", dialer, PRESETS[dialer].nat),
        listener=Party("bob", "punchlab-python", "0.1.0", listener, PRESETS[listener].nat),
        relay=RELAY,
        transport="tcp",
        security="/noise",
        muxer="/yamux/1.0.0",
        predicted=seen,
        seen=seen,
        verdict=Mark.PASSED,
        why="the theory says so",
        seconds=Seconds(direct=0.1421 if seen == "direct" else None, total=3.0),
        capture=f"cells/{dialer}--{listener}/capture.pcapng",
    )


def results(*cells: Cell) -> Results:
    return Results("r", 0.0, 41.2, Machine(2, "Debian 12", "6.18", "3.11", "0.1.0"), cells)


MATRIX = results(*(cell(dialer, listener) for dialer in CLASSICAL for listener in CLASSICAL))
WRONG = replace(MATRIX.cells[0], seen="relayed", verdict=Mark.FAILED, why="seen relayed [not direct]")
BROKEN = replace(MATRIX.cells[1], seen="", verdict=Mark.INCONCLUSIVE, why="home-a does not measure as declared")
MIXED = results(WRONG, BROKEN, *MATRIX.cells[2:])


def printed(value: Results, width: int = 80, *, encoding: str = "utf-8", colour: bool = False) -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding, errors="replace")
    console = Console(file=file, width=width, force_terminal=colour, color_system="truecolor" if colour else None)
    print_results(value, Path("runs/r"), console)
    file.flush()
    return raw.getvalue().decode(encoding)


def test_the_summary_counts_what_was_seen() -> None:
    assert summary(MATRIX) == "25 of 25 as predicted, 21 direct, 4 relayed, in 41.2 s"
    assert summary(MIXED) == "23 of 25 as predicted, 19 direct, 4 relayed, 1 INCONCLUSIVE, 1 FAILED, in 41.2 s"


def test_the_matrix_fits_into_eighty_columns() -> None:
    text = printed(MATRIX)
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("direct ✓") == 21
    assert text.count("142 ms") == 21
    assert text.count("relayed ✓") == 4
    assert "…" not in text
    for half in ("address-", "restricted", "symmetric-", "sequential"):
        assert half in text


def test_a_narrow_terminal_gets_a_line_for_each_cell() -> None:
    text = printed(MATRIX, 60)
    assert "full-cone → address-restricted: direct ✓ 142 ms" in text.splitlines()
    assert max(map(len, text.splitlines())) <= 60


def test_nothing_but_text_reaches_a_pipe() -> None:
    assert "\x1b" not in printed(MIXED)
    assert "\x1b[" in printed(MIXED, colour=True)


def test_an_output_without_unicode_gets_words() -> None:
    text = printed(MIXED, encoding="ascii")
    assert "direct ok" in text
    assert "relayed NO" in text


def test_what_did_not_come_out_as_predicted_is_told_with_its_capture() -> None:
    text = printed(MIXED, 200)
    assert "relayed ✗" in text
    assert "inconclusive" in text
    line = "full-cone → full-cone by tcp: FAILED: seen relayed [not direct] (cells/full-cone--full-cone/capture.pcapng)"
    assert line in text.splitlines()
    assert "INCONCLUSIVE: home-a does not measure as declared" in text


def test_cells_that_are_no_matrix_are_a_list() -> None:
    text = printed(results(MATRIX.cells[0], MATRIX.cells[0]))
    assert text.splitlines()[:2] == ["full-cone → full-cone: direct ✓ 142 ms"] * 2


def test_a_matrix_with_holes_is_a_matrix() -> None:
    assert matrix_table(results(MATRIX.cells[0], MATRIX.cells[6])).row_count == 2


def test_markdown_is_a_table_of_the_same() -> None:
    text = markdown(MIXED)
    lines = text.splitlines()
    assert lines[0] == f"**{summary(MIXED)}**"
    assert lines[2] == f"| tcp: from ↓ to → | {' | '.join(CLASSICAL)} |"
    assert lines[4].startswith("| **full-cone** | relayed ✗ | inconclusive | direct ✓ 142 ms |")
    assert {line.count("|") for line in lines[2:9]} == {7}
    assert "- full-cone → full-cone by tcp: FAILED: seen relayed" in text
    assert "2 processors, Debian 12, Linux 6.18, Python 3.11" in text


@pytest.mark.parametrize(
    ("format", "begins"), [("text", "\n"), ("markdown", "**25 of 25"), ("json", '{\n "format": 2')]
)
def test_a_report_is_read_from_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], format: str, begins: str
) -> None:
    (tmp_path / RESULTS).write_text(results_to_json(MATRIX))
    report(tmp_path, format)
    out = capsys.readouterr().out
    assert out.lstrip(" ").startswith(begins)
    if format == "json":
        told = json.loads(out)
        assert [tally["transport"] for tally in told.pop("punches")] == ["tcp"]
        assert told == json.loads(results_to_json(MATRIX))


def test_a_report_of_a_folder_without_results_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LabError):
        report(tmp_path)


def certified(name: str, nat: Nat) -> Certificate:
    udp, tcp = expected(nat, "UDP"), expected(nat, "TCP")
    return Certificate(name, nat, udp, tcp, expected_query(nat), (Trap("t", True, ""),), (), 0.1)


def certificates() -> list[Certificate]:
    good = [certified(name, PRESETS[name].nat) for name in CLASSICAL]
    home, symmetric = PRESETS["home"].nat, PRESETS["symmetric"].nat
    return [
        *good,
        Certificate(
            "liar", home, expected(symmetric, "UDP"), None, None, (), ("UDP mapping: declared a, measured b",), 1
        ),
    ]


def test_certificates_show_declared_beside_measured() -> None:
    console = Console(file=io.StringIO(), width=80)
    with console.capture() as capture:
        console.print(certificate_table(certificates()))
    text = capture.get()
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("measured") == 6 * 3 + 3
    assert text.count("✓") == 5 * 4
    assert text.count("✗") == 3
    assert "not measured" in text
    assert "liar: UDP mapping: declared a, measured b" in text
    assert " endpoint " in text
    assert " addr+port " in text
