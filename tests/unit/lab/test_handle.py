"""What an error quotes of a peer's stderr."""

from __future__ import annotations

from pathlib import Path

from lab.peers.handle import MAX_TAIL, TAIL_LINES, tail_of


def test_the_last_lines_are_told_however_many_there_are(tmp_path: Path) -> None:
    stderr = tmp_path / "stderr"
    assert tail_of(stderr) == ""
    stderr.write_text("one\ntwo\n", "utf-8")
    assert tail_of(stderr) == "; its stderr ends: one | two"
    lines = [f"line {number}" for number in range(MAX_TAIL)]
    stderr.write_text("\n".join(lines), "utf-8")
    assert tail_of(stderr) == f"; its stderr ends: {' | '.join(lines[-TAIL_LINES:])}"
    stderr.write_text("é" * MAX_TAIL, "utf-8")
    assert len(tail_of(stderr)) <= MAX_TAIL
