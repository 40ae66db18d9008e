"""A badge for a README, made here: as a picture, and as the JSON that badge services read.

It counts checks: how many of those that could be made passed. What nobody has (UNSUPPORTED) does not count.
"""

from __future__ import annotations

import json
from typing import Final
from xml.sax.saxutils import escape

from lab.report.interop import Results
from lab.report.results import Mark

LABEL: Final = "interop"
_COLOURS: Final = {"brightgreen": "#3fb950", "yellow": "#d29922", "red": "#d73a49"}
_PER_CHARACTER: Final = 6.6
"pixels, in Verdana of 11"
_PADDING: Final = 10


def badge(results: Results) -> tuple[str, str]:
    """What it says, and the name of its colour."""
    made = [each for each in results.findings if each.outcome.mark is not Mark.UNSUPPORTED]
    passed = sum(each.outcome.mark is Mark.PASSED for each in made)
    text = f"{passed}/{len(made)}" if results.complete else f"{passed}/{len(made)}, not finished"
    if any(each.failed for each in made):
        return text, "red"
    return text, "brightgreen" if passed == len(made) and results.complete else "yellow"


def badge_json(results: Results) -> str:
    """An endpoint badge, schema version 1."""
    text, colour = badge(results)
    return json.dumps({"schemaVersion": 1, "label": LABEL, "message": text, "color": colour}) + "\n"


def badge_svg(results: Results) -> str:
    """The picture."""
    text, colour = badge(results)
    left, right = (round(len(part) * _PER_CHARACTER) + _PADDING for part in (LABEL, text))
    return f"""<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img">
<title>{escape(LABEL)}: {escape(text)}</title>
<rect width="{left + right}" height="20" rx="3" fill="#555"/>
<path fill="{_COLOURS[colour]}" d="M{left} 0h{right - 3}a3 3 0 0 1 3 3v14a3 3 0 0 1-3 3h-{right - 3}z"/>
<g fill="#fff" text-anchor="middle" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">
<text x="{left / 2:g}" y="14">{escape(LABEL)}</text><text x="{left + right / 2:g}" y="14">{escape(text)}</text>
</g></svg>
"""
