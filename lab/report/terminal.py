"""Results as people read them: the matrix, the summary line, what did not come out as predicted, the certificates.

Colours, box characters and ✓ appear where the output can show them: nothing but text reaches a pipe, and a terminal
that is narrower than the matrix gets a list. For the summary of a CI job there is the same in Markdown.
"""

from __future__ import annotations

import io
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Final

from rich import box
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from lab.model.nat import Pooling
from lab.model.plain import to_plain
from lab.observe.certificate import Certificate
from lab.observe.nat import Behaviour, Hairpin, QueryBehaviour, expected, expected_query
from lab.report.markdown import markdown_table, plain
from lab.report.punches import tallies, tally_line
from lab.report.results import Cell, Mark, Results, findings, load, results_to_json

NARROW: Final = 76
"columns below which the matrix becomes a list"
SHORT: Final = 12
"characters of a NAT's name that fit into one line of the matrix"
_COLOURS: Final = {"direct": "green", "relayed": "cyan"}
_HAIRPINS: Final = {
    Hairpin.NONE.value: "no",
    Hairpin.EXTERNAL.value: "yes",
    Hairpin.EXTERNAL_OTHER_PORT.value: "other port",
    Hairpin.INTERNAL.value: "unmasked",
}
_NOT_SO: Final = {Mark.INCONCLUSIVE: "yellow", Mark.UNSUPPORTED: "yellow", Mark.FAILED: "bold red"}


