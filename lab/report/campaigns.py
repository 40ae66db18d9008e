"""Campaigns on disk: a JSON list of what several long runs have seen, each in its own words."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from lab.errors import LabError
from lab.files import write_whole
from lab.model.plain import from_plain, to_plain

Campaign = TypeVar("Campaign")


def save_all(path: Path, campaigns: Iterable[object]) -> None:
    """Write these, all of a file; LabError if it cannot be."""
    text = json.dumps([to_plain(each) for each in campaigns], indent=1, ensure_ascii=False) + "\n"
    try:
        write_whole(path, text)
    except OSError as error:
        raise LabError(f"{path}: cannot write: {error.strerror}") from None


def load_all(path: Path, kind: type[Campaign], what: str) -> tuple[Campaign, ...]:
    """Those of a file that is to hold `what`; LabError says what is wrong with it."""
    try:
        value: Any = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise LabError(f"{path}: no {what}: {error}") from None
    if not isinstance(value, list):
        raise LabError(f"{path}: no {what}: no list")
    return tuple(from_plain(each, kind, f"{path}[{index}]") for index, each in enumerate(value))
