"""The lab's own machine: fresh user, network, mount and PID namespaces, needing no rights and leaving nothing behind.

Three processes, because unshare(CLONE_NEWPID) moves only the children of its caller:

    caller                 keeper                        PID 1 of the sandbox
      │ fork ─────────────▶ │ unshare
      │ ◀────── "unshared"  │
      │ uid_map, gid_map    │
      │ "mapped" ─────────▶ │ fork ─────────────────────▶ │ /proc, /run
      │ ◀───────────────────┼──────────────────── "ready" │
      │ waits               │ waits                       │ main()

Each is killed by the kernel with the one before it (PR_SET_PDEATHSIG), and with PID 1 the kernel kills everything that
runs inside and then takes down the namespaces. So `kill -9` of any of the three, at any moment, ends all.

Facts that shaped it:

* user_namespaces(7): an ordinary user may map only itself, to 0. Root maps all its ids to themselves, because a root
  with one id mapped may not write where another user owns the folder (`sudo make` in a home directory); the map of
  more than one id has to be written from outside, hence the exchange above.
* PDEATHSIG fires when the *thread* that forked ends, so the caller's thread waits here until the end; and it is lost
  when the parent ended before it was set, hence the checks after `die_with_parent`.
* PID 1 ignores signals it has no handler for. SIGTERM is turned into Ctrl-C, so that there is one way to stop.
* A terminal's Ctrl-C reaches all three: only signals that a process sent are passed on, or PID 1 would see it twice.
* Orphans are left as zombies: a wait for any child would take the status asyncio waits for, and PID 1's end ends them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import struct
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from lab.errors import KernelError, LabError, MissingCapability
from lab.kernel import syscalls

_HOST_PID = "PUNCHLAB_HOST_PID"
_HELD = (signal.SIGINT, signal.SIGTERM)
_SET_UP_WITHIN = 20.0
"Seconds from the first fork to PID 1 being ready; a loaded machine needs 0.1."
_MAX_RESULT = 64 << 20
"Bytes that `fork_into_sandbox` takes back."
_HURRY = b"!"
_CREDENTIALS = struct.Struct("=iII")
"ucred: pid, uid, gid"
_outside: socket.socket | None = None
"in a sandbox: to whoever made it"
_SI_KERNEL = 0x80
"sigaction(2): sent by the kernel, as a terminal's Ctrl-C is"


def run_in_sandbox(main: Callable[[], int], *, own_users: bool = True) -> int:
    """Run `main` as PID 1 of a fresh sandbox and return its exit status, 128 + n when signal n ended it.

    Without `own_users` it keeps root's rights over the host, which only root has to give. SIGINT and SIGTERM to the
    caller arrive in `main` as KeyboardInterrupt. Raises MissingCapability.
    """
    with _signals_held() as mask:
        keeper, wishes = _start(lambda: _status_of(main), mask, own_users)
        with wishes:
            try:
                return _attend(keeper, lambda sent: sent.code != _SI_KERNEL, wishes)
            except BaseException:
                _end(keeper, at_once=True)
                raise


def fork_into_sandbox(main: Callable[[], bytes], timeout: float = 600.0, *, own_users: bool = True) -> bytes:
    """Run `main` as PID 1 of a fresh sandbox and return what it returns; any thread may call it.

    Raises MissingCapability without namespaces, KernelError when `main` raised (its traceback is a note of the error),
    died, or took longer than `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    inlet, outlet = os.pipe()
    with os.fdopen(inlet, "rb", buffering=0):
        try:
            with _signals_held() as mask:
                keeper, wishes = _start(lambda: _send_result(main, outlet), mask, own_users)
        finally:
            os.close(outlet)
        with wishes:
            try:
                result = _collect(inlet, wishes, deadline)
            except BaseException:
                _end(keeper, at_once=True)
                raise
        status = _end(keeper)
    if result[:1] == b"=":
        return result[1:]
    if result[:1] == b"!":
        summary, _, story = result[1:].decode(errors="replace").rstrip().partition("\n")
        error = KernelError(f"in the sandbox: {summary}")
        error.add_note(story)
        raise error
    raise KernelError(f"the sandbox ended with status {status} and no result")


def problem() -> str | None:
    """Say in one line why no sandbox can be made here and what to do, or None; it makes one to find out."""
    if sys.platform != "linux":
        return "network namespaces need Linux; on another system use a Linux virtual machine"
    try:
        fork_into_sandbox(lambda: b"", _SET_UP_WITHIN)
    except LabError as error:
        return str(error)
    return None


def host_pid() -> int:
    """Return the pid of the sandbox's PID 1 as seen by whoever made the sandbox; outside any, our own."""
    return int(os.environ.get(_HOST_PID, os.getpid()))


def hurry(pid: int) -> None:
    """Ask whoever made this sandbox to let one of its processes run as soon as it is able to, before all others.

    That is SCHED_FIFO of sched(7), which only the host's root may give, or who was given RLIMIT_RTPRIO by root. To all
    others, and outside a sandbox, nothing happens; nobody waits for it, and nobody is told.
    """
    if _outside is None:
        return
    credentials = _CREDENTIALS.pack(pid, os.getuid(), os.getgid())
    with suppress(OSError):  # without it the process runs like any other
        _outside.sendmsg([_HURRY], [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, credentials)], socket.MSG_DONTWAIT)


def inside() -> bool:
    """Whether this process is the PID 1 of a sandbox, with mounts of its own."""
    return os.getpid() == 1 and _HOST_PID in os.environ


@contextmanager
def _signals_held() -> Iterator[set[int]]:
    """Block the signals that are passed on, so that none is lost between fork and wait; gives the mask before."""
    before: set[int] = set(signal.pthread_sigmask(signal.SIG_BLOCK, _HELD))
    try:
        yield before
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Refused(Exception):
    """The kernel said no to a step of the set-up; translated before anyone else sees it."""

    def __init__(self, step: str, code: int) -> None:
        super().__init__(step, code)
        self.step = step
        self.code = code


def _start(body: Callable[[], int], mask: set[int], own_users: bool) -> tuple[int, socket.socket]:
    """Fork the keeper and see the sandbox through its set-up; once `body` is about to run, the keeper and its wishes.

    The keeper is a pid, its wishes a socket to be read by `_hear`.
    """
    try:
        return _try_start(body, mask, syscalls.CLONE_NEWUSER if own_users else 0)
    except _Refused as refused:
        first = refused
    if os.geteuid() == 0:
        # Root may do without a user namespace, if it is root with all its rights; if not, the first reason counts.
        with suppress(_Refused):
            return _try_start(body, mask, 0)
    raise MissingCapability(_advice(first)) from first


def _try_start(body: Callable[[], int], mask: set[int], flags: int) -> tuple[int, socket.socket]:
    flags |= syscalls.CLONE_NEWNET | syscalls.CLONE_NEWNS | syscalls.CLONE_NEWPID
    caller = os.getpid()
    ours, theirs = socket.socketpair()
    keeper = _fork()
    if keeper == 0:
        ours.close()
        _keep(theirs, caller, flags, body, mask)
    theirs.close()
    ours.settimeout(_SET_UP_WITHIN)
    try:
        # The kernel tells which process is meant, by its number in our PID namespace.
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        _expect(ours, b"unshared")
        if flags & syscalls.CLONE_NEWUSER:
            _write_maps(keeper)
        ours.send(b"mapped")
        _expect(ours, b"ready")
        ours.setblocking(False)
    except BaseException:
        ours.close()
        _end(keeper, at_once=True)
        raise
    return keeper, ours


def _fork() -> int:
    """Fork without Python's warning about threads: the child keeps to system calls until `main`."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _expect(link: socket.socket, word: bytes) -> None:
    try:
        said = link.recv(256)
    except TimeoutError as error:
        raise KernelError(f"the sandbox was not set up within {_SET_UP_WITHIN:.0f} s") from error
    if said == word:
        return
    if said[:1] != b"!":
        raise KernelError("the sandbox died while it was set up")
    step, _, code = said[1:].decode().rpartition(" ")
    raise _Refused(step, int(code))


def _write_maps(pid: int) -> None:
    """Map root's ids to themselves, or an ordinary user's own to 0."""
    proc = Path(f"/proc/{pid}")
    try:
        if os.geteuid() == 0:
            for name in ("uid_map", "gid_map"):
                spans = [line.split() for line in Path(f"/proc/self/{name}").read_text().splitlines()]
                (proc / name).write_text("".join(f"{start} {start} {count}\n" for start, _, count in spans))
        else:
            (proc / "setgroups").write_text("deny")
            (proc / "uid_map").write_text(f"0 {os.geteuid()} 1\n")
            (proc / "gid_map").write_text(f"0 {os.getegid()} 1\n")
    except OSError as error:
        raise _Refused("map user ids", error.errno or 0) from error


def _keep(link: socket.socket, caller: int, flags: int, body: Callable[[], int], mask: set[int]) -> NoReturn:
    """Be the keeper: unshare, fork PID 1, pass on the caller's signals, end with PID 1's status."""
    try:
        syscalls.die_with_parent(signal.SIGKILL)
        if os.getppid() != caller:
            os._exit(1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _step(link, "unshare", lambda: syscalls.unshare(flags))
        link.send(b"unshared")
        if link.recv(16) != b"mapped":
            os._exit(1)
        # Credentials changed with the map; where that cleared the death signal, it is set again.
        syscalls.die_with_parent(signal.SIGKILL)
        if os.getppid() != caller:
            os._exit(1)
        alive_read, alive_write = os.pipe()
        child = _fork()
        if child == 0:
            os.close(alive_write)
            _be_init(link, alive_read, body, mask)
        os.close(alive_read)
        link.close()
        os.write(alive_write, b"%d" % child)
        os._exit(_attend(child, lambda sent: sent.sender == caller))
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        # Whatever went wrong, the keeper never returns into a copy of the caller's stack.
        os._exit(1)


def _hear(wishes: socket.socket, poll: select.poll) -> None:
    """Fulfil one wish of the sandbox, if we may; forget about it when there will be no more."""
    word: bytes = b""
    ancillary: list[tuple[int, int, bytes]] = []
    with suppress(ConnectionResetError):  # it ended with something unread
        word, ancillary, _, _ = wishes.recvmsg(len(_HURRY), socket.CMSG_SPACE(_CREDENTIALS.size))
    if not word:
        poll.unregister(wishes)
    for _, kind, data in ancillary:
        if word == _HURRY and kind == socket.SCM_CREDENTIALS:
            pid, _, _ = _CREDENTIALS.unpack(data)
            with suppress(OSError):  # we may not, or it has ended
                os.sched_setscheduler(pid, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))


def _attend(child: int, pass_on: Callable[[syscalls.SentSignal], bool], wishes: socket.socket | None = None) -> int:
    """Wait for a child and return its exit status; until then send it the signals that are to be passed on.

    The child's end is seen by its pidfd: a SIGCHLD may be taken, and lost, by any thread that does not block it.
    """
    with ExitStack() as opened:
        ended, sent = os.pidfd_open(child), syscalls.signalfd(_HELD)
        poll = select.poll()
        for descriptor in (ended, sent):
            opened.callback(os.close, descriptor)
            poll.register(descriptor, select.POLLIN)
        if wishes is not None:
            poll.register(wishes, select.POLLIN)
        while True:
            ready = [descriptor for descriptor, _ in poll.poll()]
            if ended in ready:
                return _exit_status(os.waitpid(child, 0)[1])
            if wishes is not None and wishes.fileno() in ready:
                _hear(wishes, poll)
            if sent not in ready:
                continue
            arrived = syscalls.read_signal(sent)
            if pass_on(arrived):
                os.kill(child, arrived.number)


def _be_init(link: socket.socket, alive: int, body: Callable[[], int], mask: set[int]) -> NoReturn:
    """Be PID 1: give the sandbox its own /proc and /run, then run `body` and exit with its status."""
    global _outside  # noqa: PLW0603 — a process is in one sandbox or in none
    status = 1
    try:
        syscalls.die_with_parent(signal.SIGKILL)
        # The keeper alone holds the other end. getppid() is 0 here and would tell nothing.
        os.environ[_HOST_PID] = os.read(alive, 16).decode()
        poll = select.poll()
        poll.register(alive, select.POLLIN)
        if poll.poll(0):
            os._exit(1)
        os.close(alive)
        flags = syscalls.MS_NOSUID | syscalls.MS_NODEV
        private = syscalls.MS_REC | syscalls.MS_PRIVATE
        _step(link, "make mounts private", lambda: syscalls.mount("none", "/", None, private))
        _step(link, "mount /proc", lambda: syscalls.mount("proc", "/proc", "proc", flags | syscalls.MS_NOEXEC))
        _step(link, "mount /run", lambda: syscalls.mount("tmpfs", "/run", "tmpfs", flags, "mode=755"))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, _terminated)
        link.send(b"ready")
        _outside = link
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        status = body()
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        os._exit(status)


def _step(link: socket.socket, name: str, act: Callable[[], None]) -> None:
    try:
        act()
    except OSError as error:
        link.send(f"!{name} {error.errno}".encode())
        os._exit(1)


def _terminated(_number: int, _frame: object) -> None:
    """SIGTERM is Ctrl-C, once: `timeout` and service managers send it to the caller and to the whole group."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.raise_signal(signal.SIGINT)


def _status_of(main: Callable[[], int]) -> int:
    try:
        status = main()
    except KeyboardInterrupt:
        stopped = signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
        status = 128 + (signal.SIGTERM if stopped else signal.SIGINT)
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:  # noqa: BLE001 — PID 1 has no caller to raise to; the interpreter would print it likewise
        traceback.print_exc()
        status = 1
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
        sys.stderr.flush()
    return status & 0xFF


def _send_result(main: Callable[[], bytes], outlet: int) -> int:
    try:
        result = b"=" + main()
    except BaseException as error:  # noqa: BLE001 — raised again in the caller, as text: they share no objects
        summary = traceback.format_exception_only(error)[-1].partition("\n")[0]
        result = f"!{summary}\n{traceback.format_exc()}".encode()
    with os.fdopen(outlet, "wb") as pipe:
        pipe.write(result)
    return 0


def _collect(inlet: int, wishes: socket.socket, deadline: float) -> bytes:
    """Read until the last writer is gone."""
    poll = select.poll()
    poll.register(inlet, select.POLLIN)
    poll.register(wishes, select.POLLIN)
    got = bytearray()
    while len(got) <= _MAX_RESULT:
        left = deadline - time.monotonic()
        ready = [descriptor for descriptor, _ in poll.poll(left * 1000)] if left > 0 else []
        if not ready:
            raise KernelError("the sandbox gave no result in time")
        if wishes.fileno() in ready:
            _hear(wishes, poll)
        if inlet not in ready:
            continue
        data = os.read(inlet, 1 << 20)
        if not data:
            return bytes(got)
        got += data
    raise KernelError(f"the sandbox's result is longer than {_MAX_RESULT} bytes")


def _end(keeper: int, at_once: bool = False) -> int:
    """Wait for the keeper, killing it unless its work is done; return its exit status."""
    if at_once:
        os.kill(keeper, signal.SIGKILL)
    return _exit_status(os.waitpid(keeper, 0)[1])


def _exit_status(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _advice(refused: _Refused) -> str:
    """Turn what the kernel refused into one line that says what to do."""
    if _sysctl("kernel/apparmor_restrict_unprivileged_userns") == "1" and os.geteuid() != 0:
        return (
            "AppArmor forbids user namespaces to ordinary users (Ubuntu's default); allow them with "
            "`sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`"
        )
    if _sysctl("kernel/unprivileged_userns_clone") == "0" and os.geteuid() != 0:
        return "user namespaces are off; switch them on with `sudo sysctl -w kernel.unprivileged_userns_clone=1`"
    if refused.code == errno.ENOSPC:
        return "the limit of namespaces is reached; raise it with `sudo sysctl -w user.max_user_namespaces=15000`"
    if refused.code in (errno.EINVAL, errno.ENOSYS):
        return "this kernel has no user, network or PID namespaces; use one built with CONFIG_USER_NS and CONFIG_NET_NS"
    return (
        f"the kernel refused to {refused.step} ({os.strerror(refused.code)}); in a container, start it with "
        "`--privileged`, or with `--security-opt seccomp=unconfined --security-opt systempaths=unconfined`"
    )


def _sysctl(path: str) -> str | None:
    try:
        return Path("/proc/sys", path).read_text().strip()
    except FileNotFoundError:
        return None
