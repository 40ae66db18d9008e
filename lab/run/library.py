"""Finds the topology file that a user means by a word."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

import lab
from lab.errors import TopologyError

OURS = Path(lab.__file__).resolve().parent.parent / "topologies"
"The library of topologies that comes with the lab."


def locate(name: str, near: Iterable[Path] = ()) -> Path:
    """The file for `two-homes`, `two-homes.toml` or a path: in `near`, in `./topologies`, then in our own library."""
    given = Path(name)
    if given.suffix == ".toml" and given.is_file():
        return given
    folders = [*near, Path("topologies"), OURS]
    file = given.with_name(given.name if given.suffix == ".toml" else f"{given.name}.toml")
    for folder in folders:
        for candidate in (folder / file, folder / file.name):
            if candidate.is_file():
                return candidate
    known = sorted({path.stem for folder in folders for path in folder.glob("*.toml")})
    close = difflib.get_close_matches(given.stem, known, 1)
    hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(known)}"
    raise TopologyError(f"no topology {name!r}; {hint}")
