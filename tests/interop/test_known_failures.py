"""The file of known failures can be read, and what its entries refer to exists."""

from __future__ import annotations

import re
from pathlib import Path

from lab.model.known import load_known

ROOT = Path(__file__).resolve().parents[2]


def test_every_known_failure_is_explained_where_it_says() -> None:
    for entry in load_known(ROOT / "compose" / "peers" / "known-failures.toml"):
        file, _, anchor = entry.see.partition("#")
        titles = re.findall(r"(?m)^#+ (.*)$", (ROOT / file).read_text("utf-8"))
        assert anchor in {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}, entry
