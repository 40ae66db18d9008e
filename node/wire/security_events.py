"""What a security machine tells its user, whichever protocol it speaks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from node.names.keys import PublicKey
from node.names.peerid import PeerId


@dataclass(frozen=True, slots=True)
class HandshakeCompleted:
    """The peer has proved who it is."""

    peer: PeerId
    key: PublicKey
    muxer: str | None
    """The stream muxer agreed on in the handshake; None: negotiate it by multistream."""


@dataclass(frozen=True, slots=True)
class DataReceived:
    """Plaintext that belongs to the receiver from now on."""

    data: bytes


Event: TypeAlias = HandshakeCompleted | DataReceived
