"""The kernel takes every rule set: nft loads it in a network namespace of its own, and it is there afterwards."""

from __future__ import annotations

import functools
import shutil
import subprocess

import pytest

from lab.model.grid import grid
from lab.model.nat import Nat
from lab.model.writing import nat_words
from lab.plan.ruleset import public_addresses, ruleset

SANDBOX = ("unshare", "--user", "--map-root-user", "--net")
DEADLINE = 120


def run(text: str, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SANDBOX, *command], input=text, text=True, capture_output=True, timeout=DEADLINE, check=False
    )


@functools.cache
def obstacle() -> str | None:
    """Why no rule set can be loaded here; None if one can."""
    missing = [program for program in ("unshare", "nft") if shutil.which(program) is None]
    if missing:
        return f"needs {' and '.join(missing)}"
    tried = run("table ip probe { }\n", "nft", "--file", "-")
    return None if tried.returncode == 0 else f"no nftables in a user namespace here: {tried.stderr.strip()}"


@pytest.mark.parametrize("nat", grid(), ids=nat_words)
def test_nft_loads_the_rules_of_every_nat_and_can_list_them(nat: Nat) -> None:
    if reason := obstacle():
        pytest.skip(reason)
    hosts, publics = ("192.168.1.10", "192.168.1.11"), ("11.0.1.2", "11.0.1.3")
    text = ruleset(nat, publics[: public_addresses(nat, len(hosts))], hosts, "1/home")
    loaded = run(text, "sh", "-c", "nft --file - && nft --terse list table ip punchlab")
    assert loaded.returncode == 0, loaded.stderr
    for wanted in ("chain dstnat", "chain srcnat", "chain record", "chain input"):
        assert wanted in loaded.stdout
