"""How a peer is run: as a process of the lab, or from an image in a container.

run   = "container"
image = "example.org/my-peer:1.2"      # else the project's own for its `impl`
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from lab.errors import TopologyError
from lab.model.tables import Table

if TYPE_CHECKING:
    from lab.model.topology import Topology

PROCESS: Final = "process"
CONTAINER: Final = "container"
RUNNERS: Final = (PROCESS, CONTAINER)
WORDS: Final = {PROCESS: "as processes", CONTAINER: "in containers"}
"how results tell of it"


def require_runner(name: str) -> None:
    """Raises ValueError where there is no such way to run a peer."""
    if name not in RUNNERS:
        raise ValueError(f"of a runner among {', '.join(RUNNERS)}, not {name!r}")


KEYS: Final = ("run", "image")

_IMAGE = re.compile(r"[a-z0-9][A-Za-z0-9._/:@-]{0,254}")
_PEER_TABLE = re.compile(r"(?m)^[ \t]*\[[ \t]*peer[ \t]*\.[^\]\n]*\].*$")
_RUN_KEY = re.compile(r"(?m)^[ \t]*run[ \t]*=.*\n?")


def read_runner(table: Table) -> tuple[str, str | None]:
    """The keys `run` and `image` of a peer; TopologyError names what is allowed."""
    run = table.choice("run", RUNNERS, PROCESS, "no such way to run a peer")
    if run == CONTAINER and table.values.get("impl") == "upstream" and "image" not in table.values:
        raise table.error("run", "a program of upstream's contracts in a container needs its image = …")
    if "image" not in table.values:
        return run, None
    image = table.text("image", '"example.org/my-peer:1.2"')
    if run != CONTAINER:
        raise table.error("image", f'only a container has an image; add run = "{CONTAINER}"')
    if not is_image(image):
        raise table.error("image", 'must be the name of an image, such as "example.org/my-peer:1.2"')
    return run, image


def is_image(name: str) -> bool:
    """Whether it can be the name or the id of an image."""
    return _IMAGE.fullmatch(name) is not None


def all_run_as(topology: Topology, runner: str) -> Topology:
    """The same network with every peer run one way, and its text likewise. Raises TopologyError."""
    from lab.model.topology import parse

    if all(peer.run == runner for peer in topology.peers):
        return topology
    text = _PEER_TABLE.sub(lambda header: f'{header[0]}\nrun = "{runner}"', _RUN_KEY.sub("", topology.text))
    changed = parse(text, str(topology.path or topology.name), topology.path)
    for peer in changed.peers:
        if peer.run != runner:
            raise TopologyError(f'{topology.name}: cannot have {peer.name} run otherwise; write run = "{runner}" there')
    return changed


def has_containers(topology: Topology) -> bool:
    """Whether any peer runs in one."""
    return any(peer.run == CONTAINER for peer in topology.peers)
