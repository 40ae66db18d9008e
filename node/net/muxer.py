"""What a muxer is to `Muxed`: a machine with streams by number, such as yamux and mplex."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from node.names.varint import Buffer
    from node.wire.muxer_events import Event


class Muxer(Protocol):
    """The machine of one session. Any error raised by `receive_data` is final."""

    @property
    def has_ping(self) -> bool:
        """Whether the peer can be asked for a sign of life."""

    def receive_data(self, data: Buffer, now: float) -> list[Event]:
        """Take bytes of the peer, in pieces of any size; raises RemoteProtocolError."""

    def open_stream(self, now: float) -> int:
        """Open a stream and return its id; raises ConnectionClosed or LimitExceeded."""

    def may_open(self) -> bool:
        """Whether a stream can be opened without waiting."""

    def send_data(self, stream_id: int, data: memoryview) -> None:
        """Queue bytes (format B), which must not change until `drained` names the stream; raises StreamClosed."""

    def pending(self, stream_id: int) -> bool:
        """Whether bytes of `send_data` still wait."""

    def drained(self) -> list[int]:
        """The streams whose last queued byte was handed out since the last call."""

    def forgotten(self) -> list[int]:
        """The streams that ended in both directions since the last call, and are not open again."""

    def close_write(self, stream_id: int) -> None:
        """End our direction, after what is queued."""

    def close(self, stream_id: int, now: float) -> None:
        """End our direction and refuse the rest of the peer's."""

    def reset(self, stream_id: int, code: int = 0) -> None:
        """End both directions at once and forget what is queued."""

    def consume(self, stream_id: int, size: int, now: float) -> bool:
        """Tell that our user has taken `size` received bytes; true if this made something to send."""

    def ping(self, now: float) -> int:
        """Send a ping and return its nonce, which `PongReceived` will carry."""

    def go_away(self, code: int = 0) -> None:
        """Announce the end, once; the peer's new streams are refused from now on."""

    def data_to_send(self, max_bytes: int) -> list[Buffer]:
        """The next buffers for the peer, together at most `max_bytes`; empty when nothing can be sent."""

    def abandon(self) -> None:
        """The session is over: forget its streams."""

    def get_timer(self) -> float:
        """When `handle_timer` is to be called at the latest."""

    def handle_timer(self, now: float) -> list[Event]:
        """Do what is due."""
