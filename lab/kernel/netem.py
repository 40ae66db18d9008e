"""Links by the kernel's own queueing disciplines, told to it by `tc`, where it has sch_netem and its company."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from typing import Final

from lab.errors import KernelError, MissingCapability
from lab.kernel import nft
from lab.kernel.link import Links
from lab.kernel.namespace import Namespace
from lab.model.impairment import Impairment
from lab.plan.names import CORE
from lab.plan.netem import commands, detour, distance_devices, distance_rules, tree
from lab.plan.shaping import NOT_SHAPED, Shaping

_WITHIN: Final = 60.0
"Seconds for one run of `tc`; it needs 0.01, and more where modules have to be loaded first."
_FIRST_DEVICE: Final = 1 << 16
"number of the first interface that holds packets for a distance; the plan's are counted from 1"
_TRIAL: Final = Impairment(latency=0.01, jitter=0.005, loss=0.5, loss_burst=2.0, rate=1_000_000)


class NetemLinks:
    """All links of a network. Methods block."""

    name = "netem"

    def __init__(self, spaces: Mapping[str, Namespace]) -> None:
        self._spaces = spaces
        self._shaping = NOT_SHAPED

    def shape(self, shaping: Shaping) -> None:
        """Be these links from now on; what is under way keeps its time, but for a rate that ends. Raises KernelError.

        Regions do not change.
        """
        core = self._spaces[CORE]
        begins = shaping.distances != self._shaping.distances
        if begins:
            _add_devices(core, distance_devices(shaping))
        for name, space in self._spaces.items():
            lines = commands(shaping, name, self._shaping)
            if lines:
                tc(space, lines)
        if begins:
            nft.load(core, distance_rules(shaping))
        self._shaping = shaping

    def close(self) -> None:
        """Nothing to do: the disciplines end with their interfaces."""

    def problems(self) -> tuple[str, ...]:
        """Why the links were not those asked for; the kernel keeps up."""
        return ()


def tc(ns: Namespace, lines: tuple[str, ...]) -> None:
    """Run `tc -batch` in a namespace. Raises KernelError with its first complaint, MissingCapability without it."""
    if shutil.which("tc") is None:
        raise MissingCapability("there is no `tc` program; install the package iproute2")
    with ns.entered():
        try:
            done = subprocess.run(
                ["tc", "-batch", "-"],
                input="\n".join(lines) + "\n",
                capture_output=True,
                text=True,
                timeout=_WITHIN,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise KernelError(f"{ns.name}: tc did not end within {_WITHIN:.0f} s") from error
    if done.returncode != 0:
        raise KernelError(f"{ns.name}: tc: {_complaint(done.stderr or done.stdout, lines)}")


@cache
def problem() -> str | None:
    """Why this kernel cannot make links so, found out by making one in a namespace of its own; None: it can."""
    trial = "trial"
    with Namespace(trial) as ns:
        try:
            tc(ns, ("qdisc add dev lo root netem limit 1",))
        except (KernelError, MissingCapability):
            return "no netem in this kernel"
        try:
            _add_devices(ns, (trial,))
            tc(ns, (*tree(trial, _TRIAL), f"qdisc replace dev {trial} clsact", detour(trial, 1, "lo")))
        except (KernelError, MissingCapability) as error:
            return f"netem is there, but not what goes with it: {error}"
    return None


def _add_devices(ns: Namespace, names: tuple[str, ...]) -> None:
    with Links(ns) as links:
        for number, name in enumerate(names, _FIRST_DEVICE):
            links.add_ifb(number, name)


def _complaint(told: str, lines: tuple[str, ...]) -> str:
    """The kernel's words and the line that they are about; tc names it by its number."""
    said = told.strip().splitlines() or ["it failed and does not say why"]
    number = next((each.rpartition(":")[2] for each in said if each.startswith("Command failed -:")), "")
    about = f" in `{lines[int(number) - 1]}`" if number.isdigit() and 0 < int(number) <= len(lines) else ""
    return f"{said[0].removeprefix('Error: ')}{about}"
