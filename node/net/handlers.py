"""The protocols that the node serves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from node.logic.gating import Authorise
    from node.names.peerid import PeerId
    from node.net.connection import Stream

Handler = Callable[["Stream"], Awaitable[None]]

PROTOCOLS = 128
"""Bound of protocols served: more would not fit into an identify message anyway."""


@dataclass(frozen=True, slots=True)
class _Served:
    handler: Handler
    limited: bool


class Handlers:
    """Which handler serves which protocol; one instance for all connections of a node."""

    def __init__(self, authorise: Authorise = lambda peer, protocol: True) -> None:
        self._served: dict[str, _Served] = {}
        self._authorise = authorise

    def add(self, protocol: str, handler: Handler, *, limited: bool) -> None:
        """Serve `protocol`; ValueError when it is served already."""
        if protocol in self._served:
            raise ValueError(f"{protocol} has a handler already")
        if len(self._served) >= PROTOCOLS:
            raise ValueError(f"no more than {PROTOCOLS} protocols can be served")
        self._served[protocol] = _Served(handler, limited)

    def remove(self, protocol: str) -> None:
        """Serve `protocol` no more; streams that are being served go on."""
        self._served.pop(protocol, None)

    def supports(self, protocol: str, peer: PeerId, *, limited: bool) -> bool:
        """Return whether a stream of `protocol` is served to `peer`, on a limited connection if `limited`."""
        served = self._served.get(protocol)
        return served is not None and (served.limited or not limited) and self._authorise(peer, protocol)

    def listing(self) -> tuple[str, ...]:
        """Return the protocols served, in the order they were added."""
        return tuple(self._served)

    def listing_for(self, peer: PeerId, *, limited: bool) -> tuple[str, ...]:
        """Return the protocols served to `peer`, on a limited connection if `limited`."""
        return tuple(name for name in self._served if self.supports(name, peer, limited=limited))

    def handler(self, protocol: str) -> Handler | None:
        """Return who serves `protocol`."""
        served = self._served.get(protocol)
        return None if served is None else served.handler
