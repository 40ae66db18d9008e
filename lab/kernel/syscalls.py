"""The system calls that sandboxes are made of and that Python 3.11 does not offer, through libc.

`os.unshare` and `os.setns` came with 3.12; mount(2), prctl(2) and signalfd(2) are in no version. Every failure is an
`OSError` with the kernel's errno, so that callers can tell "not permitted" from "not there".
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass

CLONE_NEWNS = 0x0002_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWPID = 0x2000_0000
CLONE_NEWNET = 0x4000_0000

MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x4_0000

_PR_SET_PDEATHSIG = 1
_PR_SET_TIMERSLACK = 29
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274, "riscv64": 274}
"numbers of sched_setattr(2), which the C library knows only since glibc 2.41"
_SCHED_ATTR = struct.Struct("=IIQiIQQQ")
"sched_attr: size, policy (other), flags, nice, priority, slice as `runtime`, deadline, period"
_SHORT_SLICE = 100_000
"nanoseconds, the least that the kernel grants"
_SIGSET_BYTES = 128
"sizeof(sigset_t), of glibc and musl"
_SIGNALFD_SIGINFO = struct.Struct("=IiiI")
"The head of signalfd_siginfo: number, errno, code, pid."

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    """Move the calling thread into new namespaces, `CLONE_NEW*` or'ed together."""
    _check(_libc.unshare(flags), "unshare")


def setns(fd: int, kind: int) -> None:
    """Move the calling thread into the namespace behind `fd`, of the given `CLONE_NEW*` kind."""
    _check(_libc.setns(fd, kind), "setns")


def mount(source: str, target: str, filesystem: str | None, flags: int, options: str | None = None) -> None:
    """Mount as mount(2) does."""
    kind = filesystem.encode() if filesystem is not None else None
    data = options.encode() if options is not None else None
    result = _libc.mount(source.encode(), target.encode(), kind, ctypes.c_ulong(flags), data)
    _check(result, f"mount {target}")


def die_with_parent(signal: int) -> None:
    """Have the kernel send us `signal` when the thread that forked us ends."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal)), "prctl")


def wake_exactly() -> None:
    """Have the kernel end our waits when they are over, and let us run then, before those that run for longer.

    Waits end up to 50 µs late, to save wake-ups, unless told otherwise. And since Linux 6.12 a thread that asks for
    short slices (of CPU time, the usual is 3 ms) takes the processor from one with longer ones. Where that is not to be
    had, for an older kernel or a filter of system calls, waits end later on a busy machine.
    """
    _check(_libc.prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(1)), "prctl")
    number = _SCHED_SETATTR.get(os.uname().machine)
    if number is not None:
        attributes = _SCHED_ATTR.pack(_SCHED_ATTR.size, 0, 0, 0, 0, _SHORT_SLICE, 0, 0)
        _libc.syscall(number, 0, attributes, 0)


def setsockopt(fd: int, level: int, option: int, value: bytes) -> None:
    """Set a socket option that takes the kernel a while: Python's own keeps all other threads waiting meanwhile."""
    _check(_libc.setsockopt(fd, level, option, value, len(value)), "setsockopt")


@dataclass(frozen=True, slots=True)
class SentSignal:
    """A signal as taken from a signalfd."""

    number: int
    code: int
    "si_code of sigaction(2): who sent it"
    sender: int
    "pid of the process that sent it, if one did"


def signalfd(signals: Iterable[int]) -> int:
    """Open a descriptor that is readable when one of these signals waits; they have to be blocked."""
    bits = sum(1 << (number - 1) for number in signals)
    sigset = ctypes.create_string_buffer(bits.to_bytes(_SIGSET_BYTES, "little"), _SIGSET_BYTES)
    descriptor: int = _libc.signalfd(-1, sigset, os.O_CLOEXEC)
    _check(descriptor, "signalfd")
    return descriptor


def read_signal(descriptor: int) -> SentSignal:
    """Take the next signal from a signalfd; waits for one."""
    number, _, code, sender = _SIGNALFD_SIGINFO.unpack_from(os.read(descriptor, 128))
    return SentSignal(number, code, sender)


def _check(result: int, what: str) -> None:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
