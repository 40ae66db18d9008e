"""Statements that nft may abort on, taken out of a rule set's text and written as messages."""

from __future__ import annotations

import re

import pytest

from lab.errors import KernelError
from lab.kernel.map_updates import MapUpdate, split
from lab.model.grid import grid
from lab.model.nat import Nat
from lab.model.writing import nat_words
from lab.plan.ruleset import ruleset

WANS, HOSTS = ("2a11:0:1::2", "2a11:0:1::3"), ("fd11:1:1::10", "fd11:1:1::11")
INTO_A_MAP = re.compile(r"update @(?:in|out)_\w+ \{")


def of(nat: Nat, wans: tuple[str, ...] = WANS) -> str:
    return ruleset(nat, wans[: 2 if nat.one_to_one else nat.public_addresses], HOSTS, "1/home")


@pytest.mark.parametrize("nat", grid(), ids=nat_words)
def test_every_record_into_a_map_is_taken_out_and_nothing_else(nat: Nat) -> None:
    text = of(nat)
    rest, updates = split(text)
    kept, was = rest.split("\n"), text.split("\n")
    assert len(kept) == len(was), "nft's complaints name lines"
    taken = [line for line, left in zip(was, kept, strict=True) if line != left]
    assert len(taken) == len(updates) == len(INTO_A_MAP.findall(text))
    assert not INTO_A_MAP.search(rest)
    assert bool(updates) is not nat.one_to_one


def test_a_statement_is_read_as_it_is_written() -> None:
    element = "{ ip6 saddr . udp sport timeout 9s : ct reply proto-dst }"
    line = f"    meta l4proto udp ct direction reply update @out_udp {element}"
    _, [update] = split(f"table ip6 punchlab {{\n  chain rec {{\n{line}\n  }}\n}}\n")
    assert update == MapUpdate(
        "punchlab",
        "rec",
        "udp",
        "reply",
        "out_udp",
        ("ip6 saddr", "udp sport"),
        ("ct reply proto-dst",),
        9,
    )


def test_ipv4_is_nfts_own_affair() -> None:
    for nat in grid()[:20]:
        text = of(nat, ("11.0.1.2", "11.0.1.3"))
        assert split(text) == (text, ())


def test_a_statement_ahead_of_a_decision_is_refused() -> None:
    statement = "    meta l4proto udp update @in_udp { udp sport : ip6 saddr . udp sport }"
    text = f"table ip6 punchlab {{\n  chain rec {{\n{statement}\n    meta mark 0x1 drop\n  }}\n}}\n"
    with pytest.raises(KernelError, match="punchlab, chain rec: a map is updated ahead of `meta mark 0x1 drop`"):
        split(text)
