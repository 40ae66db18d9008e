"""Hole punches of a matrix of implementations by the NATs, in Markdown: how many went as predicted, and which.

The overview counts the pairs of NATs for each transport and relay. Of each pair of implementations and transport there
is a grid of NATs: a field has what became of the two behind these, `direct` or `relayed`, and a sign for each relay, in
the order that the grid's title names them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Final

from lab.model.interop import Check
from lab.model.presets import PRESETS
from lab.report.interop import Finding, Results
from lab.report.interop_text import sign, told_runner
from lab.report.markdown import markdown_table
from lab.report.results import Mark

MIN_NATS: Final = 3
"before dialers and behind listeners; of fewer a grid tells less than the list of what failed"


def punches(results: Results) -> list[Finding]:
    """The hole punches that were tried, by dialer, listener and transport, in the order of the implementations."""
    order = [each.impl for each in results.implementations]

    def rank(found: Finding) -> tuple[int, int, str, int]:
        of = found.setup
        return order.index(of.dialer), order.index(of.listener), of.stack.transport, order.index(of.relay)

    tried = [each for each in results.findings if each.outcome.check is Check.PUNCH]
    return sorted((each for each in tried if each.outcome.mark is not Mark.UNSUPPORTED), key=rank)


def as_predicted(found: Sequence[Finding]) -> str:
    """`24 of 25`; `–` where nothing was tried."""
    return f"{sum(each.outcome.mark is Mark.PASSED for each in found)} of {len(found)}" if found else "–"


def punch_counts(results: Results) -> list[str]:
    """The lines of the overview: pairs down, transports and relays across, pairs of NATs that went as predicted."""
    found = punches(results)
    ways = list(dict.fromkeys(sorted(map(_way, found), key=lambda way: (way[0] != "tcp", way[0]))))
    rows = []
    for title, those in groupby(found, _pair):
        of = list(those)
        rows.append((title, *(as_predicted([each for each in of if _way(each) == way]) for way in ways)))
    return markdown_table(("from → to", *(f"{transport} by {relay}" for transport, relay in ways)), rows)


def punch_grids(results: Results) -> list[str]:
    """The lines of all grids; none where fewer than three NATs were tried on either side."""
    lines: list[str] = []
    for title, group in groupby(punches(results), lambda each: f"{_pair(each)} over {each.setup.stack.transport}"):
        those = list(group)
        from_, to = (sorted({each.setup.nats[side] for each in those}, key=list(PRESETS).index) for side in (0, 1))
        if min(len(from_), len(to)) < MIN_NATS:
            continue
        relays = tuple(dict.fromkeys(each.setup.relay for each in those))
        rows = [(one, *(_field(those, (one, other), relays) for other in to)) for one in from_]
        lines += [f"**{title}** by the relay of {', '.join(relays)}{told_runner(results)}", ""]
        lines += [*markdown_table(("from ↓ to →", *to), rows), ""]
    return lines


def _pair(finding: Finding) -> str:
    return f"{finding.setup.dialer} → {finding.setup.listener}"


def _way(finding: Finding) -> tuple[str, str]:
    return finding.setup.stack.transport, finding.setup.relay


def _field(found: Sequence[Finding], nats: tuple[str, str], relays: Sequence[str]) -> str:
    at = {each.setup.relay: each for each in found if each.setup.nats == nats}
    paths = dict.fromkeys(_path(at[relay]) for relay in relays if relay in at)
    signs = "".join(sign(at[relay]) if relay in at else "·" for relay in relays)
    return " ".join(filter(None, (*paths, signs))) if at else ""


def _path(finding: Finding) -> str:
    """Of what passed; a failure is told at length elsewhere."""
    return finding.outcome.why.partition(":")[0] if finding.outcome.mark is Mark.PASSED else ""
