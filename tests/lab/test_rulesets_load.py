"""The kernel takes every rule set: nft loads it in a network namespace of its own, and it is there afterwards."""

from __future__ import annotations

import functools
import itertools
import shutil
import subprocess

import pytest

from lab.model.nat import Filtering, Mapping, Nat, Ports
from lab.plan.ruleset import ruleset

GRID = [Nat(*values) for values in itertools.product(Mapping, Filtering, Ports, (False, True))]
SANDBOX = ("unshare", "--user", "--map-root-user", "--net")
DEADLINE = 20


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


def name_of(nat: Nat) -> str:
    return "/".join((nat.mapping.value, nat.filtering.value, nat.ports.value, "hairpin" if nat.hairpin else "plain"))


@pytest.mark.parametrize("nat", GRID, ids=name_of)
def test_nft_loads_the_rules_of_every_nat(nat: Nat) -> None:
    if reason := obstacle():
        pytest.skip(reason)
    text = ruleset(nat, "11.0.1.2", 40000)
    loaded = run(text, "sh", "-c", "nft --file - && nft --terse list table ip punchlab")
    assert loaded.returncode == 0, loaded.stderr
    for wanted in ("map out_udp", "map in_tcp", "chain alloc_udp", "chain rec_tcp", "chain record"):
        assert wanted in loaded.stdout
