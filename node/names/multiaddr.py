"""Multiaddr: an address that says how to use it, as text or as bytes.

    /ip4/11.0.0.7/tcp/4001/p2p/12D3KooW…                                          a peer
    /ip4/11.0.0.7/tcp/4001/p2p/12D3KooW…(relay)/p2p-circuit/p2p/12D3KooW…(peer)   a peer behind a relay

In binary a component is the protocol's code as varint, then its value, length-prefixed where the protocol's size is not
fixed. An address is held in one canonical form, so equal addresses are equal however they were written: IPv6 compressed
and lower case, peer ids in base58btc, `/ipfs` as `/p2p`.

Spec: https://github.com/multiformats/multiaddr
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from typing import TypeAlias

from node.errors import DecodeError
from node.names import varint
from node.names.components import BY_CODE, BY_NAME, VARIABLE, value_bytes, value_text
from node.names.peerid import PeerId
from node.names.varint import Buffer

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Part: TypeAlias = tuple[str, str | None]

MAX_BYTES = 1024
MAX_TEXT = 4096
_CIRCUIT = "p2p-circuit"


class Multiaddr:
    """An immutable, hashable multiaddr; iterates over its (protocol name, value or None)."""

    __slots__ = ("_bytes", "_hash", "_parts", "_text")

    def __init__(self, text: str) -> None:
        """Parse text; raises DecodeError. The empty address is not one."""
        data = b"".join(_encode_part(name, value) for name, value in _split(text))
        self._set(data)

    @classmethod
    def from_bytes(cls, data: Buffer) -> Multiaddr:
        """Parse the binary form; raises DecodeError."""
        self = cls.__new__(cls)
        self._set(bytes(data))
        return self

    @classmethod
    def tcp(cls, ip: str | IPAddress, port: int) -> Multiaddr:
        """`/ip4/…/tcp/…` or `/ip6/…/tcp/…`; a zone (`fe80::1%eth0`) becomes `/ip6zone`."""
        return cls(f"{_ip_text(ip)}/tcp/{port}")

    @classmethod
    def quic(cls, ip: str | IPAddress, port: int) -> Multiaddr:
        """`/ip4/…/udp/…/quic-v1`, or the same of IPv6."""
        return cls(f"{_ip_text(ip)}/udp/{port}/quic-v1")

    def _set(self, data: bytes) -> None:
        if len(data) > MAX_BYTES:
            raise DecodeError(f"multiaddr of {len(data)} bytes, at most {MAX_BYTES} allowed")
        self._parts = tuple(_decode_parts(data))
        if not self._parts:
            raise DecodeError("empty multiaddr")
        self._bytes = data
        self._hash = hash(data)
        self._text: str | None = None

    def to_bytes(self) -> bytes:
        """The binary form, at most MAX_BYTES long."""
        return self._bytes

    def __str__(self) -> str:
        if self._text is None:
            self._text = "".join(map(_part_text, self._parts))
        return self._text

    def __repr__(self) -> str:
        return f"Multiaddr({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Multiaddr) and self._bytes == other._bytes

    def __hash__(self) -> int:
        return self._hash

    def __lt__(self, other: Multiaddr) -> bool:
        return self._bytes < other._bytes

    def __iter__(self) -> Iterator[Part]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def __contains__(self, name: str) -> bool:
        return any(part[0] == name for part in self._parts)

    def __truediv__(self, other: str | Multiaddr) -> Multiaddr:
        """This address followed by `other`, text with or without its first slash."""
        if isinstance(other, str):
            other = Multiaddr(other if other.startswith("/") else f"/{other}")
        return Multiaddr.from_bytes(self._bytes + other._bytes)

    def with_ip(self, ip: str | IPAddress) -> Multiaddr:
        """This address with its IP address, and zone, replaced; DecodeError if it has none."""
        parts = self._parts[1:] if self._parts[0][0] == "ip6zone" else self._parts
        if not parts or parts[0][0] not in ("ip4", "ip6"):
            raise DecodeError(f"{self} does not begin with an IP address")
        host, _, zone = str(ip).partition("%")
        front = (("ip6zone", zone),) if zone else ()
        return _of((*front, (f"ip{6 if ':' in host else 4}", host), *parts[1:]))

    @property
    def names(self) -> tuple[str, ...]:
        """The protocols' names, e.g. `("ip4", "tcp")`."""
        return tuple(name for name, _ in self._parts)

    def value(self, name: str) -> str | None:
        """The value of the first component of that name; None if there is none or it has no value."""
        return next((value for part, value in self._parts if part == name), None)

    def without(self, name: str) -> Multiaddr:
        """Without the last component if that is `name`: `addr.without("p2p")` keeps the relay's id of a circuit."""
        return _of(self._parts[:-1]) if self._parts[-1][0] == name and len(self._parts) > 1 else self

    def decapsulate(self, name: str) -> Multiaddr:
        """What precedes the last component called `name`, or all if there is none; DecodeError if it is the first."""
        names = self.names
        if name not in names:
            return self
        return _of(self._parts[: len(names) - 1 - names[::-1].index(name)])

    def with_peer(self, peer: PeerId) -> Multiaddr:
        """This address ending in `/p2p/<peer>`, which is not added twice."""
        return self if self.peer_id == peer else self / f"/p2p/{peer}"

    @property
    def ip(self) -> IPAddress | None:
        """The IP address to send to, the relay's if relayed, an IPv6 one with its zone; None for a host name."""
        parts = self._parts
        zone = ""
        if parts[0][0] == "ip6zone" and len(parts) > 1:
            zone, parts = f"%{parts[0][1]}", parts[1:]
        name, value = parts[0]
        if value is None or name not in ("ip4", "ip6"):
            return None
        return ipaddress.ip_address(value + zone)

    @property
    def port(self) -> int | None:
        """The first TCP or UDP port, the relay's if relayed."""
        return next((int(value) for name, value in self._parts if name in ("tcp", "udp") and value), None)

    @property
    def peer_id(self) -> PeerId | None:
        """Who answers at the end of this address; None for `…/p2p/<relay>/p2p-circuit`, which leaves the peer open."""
        for name, value in reversed(self._parts):
            if name == _CIRCUIT:
                return None
            if name == "p2p" and value is not None:
                return PeerId.parse(value)
        return None

    @property
    def is_relayed(self) -> bool:
        """Whether a circuit relay is part of the way."""
        return _CIRCUIT in self

    def relay_part(self) -> Multiaddr:
        """The address of the relay, before `/p2p-circuit`; DecodeError if not relayed or the relay is left open."""
        if not self.is_relayed:
            raise DecodeError(f"{self} does not lead through a relay")
        return _of(self._parts[: self.names.index(_CIRCUIT)])

    @property
    def target(self) -> PeerId | None:
        """The peer behind the relay; None if not relayed or left open."""
        return self.peer_id if self.is_relayed else None


