"""Several results of one matrix of implementations made one: those of its shards, or of runs that complete it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from lab.errors import LabError
from lab.model.interop import Scene
from lab.model.runner import WORDS
from lab.report.interop import Cell, Implementation, Results, load


def merge(folders: Sequence[Path], into: Path) -> Results:
    """One result of those in the folders, whose evidence is named relative to `into`; LabError if they do not fit."""
    parts = [load(folder) for folder in folders]
    first = parts[0]
    for folder, part in zip(folders, parts, strict=True):
        if _matrix(part) != _matrix(first):
            raise LabError(f"{folder.name} is of another matrix: {_matrix(part)}, not {_matrix(first)}")
    cells: dict[str, Cell] = {}
    for folder, part in zip(folders, parts, strict=True):
        for cell in part.cells:
            if cell.setup.name in cells:
                raise LabError(f"{cell.setup} is in more than one of these runs; {folder.name} has it, too")
            cells[cell.setup.name] = _moved(cell, os.path.relpath(folder, into))
    return replace(
        first,
        run=into.name,
        started=min(part.started for part in parts),
        seconds=_wall(parts),
        shard="",
        planned=sum(part.planned for part in parts) + _missing(parts),
        implementations=_together(part.implementations for part in parts),
        cells=tuple(sorted(cells.values(), key=_order)),
    )


def _matrix(part: Results) -> str:
    """What parts of one matrix have in common. A setup of processes and the same of containers are two."""
    return f"{part.mode}, seed {part.seed}, peers {WORDS[part.runner]}"


def _wall(parts: Sequence[Results]) -> float:
    """The time in which any of them ran: parts may have run side by side, or one after the other."""
    total, until = 0.0, 0.0
    for began, ended in sorted((part.started, part.started + part.seconds) for part in parts):
        total += max(0.0, ended - max(began, until))
        until = max(until, ended)
    return total


def _moved(cell: Cell, folder: str) -> Cell:
    attempts = (
        replace(each, evidence=f"{folder}/{each.evidence}") if each.evidence else each for each in cell.attempts
    )
    return replace(cell, attempts=tuple(attempts))


def _missing(parts: Sequence[Results]) -> int:
    """How many shards are not there; each has at least one setup."""
    shards = [tuple(map(int, part.shard.split("/"))) for part in parts if part.shard]
    return max((count for _, count in shards), default=0) - len({number for number, _ in shards}) if shards else 0


def _order(cell: Cell) -> tuple[int, str]:
    return list(Scene).index(cell.setup.scene), cell.setup.name


def _together(several: Iterable[tuple[Implementation, ...]]) -> tuple[Implementation, ...]:
    """Each implementation once, by the part that heard from it."""
    found: dict[str, Implementation] = {}
    for each in (implementation for part in several for implementation in part):
        if each.implementation or each.impl not in found:
            found[each.impl] = each
    return tuple(found.values())
