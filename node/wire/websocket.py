"""WebSocket as a pipe for bytes: HTTP's upgrade, then binary messages whose bounds mean nothing.

    GET / HTTP/1.1, Upgrade: websocket ─►  ◄─ 101 Switching Protocols  ◄═ binary messages, ping, pong, close ═►

Messages are handed on as they arrive, in pieces, so that no length that a peer announces is ever waited for or kept. Of
several pings that wait only the last is answered (RFC 6455 §5.5.3), so that who pings and does not read costs nothing.

Specs: https://github.com/libp2p/specs/blob/master/websockets/README.md, RFC 6455
"""

from __future__ import annotations

from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Pong,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError as WsLocalError
from wsproto.utilities import RemoteProtocolError as WsRemoteError

from node.errors import LocalProtocolError, RemoteProtocolError
from node.names.varint import Buffer

MAX_MESSAGE = 64 * 1024
"""Bytes in one message of ours; js takes no more than it is told to, and this is the least anybody takes."""
NORMAL_CLOSURE = 1000


class WebSocket:
    """The machine of one connection; the initiator is the HTTP client. Errors raised by `receive_data` are final."""

    def __init__(self, *, initiator: bool, host: str = "") -> None:
        self._connection = WSConnection(ConnectionType.CLIENT if initiator else ConnectionType.SERVER)
        self._initiator = initiator
        self._out: list[Buffer] = []
        self._unanswered: Ping | None = None
        if initiator:
            self._send(Request(host=host, target="/"))

    @property
    def is_ready(self) -> bool:
        """Whether the handshake is over."""
        return self._connection.state is not ConnectionState.CONNECTING

    @property
    def has_ended(self) -> bool:
        """Whether the peer has said that it sends no more."""
        return self._connection.state in (ConnectionState.REMOTE_CLOSING, ConnectionState.CLOSED)

    def receive_data(self, data: Buffer) -> list[Buffer]:
        """Take bytes of the peer and return those that its messages carry; raises RemoteProtocolError."""
        if not data or self.has_ended:
            return []
        pieces: list[Buffer] = []
        try:
            self._connection.receive_data(bytes(data))
            for event in self._connection.events():
                self._handle(event, pieces)
        except WsRemoteError as error:
            if error.event_hint is not None and not self._initiator:
                self._send(error.event_hint)
            raise RemoteProtocolError(f"WebSocket: {error}") from error
        except ValueError as error:  # wsproto takes the headers of a handshake for ASCII, and says so like this
            raise RemoteProtocolError(f"WebSocket handshake: {error}") from error
        return pieces

    def send_data(self, data: Buffer) -> None:
        """Send bytes, in messages of at most MAX_MESSAGE; nothing happens after the end."""
        if self._connection.state is ConnectionState.CONNECTING:
            raise LocalProtocolError("WebSocket data before the handshake is over")
        if self._connection.state is not ConnectionState.OPEN:
            return
        view = memoryview(data)
        for start in range(0, len(view), MAX_MESSAGE):
            self._send(BytesMessage(bytes(view[start : start + MAX_MESSAGE])))

    def end(self) -> None:
        """Say that we send no more, and ask the peer to end too."""
        if self._connection.state is ConnectionState.OPEN:
            self._send(CloseConnection(NORMAL_CLOSURE))

    def data_to_send(self) -> list[Buffer]:
        """Buffers for the peer, since the last call."""
        if self._unanswered is not None and self._connection.state is ConnectionState.OPEN:
            self._send(self._unanswered.response())
        self._unanswered = None
        out, self._out = self._out, []
        return out

    def _handle(self, event: Event, pieces: list[Buffer]) -> None:
        match event:
            case BytesMessage():
                pieces.append(event.data)
            case Ping():
                self._unanswered = event
            case Request():
                self._send(AcceptConnection())
            case CloseConnection():
                if self._connection.state is ConnectionState.REMOTE_CLOSING:
                    self._send(event.response())
            case RejectConnection():
                raise RemoteProtocolError(f"WebSocket refused: HTTP {event.status_code}")
            case TextMessage():
                raise RemoteProtocolError("WebSocket text where libp2p has binary messages")
            case AcceptConnection() | Pong() | RejectData():
                pass

    def _send(self, event: Event) -> None:
        try:
            self._out.append(self._connection.send(event))
        except WsLocalError as error:
            raise LocalProtocolError(f"WebSocket: {error}") from error
