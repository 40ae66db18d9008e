"""tayga in a namespace of its own: it reads packets of one version of IP from a TUN device, and writes the other.

The device is made here and stays with the namespace, so that its routes are there before the program is; when the
program has taken hold of it, it has a carrier, and that is how it is known to be ready.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import struct
import tempfile
from pathlib import Path
from typing import Final

from lab.errors import KernelError, MissingCapability
from lab.kernel.carrier import await_operational
from lab.kernel.foreground import Foreground
from lab.kernel.link import Links
from lab.kernel.namespace import Namespace
from lab.plan.plan import Route, Translator

PROGRAM: Final = "tayga"
INSTALL: Final = "install it: sudo apt install --no-install-recommends tayga"
TUN: Final = Path("/dev/net/tun")
_TUNSETIFF, _TUNSETPERSIST = 0x400454CA, 0x400454CB
_IFF_TUN: Final = 0x0001


def problem() -> str | None:
    """Why there can be no NAT64 here, in one line with what to do; None if there can."""
    if shutil.which(PROGRAM) is None:
        return f"there is no `{PROGRAM}` program; {INSTALL}"
    if not os.access(TUN, os.R_OK | os.W_OK):
        return f"{TUN} is not to be used; load the module (`sudo modprobe tun`) and let your user have the device"
    return None


class Daemon:
    """One running tayga; `ready()` once after the start, and `close()` in the end. All methods block."""

    def __init__(self, ns: Namespace, translator: Translator) -> None:
        """Make its device and start it. Raises MissingCapability where there is none, KernelError."""
        if reason := problem():
            raise MissingCapability(f"{translator.space} translates between IPv6 and IPv4, but {reason}")
        self._ns = ns
        self._translator = translator
        # In the sandbox /run is private and in memory.
        self._folder = Path(tempfile.mkdtemp(prefix="nat64-", dir="/run"))
        self._make_device()
        config = self._folder / "conf"
        config.write_text(f"{translator.config}data-dir {self._folder}\n")
        self._running = Foreground(ns, [PROGRAM, "--nodetach", "--config", str(config)])

    def ready(self) -> None:
        """Wait until it has its device. Raises KernelError with its last words if it does not come to that."""
        space = self._translator.space
        try:
            await_operational({space: self._ns}, {space: [self._translator.device]})
        except KernelError as error:
            raise KernelError(f"{space}: {PROGRAM} does not translate: {self._running.last_words()}") from error

    def close(self) -> None:
        """End it and wait for it."""
        self._running.end()
        shutil.rmtree(self._folder)

    def _make_device(self) -> None:
        device = self._translator.device
        try:
            with self._ns.entered(), TUN.open("r+b", buffering=0) as tun:
                fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", device.encode(), _IFF_TUN))
                fcntl.ioctl(tun, _TUNSETPERSIST, 1)
                index = socket.if_nametoindex(device)
        except OSError as error:
            raise KernelError(f"{self._translator.space}: no TUN device: {error.strerror}") from error
        with Links(self._ns) as links:
            links.bring_up(index)
            for prefix in (self._translator.pool, self._translator.prefix):
                links.add_route(Route(self._translator.space, prefix, None, device), index)
