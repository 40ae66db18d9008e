"""What `punchlab links` measured, as a table for people and as JSON for the page."""

from __future__ import annotations

import json

from rich import box
from rich.table import Table

from lab.errors import LabError
from lab.model.plain import from_plain, to_plain
from lab.model.units import format_percent, format_rate
from lab.observe.quality import LinkReport, Load, Row

_KBIT = 1000


def link_table(report: LinkReport, ascii_only: bool = False) -> Table:
    """Asked beside measured, a row for each quantity."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True)
    for head in ("", "link", "quantity"):
        table.add_column(head, no_wrap=True)
    for head in ("asked", "measured", "tolerance"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in report.rows:
        table.add_row(mark(row.ok, ascii_only), *cells(row, "+-" if ascii_only else "±"))
    return table


def load_table(report: LinkReport) -> Table:
    """Packets a second that were tried, and how many came."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True)
    for head in ("packets/s", "sent", "lost", "median delay", "99 of 100 within"):
        table.add_column(head, justify="right", no_wrap=True)
    for load in report.loads:
        table.add_row(*load_cells(load))
    return table


def cells(row: Row, plus_minus: str = "±") -> tuple[str, str, str, str, str]:
    """Link, quantity, asked, measured and tolerance, with units."""
    return (
        row.link,
        row.quantity,
        _size(row.asked, row.unit),
        _size(row.measured, row.unit),
        f"{plus_minus}{shown(row.tolerance, row.unit)}",
    )


def load_cells(load: Load) -> tuple[str, ...]:
    """Offered rate, sent, lost, median and 99th percentile of the delay."""
    return (
        f"{load.sent / load.seconds:,.0f}",
        f"{load.sent:,}",
        f"{load.sent - load.arrived:,}",
        shown(load.delay, "s"),
        shown(load.late, "s"),
    )


def shown(value: float, unit: str) -> str:
    """A value as people read it: `20.08 ms`, `0.52%`, `9.98Mbit/s`."""
    if unit == "s":
        return f"{value * 1000:.2f} ms"
    if unit == "share":
        return format_percent(round(value, 5))
    if unit == "bit/s":
        return f"{format_rate(round(value / _KBIT) * _KBIT)}/s"
    if unit == "B":
        return f"{value:.0f} B"
    return f"{value:.1f}"


def _size(value: float, unit: str) -> str:
    """The same, of packets that there may be none of."""
    return "none" if unit == "B" and not value else shown(value, unit)


def summary(report: LinkReport) -> str:
    """`22 of 22 within tolerance; links by netem; 59,843 packets/s without loss, …`."""
    good = sum(row.ok for row in report.rows)
    text = f"{good} of {len(report.rows)} within tolerance; links by {report.backend}"
    if report.left_out:
        text = f"{text}; not measured: {'; '.join(report.left_out)}"
    if not report.loads:
        return text
    return (
        f"{text}; {report.capacity:,.0f} packets/s without loss, {report.on_time:,.0f} with the median delay within"
        f" tolerance, {report.all_on_time:,.0f} with 99 of 100"
    )


def mark(ok: bool, ascii_only: bool = False) -> str:
    """A tick or a cross."""
    return ("ok" if ok else "NO") if ascii_only else ("✓" if ok else "✗")


def to_json(report: LinkReport) -> str:
    """The text of a file that `from_json` reads."""
    return json.dumps(to_plain(report), indent=1) + "\n"


def from_json(text: str) -> LinkReport:
    """A report that was saved; LabError says what is wrong with it."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LabError(f"link measurements: not JSON: {error}") from None
    return from_plain(value, LinkReport, "link measurements")
