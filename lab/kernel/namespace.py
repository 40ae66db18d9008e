"""Network namespaces without names: a file descriptor that keeps one alive, and ways to act inside it.

A namespace made by unshare(2) exists as long as something refers to it: here one descriptor, plus the processes and
sockets put into it. When the lab's process ends, however it ends, the kernel takes all of it down: interfaces, routes,
rules. Nothing is written below /run/netns, so nothing can be left there.

The network namespace is a property of the *thread*. `entered()` moves the calling thread and moves it back; sockets and
child processes made in between stay in the namespace for good, which is how one process owns sockets everywhere. A
coroutine must not await while it is entered: other tasks would run in the wrong network.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

from lab.errors import KernelError
from lab.kernel import syscalls

_HERE = "/proc/thread-self/ns/net"


class Namespace:
    """One network namespace, alive until `close()` or the end of the process."""

    __slots__ = ("fd", "name")

    def __init__(self, name: str) -> None:
        """Make an empty namespace; `name` is for messages only. Raises KernelError."""
        self.name = name
        try:
            self.fd = _make()
        except OSError as error:
            raise KernelError(f"{name}: no network namespace: {error.strerror}") from error

    @classmethod
    def of(cls, name: str, fd: int) -> Namespace:
        """One that exists, by a descriptor of it, which belongs to the namespace from now on."""
        made = cls.__new__(cls)
        made.name, made.fd = name, fd
        return made

    def __repr__(self) -> str:
        return f"<Namespace {self.name!r} fd={self.fd}>"

    def __enter__(self) -> Namespace:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Have the calling thread inside for the length of the block; never await in it."""
        if self.fd < 0:
            raise KernelError(f"{self.name}: the namespace is closed")
        back = os.open(_HERE, os.O_RDONLY | os.O_CLOEXEC)
        try:
            syscalls.setns(self.fd, syscalls.CLONE_NEWNET)
            try:
                yield
            finally:
                syscalls.setns(back, syscalls.CLONE_NEWNET)
        finally:
            os.close(back)

    def socket(self, family: int, kind: int, proto: int = 0) -> socket.socket:
        """Return a socket that lives in this namespace, usable from any thread."""
        with self.entered():
            return socket.socket(family, kind, proto)

    def interfaces(self) -> dict[str, int]:
        """The numbers of its interfaces, by name."""
        with self.entered():
            return {name: index for index, name in socket.if_nameindex()}

    def traffic(self) -> int:
        """Bytes that its interfaces have sent and received so far, headers included; loopback does not count."""
        with self.entered():
            lines = Path("/proc/thread-self/net/dev").read_text("ascii").splitlines()[2:]
        counts = {name.strip(): fields.split() for name, _, fields in (line.partition(":") for line in lines)}
        return sum(int(fields[0]) + int(fields[8]) for name, fields in counts.items() if name != "lo")

    def close(self) -> None:
        """Let go of the namespace; closing twice does nothing."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def enter_foreign(pid: int, fd: int) -> None:
    """Go where another process is, into its namespaces and the network behind its descriptor `fd`.

    For a process with one thread that is about to exec. The PID namespace takes in only children, so the caller goes on
    in a child, and the process it was stays to end as that child does. Raises OSError, such as PermissionError.
    """
    folder = Path.cwd()
    with ExitStack() as opened:
        kinds = {"user": syscalls.CLONE_NEWUSER, "pid": syscalls.CLONE_NEWPID, "mnt": syscalls.CLONE_NEWNS}
        doors = [(_door(opened, f"/proc/{pid}/ns/{name}"), kind) for name, kind in kinds.items() if _differs(pid, name)]
        doors.append((_door(opened, f"/proc/{pid}/fd/{fd}"), syscalls.CLONE_NEWNET))
        for door, kind in doors:
            syscalls.setns(door, kind)
    os.chdir(folder)
    child = os.fork()
    if child:
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os._exit(code if code >= 0 else 128 - code)
    syscalls.die_with_parent(signal.SIGKILL)


def _door(opened: ExitStack, path: str) -> int:
    door = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    opened.callback(os.close, door)
    return door


def _differs(pid: int, name: str) -> bool:
    return Path(f"/proc/{pid}/ns/{name}").stat().st_ino != Path(f"/proc/self/ns/{name}").stat().st_ino


def _make() -> int:
    back = os.open(_HERE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        try:
            return os.open(_HERE, os.O_RDONLY | os.O_CLOEXEC)
        finally:
            syscalls.setns(back, syscalls.CLONE_NEWNET)
    finally:
        os.close(back)
