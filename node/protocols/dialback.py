"""Dialling a client back as a stranger would: what both versions of AutoNAT do for those who ask.

Facts: a dial back says something about the client's NAT only if the NAT has no reason to expect it. So it comes from a
swarm of its own, which listens nowhere: its port is a fresh one (from the listen port the dial could be the other half
of the client's own, an accidental hole), and its identity is another, else the client's node would count the connection
as one more to a peer that it knows. And where this host has a further public address, the dial leaves from one that the
client has not talked to, for a NAT that filters by address lets in every port of one that it has.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from node.errors import DeadlineExceeded, Gated
from node.events import Path
from node.logic.addresses import is_public_ip
from node.logic.gating import Gater
from node.logic.transports import QUIC, TCP, kind_of
from node.names.keys import PrivateKey
from node.names.multiaddr import Multiaddr
from node.net.handlers import Handlers
from node.net.interfaces import interface_ips
from node.net.swarm import Swarm
from node.net.tcp import TcpTransport

if TYPE_CHECKING:
    from node.logic.addresses import IPAddress
    from node.names.peerid import PeerId
    from node.net.connection import Connection
    from node.net.upgrade import UpgradeConfig
    from node.net.web_tls import WebConfig

logger = logging.getLogger(__name__)


class Dialback:
    """Makes connections that nothing of the host's leads to."""

    def __init__(self, gater: Gater, upgrade_config: UpgradeConfig | None = None, web: WebConfig | None = None) -> None:
        self._gater = gater
        self._swarm = Swarm(PrivateKey.generate(), Handlers(), gater=gater, upgrade_config=upgrade_config, web=web)
        self._tcp = TcpTransport()

    def can_dial(self, addr: Multiaddr) -> bool:
        """Return whether there is a transport, an address filter that allows it, and an IP version for `addr`."""
        ip = addr.ip
        return ip is not None and kind_of(addr) is not None and self._gater.allows(addr) and _has_version(ip)

    async def dial(self, peer: PeerId, addr: Multiaddr, *, known: IPAddress | None, timeout: float) -> Connection:
        """Connect to `peer` by exactly this address, not from `known`, our end of its connection, if we have another.

        The caller closes the connection. Raises what a dial raises, DeadlineExceeded after `timeout` seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                other = _another(known)
                if other is None or kind_of(addr) not in (TCP, QUIC):
                    return await self._swarm.dial_anew(peer, addr)
                return await self._dial_from(other, peer, addr)
        except TimeoutError:
            raise DeadlineExceeded(f"{addr}: no connection in {timeout:g} s") from None

    async def _dial_from(self, source: IPAddress, peer: PeerId, addr: Multiaddr) -> Connection:
        if not self._gater.allows(addr):
            raise Gated(f"{addr.ip} is denied by the address filter")
        if kind_of(addr) is TCP:
            raw = await self._tcp.dial(addr, source=Multiaddr.tcp(source, 0), strict_source=True)
            return await self._swarm.add_outbound(raw, expected=peer, path=Path.DIRECT)
        # QUIC dials from a socket that listens, so one does for as long as the dial takes, and takes nobody in.
        here = Multiaddr(f"/ip{source.version}/{source}/udp/0/quic-v1")
        transport = self._swarm.transport(addr)
        listener = await transport.listen(here, lambda carried: carried.abort())
        try:
            handshake = await transport.dial(addr, source=listener.addr, strict_source=True)
            return await self._swarm.add_outbound(handshake, expected=peer, path=Path.DIRECT)
        finally:
            await listener.close()

    async def close(self) -> None:
        """End what is under way."""
        await self._swarm.close()


def _another(known: IPAddress | None) -> IPAddress | None:
    """A public address of ours beside `known`, of the same version."""
    if known is None or not is_public_ip(known):
        return None
    others = (ip for ip in interface_ips() if ip.version == known.version and ip != known and is_public_ip(ip))
    return next(others, None)


def _has_version(ip: IPAddress) -> bool:
    return any(own.version == ip.version and own.is_loopback == ip.is_loopback for own in interface_ips())
