#!/usr/bin/env python3
"""Prints the part of requirements.lock that these packages need: `requirements.py LOCK PACKAGE...`.

So there is one lock, and an image holds no more of it than its program imports. What needs what stands in the lock's
own comments, which name for each package who asked for it (`# via`).
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

_PACKAGE = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==\S")
_VIA = re.compile(r"\s+#(?: via)? +(\S+)")


def part(lock: str, wanted: list[str]) -> str:
    """The lines of a lock for these packages and all that they need; LookupError for one that it does not have."""
    entries, askers = _entries(lock)
    missing = [name for name in wanted if name not in entries]
    if missing:
        raise LookupError(f"no {missing[0]} in the lock")
    kept = set(wanted)
    while grown := {name for name in entries if name not in kept and askers[name] & kept}:
        kept |= grown
    return "".join(entries[name] for name in entries if name in kept)


def _entries(lock: str) -> tuple[dict[str, str], dict[str, set[str]]]:
    """The text of each package, and who asked for it."""
    entries: dict[str, str] = {}
    askers: dict[str, set[str]] = {}
    name = None
    for line in lock.splitlines(keepends=True):
        if (head := _PACKAGE.match(line)) is not None:
            name = head[1]
            entries[name], askers[name] = "", set()
        if name is None or line.startswith("#"):
            continue
        if (via := _VIA.match(line)) is not None:
            askers[name].add(via[1])
        else:
            entries[name] += line
    return entries, askers


def main() -> int:
    """Print it; a mistake is one line."""
    path, *wanted = sys.argv[1:]
    try:
        sys.stdout.write(part(Path(path).read_text("utf-8"), wanted))
    except (LookupError, OSError) as error:
        print(f"requirements.py: {path}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