def parse_known(addresses: Iterable[bytes]) -> tuple[Multiaddr, ...]:
    """Those that can be parsed: peers announce transports that we have never heard of, next to ones we can use."""
    known: list[Multiaddr] = []
    for data in addresses:
        try:
            known.append(Multiaddr.from_bytes(data))
        except DecodeError:
            continue
    return tuple(known)


def _ip_text(ip: str | IPAddress) -> str:
    host, _, zone = str(ip).partition("%")
    prefix = f"/ip6zone/{zone}" if zone else ""
    return f"{prefix}/ip{6 if ':' in host else 4}/{host}"


def _of(parts: tuple[Part, ...]) -> Multiaddr:
    return Multiaddr.from_bytes(b"".join(_encode_part(name, value) for name, value in parts))


def _split(text: str) -> Iterator[Part]:
    if len(text) > MAX_TEXT:
        raise DecodeError(f"multiaddr of {len(text)} characters, at most {MAX_TEXT} allowed")
    if not text.startswith("/"):
        raise DecodeError(f"{text!r} is not a multiaddr: it must start with a slash")
    rest = text.rstrip("/")[1:]
    while rest:
        name, _, rest = rest.partition("/")
        protocol = BY_NAME.get(name)
        if protocol is None:
            raise DecodeError(f"unknown protocol {name!r} in {text!r}")
        if protocol.size == 0:
            yield name, None
        else:
            value, _, rest = rest.partition("/")
            if not value:
                raise DecodeError(f"/{name} without a value in {text!r}")
            yield name, value


def _part_text(part: Part) -> str:
    name, value = part
    return f"/{name}" if value is None else f"/{name}/{value}"


def _encode_part(name: str, value: str | None) -> bytes:
    protocol = BY_NAME[name]
    code = varint.encode(protocol.code)
    if value is None:
        return code
    data = value_bytes(protocol, value)
    return code + (varint.encode(len(data)) if protocol.size == VARIABLE else b"") + data


def _decode_parts(data: bytes) -> Iterator[Part]:
    offset = 0
    while offset < len(data):
        code, offset = varint.decode(data, offset)
        protocol = BY_CODE.get(code)
        if protocol is None:
            raise DecodeError(f"unknown protocol code {code} in a multiaddr")
        if protocol.size == 0:
            yield protocol.name, None
            continue
        size = protocol.size
        if size == VARIABLE:
            size, offset = varint.decode(data, offset)
        value = data[offset : offset + size]
        if len(value) != size:
            raise DecodeError(f"/{protocol.name} of {size} bytes in a multiaddr with {len(value)} left")
        offset += size
        yield protocol.name, value_text(protocol, value)
