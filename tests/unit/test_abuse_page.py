"""The page of advisories names tests; this one sees that they exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "abuse.md"
NAMED = re.compile(r"`((?:conformance|unit|lab)/[\w/]+\.py)::(\w+)`")


def test_every_test_that_the_page_of_abuse_names_exists() -> None:
    named = NAMED.findall(PAGE.read_text("utf-8"))
    assert named, "the page names no test"
    missing = [f"{file}::{test}" for file, test in named if test not in _tests(ROOT / "tests" / file)]
    assert not missing, f"{PAGE.name} names tests that do not exist"


def test_every_row_of_the_page_of_abuse_names_a_test() -> None:
    tables = PAGE.read_text("utf-8").partition("\n## ")[0]
    rows = [row for row in tables.splitlines() if row.startswith("| ") and "| --- |" not in row]
    heads = ("| advisory |", "| abuse |")
    assert [row for row in rows if not NAMED.search(row) and not row.startswith(heads)] == []


def _tests(path: Path) -> set[str]:
    """The functions at the top of a module."""
    if not path.exists():
        return set()
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {each.name for each in ast.parse(path.read_text("utf-8")).body if isinstance(each, kinds)}
