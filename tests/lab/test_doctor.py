"""The doctor's findings on the machine that the tests run on."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from lab.kernel import sandbox
from lab.kernel.doctor import examine

NAMES = {"python", "kernel", "apparmor", "namespaces", "nft", "iproute2", "miniupnpd", "tayga", "docker"}
IN_A_SANDBOX = {"network", "nat", "conntrack events", "capture", "links"}
WITH_AN_ENGINE = {"images", "containers"}


def test_it_finds_out_about_everything_a_lab_uses() -> None:
    found = {finding.name: finding for finding in examine()}
    names = NAMES | IN_A_SANDBOX if sandbox.problem() is None else NAMES
    assert set(found) - WITH_AN_ENGINE == names
    assert ("images" in found) is found["docker"].ok


def test_every_finding_is_one_line_and_what_is_not_well_comes_with_advice() -> None:
    for finding in examine():
        assert finding.ok or finding.advice
        assert "\n" not in finding.detail + finding.advice


def test_a_machine_without_nft_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = {finding.name: finding for finding in examine()}
    assert (found["nft"].ok, found["nft"].detail) == (False, "not installed")
    assert "install nftables" in found["nft"].advice
    assert not found["docker"].needed


def test_examining_leaves_no_descriptor_open() -> None:
    examine()
    before = descriptors()
    examine()
    assert descriptors() == before


def descriptors() -> list[Path]:
    gc.collect()  # or what earlier tests left may be closed meanwhile
    return sorted(Path("/proc/self/fd").iterdir())
