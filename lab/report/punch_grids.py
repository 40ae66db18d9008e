"""Hole punches of a matrix of implementations by the NATs: for each pair and transport a grid, in Markdown.

A field has what became of the two behind these NATs, `direct` or `relayed`, and a sign for each relay, in the order
that the grid's title names them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from lab.model.interop import Check
from lab.model.presets import PRESETS
from lab.report.interop import Finding, Results
from lab.report.interop_text import sign, told_runner
from lab.report.markdown import markdown_table
from lab.report.results import Mark

MIN_NATS: Final = 3
"before dialers and behind listeners; of fewer a grid tells less than the list of what failed"


def punch_grids(results: Results) -> list[str]:
    """The lines of all grids; none where fewer than three NATs were tried on either side."""
    found = [each for each in results.findings if each.outcome.check is Check.PUNCH]
    order = [each.impl for each in results.implementations]
    lines: list[str] = []
    for title in dict.fromkeys(map(_title, found)):
        those = [each for each in found if _title(each) == title]
        from_, to = (sorted({each.setup.nats[side] for each in those}, key=list(PRESETS).index) for side in (0, 1))
        if min(len(from_), len(to)) < MIN_NATS:
            continue
        relays = sorted({each.setup.relay for each in those}, key=order.index)
        rows = [(one, *(_field(those, (one, other), relays) for other in to)) for one in from_]
        lines += [f"**{title}** by the relay of {', '.join(relays)}{told_runner(results)}", ""]
        lines += [*markdown_table(("from ↓ to →", *to), rows), ""]
    return lines


def _title(finding: Finding) -> str:
    setup = finding.setup
    return f"{setup.dialer} → {setup.listener} over {setup.stack.transport}"


def _field(found: Sequence[Finding], nats: tuple[str, str], relays: Sequence[str]) -> str:
    at = {each.setup.relay: each for each in found if each.setup.nats == nats}
    paths = dict.fromkeys(_path(at[relay]) for relay in relays if relay in at)
    signs = "".join(sign(at[relay]) if relay in at else "·" for relay in relays)
    return " ".join(filter(None, (*paths, signs))) if at else ""


def _path(finding: Finding) -> str:
    """Of what passed; a failure is told at length elsewhere."""
    return finding.outcome.why.partition(":")[0] if finding.outcome.mark is Mark.PASSED else ""