def stdout() -> Console:
    """A console on standard output that shows `?` for what the output's encoding lacks, instead of giving up."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    return Console(highlight=False)


def report(folder: Path, format: str = "text") -> None:
    """Print the results in the folder of a run as `text`, `markdown` or `json`."""
    results = load(folder)
    console = stdout()
    if format == "json":
        console.out(_json(results), end="", highlight=False)
    elif format == "markdown":
        console.out(markdown(results), end="", highlight=False)
    else:
        print_results(results, folder, console)


def _json(results: Results) -> str:
    """`results.json` with what follows from its cells beside them."""
    derived = {"punches": [to_plain(tally) for tally in tallies(results.cells)]}
    return json.dumps(json.loads(results_to_json(results)) | derived, indent=1, ensure_ascii=False) + "\n"


def print_results(results: Results, folder: Path, console: Console) -> None:
    """A matrix (or list) for each transport, what did not come out as predicted, the summary, where the evidence is."""
    ascii_only = console.options.ascii_only
    for part in _by_transport(results):
        wide = console.width >= NARROW and _is_matrix(part.cells)
        console.print(matrix_table(part, ascii_only) if wide else cell_list(part, ascii_only))
    for finding in findings(results.cells):
        console.print(finding, style="red", markup=False, highlight=False, soft_wrap=True)
    if len(results.cells) > 1:
        for tally in tallies(results.cells):
            console.print(tally_line(tally), markup=False, highlight=False, soft_wrap=True)
    console.print(summary(results), style="bold green" if results.ok else "bold red", highlight=False)
    console.print(f"Evidence: {folder}", style="dim", markup=False, highlight=False, soft_wrap=True)


def summary(results: Results) -> str:
    """`25 of 25 as predicted, 17 direct, 8 relayed, in 41.2 s`."""
    cells = results.cells
    good = sum(cell.as_predicted for cell in cells)
    seen = Counter(cell.seen for cell in cells if cell.verdict is Mark.PASSED)
    parts = [f"{good} of {len(cells)} as predicted", f"{seen['direct']} direct", f"{seen['relayed']} relayed"]
    marks = Counter(cell.verdict for cell in cells)
    parts += [f"{marks[mark]} {mark.value}" for mark in _NOT_SO if marks[mark]]
    return f"{', '.join(parts)}, in {results.seconds:.1f} s"


def matrix_table(results: Results, ascii_only: bool = False) -> Table:
    """Dialers' NATs down, listeners' across; each cell the path seen, whether that was predicted, time to direct."""
    cells = {(cell.dialer.nat_name, cell.listener.nat_name): cell for cell in results.cells}
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True)
    by = f"{results.cells[0].transport}:\n" if results.cells else ""
    table.add_column(f"{by}{'from / to' if ascii_only else 'from ↓  to →'}", style="bold", no_wrap=True)
    for listener in _axis(cell.listener.nat_name for cell in results.cells):
        table.add_column(_two_lines(listener), no_wrap=True)
    for dialer in _axis(cell.dialer.nat_name for cell in results.cells):
        row = [cells.get((dialer, listener)) for listener in _axis(cell.listener.nat_name for cell in results.cells)]
        table.add_row(_two_lines(dialer), *(_cell(cell, ascii_only, "\n") if cell else Text("") for cell in row))
    return table


def cell_list(results: Results, ascii_only: bool = False) -> RenderableType:
    """The same, a line for each cell."""
    arrow = "->" if ascii_only else "→"
    lines = [
        Text.assemble(f"{cell.dialer.nat_name} {arrow} {cell.listener.nat_name}: ", _cell(cell, ascii_only, " "))
        for cell in results.cells
    ]
    return Group(*lines)


def markdown(results: Results) -> str:
    """A matrix for each transport, the summary and the findings for the summary page of a CI job."""
    lines = [f"**{summary(results)}**", ""]
    for part in _by_transport(results):
        lines += [*_markdown_matrix(part.cells), ""]
    if len(results.cells) > 1:
        lines += [f"- {plain(tally_line(tally))}" for tally in tallies(results.cells)]
    lines += [f"- {plain(finding)}" for finding in findings(results.cells)]
    lines.append(f"\n{results.machine}, Python {results.machine.python}")
    return "\n".join(lines) + "\n"


def _markdown_matrix(cells: Sequence[Cell]) -> list[str]:
    at = {(cell.dialer.nat_name, cell.listener.nat_name): cell for cell in cells}
    listeners = _axis(cell.listener.nat_name for cell in cells)
    rows = []
    for dialer in _axis(cell.dialer.nat_name for cell in cells):
        row = [at.get((dialer, listener)) for listener in listeners]
        rows.append([f"**{dialer}**", *(_cell(cell, False, " ").plain if cell else "" for cell in row)])
    return markdown_table([f"{cells[0].transport}: from ↓ to →", *listeners], rows)


def _by_transport(results: Results) -> list[Results]:
    """The same results in parts, one for each transport."""
    names = _axis(cell.transport for cell in results.cells)
    return [replace(results, cells=tuple(c for c in results.cells if c.transport == name)) for name in names]


def certificate_table(certificates: Iterable[Certificate], ascii_only: bool = False) -> RenderableType:
    """Declared above measured, for UDP, TCP and ICMP queries, a block for each NAT; below it all the differences."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, show_edge=False, pad_edge=False)
    for title in ("NAT, declared", "mapping", "filtering", "ports", "hairpin", "refusal", ""):
        table.add_column(title, no_wrap=True)
    notes: list[Text] = []
    for certificate in certificates:
        table.add_row(escape(certificate.router), *_facets(expected(certificate.declared, "TCP")), "", style="bold")
        for protocol, declared, measured in _sides(certificate):
            tick = _tick(measured == declared, ascii_only)
            table.add_row(f"  {protocol}, measured", *_compared(declared, measured), tick)
        if certificate.traps:
            avoided = sum(trap.ok for trap in certificate.traps)
            tick = _tick(avoided == len(certificate.traps), ascii_only)
            table.add_row("  traps", f"{avoided} of {len(certificate.traps)} avoided", "", "", "", "", tick)
        table.add_section()
        notes += [Text(f"{certificate.router}: {line}", style="red") for line in certificate.differences]
    return Group(table, *notes)


