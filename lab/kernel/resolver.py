"""The sandbox's own /etc/resolv.conf, so that programs in it ask the lab's name server, by whatever resolver they have.

The sandbox has its mounts to itself (`lab.kernel.sandbox`): the host's file is covered there and nowhere else, for all
programs in the sandbox and for good. Where the file is a link into /run, as systemd-resolved has it, it leads into the
sandbox's own, empty /run, and the file is simply written there.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from lab.errors import KernelError, MissingCapability
from lab.kernel import sandbox, syscalls

RESOLV_CONF: Final = Path("/etc/resolv.conf")
_OURS: Final = Path("/run/punchlab/resolv.conf")
_RUN: Final = Path("/run")


def use_name_server(*addresses: str) -> None:
    """Have every program of this sandbox ask the server at these addresses, in this order.

    Raises KernelError, also where this is no sandbox.
    """
    if not sandbox.inside():
        raise KernelError("only a sandbox may have a resolv.conf of its own")
    text = "".join(f"nameserver {address}\n" for address in addresses)
    target = Path(os.path.realpath(RESOLV_CONF))
    try:
        if target.is_relative_to(_RUN):
            _write(target, text)
        elif not target.exists():
            raise MissingCapability(f"there is no {RESOLV_CONF}, so programs cannot be told of a name server; make one")
        elif target.read_text("utf-8", "replace") != text:
            _write(_OURS, text)
            syscalls.mount(str(_OURS), str(target), None, syscalls.MS_BIND)
    except OSError as error:
        raise KernelError(f"no {RESOLV_CONF} for the lab's name server: {error.strerror}") from error


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
