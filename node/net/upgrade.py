"""From a raw connection to a secured, muxed one.

    [private network] ─► multistream ─► security (/noise, /tls/1.0.0) ─► muxer, agreed on in the handshake
                                                                        └► else multistream ─► yamux

The role is an argument because it does not follow from who called connect: over a circuit the circuit's dialler is the
initiator, and after a hole punch DCUtR's roles decide, whoever's SYN came first.

Specs: https://github.com/libp2p/specs/blob/master/connections/README.md, …/connections/inlined-muxer-negotiation.md
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from node.errors import ConfigError, DeadlineExceeded
from node.logic.protection import DEFAULT, Security
from node.names.keys import PrivateKey
from node.names.peerid import PeerId
from node.net.layered import LayeredConnection
from node.net.muxed import Muxed
from node.net.muxed_stream import MuxedStream
from node.net.muxer import Muxer
from node.net.negotiate import propose, respond
from node.net.secure import Secured, SecureStream, secure
from node.net.stream import ByteStream, RawConnection
from node.wire import mplex, yamux
from node.wire.mplex import Mplex, MplexConfig
from node.wire.yamux import Yamux, YamuxConfig
from node.wire.yamux_windows import Growth

__all__ = ["Muxed", "MuxedStream", "Role", "UpgradeConfig", "upgrade"]


class Role(Enum):
    """Which side of multistream, security and muxer we take."""

    INITIATOR = "initiator"
    RESPONDER = "responder"


@dataclass(frozen=True, slots=True)
class UpgradeConfig:
    """What is negotiated, in order of preference, and how long it may take."""

    security: tuple[Security, ...] = DEFAULT
    """Of one state of protection, encrypted where nothing is said."""
    psk: bytes | None = field(default=None, repr=False)
    """The key of a private network: under all of the rest, and QUIC has no place in it."""
    muxers: tuple[str, ...] = (yamux.PROTOCOL,)
    early_muxer: bool = True
    """Offer the muxers in the security handshake, which saves a round trip where the peer knows how."""
    timeout: float = 15.0
    """Seconds for the whole upgrade."""
    yamux: YamuxConfig = field(default_factory=YamuxConfig)
    mplex: MplexConfig = field(default_factory=MplexConfig)
    growth: Growth | None = None
    """What the receive windows of all connections may grow by together; None: each connection on its own."""


async def upgrade(
    raw: RawConnection,
    *,
    key: PrivateKey,
    role: Role,
    expected: PeerId | None = None,
    config: UpgradeConfig | None = None,
) -> Muxed:
    """Secure and mux `raw`; on any failure it is closed.

    Raises PeerIdMismatch, SecurityError, NegotiationError, RemoteProtocolError, ConnectionClosed or DeadlineExceeded.
    """
    config = config or UpgradeConfig()
    try:
        async with asyncio.timeout(config.timeout):
            return await _upgrade(raw, key, role is Role.INITIATOR, expected, config)
    except TimeoutError as error:
        raw.abort()
        raise DeadlineExceeded(f"{raw.remote}: not upgraded within {config.timeout} s") from error
    except BaseException:
        raw.abort()
        raise


async def _upgrade(
    raw: RawConnection, key: PrivateKey, initiator: bool, expected: PeerId | None, config: UpgradeConfig
) -> Muxed:
    if config.psk is not None:
        from node.wire.psk import NONCE, PrivateNetwork

        raw = LayeredConnection(raw, PrivateNetwork(config.psk, secrets.token_bytes(NONCE)))
    securities = {security.protocol: security for security in config.security}
    security = securities[await _agree(raw, tuple(securities), initiator)]
    offered = config.muxers if config.early_muxer else ()
    secured = await secure(security, raw, key=key, initiator=initiator, expected=expected, muxers=offered)
    muxer, ahead = secured.muxer, secured.ahead
    if muxer is None:
        muxer, ahead = await _agree_on_muxer(raw, secured, config.muxers, initiator)
    return Muxed(raw, secured, _machine(muxer, initiator, config), muxer=muxer, ahead=ahead)


def _machine(muxer: str, initiator: bool, config: UpgradeConfig) -> Muxer:
    now = asyncio.get_running_loop().time()
    match muxer:
        case yamux.PROTOCOL:
            return Yamux(initiator=initiator, now=now, config=config.yamux, pool=config.growth)
        case mplex.PROTOCOL:
            return Mplex(initiator=initiator, now=now, config=config.mplex)
    raise ConfigError(f"no such muxer: {muxer}")


async def _agree(stream: ByteStream, protocols: Sequence[str], initiator: bool) -> str:
    """Negotiate on a stream that takes back what was read too far."""
    if initiator:
        protocol, _ = await propose(stream, protocols)
    else:
        protocol, _ = await respond(stream, protocols.__contains__)
    return protocol


async def _agree_on_muxer(
    raw: RawConnection, secured: Secured, muxers: Sequence[str], initiator: bool
) -> tuple[str, bytes]:
    stream = SecureStream(raw, secured.channel, secured.ahead)
    muxer = await _agree(stream, muxers, initiator)
    return muxer, stream.take_ahead()
