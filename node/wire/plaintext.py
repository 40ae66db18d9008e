"""plaintext: each side says who it is, and from then on the bytes go as they are. For tests and for looking at a wire.

    both at once    uvarint length ‖ Exchange { id:1 peer id, pubkey:2 PublicKey }

Nothing is proved: anybody can claim any identity. What is checked is that the id is that of the key.

Spec: https://github.com/libp2p/specs/blob/master/plaintext/README.md
"""

from __future__ import annotations

from collections.abc import Sequence

from node.errors import LocalProtocolError, PeerIdMismatch, SecurityError
from node.names import fields
from node.names.keys import PrivateKey, PublicKey
from node.names.peerid import PeerId
from node.names.varint import Buffer
from node.wire.framing import LengthDelimited, encode_frame
from node.wire.security_events import DataReceived, Event, HandshakeCompleted

PROTOCOL = "/plaintext/2.0.0"
MAX_EXCHANGE = 4096
"""Bytes: the largest RSA key takes a quarter of it."""
_ID, _PUBKEY = 1, 2


class Plaintext:
    """The machine of one connection; neither side is the initiator. Any error raised by `receive_data` is final."""

    def __init__(self, identity: PrivateKey, *, expected: PeerId | None = None) -> None:
        self._expected = expected
        self._exchange: LengthDelimited | None = LengthDelimited(MAX_EXCHANGE)  # None: it is over
        exchange = fields.encode((_ID, identity.peer_id().to_bytes()), (_PUBKEY, identity.public.to_bytes()))
        self._out: list[Buffer] = [encode_frame(exchange)]

    def receive_data(self, data: Buffer) -> list[Event]:
        """Take bytes of the peer, in pieces of any size; raises RemoteProtocolError, SecurityError, PeerIdMismatch."""
        if self._exchange is None:
            return [DataReceived(bytes(data))] if data else []
        self._exchange.feed(data)
        frame = self._exchange.next_frame()
        if frame is None:
            return []
        events: list[Event] = [self._verify(frame)]
        if trailing := self._exchange.trailing():
            events.append(DataReceived(trailing))
        self._exchange = None
        return events

    def send_data(self, buffers: Sequence[Buffer]) -> None:
        """Send the concatenation of `buffers`."""
        if self._exchange is not None:
            raise LocalProtocolError("plaintext data before the peer has said who it is")
        self._out += buffers

    def data_to_send(self) -> list[Buffer]:
        """Buffers for the peer, since the last call."""
        out, self._out = self._out, []
        return out

    def _verify(self, exchange: bytes) -> HandshakeCompleted:
        claimed, key_bytes = b"", b""
        for field in fields.decode(exchange):
            if field.number == _ID:
                claimed = field.as_bytes()
            elif field.number == _PUBKEY:
                key_bytes = field.as_bytes()
        key = PublicKey.from_bytes(key_bytes)
        peer = key.peer_id()
        if PeerId(claimed) != peer:
            raise SecurityError(f"the peer claims an id that is not its key's, which is {peer}")
        if self._expected is not None and peer != self._expected:
            raise PeerIdMismatch(f"expected {self._expected}, met {peer}")
        return HandshakeCompleted(peer, key, None)
