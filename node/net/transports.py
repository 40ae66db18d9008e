"""The transports of one node, each made, and its libraries loaded, when an address first asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from node.errors import ConfigError
from node.logic.transports import QUIC, TCP, WS, WSS, examples, kind_of

if TYPE_CHECKING:
    from node.logic.transports import Kind
    from node.names.keys import PrivateKey
    from node.names.multiaddr import Multiaddr
    from node.net.transport import Transport
    from node.net.web_tls import WebConfig
    from node.wire.yamux_windows import Growth

_PRIVATE = (TCP, WS, WSS)
"""What a private network's key can go under: whatever carries bytes that are secured above it."""


class Transports:
    """By the kind of address."""

    def __init__(self, key: PrivateKey, growth: Growth, web: WebConfig | None = None, *, private: bool = False) -> None:
        """`growth` is what the receive windows of all connections, of whatever transport, may grow by together."""
        self._key = key
        self._growth = growth
        self._private = private
        self._web = web
        self._made: dict[Kind, Transport] = {}  # as many as there are kinds

    def of(self, addr: Multiaddr) -> Transport:
        """Return what listens on and dials addresses like `addr`; ConfigError where there is none."""
        kind = kind_of(addr)
        if kind is None:
            raise ConfigError(f"{addr} is for no transport of this node, which are {examples()}")
        if self._private and kind not in _PRIVATE:
            raise ConfigError(f"{addr}: {kind.name} has no place in a private network (--swarm-key)")
        if kind not in self._made:
            self._made[kind] = self._make(kind)
        return self._made[kind]

    def _make(self, kind: Kind) -> Transport:
        if kind is TCP:
            from node.net.tcp import TcpTransport

            return TcpTransport()
        if kind is QUIC:
            from node.net.quic.transport import QuicTransport

            return QuicTransport(self._key, self._growth)
        if kind in (WS, WSS):
            from node.net.websocket import WebSocketTransport

            return WebSocketTransport(self._web)
        raise ConfigError(f"no transport {kind.name}")
