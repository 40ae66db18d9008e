"""miniupnpd in a router's namespace: started with our configuration, awaited until it answers, ended with the lab.

It stays in the foreground (`-d`), so that it is our child and no pid has to be looked for. What that makes it tell goes
into a pipe that never blocks and that nobody empties: the first 64 KiB are kept, to say why it would not start.
"""

from __future__ import annotations

import os
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
from lab.kernel.namespace import Namespace
from lab.plan.plan import PortMapper

PROGRAM: Final = "miniupnpd"
INSTALL: Final = "install it: sudo apt install --no-install-recommends miniupnpd-nftables"
ANSWERS_WITHIN: Final = 10.0
"Seconds from the start to the first answer; the usual is 0.02."
ENDS_WITHIN: Final = 3.0
"Seconds from SIGTERM to SIGKILL."
_ASK_EVERY: Final = 0.02
_EXTERNAL_ADDRESS: Final = b"\x00\x00"
"NAT-PMP's shortest request (RFC 6886 §3.2)"
_SEARCHES: Final = f"{int.from_bytes(socket.inet_aton('239.255.255.250'), sys.byteorder):08X}"
"SSDP's group as the kernel writes it"
_TOLD_MAX: Final = 65536


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
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise KernelError(f"{self._mapper.space}: {PROGRAM} does not answer: {self._last_words()}")
            time.sleep(_ASK_EVERY)

    def restart(self) -> None:
        """End it and have it begin anew, with no lease; returns when it answers. Raises KernelError."""
        self._stop()
        self.lose_leases()  # or it would find them in its table and keep them for ever
        self._start()
        self.ready()

    def lose_leases(self) -> None:
        """Take away what it has opened; whoever renews gets it anew. Raises KernelError."""
        nft.load(self._ns, self._mapper.rules)

    def close(self) -> None:
        """End it and wait for it."""
        self._stop()
        shutil.rmtree(self._folder)

    def _start(self) -> None:
        config = self._folder / "conf"
        config.write_text(self._mapper.config)
        self._told, told = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            argv = [PROGRAM, "-d", "-f", str(config), "-P", str(self._folder / "pid")]
            with self._ns.entered():
                self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=told, stderr=told)
        finally:
            os.close(told)

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._told)

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
            return _SEARCHES in Path(f"/proc/{self._process.pid}/net/igmp").read_text("ascii")
        except OSError:  # it has ended, which `ready` tells
            return False

    def _last_words(self) -> str:
        try:
            told = os.read(self._told, _TOLD_MAX).decode(errors="replace").strip()
        except BlockingIOError:
            told = ""
        return told.rpartition("\n")[2] or f"it said nothing (status {self._process.returncode})"
