"""Securing a stream: a handshake by pull, then a channel that turns plaintext into ciphertext and back."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from node.errors import NodeError, ProtocolError, RemoteProtocolError, SecurityError
from node.logic.protection import Security
from node.names.keys import PrivateKey, PublicKey
from node.names.peerid import PeerId
from node.names.varint import Buffer
from node.net.drive import flush, next_events
from node.net.stream import READ_SIZE, ByteStream
from node.wire.noise import Noise
from node.wire.security_events import DataReceived, Event, HandshakeCompleted

if TYPE_CHECKING:
    from node.wire.tls import Credentials

# Identities of this process whose TLS certificate is kept: one, and a few more in tests.
_IDENTITIES = 16
_VALID_BEFORE = timedelta(hours=1)  # clocks differ
_VALID = timedelta(days=365 * 100)  # as long as go's: the identity behind it does not expire either


class Channel(Protocol):
    """A security machine after its handshake."""

    def receive_data(self, data: Buffer) -> list[Event]:
        """Decrypt; raises SecurityError or RemoteProtocolError."""

    def send_data(self, buffers: Sequence[Buffer]) -> None:
        """Encrypt the concatenation of `buffers`."""

    def data_to_send(self) -> list[Buffer]:
        """Hand out ciphertext."""


@dataclass(frozen=True, slots=True)
class Secured:
    """What a handshake yields."""

    protocol: str
    """What secures the connection, in the words of `Security`."""
    peer: PeerId
    key: PublicKey
    muxer: str | None
    """The muxer agreed on in the handshake, if any."""
    channel: Channel
    ahead: bytes
    """Plaintext that came along with the last message of the handshake."""


async def secure(
    security: Security,
    stream: ByteStream,
    *,
    key: PrivateKey,
    initiator: bool,
    expected: PeerId | None,
    muxers: Sequence[str],
) -> Secured:
    """Run the handshake of `security`; raises SecurityError, PeerIdMismatch, RemoteProtocolError, ConnectionClosed.

    Those we refuse are told so where the protocol has words for it.
    """
    machine = _machine(security, key, initiator, expected, muxers)
    try:
        completed, *rest = await next_events(machine, stream)
    except (SecurityError, ProtocolError):
        with suppress(NodeError):
            await flush(machine, stream)
        raise
    if not isinstance(completed, HandshakeCompleted):
        raise RemoteProtocolError("data before the end of the handshake")
    ahead = b"".join(event.data for event in rest if isinstance(event, DataReceived))
    return Secured(str(security), completed.peer, completed.key, completed.muxer, machine, ahead)


def _machine(
    security: Security, key: PrivateKey, initiator: bool, expected: PeerId | None, muxers: Sequence[str]
) -> Channel:
    match security:
        case Security.NOISE:
            static, ephemeral = X25519PrivateKey.generate(), X25519PrivateKey.generate()
            return Noise(key, initiator=initiator, static=static, ephemeral=ephemeral, expected=expected, muxers=muxers)
        case Security.TLS | Security.TLS_SIGNED_ONLY:
            from node.wire.tls import Tls

            credentials = _credentials(key, security is Security.TLS_SIGNED_ONLY)
            now = datetime.now(UTC)
            return Tls(credentials, initiator=initiator, now=now, expected=expected, muxers=muxers)
        case Security.PLAINTEXT:
            from node.wire.plaintext import Plaintext

            return Plaintext(key, expected=expected)


@lru_cache(maxsize=_IDENTITIES)
def _credentials(key: PrivateKey, signed_only: bool) -> Credentials:
    """The certificate is made when it is first needed, and then is the same for all connections."""
    from cryptography.hazmat.primitives.asymmetric import ec

    from node.wire.tls import Credentials

    begin = datetime.now(UTC) - _VALID_BEFORE
    return Credentials(
        key,
        ec.generate_private_key(ec.SECP256R1()),
        serial=secrets.randbits(64) + 1,
        begin=begin,
        end=begin + _VALID,
        signed_only=signed_only,
    )


class SecureStream:
    """A secured stream by pull, for the negotiation that may follow the handshake."""

    def __init__(self, inner: ByteStream, channel: Channel, ahead: bytes = b"") -> None:
        self._inner = inner
        self._channel = channel
        self._ahead = ahead  # at most what one read of `inner` decrypts to

    async def read(self, max_bytes: int = READ_SIZE) -> bytes:
        """Return some plaintext, b"" at the end."""
        while not self._ahead:
            data = await self._inner.read()
            if not data:
                return b""
            events = self._channel.receive_data(data)
            self._ahead = b"".join(event.data for event in events if isinstance(event, DataReceived))
        data, self._ahead = self._ahead[:max_bytes], self._ahead[max_bytes:]
        return data

    def unread(self, data: bytes) -> None:
        """Return `data` from the next reads."""
        self._ahead = data + self._ahead

    def take_ahead(self) -> bytes:
        """Hand over the plaintext received and not read."""
        ahead, self._ahead = self._ahead, b""
        return ahead

    async def write(self, data: Buffer) -> None:
        """Send all of `data`."""
        self._channel.send_data([data])
        await self._inner.write(b"".join(self._channel.data_to_send()))

    async def close_write(self) -> None:
        """End our direction, unauthenticated as all security protocols of libp2p leave it."""
        await self._inner.close_write()

    async def close(self) -> None:
        """End both directions."""
        await self._inner.close()

    def reset(self) -> None:
        """End both directions at once."""
        self._inner.reset()
