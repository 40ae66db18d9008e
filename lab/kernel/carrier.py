"""Wait until cables carry packets and addresses are taken, which is later than the kernel's answer that they are there.

A veth end that was switched on before its other end learns of its carrier from a work queue of the kernel (linkwatch),
up to some milliseconds after everything was acknowledged; until then its queue swallows what it is given. An ARP
request or a SYN lost like that costs a second, in one network out of twenty. IFF_RUNNING does not tell: it is also set
while the operational state is still unknown. That state turning `up` does, with any later request to rtnetlink, because
the work queue holds its lock until the interface sends.

An IPv6 address is acknowledged likewise before its host takes packets to it as its own: another work queue does that,
even where no duplicate is looked for; a millisecond later on a quiet machine, and a quarter of a second on one where
ten programs want two processors. What comes before then is lost, and nobody is told.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import time
from collections.abc import Iterable, Mapping
from typing import Final

from lab.errors import KernelError
from lab.kernel.namespace import Namespace
from lab.plan.plan import Port

DEADLINE: Final = 5.0
"Seconds; the usual is two milliseconds."
_LOOK_EVERY: Final = 0.0005
_ANSWER: Final = 1 << 15
"Bytes; one interface takes about 1.5 KiB."

_RTM_NEWLINK, _RTM_GETLINK, _REQUEST = 16, 18, 1
_IFLA_IFNAME, _IFLA_OPERSTATE, _OPER_UP = 3, 16, 6
_HEADER = struct.Struct("=IHHIIBxHiII")
"nlmsghdr and ifinfomsg"
_HEADER_ONLY = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_IFF_UP = 1

_RTM_NEWROUTE, _RTM_GETROUTE, _RTA_DST, _RTA_OIF, _RTN_LOCAL = 24, 26, 1, 4, 2
_ROUTE = struct.Struct("=IHHII8BI")
"nlmsghdr and rtmsg"
_TYPE_OF_ROUTE = 12
"the field of _ROUTE"


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


def await_local(spaces: Mapping[str, Namespace], ports: Iterable[Port]) -> None:
    """Block until each of these interfaces that is switched on takes its IPv6 addresses. Raises KernelError."""
    deadline = time.monotonic() + DEADLINE
    for port in ports:
        addresses = [ipaddress.IPv6Interface(address).ip for address in port.addresses if ":" in address]
        if not addresses:
            continue
        with spaces[port.space].socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as control:
            control.settimeout(DEADLINE)
            header = _HEADER.unpack_from(_link(control, port.space, port.name))
            index, flags = header[7], header[8]
            for address in addresses if flags & _IFF_UP else ():
                while not _is_local(control, port.space, index, address):
                    if time.monotonic() > deadline:
                        raise KernelError(f"{port.space}: {port.name} does not take {address} after {DEADLINE:g} s")
                    time.sleep(_LOOK_EVERY)


def _is_operational(control: socket.socket, space: str, interface: str) -> bool:
    return _state(_link(control, space, interface)) == _OPER_UP


def _is_local(control: socket.socket, space: str, index: int, address: ipaddress.IPv6Address) -> bool:
    """Whether the kernel routes packets to an address to itself; one of the link is one of an interface."""
    attributes = _attribute(_RTA_DST, address.packed)
    if address.is_link_local:
        attributes += _attribute(_RTA_OIF, struct.pack("=I", index))
    length = _ROUTE.size + len(attributes)
    request = _ROUTE.pack(length, _RTM_GETROUTE, _REQUEST, 0, 0, socket.AF_INET6, 128, 0, 0, 0, 0, 0, 0, 0)
    answer = _ask(control, space, request + attributes)
    if _HEADER_ONLY.unpack_from(answer)[1] != _RTM_NEWROUTE:
        return False  # no route at all is an error, as a number
    return bool(_ROUTE.unpack_from(answer)[_TYPE_OF_ROUTE] == _RTN_LOCAL)


def _link(control: socket.socket, space: str, interface: str) -> bytes:
    attribute = _attribute(_IFLA_IFNAME, interface.encode() + b"\0")
    request = _HEADER.pack(_HEADER.size + len(attribute), _RTM_GETLINK, _REQUEST, 0, 0, 0, 0, 0, 0, 0)
    answer = _ask(control, space, request + attribute)
    if _HEADER_ONLY.unpack_from(answer)[1] != _RTM_NEWLINK:
        raise KernelError(f"{space}: there is no interface {interface}")
    return answer


def _attribute(kind: int, data: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(data), kind) + data + bytes(-len(data) % 4)


def _ask(control: socket.socket, space: str, request: bytes) -> bytes:
    try:
        control.send(request)
        return control.recv(_ANSWER)
    except OSError as error:
        raise KernelError(f"{space}: rtnetlink: {error}") from error


def _state(answer: bytes) -> int | None:
    at = _HEADER.size
    while at + _ATTRIBUTE.size <= len(answer):
        length, kind = _ATTRIBUTE.unpack_from(answer, at)
        if kind == _IFLA_OPERSTATE:
            return answer[at + _ATTRIBUTE.size]
        at += max((length + 3) & ~3, _ATTRIBUTE.size)
    return None
