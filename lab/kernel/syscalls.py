"""The four system calls of namespaces(7) that Python 3.11 does not offer, through libc.

`os.unshare` and `os.setns` came with 3.12; mount(2) and prctl(2) are in no version. Every failure is an `OSError`
with the kernel's errno, so that callers can tell "not permitted" from "not there".
"""

from __future__ import annotations

import ctypes
import os

CLONE_NEWNS = 0x0002_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWPID = 0x2000_0000
CLONE_NEWNET = 0x4000_0000

MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REC = 0x4000
MS_PRIVATE = 0x4_0000

_PR_SET_PDEATHSIG = 1

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


def _check(result: int, what: str) -> None:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
