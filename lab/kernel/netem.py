"""Links by the kernel's own queueing disciplines, told to it by `tc`, where it has sch_netem."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from typing import Final

from lab.errors import KernelError, MissingCapability
from lab.kernel import nft
from lab.kernel.namespace import Namespace
from lab.plan.names import CORE
from lab.plan.netem import class_rules, commands
from lab.plan.shaping import NOT_SHAPED, Shaping

_WITHIN: Final = 20.0
"Seconds for one run of `tc`."


class NetemLinks:
    """All links of a network. Methods block."""

    name = "netem"

    def __init__(self, spaces: Mapping[str, Namespace]) -> None:
        self._spaces = spaces
        self._shaping = NOT_SHAPED

    def shape(self, shaping: Shaping) -> None:
        """Be these links from now on; packets that wait in a link that changes are lost. Raises KernelError."""
        for name, space in self._spaces.items():
            before, now = commands(self._shaping, name), commands(shaping, name)
            if before != now:
                tc(space, (*_cleared(before), *now))
        if shaping.distances:
            nft.load(self._spaces[CORE], class_rules(shaping))
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
        raise KernelError(f"{ns.name}: tc: {(done.stderr or done.stdout).strip().splitlines()[0]}")


def available(ns: Namespace) -> bool:
    """Whether this kernel has netem, tried on a namespace's loopback."""
    try:
        tc(ns, ("qdisc add dev lo root netem limit 1", "qdisc del dev lo root"))
    except (KernelError, MissingCapability):
        return False
    return True


def _cleared(lines: tuple[str, ...]) -> tuple[str, ...]:
    """Commands that take away every root that was made."""
    devices = dict.fromkeys(line.split(" dev ")[1].split()[0] for line in lines if " root " in line)
    return tuple(f"qdisc del dev {device} root" for device in devices)
