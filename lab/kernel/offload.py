"""Checksum and segmentation offload off: what a capture shows is then what a wire would have carried.

A veth leaves TCP and UDP checksums unwritten and passes segments of up to 64 KiB, for "hardware" to finish that is
never reached. Every such packet looks corrupt in Wireshark, loses all its segments at once when one is dropped, and
does not fit a capture frame. Without transmit checksums the kernel takes off scatter-gather, TSO and GSO by itself
(netdev_fix_features), so one ethtool request per interface does it.
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct
from collections.abc import Iterable

from lab.errors import KernelError
from lab.kernel.namespace import Namespace

_SIOCETHTOOL = 0x8946
_ETHTOOL_STXCSUM = 0x17
_IFREQ = struct.Struct("16sP16x")


def switch_off(ns: Namespace, interfaces: Iterable[str]) -> None:
    """Have these interfaces write checksums and cut segments in software. Raises KernelError."""
    value = array.array("I", [_ETHTOOL_STXCSUM, 0])
    address, _ = value.buffer_info()
    with ns.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for name in interfaces:
            try:
                fcntl.ioctl(control, _SIOCETHTOOL, _IFREQ.pack(name.encode(), address))
            except OSError as error:
                raise KernelError(f"{ns.name}: {name}: checksum offload: {error.strerror}") from error
