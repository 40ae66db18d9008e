"""Covering arrays: few rows that hold every pair of values that any row holds.

Which combinations exist is said by listing them, so that every constraint holds by itself, and every pair that can
occur does. Rows are chosen greedily, always the one with the most pairs that are still missing; chance, an argument,
breaks ties. That count only falls while rows are chosen, so a row is counted anew only at the top of a heap: some
ten thousand rows take a second.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable, Sequence
from itertools import combinations

Row = Sequence[str]
Pair = tuple[int, str, int, str]
"A factor's number and its value, and another's."


def pairs_of(row: Row) -> frozenset[Pair]:
    """Every pair of values of a row."""
    return frozenset((i, one, j, other) for (i, one), (j, other) in combinations(enumerate(row), 2))


def pairs_in(rows: Iterable[Row]) -> set[Pair]:
    """Every pair of values of any of the rows."""
    return {pair for row in rows for pair in pairs_of(row)}


def cover(rows: Sequence[Row], chance: random.Random, wanted: set[Pair] | None = None) -> list[int]:
    """The numbers, in order, of rows that together hold every wanted pair (None: every pair) that any of them holds."""
    missing = pairs_in(rows) if wanted is None else set(wanted)
    # Pairs are made when they are counted, since those of all rows at once would fill the memory.
    heap = [(-len(missing), chance.random(), number) for number in range(len(rows))]
    heapq.heapify(heap)
    chosen: list[int] = []
    while heap and missing:
        _, order, number = heapq.heappop(heap)
        new = len(pairs_of(rows[number]) & missing)
        if new == 0:
            continue
        if heap and -new > heap[0][0]:
            heapq.heappush(heap, (-new, order, number))
            continue
        missing -= pairs_of(rows[number])
        chosen.append(number)
    return sorted(chosen)
