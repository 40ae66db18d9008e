"""Interfaces, addresses and routes: requests to rtnetlink(7), many in one message. The only module with pyroute2.

pyroute2 writes the requests; the socket is ours, made inside the namespace, because pyroute2's own runs an event loop
(which cannot be inside a running one) and asks and waits once per request. Here nothing is looked up: the numbers of
interfaces are chosen by the caller, a veth pair is made directly in its two namespaces (made and then moved it takes
16 ms instead of 1), and up to 64 requests go out in one send; more answers than that would overrun the receive buffer.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from types import TracebackType
from typing import Any

from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from lab.errors import KernelError
from lab.kernel.namespace import Namespace
from lab.plan.neighbours import Neighbour, Station
from lab.plan.plan import Policy, Route

LOOPBACK = 1
"The interface number of `lo` in every namespace."
_BATCH = 64
_ANSWER_WITHIN = 20.0
"Seconds; the kernel answers when it is done, and making interfaces waits for others that are being taken down."

_RTM_NEWLINK, _RTM_NEWADDR, _RTM_DELADDR, _RTM_NEWROUTE, _RTM_NEWRULE = 16, 20, 21, 24, 32
_RTM_NEWNEIGH, _RTM_DELNEIGH = 28, 29
_PERMANENT, _STATIC, _OF_MASTER, _FAMILY_BRIDGE = 0x80, 0x40, 0x04, 7
_NLMSG_ERROR = 2
_REQUEST_ACK, _CREATE_NEW, _CREATE_OR_REPLACE = 0x1 | 0x4, 0x400 | 0x200, 0x400 | 0x100
_SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK = 270, 10, 11
_HEADER = struct.Struct("=IHHII")
_ERROR_TEXT = 1
_NLA_HEADER = struct.Struct("=HH")
_FLAG_UP = 0x1
_NODAD = 0x02
_TABLE_MAIN, _PROTO_STATIC, _TYPE_UNICAST = 254, 4, 1
_SCOPE_LINK = 253
_TO_TABLE = 1


class Links:
    """Requests about one namespace's interfaces: add them, then `commit()`; or use it as a context, which commits."""

    def __init__(self, ns: Namespace) -> None:
        self._space = ns.name
        self._socket = ns.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.settimeout(_ANSWER_WITHIN)
        for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._sequence = 0
        self._waiting: list[tuple[bytes, str, int]] = []
        "request, what it is for, and the error that would be no error"

    def __enter__(self) -> Links:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            if error is None:
                self.commit()
        finally:
            self._socket.close()

    def bring_up(self, index: int) -> None:
        """Switch an interface on."""
        self._link("interface up", index=index, flags=_FLAG_UP, change=_FLAG_UP)

    def switch_off(self, index: int) -> None:
        """Switch an interface off; the other end of its cable loses the carrier."""
        self._link("interface down", index=index, change=_FLAG_UP)

    def add_bridge(self, index: int, name: str, mac: str | None) -> None:
        """Make a bridge without spanning tree or multicast snooping, switched off."""
        options = [("IFLA_BR_FORWARD_DELAY", 0), ("IFLA_BR_STP_STATE", 0), ("IFLA_BR_MCAST_SNOOPING", 0)]
        kind = [("IFLA_INFO_KIND", "bridge"), ("IFLA_INFO_DATA", {"attrs": options})]
        attrs: list[tuple[str, Any]] = [*_names(name, mac), ("IFLA_LINKINFO", {"attrs": kind})]
        self._link(f"bridge {name}", attrs, create=True, index=index)

    def add_veth(self, end: VethEnd, other: VethEnd, other_ns: Namespace) -> None:
        """Make a veth pair with one end here, switched on, and the other in `other_ns`, off (veth refuses else)."""
        far: list[tuple[str, Any]] = [*_names(other.name, other.mac), *_mtu(other), ("IFLA_NET_NS_FD", other_ns.fd)]
        there = {"index": other.index, "attrs": far}
        kind = [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", {"attrs": [("VETH_INFO_PEER", there)]})]
        attrs: list[tuple[str, Any]] = [*_names(end.name, end.mac), *_mtu(end), ("IFLA_LINKINFO", {"attrs": kind})]
        what = f"cable from {end.name} to {other.name} in {other_ns.name}"
        self._link(what, attrs, create=True, index=end.index, flags=_FLAG_UP, change=_FLAG_UP)

    def add_ifb(self, index: int, name: str) -> None:
        """Make a device that gives packets back to where they were redirected from, switched on."""
        attrs: list[tuple[str, Any]] = [*_names(name, None), ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "ifb")]})]
        self._link(f"ifb {name}", attrs, create=True, index=index, flags=_FLAG_UP, change=_FLAG_UP)

    def plug(self, index: int, bridge: int) -> None:
        """Make an interface a port of a bridge; of none if its number is 0."""
        self._link("plug into a bridge", [("IFLA_MASTER", bridge)], index=index)

    def set_bridge(self, index: int, **options: int) -> None:
        """Change options of a bridge, those that netlink calls `IFLA_BR_…`."""
        data = [(f"IFLA_BR_{name}", value) for name, value in options.items()]
        kind = [("IFLA_INFO_KIND", "bridge"), ("IFLA_INFO_DATA", {"attrs": data})]
        self._link(f"bridge options {', '.join(options)}", [("IFLA_LINKINFO", {"attrs": kind})], index=index)

    def set_bridge_port(self, index: int, **options: int) -> None:
        """Change options of a port of a bridge, those that netlink calls `IFLA_BRPORT_…`."""
        data = [(f"IFLA_BRPORT_{name}", value) for name, value in options.items()]
        kind = [("IFLA_INFO_SLAVE_KIND", "bridge"), ("IFLA_INFO_SLAVE_DATA", {"attrs": data})]
        self._link(f"port options {', '.join(options)}", [("IFLA_LINKINFO", {"attrs": kind})], index=index)

    def hand_over(self, index: int, name: str, other_ns: Namespace) -> None:
        """Move an interface, which leaves its bridge, into another namespace and call it `name` there, switched off."""
        attrs: list[tuple[str, Any]] = [("IFLA_NET_NS_FD", other_ns.fd), ("IFLA_IFNAME", name)]
        self._link(f"move to {other_ns.name}", attrs, index=index)

    def add_address(self, index: int, address: str) -> None:
        """Give an interface an address with prefix length, `11.0.1.2/24`."""
        self._address(_RTM_NEWADDR, index, address, f"address {address}")

    def remove_address(self, index: int, address: str) -> None:
        """Take an address from an interface; with its last one, the interface loses its routes."""
        self._address(_RTM_DELADDR, index, address, f"no address {address}")

    def _address(self, kind: int, index: int, address: str, what: str) -> None:
        try:
            parsed = ipaddress.ip_interface(address)
        except ValueError as error:
            raise KernelError(f"{self._space}: {error}") from error
        message = ifaddrmsg()
        message["family"] = _family(parsed.version)
        message["prefixlen"] = parsed.network.prefixlen
        message["flags"] = _NODAD if parsed.version == 6 else 0
        message["index"] = index
        message["attrs"] = [("IFA_LOCAL", str(parsed.ip)), ("IFA_ADDRESS", str(parsed.ip))]
        self._queue(message, kind, _CREATE_NEW if kind == _RTM_NEWADDR else 0, what=what)

    def add_route(self, route: Route, index: int, *, replace: bool = False) -> None:
        """Route a prefix to the interface of that number, by a gateway or directly; `replace` one that is there."""
        attrs: list[tuple[str, Any]] = [("RTA_OIF", index)]
        version = ipaddress.ip_address(route.gateway).version if route.gateway else 4
        length = 0
        if route.destination != "default":
            prefix = ipaddress.ip_network(route.destination)
            version, length = prefix.version, prefix.prefixlen
            attrs.append(("RTA_DST", str(prefix.network_address)))
        if route.gateway:
            attrs.append(("RTA_GATEWAY", route.gateway))
        if route.metric:
            attrs.append(("RTA_PRIORITY", route.metric))
        message = rtmsg()
        message["family"] = _family(version)
        message["dst_len"] = length
        message["table"] = route.table or _TABLE_MAIN
        message["proto"] = _PROTO_STATIC
        message["scope"] = 0 if route.gateway else _SCOPE_LINK
        message["type"] = _TYPE_UNICAST
        message["attrs"] = attrs
        flags = _CREATE_OR_REPLACE if replace else _CREATE_NEW
        self._queue(message, _RTM_NEWROUTE, flags, what=f"route to {route.destination}")

    def add_policy(self, policy: Policy) -> None:
        """Route what is sent from an address by a table of its own."""
        source = ipaddress.ip_address(policy.source)
        message = fibmsg()
        message["family"] = _family(source.version)
        message["src_len"] = source.max_prefixlen
        message["table"] = policy.table
        message["action"] = _TO_TABLE
        message["attrs"] = [("FRA_SRC", policy.source)]
        self._queue(message, _RTM_NEWRULE, _CREATE_NEW, what=f"rule for what {policy.source} sends")

    def add_neighbour(self, entry: Neighbour, index: int) -> None:
        """Tell for good which hardware address has an address, in place of what was told or found before."""
        what = f"neighbour {entry.address}"
        self._neighbour(_RTM_NEWNEIGH, entry, index, [("NDA_LLADDR", entry.mac)], _CREATE_OR_REPLACE, what)

    def remove_neighbour(self, entry: Neighbour, index: int) -> None:
        """Take that back; with the last address of an interface it has gone by itself."""
        self._neighbour(_RTM_DELNEIGH, entry, index, [], 0, f"no neighbour {entry.address}", errno.ENOENT)

    def add_station(self, entry: Station, index: int) -> None:
        """Tell a bridge who is at its port of that number."""
        message = ndmsg()
        message["family"] = _FAMILY_BRIDGE
        message["ifindex"] = index
        message["state"] = _STATIC
        message["flags"] = _OF_MASTER
        message["attrs"] = [("NDA_LLADDR", entry.mac)]
        self._queue(message, _RTM_NEWNEIGH, _CREATE_OR_REPLACE, what=f"station {entry.mac}")

    def _neighbour(
        self,
        kind: int,
        entry: Neighbour,
        index: int,
        attrs: list[tuple[str, Any]],
        flags: int,
        what: str,
        tolerated: int = 0,
    ) -> None:
        message = ndmsg()
        message["family"] = _family(6 if ":" in entry.address else 4)
        message["ifindex"] = index
        message["state"] = _PERMANENT
        message["attrs"] = [("NDA_DST", entry.address), *attrs]
        self._queue(message, kind, flags, what=what, tolerated=tolerated)

    def commit(self) -> None:
        """Send what was added and wait for the answers; raises KernelError for the first request that failed."""
        waiting, self._waiting = self._waiting, []
        for start in range(0, len(waiting), _BATCH):
            self._exchange(waiting[start : start + _BATCH])

    def _link(
        self, what: str, attrs: list[tuple[str, Any]] | None = None, *, create: bool = False, **fields: int
    ) -> None:
        message = ifinfmsg()
        for name, value in fields.items():
            message[name] = value
        message["attrs"] = attrs or []
        self._queue(message, _RTM_NEWLINK, _CREATE_NEW if create else 0, what=what)

    def _queue(self, message: Any, kind: int, flags: int, *, what: str, tolerated: int = 0) -> None:
        self._sequence += 1
        header = message["header"]
        header["type"] = kind
        header["flags"] = _REQUEST_ACK | flags
        header["sequence_number"] = self._sequence
        message.encode()
        self._waiting.append((bytes(message.data), what, tolerated))

    def _exchange(self, batch: list[tuple[bytes, str, int]]) -> None:
        """One send, and one answer for each request, in order."""
        try:
            self._socket.send(b"".join(request for request, _, _ in batch))
            answers: list[tuple[int, str]] = []
            while len(answers) < len(batch):
                answers += _answers(self._socket.recv(1 << 16))
        except OSError as error:
            raise KernelError(f"{self._space}: rtnetlink: {error}") from error
        for (code, text), (_, what, tolerated) in zip(answers, batch, strict=True):
            if code and code != tolerated:
                raise KernelError(f"{self._space}: {what}: {text or os.strerror(code)}{_hint(code)}")


