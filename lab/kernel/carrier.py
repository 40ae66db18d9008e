"""Wait until cables carry packets, which is later than the kernel's answer that they are up.

A veth end that was switched on before its other end learns of its carrier from a work queue of the kernel (linkwatch),
up to some milliseconds after everything was acknowledged; until then its queue swallows what it is given. An ARP
request or a SYN lost like that costs a second, in one network out of twenty. IFF_RUNNING does not tell: it is also set
while the operational state is still unknown. That state turning `up` does, with any later request to rtnetlink, because
the work queue holds its lock until the interface sends.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterable, Mapping
from typing import Final

from lab.errors import KernelError
from lab.kernel.namespace import Namespace

DEADLINE: Final = 5.0
"Seconds; the usual is two milliseconds."
_LOOK_EVERY: Final = 0.0005
_ANSWER: Final = 1 << 15
"Bytes; one interface takes about 1.5 KiB."

_RTM_NEWLINK, _RTM_GETLINK, _REQUEST = 16, 18, 1
_IFLA_IFNAME, _IFLA_OPERSTATE, _OPER_UP = 3, 16, 6
_HEADER = struct.Struct("=IHHIIBxHiII")
"nlmsghdr and ifinfomsg"
_ATTRIBUTE = struct.Struct("=HH")


def await_operational(
    spaces: Mapping[str, Namespace], interfaces: Mapping[str, Iterable[str]], *, up: bool = True
) -> None:
    """Block until all of these interfaces, by space, are operational, or none is. Raises KernelError for the others."""
    deadline = time.monotonic() + DEADLINE
    for space, names in interfaces.items():
        with spaces[space].socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as control:
            control.settimeout(DEADLINE)
            for name in names:
                while _is_operational(control, space, name) is not up:
                    if time.monotonic() > deadline:
                        raise KernelError(
                            f"{space}: {'no' if up else 'still a'} carrier on {name} after {DEADLINE:g} s"
                        )
                    time.sleep(_LOOK_EVERY)


def _is_operational(control: socket.socket, space: str, interface: str) -> bool:
    name = interface.encode() + b"\0"
    attribute = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(name), _IFLA_IFNAME) + name + bytes(-len(name) % 4)
    request = _HEADER.pack(_HEADER.size + len(attribute), _RTM_GETLINK, _REQUEST, 0, 0, 0, 0, 0, 0, 0)
    try:
        control.send(request + attribute)
        answer = control.recv(_ANSWER)
    except OSError as error:
        raise KernelError(f"{space}: rtnetlink: {error}") from error
    if _HEADER.unpack_from(answer)[1] != _RTM_NEWLINK:
        raise KernelError(f"{space}: there is no interface {interface}")
    return _state(answer) == _OPER_UP


def _state(answer: bytes) -> int | None:
    at = _HEADER.size
    while at + _ATTRIBUTE.size <= len(answer):
        length, kind = _ATTRIBUTE.unpack_from(answer, at)
        if kind == _IFLA_OPERSTATE:
            return answer[at + _ATTRIBUTE.size]
        at += max((length + 3) & ~3, _ATTRIBUTE.size)
    return None
