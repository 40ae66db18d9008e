"""Securing a stream: a handshake by pull, then a channel that turns plaintext into ciphertext and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from node.errors import ConfigError, RemoteProtocolError
from node.names.keys import PrivateKey, PublicKey
from node.names.peerid import PeerId
from node.names.varint import Buffer
from node.net.drive import next_events
from node.net.stream import READ_SIZE, ByteStream
from node.wire import noise
from node.wire.noise import DataReceived, HandshakeCompleted, Noise


class Channel(Protocol):
    """A security machine after its handshake."""

    def receive_data(self, data: Buffer) -> list[noise.Event]:
        """Decrypt; raises SecurityError or RemoteProtocolError."""

    def send_data(self, buffers: Sequence[Buffer]) -> None:
        """Encrypt the concatenation of `buffers`."""

    def data_to_send(self) -> list[Buffer]:
        """Hand out ciphertext."""


@dataclass(frozen=True, slots=True)
class Secured:
    """What a handshake yields."""

    protocol: str
    peer: PeerId
    key: PublicKey
    muxer: str | None
    """The muxer agreed on in the handshake, if any."""
    channel: Channel
    ahead: bytes
    """Plaintext that came along with the last message of the handshake."""


async def secure(
    protocol: str,
    stream: ByteStream,
    *,
    key: PrivateKey,
    initiator: bool,
    expected: PeerId | None,
    muxers: Sequence[str],
) -> Secured:
    """Run the handshake of `protocol`; raises SecurityError, PeerIdMismatch, RemoteProtocolError, ConnectionClosed."""
    if protocol != noise.PROTOCOL:
        raise ConfigError(f"no such security protocol: {protocol}")
    machine = Noise(
        key,
        initiator=initiator,
        static=X25519PrivateKey.generate(),
        ephemeral=X25519PrivateKey.generate(),
        expected=expected,
        muxers=muxers,
    )
    completed, *rest = await next_events(machine, stream)
    if not isinstance(completed, HandshakeCompleted):
        raise RemoteProtocolError("data before the end of the handshake")
    ahead = b"".join(event.data for event in rest if isinstance(event, DataReceived))
    return Secured(protocol, completed.peer, completed.key, completed.muxer, machine, ahead)


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