class VethEnd:
    """One end of a veth pair: the number, name and, if chosen, hardware address and MTU of the interface."""

    __slots__ = ("index", "mac", "mtu", "name")

    def __init__(self, index: int, name: str, mac: str | None = None, mtu: int | None = None) -> None:
        self.index = index
        self.name = name
        self.mtu = mtu
        self.mac = mac


def _names(name: str, mac: str | None) -> list[tuple[str, Any]]:
    return [("IFLA_IFNAME", name), *([("IFLA_ADDRESS", mac)] if mac else [])]


def _mtu(end: VethEnd) -> list[tuple[str, Any]]:
    return [("IFLA_MTU", end.mtu)] if end.mtu is not None else []


def _family(version: int) -> int:
    return int(socket.AF_INET if version == 4 else socket.AF_INET6)


def _answers(data: bytes) -> list[tuple[int, str]]:
    """The error codes (0: done) and the kernel's own words in a datagram of acknowledgements."""
    answers: list[tuple[int, str]] = []
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, at)
        if kind == _NLMSG_ERROR:
            (code,) = struct.unpack_from("=i", data, at + _HEADER.size)
            answers.append((-code, _text(data[at + 2 * _HEADER.size + 4 : at + length])))
        at += (length + 3) & ~3
    return answers


def _text(attributes: bytes) -> str:
    at = 0
    while at + _NLA_HEADER.size <= len(attributes):
        length, kind = _NLA_HEADER.unpack_from(attributes, at)
        if kind == _ERROR_TEXT:
            return attributes[at + _NLA_HEADER.size : at + length].rstrip(b"\0").decode(errors="replace")
        at += max((length + 3) & ~3, _NLA_HEADER.size)
    return ""


def _hint(code: int) -> str:
    if code == errno.EOPNOTSUPP:
        return " (the kernel lacks the veth or bridge module; `punchlab doctor` tells)"
    return ""
