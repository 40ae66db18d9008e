"""Tables in Markdown, of documentation and of a CI job's summary page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table. Emphasis and links in its fields are such; nothing in a field ends it, or is HTML."""
    return [f"| {' | '.join(map(plain, line))} |" for line in (head, ["---"] * len(head), *rows)]


def plain(text: str) -> str:
    """Text that anybody may have written, on one line, in one field."""
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