def grid_summary(certificates: Sequence[Certificate], refused: Iterable[str], seconds: float) -> list[str]:
    """What is not as declared, a line each; how many are, by protocol; and what has no rules, with the reasons."""
    lines = [f"{_over(one)} {one.router}: {line}" for one in certificates for line in one.differences]
    ok = sum(certificate.ok for certificate in certificates)
    lines.append(f"{ok} of {len(certificates)} NATs measured as declared, in {seconds:.1f} s")
    for version in dict.fromkeys(map(_over, certificates)):
        those = [certificate for certificate in certificates if _over(certificate) == version]
        as_declared = Counter(
            protocol for each in those for protocol, declared, measured in _sides(each) if measured == declared
        )
        counts = (f"{protocol} {as_declared[protocol]} of {len(those)}" for protocol in ("UDP", "TCP", "ICMP"))
        lines.append(f"{version}: {', '.join(counts)}")
    return [*lines, *(f"no rules: {reason}" for reason in refused)]


def _over(certificate: Certificate) -> str:
    """The version of IP, as people write it."""
    return certificate.ip.value.replace("ip", "IP")


_Measured = Behaviour | QueryBehaviour


def _sides(certificate: Certificate) -> tuple[tuple[str, _Measured, _Measured | None], ...]:
    nat = certificate.declared
    return (
        ("UDP", expected(nat, "UDP"), certificate.udp),
        ("TCP", expected(nat, "TCP"), certificate.tcp),
        ("ICMP", expected_query(nat), certificate.icmp),
    )


def _facets(behaviour: _Measured) -> list[str]:
    if isinstance(behaviour, QueryBehaviour):
        return [_named(behaviour.mapping), "", _named(behaviour.ports), "", ""]
    pooled = behaviour.pooling is Pooling.ARBITRARY
    return [
        _named(behaviour.mapping),
        _named(behaviour.filtering),
        _named(behaviour.ports) + (", any address" if pooled else ""),
        _named(behaviour.hairpin),
        _named(behaviour.unsolicited),
    ]


def _named(value: Enum | None) -> str:
    return "?" if value is None else _short(str(value.value))


def _compared(declared: _Measured, measured: _Measured | None) -> list[Text]:
    """What was measured, red where it is not what was declared."""
    if measured is None:
        return [Text("not measured", style="red"), *(Text("") for _ in range(4))]
    pairs = zip(_facets(declared), _facets(measured), strict=True)
    return [Text(seen, style="" if seen == said else "red") for said, seen in pairs]


def _short(value: str) -> str:
    """RFC 4787's words, so that two of them and the rest fit into a line."""
    if value in _HAIRPINS:
        return _HAIRPINS[value]
    value = value.replace("preserving-then-sequential", "kept, then seq.")
    return value.replace("address-and-port", "addr+port").removesuffix("-independent").removesuffix("-dependent")


def _cell(cell: Cell, ascii_only: bool, between: str) -> Text:
    """`direct ✓` and the milliseconds to it."""
    if cell.verdict in (Mark.INCONCLUSIVE, Mark.UNSUPPORTED):
        return Text(cell.verdict.value.lower(), style=_NOT_SO[cell.verdict])
    tick = _tick(cell.as_predicted, ascii_only)
    seen = cell.seen or "failed"
    text = Text.assemble((seen, _COLOURS.get(seen, "bold red")), " ", tick)
    if cell.seen == "direct" and cell.seconds.direct is not None:
        text.append(f"{between}{cell.seconds.direct * 1000:.0f} ms", style="dim")
    return text


def _tick(good: bool, ascii_only: bool) -> Text:
    if good:
        return Text("ok" if ascii_only else "✓", style="green")
    return Text("NO" if ascii_only else "✗", style="bold red")


def _is_matrix(cells: Sequence[Cell]) -> bool:
    """Whether each pair of NATs occurs once, and there are several."""
    pairs = {(cell.dialer.nat_name, cell.listener.nat_name) for cell in cells}
    return 1 < len(pairs) == len(cells)


def _axis(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _two_lines(name: str) -> str:
    """`address-restricted` broken at its hyphen: six of these fit into 80 columns."""
    return escape(name.replace("-", "-\n", 1) if len(name) > SHORT else name)
