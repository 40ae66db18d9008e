"""What a peer's answers say, as values. An answer that lacks a field is the peer's fault and says which."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from lab.errors import PeerError

T = TypeVar("T", str, float, int)


@dataclass(frozen=True, slots=True)
class Info:
    """Who a peer is."""

    peer: str
    addrs: tuple[str, ...]
    implementation: str
    version: str

    @classmethod
    def of(cls, who: str, ok: Mapping[str, Any]) -> Info:
        return cls(
            peer=_field(who, ok, "peer", str),
            addrs=_texts(who, ok, "addrs"),
            implementation=_field(who, ok, "implementation", str),
            version=_field(who, ok, "version", str),
        )


@dataclass(frozen=True, slots=True)
class Profile:
    """What a peer tells whoever identifies it, for now: the protocols that it serves come and go."""

    agent: str
    protocols: tuple[str, ...]

    @classmethod
    def of(cls, who: str, ok: Mapping[str, Any]) -> Profile:
        return cls(_field(who, ok, "agent", str), _texts(who, ok, "protocols"))


@dataclass(frozen=True, slots=True)
class Dialled:
    """A connection that a dial made or found; `rtt` in seconds."""

    peer: str
    path: str
    rtt: float
    remote: str
    transport: str
    security: str
    muxer: str

    @classmethod
    def of(cls, who: str, ok: Mapping[str, Any]) -> Dialled:
        texts = {
            name: _field(who, ok, name, str) for name in ("peer", "path", "remote", "transport", "security", "muxer")
        }
        return cls(rtt=_field(who, ok, "rtt", float), **texts)


@dataclass(frozen=True, slots=True)
class Reserved:
    """A slot at a relay, until Unix seconds `expire`."""

    relay: str
    expire: float
    addrs: tuple[str, ...]

    @classmethod
    def of(cls, who: str, ok: Mapping[str, Any]) -> Reserved:
        return cls(_field(who, ok, "relay", str), _field(who, ok, "expire", float), _texts(who, ok, "addrs"))


@dataclass(frozen=True, slots=True)
class Echoed:
    """A payload that came back whole, over `path`, in `seconds`."""

    path: str
    bytes: int
    seconds: float
    remote: str

    @classmethod
    def of(cls, who: str, ok: Mapping[str, Any]) -> Echoed:
        return cls(
            path=_field(who, ok, "path", str),
            bytes=_field(who, ok, "bytes", int),
            seconds=_field(who, ok, "seconds", float),
            remote=_field(who, ok, "remote", str),
        )


@dataclass(frozen=True, slots=True)
class Pinged:
    """A round trip of 32 bytes, in seconds."""

    rtt: float
    path: str

    @classmethod
    def of(cls, who: str, ok: Mapping[str, Any]) -> Pinged:
        return cls(_field(who, ok, "rtt", float), _field(who, ok, "path", str))


@dataclass(frozen=True, slots=True)
class Finding:
    """What an AutoNAT server found of one address; `paid` in bytes of dial data, 0 too where the peer does not say."""

    addr: str
    reachable: bool
    paid: int

    @classmethod
    def of(cls, who: str, ok: Mapping[str, Any]) -> Finding:
        reachable = ok.get("reachable")
        if not isinstance(reachable, bool):
            raise PeerError(f"{who} answered without a usable 'reachable': {reachable!r}")
        return cls(_field(who, ok, "addr", str), reachable, _field(who, {"paid": 0, **ok}, "paid", int))


@dataclass(frozen=True, slots=True)
class Nat:
    """What a peer has found out about the NAT in front of it, in the contract's words."""

    kind: str | None
    mapping: str
    filtering: str
    ports: str
    tcp: str

    @classmethod
    def of(cls, who: str, ok: Mapping[str, Any]) -> Nat:
        kind = ok.get("kind")
        texts = {name: _field(who, ok, name, str) for name in ("mapping", "filtering", "ports", "tcp")}
        return cls(kind=None if kind is None else str(kind), **texts)


def _field(who: str, ok: Mapping[str, Any], name: str, kind: type[T]) -> T:
    value = ok.get(name)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise PeerError(f"{who} answered without a usable {name!r}: {value!r}")
    return value


def _texts(who: str, ok: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = ok.get(name)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise PeerError(f"{who} answered without a usable list {name!r}: {value!r}")
    return tuple(value)
