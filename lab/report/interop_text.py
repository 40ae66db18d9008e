"""The results of a matrix of implementations for people: tables, what failed and how to repeat it, a summary line.

The tables are made once, as rows of text; a terminal gets them by rich, a job's summary page and the documentation in
Markdown. A check's table has dialers down and listeners across. A field counts setups: `12 ✓`, `11 ✓ 1 ✗`, `–` where
nobody can.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lab.model.interop import Check, Stack
from lab.model.runner import PROCESS, WORDS
from lab.report.interop import Finding, Results, load, results_to_json
from lab.report.junit import repeat_command
from lab.report.markdown import markdown_table, plain
from lab.report.results import Mark, day
from lab.report.terminal import stdout

_TALKS: Final = (Check.CONNECT, Check.PING)
"of these there is a table for each stack"
_ASCII: Final = str.maketrans({"✓": "ok", "✗": "FAILED", "≈": "known", "–": "-", "→": "->", "↓": ""})
LEGEND: Final = (
    "✓ passed, ✗ failed, ≈ failed as known, ? inconclusive, – one of the two does not have it, empty: not tried"
)


@dataclass(frozen=True, slots=True)
class Grid:
    """A table: dialers down, listeners across."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    "each begins with its dialer"


def grids(results: Results) -> list[Grid]:
    """A grid for each stack of connect and ping, and one for each further check."""
    talks = [each for each in results.findings if each.outcome.check in _TALKS]
    stacks = dict.fromkeys(each.setup.stack for each in talks)
    of_stacks = [
        _grid(
            f"connect, ping: {stack}{told_runner(results)}",
            [each for each in talks if each.setup.stack == stack],
            _worst,
        )
        for stack in stacks
    ]
    return [*of_stacks, *_further_grids(results)]


def _further_grids(results: Results) -> list[Grid]:
    further = [check for check in Check if check not in _TALKS]
    found = {check: [each for each in results.findings if each.outcome.check is check] for check in further}
    told = told_runner(results)
    return [_grid(f"{check.value}{told}", those, _field) for check, those in found.items() if those]


def told_runner(results: Results) -> str:
    """How peers were run, as the end of a title; empty for processes, as they are run where nobody asks otherwise."""
    return "" if results.runner == PROCESS else f", {WORDS[results.runner]}"


def _grid(title: str, found: Sequence[Finding], field: Callable[[Sequence[Finding]], str]) -> Grid:
    dialers = tuple(dict.fromkeys(each.setup.dialer for each in found))
    listeners = tuple(dict.fromkeys(each.setup.listener for each in found))
    at: dict[tuple[str, str], list[Finding]] = {}
    for each in found:
        at.setdefault(_pair(each), []).append(each)
    rows = tuple((one, *(field(at.get((one, other), ())) for other in listeners)) for one in dialers)
    return Grid(title, ("from ↓ to →", *listeners), rows)


def _field(found: Sequence[Finding]) -> str:
    """`12 ✓ 1 ✗`; a single setup needs no number."""
    counts = Counter(sign(each) for each in found)
    made = [one for one in ("✓", "✗", "≈", "?") if counts[one]]
    if not made:
        return "–" if found else ""
    return " ".join(one if counts[one] == 1 and len(made) == 1 else f"{counts[one]} {one}" for one in made)


def sign(finding: Finding) -> str:
    """One character for what came of a check."""
    match finding.outcome.mark:
        case Mark.PASSED:
            return "✓"
        case Mark.FAILED:
            return "≈" if finding.known is not None else "✗"
        case Mark.INCONCLUSIVE:
            return "?"
        case Mark.UNSUPPORTED:
            return "–"


def summary(results: Results) -> str:
    """`412 checks: 380 passed (2 flaky), 3 FAILED, …; 104 labs in 291.3 s, peers as processes`."""
    found = results.findings
    marks = Counter(each.outcome.mark for each in found)
    failed = sum(each.failed for each in found)
    known, flaky = marks[Mark.FAILED] - failed, sum(each.flaky for each in found)
    parts = [f"{marks[Mark.PASSED]} passed" + (f" ({flaky} flaky)" if flaky else "")]
    parts += [f"{failed} FAILED"] if failed else []
    parts += [f"{known} failed as known"] if known else []
    parts += [f"{marks[Mark.INCONCLUSIVE]} INCONCLUSIVE"] if marks[Mark.INCONCLUSIVE] else []
    parts += [f"{marks[Mark.UNSUPPORTED]} unsupported"] if marks[Mark.UNSUPPORTED] else []
    built = sum(bool(cell.attempts[-1].evidence) for cell in results.cells)
    labs = f"{built} labs in {results.seconds:.1f} s, peers {WORDS[results.runner]}"
    line = f"{len(found)} checks: {', '.join(parts)}; {labs}"
    return line if results.complete else f"{line}; {results.planned - len(results.cells)} of {results.planned} left"


