"""Who runs as a process and who in a container, as a topology says it and as the command line overrides it."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.errors import TopologyError
from lab.model.classical import cell_topology
from lab.model.runner import CONTAINER, PROCESS, all_run_as, has_containers
from lab.model.topology import Topology, parse
from lab.peers.images import image_of
from lab.plan.build import build

ROOT = Path(__file__).resolve().parents[3]
BASE = 'name = "t"\n[peer.alice]\nat = "internet"\n[peer.bob]\nat = "internet"\n'


def runners(topology: Topology) -> set[str]:
    return {peer.run for peer in topology.peers}


def test_a_peer_is_a_process_unless_it_says_otherwise() -> None:
    assert runners(parse(BASE, "t.toml")) == {PROCESS}
    mixed = parse(BASE + 'run = "container"\n', "t.toml")
    assert [peer.run for peer in mixed.peers] == [PROCESS, CONTAINER]
    assert has_containers(mixed)
    assert [launch.run for launch in build(mixed, 1).launches] == [PROCESS, CONTAINER]


def test_a_container_is_of_the_image_named_or_of_the_projects_own() -> None:
    tails = ("", 'impl = "go"\n', 'image = "example.org/peer:1.2"\n')
    plans = [build(parse(f'{BASE}run = "container"\n{tail}', "t.toml"), 1) for tail in tails]
    assert [image_of(plan.launches[1]) for plan in plans] == ["punchlab/node", "punchlab/go", "example.org/peer:1.2"]


@pytest.mark.parametrize("impl", ["go", "rust", "js", "py"])
def test_a_dockerfile_says_how_to_build_the_image_that_a_topology_means(impl: str) -> None:
    plan = build(parse(f'{BASE}run = "container"\nimpl = "{impl}"\n', "t.toml"), 1)
    place = f"compose/peers/{impl}"
    says = (ROOT / place / "Dockerfile").read_text("utf-8")
    assert f"docker build -t {image_of(plan.launches[1])} {place}\n" in says


@pytest.mark.parametrize(
    ("tail", "words"),
    [
        ('run = "podman"', ["t.toml:6: [peer.bob] run = 'podman'", "allowed: process, container"]),
        ('image = "x"', ["t.toml:6: [peer.bob] image = 'x'", 'add run = "container"']),
        ('run = "container"\nimage = "-v /:/host"', ["t.toml:7: [peer.bob] image", "must be the name of an image"]),
        ('run = "container"\nimage = 3', ["t.toml:7: [peer.bob] image = 3", "must be text"]),
    ],
)
def test_a_wrong_key_is_told_with_its_place(tail: str, words: list[str]) -> None:
    with pytest.raises(TopologyError) as caught:
        parse(f"{BASE}{tail}\n", "t.toml")
    assert all(word in str(caught.value) for word in words), caught.value


def test_all_peers_are_run_otherwise_and_the_text_says_so() -> None:
    contained = all_run_as(cell_topology("home", "symmetric-random", "quic", "latency=20ms"), CONTAINER)
    assert runners(contained) == {CONTAINER}
    assert runners(parse(contained.text, "again.toml")) == {CONTAINER}
    assert {router.link for router in contained.routers} != {None}
    back = all_run_as(contained, PROCESS)
    assert runners(back) == {PROCESS}
    assert all_run_as(back, PROCESS) is back


def test_a_file_whose_peers_are_not_found_is_refused() -> None:
    inline = parse('name = "t"\npeer = { alice = { at = "internet" } }\n', "t.toml")
    with pytest.raises(TopologyError, match='cannot have alice run otherwise; write run = "container"'):
        all_run_as(inline, CONTAINER)
