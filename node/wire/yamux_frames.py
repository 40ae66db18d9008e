"""yamux on the wire: a header of twelve bytes, big endian, and behind the header of Data its body.

     0        1        2            4                  8                 12
    ┌────────┬────────┬────────────┬──────────────────┬──────────────────┐
    │version │ type   │ flags      │ stream id        │ length           │
    └────────┴────────┴────────────┴──────────────────┴──────────────────┘
    type   0 Data: length bytes follow      1 WindowUpdate: length is credit (with RST: an error code)
           2 Ping: length is opaque         3 GoAway: length is a GoAwayCode
    flags  SYN 1  ACK 2  FIN 4  RST 8, on Data and WindowUpdate; SYN asks and ACK answers on Ping

Stream id 0 is the session, which Ping and GoAway are about.
"""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag

HEADER = struct.Struct(">BBHII")
VERSION = 0


class Kind(IntEnum):
    """Types of frame."""

    DATA = 0
    WINDOW_UPDATE = 1
    PING = 2
    GO_AWAY = 3


class Flag(IntFlag):
    """Flags of a frame."""

    SYN = 1
    ACK = 2
    FIN = 4
    RST = 8


class GoAwayCode(IntEnum):
    """Why a session ends."""

    NORMAL = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2


def pack(kind: int, flags: int, stream_id: int, length: int) -> bytes:
    """A header."""
    return HEADER.pack(VERSION, kind, flags, stream_id, length)
