"""What a node knows of itself, put together: whether it can be dialled, and what helps others to know it of themselves.

Built by the host when its configuration asks for any of it, and not imported otherwise.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from node.errors import ConfigError, NodeError
from node.events import NatLearnt
from node.logic.autonat import V1_POLICY, Reachability, ServerPolicy
from node.logic.gating import Gater
from node.logic.nat import Filtering, NatKind, merge
from node.net.tasks import Tasks
from node.protocols.autonat_client import AutonatClient
from node.protocols.reachability import ReachabilityService

if TYPE_CHECKING:
    from node.host import Host, HostConfig, Service
    from node.names.multiaddr import Multiaddr
    from node.protocols.autonat_server import AutonatServer
    from node.protocols.autorelay import AutoRelay
    from node.protocols.stun import StunService
    from node.wire.stun import Endpoint

logger = logging.getLogger(__name__)

UNKNOWN_FOR = 15.0
"""Seconds that a node without a verdict does without relays."""
MEASURE_EVERY = 1800.0
"""Seconds: a network that is left for another is seldom noticed sooner by other means."""
MEASURE_RETRY = 60.0


class Oneself:
    """The services, as one."""

    def __init__(self, host: Host, config: HostConfig) -> None:
        self._config = config
        self._exit = AsyncExitStack()
        self._since = host.now()
        self._host = host
        self.client = AutonatClient(host) if config.reachability != "off" else None
        self.service: ReachabilityService | None = None
        if self.client is not None and config.reachability == "auto":
            private, filters = config.autonat_private, self.filters_by_address
            self.service = ReachabilityService(host, self.client, private=private, filters_by_address=filters)
        self.server = self._server() if config.autonat_server else None
        self.stun = self._stun() if config.stun_listen else None
        self.measured = NatKind()
        """What STUN has found out at the last time."""
        self.autorelay = self._autorelay() if config.reachability != "off" or config.relays else None
        self._tasks = Tasks()

    def _autorelay(self) -> AutoRelay | None:
        from node.protocols.autorelay import AutoRelay

        client = self._host.relay_client
        if client is None or self._config.reachability == "public":
            return None
        return AutoRelay(self._host, client, self._config.relays, self._wants_relays, self._host.liveness.ask)

    def _wants_relays(self) -> bool:
        """Slots are wanted where strangers cannot dial us; where nobody knows yet, AutoNAT gets a while to tell."""
        if self.reachability is not Reachability.UNKNOWN:
            return self.reachability is Reachability.PRIVATE
        return self.service is None or self._host.now() - self._since >= UNKNOWN_FOR

    def _stun(self) -> StunService:
        from node.protocols.stun import StunService

        primary, *alternate = self._config.stun_listen
        return StunService(primary, alternate[0] if alternate else None, self._host.now)

    def _server(self) -> AutonatServer:
        from node.protocols.autonat_server import AutonatServer
        from node.protocols.dialback import Dialback

        private = self._config.autonat_private
        dialback = Dialback(Gater(self._config.deny, self._config.allow), self._config.upgrade, self._config.web)
        dial = self._config.autonat_dial_timeout
        policies = (ServerPolicy(private=private, dial=dial), replace(V1_POLICY, private=private, dial=dial))
        return AutonatServer(self._host, dialback, *policies)

    async def start(self) -> None:
        """Start all, in order."""
        services: tuple[Service | None, ...] = (self.client, self.service, self.server, self.stun, self.autorelay)
        for service in services:
            if service is not None:
                self._exit.push_async_callback(service.close)
                await service.start()
        self._exit.push_async_callback(self._tasks.close)
        if self._config.stun:
            self._tasks.spawn(self._keep_measuring(), "NAT's kind")

    async def close(self) -> None:
        """Close all, in reverse."""
        await self._exit.aclose()

    # ── the NAT in front of us ───────────────────────────────────────────────────────────────────────────────────

    async def measure(self, server: Endpoint | None = None, *, timeout: float = 20.0) -> NatKind:
        """Ask a STUN server, those of the configuration in turn if None; raises what the last of them raises."""
        from node.protocols import stun

        failure: NodeError = ConfigError("no STUN server is known: --stun /ip4/…/udp/…")
        for each in self._config.stun if server is None else (server,):
            try:
                kind = await stun.measure(each, self._host.now, timeout=timeout)
            except NodeError as error:
                failure = error
            else:
                self._learn(kind)
                return kind
        raise failure

    def kind(self, carrier: str = "udp") -> NatKind:
        """What is known of the NAT, for `udp` or `tcp`; STUN measures UDP, so of TCP there is what peers have seen."""
        seen = self._host.observed_mapping(carrier)
        return merge(self.measured if carrier == "udp" else NatKind(), seen)

    def filters_by_address(self) -> bool:
        """Whether the NAT lets in every port of who was written to; of UDP it is known, of TCP assumed to be alike."""
        return self.measured.filtering is Filtering.ADDRESS_DEPENDENT

    def _learn(self, kind: NatKind) -> None:
        if kind != self.measured:
            self.measured = kind
            self._host.emit(NatLearnt(kind))

    async def _keep_measuring(self) -> None:
        while True:
            wait = MEASURE_EVERY
            try:
                await self.measure()
            except NodeError as error:
                logger.info("the NAT's kind: %s", error)
                wait = MEASURE_RETRY
            await asyncio.sleep(wait)

    # ── reachability ─────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def reachability(self) -> Reachability:
        """What is known, or was told."""
        if self.service is not None:
            return self.service.reachability
        told = self._config.reachability
        return Reachability.UNKNOWN if told == "off" else Reachability(told)

    def verdicts(self) -> dict[Multiaddr, Reachability]:
        """Address by address."""
        return {} if self.service is None else self.service.verdicts()

    def candidates(self) -> list[Multiaddr]:
        """The addresses that AutoNAT is asked about."""
        return self._host.observed_addrs() + [addr for addr in self._host.addrs() if not addr.is_relayed]