def problems(results: Results, repeat: bool = True) -> list[str]:
    """What people have to look at, a line each: failures with the command that repeats them, flaky checks, cures."""
    lines = []
    for each in results.findings:
        if each.outcome.mark is Mark.INCONCLUSIVE and not each.evidence:
            continue  # of these all that there is to say is their reason
        head = f"{each.outcome.check.value} {each.setup}"
        if each.failed or each.outcome.mark is Mark.INCONCLUSIVE:
            lines.append(f"{each.outcome.mark.value}: {head}: {each.outcome.why} ({each.evidence})")
            if repeat:
                lines.append(f"    again: {repeat_command(each, results)}")
        elif each.flaky:
            lines.append(f"FLAKY: {head}: {each.first.mark.value} beside others, PASSED alone: {each.first.why}")
    unbuilt = [each.outcome for each in results.findings if not each.evidence]
    whys = Counter(outcome.why for outcome in unbuilt if outcome.mark is Mark.INCONCLUSIVE)
    lines += [f"INCONCLUSIVE: {count} checks that were not made: {why}" for why, count in whys.items()]
    lines += [f"KNOWN: {entry}" for entry in _known(results, failed=True)]
    lines += [f"CURED: {entry}" for entry in _known(results, failed=False)]
    return lines


def _known(results: Results, *, failed: bool) -> list[str]:
    """Entries of known failures with how often they held, a line each; or those of which nothing failed any more."""
    fit = [each for each in results.findings if each.known is not None]
    fit = [each for each in fit if each.outcome.mark in (Mark.PASSED, Mark.FAILED)]
    lines = []
    for known in dict.fromkeys(each.known for each in fit if each.known is not None):
        marks = Counter(each.outcome.mark for each in fit if each.known and each.known.entry == known.entry)
        count = f"{marks[Mark.FAILED]} of {marks.total()} failed"
        if failed == bool(marks[Mark.FAILED]):
            told = f"{known.entry} ({known.check.value}): {known.reason}, {known.see}: {count}"
            lines.append(told if failed else f"{told}; take it out of the known failures")
    return lines


def implementations(results: Results) -> str:
    """`own punchlab-python 0.1.0, go go-libp2p 0.51.0, js not here`."""
    return ", ".join(
        f"{each.implementation} {each.version}" if each.implementation else f"{each.impl}: no peer here"
        for each in results.implementations
    )


def report(folder: Path, format: str = "text") -> None:
    """Print the results in the folder of a run as `text`, `markdown` or `json`."""
    results, console = load(folder), stdout()
    if format == "text":
        print_results(results, folder, console)
    else:
        text = results_to_json(results) if format == "json" else markdown(results)
        console.out(text, end="", highlight=False)


def print_results(results: Results, folder: Path, console: Console) -> None:
    """Tables, problems, the summary, where the evidence is."""
    ascii_only = console.options.ascii_only
    for grid in grids(results):
        console.print(_table(grid, ascii_only))
    for line in problems(results):
        style = "yellow" if line.startswith(("FLAKY", "KNOWN", "CURED")) else "red"
        console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)
    console.print(implementations(results), style="dim", markup=False, highlight=False, soft_wrap=True)
    style = "bold green" if results.ok else "bold red"
    console.print(summary(results), style=style, markup=False, highlight=False, soft_wrap=True)
    console.print(f"Evidence: {folder}", style="dim", markup=False, highlight=False, soft_wrap=True)


def _table(grid: Grid, ascii_only: bool) -> Table:
    title = grid.title
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), title=escape(title), title_justify="left", title_style="bold")
    for number, column in enumerate(grid.columns):
        table.add_column(_plain(column, ascii_only), style="bold" if number == 0 else "", no_wrap=True)
    for row in grid.rows:
        table.add_row(*(_plain(value, ascii_only) for value in row))
    return table


def _plain(text: str, ascii_only: bool) -> str:
    return escape(text.translate(_ASCII) if ascii_only else text)


def markdown(results: Results, repeat: bool = True) -> str:
    """The same for the summary page of a CI job."""
    lines = [f"**{summary(results)}**", "", implementations(results), ""]
    lines += stack_table(results)
    for grid in _further_grids(results):
        lines += [f"**{grid.title}**", "", *markdown_table(grid.columns, grid.rows), ""]
    lines += [f"{LEGEND}.", ""]
    lines += [f"- {plain(line.strip())}" for line in problems(results, repeat)]
    lines += [f"\n{day(results.started)}, {results.machine}"]
    return "\n".join(lines) + "\n"


def stack_table(results: Results) -> list[str]:
    """Pairs of implementations down, stacks across: connect and ping, in Markdown; empty if neither was asked for."""
    found = [each for each in results.findings if each.outcome.check in _TALKS]
    if not found:
        return []
    stacks: list[Stack] = list(dict.fromkeys(each.setup.stack for each in found))
    pairs = dict.fromkeys((each.setup.dialer, each.setup.listener) for each in found)
    rows = []
    for pair in sorted(pairs, key=lambda pair: _rank(results, pair)):
        fields = [[each for each in found if _pair(each) == pair and each.setup.stack == stack] for stack in stacks]
        rows.append((f"{pair[0]} → {pair[1]}", *(_worst(field) for field in fields)))
    return [*markdown_table((f"connect, ping{told_runner(results)}", *map(str, stacks)), rows), ""]


def _rank(results: Results, pair: tuple[str, str]) -> tuple[int, ...]:
    order = [each.impl for each in results.implementations]
    return tuple(order.index(impl) if impl in order else len(order) for impl in pair)


def _pair(finding: Finding) -> tuple[str, str]:
    return finding.setup.dialer, finding.setup.listener


def _worst(found: Sequence[Finding]) -> str:
    """One sign for all of them."""
    signs = {sign(each) for each in found}
    return next((one for one in ("✗", "?", "≈", "–", "✓") if one in signs), "")
