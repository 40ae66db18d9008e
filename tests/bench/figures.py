"""What a benchmark tells: figures of several rounds, ratios between them, and their table and JSON.

A machine that others share swings by a third from one moment to the next. So what is compared was measured in turn in
one run, a ratio is taken within each round, and medians are shown with the lowest and the highest.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from lab.files import write_whole
from lab.run.machine import this_machine

FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing measured once a round; never without a value."""

    name: str
    unit: str
    values: tuple[float, ...]
    aim: str = ""
    "what the project aims at, in words; nothing fails by it"

    @property
    def median(self) -> float:
        """The middle of the rounds."""
        return statistics.median(self.values)

    @property
    def cells(self) -> tuple[str, str, str, str, str, str]:
        """The row of a table."""
        spread = f"{_short(min(self.values))} – {_short(max(self.values))}" if len(self.values) > 1 else ""
        return self.name, _short(self.median), self.unit, spread, str(len(self.values)), self.aim

    def over(self, other: Figure, name: str, aim: str = "") -> Figure:
        """This one divided by another of the same rounds, round by round."""
        pairs = zip(self.values, other.values, strict=True)
        return Figure(name, "×", tuple(mine / theirs for mine, theirs in pairs), aim)


@dataclass(frozen=True, slots=True)
class Section:
    """What one subcommand found."""

    name: str
    title: str
    figures: tuple[Figure, ...]
    notes: tuple[str, ...] = ()
    "what was left out, and why"


def show(section: Section, console: Console) -> None:
    """Print a section as a table."""
    table = Table(title=section.title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for heading, side in (
        ("", "left"), ("median", "right"), ("", "left"), ("low – high", "right"), ("n", "right"), ("aim", "left"),
    ):  # fmt: skip
        table.add_column(heading, justify=side)  # type: ignore[arg-type]
    for figure in section.figures:
        table.add_row(*figure.cells)
    console.print(table)
    for note in section.notes:
        console.print(f"  {note}", style="dim", highlight=False)
    console.print()


def keep(section: Section, path: Path) -> None:
    """Write a section into `results.json`, beside what other subcommands have left there."""
    sections = _sections(path)
    figures = [asdict(figure) | {"median": figure.median} for figure in section.figures]
    sections[section.name] = {"at": time.time(), "title": section.title, "figures": figures, "notes": section.notes}
    text = json.dumps({"format": FORMAT, "machine": asdict(this_machine()), "sections": sections}, indent=1)
    path.parent.mkdir(exist_ok=True)
    write_whole(path, text + "\n")


def _sections(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    is_ours = isinstance(found, dict) and found.get("format") == FORMAT and isinstance(found.get("sections"), dict)
    return dict(found["sections"]) if is_ours else {}


def milliseconds(name: str, seconds: Sequence[float], aim: str = "") -> Figure:
    """A figure of durations."""
    return Figure(name, "ms", tuple(value * 1000 for value in seconds), aim)


def _short(value: float) -> str:
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
