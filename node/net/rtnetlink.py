"""What the kernel knows of the machine's network, asked of it without a thread, a process or a package.

rtnetlink (`man 7 rtnetlink`): one request, one dump. Message: nlmsghdr { u32 len, u16 type, u16 flags, u32 seq,
u32 pid } ‖ a header of the kind of thing ‖ attributes { u16 len, u16 type, value }, each padded to four bytes. Whoever
is a member of a group is sent a message for each change without asking.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Final

# A dump comes in datagrams of up to this size; more of them than the bound is a kernel gone mad.
_DATAGRAM: Final = 1 << 16
MAX_DATAGRAMS: Final = 256
TIMEOUT: Final = 1.0
SETTLED: Final = 0.25
"""Seconds without a change after which a change is told: a cable that is plugged in makes a dozen."""

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_RTMGRP_LINK, _RTMGRP_IPV4_IFADDR, _RTMGRP_IPV4_ROUTE = 0x1, 0x10, 0x40
_RTMGRP_IPV6_IFADDR, _RTMGRP_IPV6_ROUTE = 0x100, 0x400
_CHANGES = _RTMGRP_LINK | _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV4_ROUTE | _RTMGRP_IPV6_IFADDR | _RTMGRP_IPV6_ROUTE


def dump(get: int, new: int, header: bytes) -> list[bytes]:
    """Return all messages of type `new` that the kernel answers to `get`, without their first header; OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        sock.settimeout(TIMEOUT)
        sock.bind((0, 0))
        sock.send(_HEADER.pack(_HEADER.size + len(header), get, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0) + header)
        return list(_answers(sock, new))


def _answers(sock: socket.socket, new: int) -> Iterator[bytes]:
    for _ in range(MAX_DATAGRAMS):
        data, offset = sock.recv(_DATAGRAM), 0
        while offset + _HEADER.size <= len(data):
            size, kind, *_ = _HEADER.unpack_from(data, offset)
            if kind == _NLMSG_DONE:
                return
            if kind == _NLMSG_ERROR or size < _HEADER.size:
                raise OSError("the kernel refuses to list what it knows of its network")
            if kind == new:
                yield data[offset + _HEADER.size : offset + size]
            offset += _padded(size)
    raise OSError(f"more than {MAX_DATAGRAMS} datagrams in one answer")


def attributes(message: bytes, offset: int) -> dict[int, bytes]:
    """Return the attributes of a message, which begin at `offset`, by type."""
    found: dict[int, bytes] = {}
    while offset + _ATTRIBUTE.size <= len(message):
        size, kind = _ATTRIBUTE.unpack_from(message, offset)
        if size < _ATTRIBUTE.size:
            break
        found[kind] = message[offset + _ATTRIBUTE.size : offset + size]
        offset += _padded(size)
    return found


def _padded(size: int) -> int:
    return (size + 3) & ~3


class Changes:
    """Calls back, on the loop, some time after links, addresses or routes have changed; from `start` to `close`."""

    def __init__(self, callback: Callable[[], object], settled: float = SETTLED) -> None:
        self._callback = callback
        self._settled = settled
        self._socket: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Listen; raises OSError where the kernel does not let us."""
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        try:
            sock.bind((0, _CHANGES))
            asyncio.get_running_loop().add_reader(sock, self._heard)
        except OSError:
            sock.close()
            raise
        self._socket = sock

    def close(self) -> None:
        """Listen no more; closing twice does nothing."""
        if self._timer is not None:
            self._timer.cancel()
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def _heard(self) -> None:
        assert self._socket is not None
        try:
            self._socket.recv(_DATAGRAM)
        except BlockingIOError:
            return
        except OSError:  # ENOBUFS: more has changed than the kernel kept for us, which is a change all the same
            pass
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self._settled, self._callback)
