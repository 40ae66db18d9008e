"""Presets are values, complete and distinct, and the page about them is theirs."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.model.classical import CLASSICAL, cell_topology, probe_topology
from lab.model.nat import Filtering, Mapping, Nat, Ports
from lab.model.presets import PRESETS
from lab.model.topology import parse
from lab.report.natdoc import page

DOCS = Path(__file__).resolve().parents[3] / "docs"


def test_the_classical_nats_are_five_different_ones() -> None:
    assert len({PRESETS[name].nat for name in CLASSICAL}) == len(CLASSICAL) == 5


def test_home_is_port_restricted_and_symmetric_has_random_ports() -> None:
    assert PRESETS["home"].nat == PRESETS["port-restricted"].nat
    assert PRESETS["symmetric"].nat == PRESETS["symmetric-random"].nat


def test_no_cone_moves_its_port_and_every_symmetric_nat_does() -> None:
    for name in (*CLASSICAL, "home", "symmetric"):
        preset, symmetric = PRESETS[name], name.startswith("symmetric")
        assert (preset.nat.mapping is Mapping.ADDRESS_AND_PORT_DEPENDENT) == symmetric, name
        assert (preset.nat.ports is Ports.PRESERVING) != symmetric, name


def test_every_preset_says_what_it_does_and_whom_it_follows() -> None:
    for name, preset in PRESETS.items():
        assert preset.summary.endswith("."), name
        assert preset.source, name


@pytest.mark.parametrize("seconds", [0.0, 0.5, 1.5, -1.0, 1e9, float("nan"), float("inf")])
def test_a_lifetime_that_conntrack_cannot_count_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="whole seconds"):
        Nat(Mapping.ENDPOINT_INDEPENDENT, Filtering.ENDPOINT_INDEPENDENT, Ports.RANDOM, udp_timeout=seconds)


@pytest.mark.parametrize("name", CLASSICAL)
def test_a_cell_written_as_toml_is_the_same_network(name: str) -> None:
    for topology in (cell_topology(name, "home"), probe_topology(PRESETS[name].nat)):
        read = parse(topology.text, "cell.toml")
        assert (read.name, read.summary) == (topology.name, topology.summary)
        assert [(r.name, r.nat, r.preset) for r in read.routers] == [
            (r.name, r.nat, r.preset) for r in topology.routers
        ]
        assert [(p.name, p.at, p.impl, p.role) for p in read.peers] == [
            (p.name, p.at, p.impl, p.role) for p in topology.peers
        ]


def test_the_page_about_nats_is_current() -> None:
    assert (DOCS / "nat.md").read_text("utf-8") == page(), "run python -m lab.report.natdoc"
