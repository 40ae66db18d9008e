"""The sandbox's own /etc/hosts: names that stand for the loopback in every namespace, for programs that know no others.

The sandbox has its mounts to itself (`lab.kernel.sandbox`), so the host's file is covered there and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from lab.errors import KernelError, MissingCapability
from lab.kernel import sandbox, syscalls

HOSTS: Final = Path("/etc/hosts")
_OURS: Final = Path("/run/punchlab/hosts")
LOOPBACK: Final = "127.0.0.1"


def name_loopback(names: Iterable[str]) -> None:
    """Have these names mean the loopback to every program of this sandbox, beside what the host's file says.

    Raises KernelError, also where this is no sandbox.
    """
    if not sandbox.inside():
        raise KernelError("only a sandbox may have a hosts file of its own")
    if not HOSTS.exists():
        raise MissingCapability(f"there is no {HOSTS}, so programs cannot be told of names; make one")
    try:
        text = HOSTS.read_text("utf-8", "replace")
        # The first line that has a name is the one that counts.
        ours = f"{LOOPBACK} {' '.join(names)}\n"
        if not text.startswith(ours):
            _OURS.parent.mkdir(parents=True, exist_ok=True)
            _OURS.write_text(ours + text, "utf-8")
            syscalls.mount(str(_OURS), str(HOSTS.resolve()), None, syscalls.MS_BIND)
    except OSError as error:
        raise KernelError(f"no {HOSTS} for the lab's names: {error.strerror}") from error
