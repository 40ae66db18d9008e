"""miniupnpd in a router's namespace: started with our configuration, awaited until it answers, ended with the lab.

It is a daemon in the foreground (`-d`).
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from lab.errors import KernelError, MissingCapability
from lab.kernel import nft
from lab.kernel.foreground import Foreground
from lab.kernel.namespace import Namespace
from lab.plan.plan import PortMapper

PROGRAM: Final = "miniupnpd"
INSTALL: Final = "install it: sudo apt install --no-install-recommends miniupnpd-nftables"
ANSWERS_WITHIN: Final = 10.0
"Seconds from the start to the first answer; the usual is 0.02."
_ASK_EVERY: Final = 0.02
_EXTERNAL_ADDRESS: Final = b"\x00\x00"
"NAT-PMP's shortest request (RFC 6886 §3.2)"
_SEARCHES: Final = f"{int.from_bytes(socket.inet_aton('239.255.255.250'), sys.byteorder):08X}"
"SSDP's group as the kernel writes it"


def problem() -> str | None:
    """Why there can be no port mapping here, in one line with what to do; None if there can."""
    if shutil.which(PROGRAM) is None:
        return f"there is no `{PROGRAM}` program; {INSTALL}"
    done = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, timeout=ANSWERS_WITHIN, check=False)
    if "nftables" not in done.stdout + done.stderr:
        return f"the `{PROGRAM}` here is not made for nftables; {INSTALL}"
    return None


class Daemon:
    """One running miniupnpd; `ready()` once after the start, and `close()` in the end. All methods block."""

    def __init__(self, ns: Namespace, mapper: PortMapper) -> None:
        """Start it. Raises MissingCapability where there is none."""
        if reason := problem():
            raise MissingCapability(f"{mapper.space} offers port mapping, but {reason}")
        self._ns = ns
        self._mapper = mapper
        # In the sandbox /run is private and in memory.
        self._folder = Path(tempfile.mkdtemp(prefix="portmap-", dir="/run"))
        self._start()

    def ready(self) -> None:
        """Wait until it answers. Raises KernelError with its last words if it does not."""
        deadline = time.monotonic() + ANSWERS_WITHIN
        while not self._answers():
            if self._running.has_ended or time.monotonic() > deadline:
                raise KernelError(f"{self._mapper.space}: {PROGRAM} does not answer: {self._running.last_words()}")
            time.sleep(_ASK_EVERY)

    def restart(self) -> None:
        """End it and have it begin anew, with no lease; returns when it answers. Raises KernelError."""
        self._running.end()
        self.lose_leases()  # or it would find them in its table and keep them for ever
        self._start()
        self.ready()

    def lose_leases(self) -> None:
        """Take away what it has opened; whoever renews gets it anew. Raises KernelError."""
        nft.load(self._ns, self._mapper.rules)

    def close(self) -> None:
        """End it and wait for it."""
        self._running.end()
        shutil.rmtree(self._folder)

    def _start(self) -> None:
        config = self._folder / "conf"
        config.write_text(self._mapper.config)
        argv = [PROGRAM, "-d", "-f", str(config), "-P", str(self._folder / "pid")]
        self._running = Foreground(self._ns, argv)

    def _answers(self) -> bool:
        """Ask it from the router itself, by every protocol that it is to serve."""
        return (self._mapper.udp_port is None or self._answers_udp(self._mapper.udp_port)) and (
            self._mapper.tcp_port is None or (self._answers_tcp(self._mapper.tcp_port) and self._hears_searches())
        )

    def _answers_udp(self, port: int) -> bool:
        with self._ns.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.settimeout(_ASK_EVERY)
            try:
                asking.connect((self._mapper.gateway, port))
                asking.send(_EXTERNAL_ADDRESS)
                return bool(asking.recv(16))
            except (TimeoutError, ConnectionRefusedError):
                return False

    def _answers_tcp(self, port: int) -> bool:
        with self._ns.socket(socket.AF_INET, socket.SOCK_STREAM) as asking:
            asking.settimeout(_ASK_EVERY)
            return asking.connect_ex((self._mapper.gateway, port)) == 0

    def _hears_searches(self) -> bool:
        """Whether it has joined UPnP's group, which it does after it has opened its port for pages."""
        try:
            return _SEARCHES in Path(f"/proc/{self._running.pid}/net/igmp").read_text("ascii")
        except OSError:  # it has ended, which `ready` tells
            return False
