"""What a muxer tells its user, be it yamux or mplex."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """The peer opened a stream."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class StreamAcknowledged:
    """The peer accepted a stream of ours."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class DataReceived:
    """Some bytes of a stream; `data` is a view of what `receive_data` was given."""

    stream_id: int
    data: memoryview


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """The peer sends no more on this stream."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class StreamWasReset:
    """The peer ended both directions; `code` is 0 where it gave none."""

    stream_id: int
    code: int


@dataclass(frozen=True, slots=True)
class StreamOverran:
    """We have reset this stream, for the peer sent more than its reader reads and nothing holds it back."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class PongReceived:
    """The answer to `ping`; `rtt` in seconds."""

    nonce: int
    rtt: float


@dataclass(frozen=True, slots=True)
class GoAwayReceived:
    """The peer takes no more streams and is about to close the connection."""

    code: int


@dataclass(frozen=True, slots=True)
class KeepAliveFailed:
    """Nothing has been heard of the peer for too long."""


Event: TypeAlias = (
    StreamOpened
    | StreamAcknowledged
    | DataReceived
    | StreamEnded
    | StreamWasReset
    | StreamOverran
    | PongReceived
    | GoAwayReceived
    | KeepAliveFailed
)
