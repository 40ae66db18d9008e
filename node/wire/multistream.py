r"""multistream-select 1.0.0: two peers agree on the protocol of a connection or a stream.

Every message is a text ending in a newline, behind its length (the newline counts):

    initiator                                   responder
    \x13/multistream/1.0.0\n
    \x07/noise\n                   ───────►
                                   ◄───────     \x13/multistream/1.0.0\n
                                                \x03na\n                    not that one; the initiator proposes another
    \x0b/tls/1.0.0\n               ───────►
                                   ◄───────     \x0b/tls/1.0.0\n            agreed: the next byte is that protocol's

Bytes behind the last newline belong to the protocol that was agreed on; `trailing()` hands them over. An initiator with
a single proposal may be *lazy*: it sends its first data without waiting for the echo, and must still read the echo
before it believes anything the peer sends. `ls` asks for the responder's protocols; most implementations answer `na`.

Spec: https://github.com/libp2p/specs/blob/master/connections/README.md#multistream-select
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from node.errors import DecodeError, LocalProtocolError, RemoteProtocolError
from node.names import varint
from node.names.varint import Buffer
from node.wire.framing import LengthDelimited, encode_frame

PROTOCOL = "/multistream/1.0.0"
MAX_MESSAGE = 1024  # bytes, as go and js
MAX_LISTING = 16383  # bytes, what rust's two-byte lengths can announce
MAX_LISTED = 1000
MAX_PROPOSALS = 64
_NA = "na"
_LS = "ls"


@dataclass(frozen=True, slots=True)
class Selected:
    """Both sides agreed; what follows belongs to this protocol."""

    protocol: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The responder speaks none of the protocols that were proposed."""

    protocols: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Listed:
    """The responder's answer to `ls`."""

    protocols: tuple[str, ...]


Event: TypeAlias = Selected | Refused | Listed


class _Negotiation(ABC):
    """What both sides share: the header, messages in and out, and the end."""

    _greets_first: ClassVar[bool] = True

    def __init__(self, max_message: int = MAX_MESSAGE) -> None:
        self._frames = LengthDelimited(max_message)
        self._outbox: list[bytes] = []
        self._greeted = False
        self.done = False
        "Whether the negotiation is over; its last event has been returned."

    def receive_data(self, data: Buffer) -> list[Event]:
        """Events of the peer's bytes; raises RemoteProtocolError if they are no negotiation."""
        if self.done:
            raise LocalProtocolError("the negotiation is over: these bytes are the next protocol's")
        self._frames.feed(data)
        while not self.done and (frame := self._frames.next_frame()) is not None:
            event = self._receive_frame(frame)
            if event is not None:
                self.done = True
                return [event]
        return []

    def data_to_send(self) -> list[bytes]:
        """What is to be sent now, each buffer once."""
        buffers, self._outbox = self._outbox, []
        return buffers

    def receive_eof(self) -> None:
        """The peer closed; raises RemoteProtocolError unless the negotiation is over."""
        if not self.done:
            raise RemoteProtocolError("stream ends before a protocol was agreed on")

    def trailing(self) -> bytes:
        """Hand over, once, the bytes received behind the negotiation."""
        if not self.done:
            raise LocalProtocolError("the negotiation is not over")
        return self._frames.trailing()

    def _send(self, text: str) -> None:
        self._outbox.append(_encode(text))

    def _receive_frame(self, frame: bytes) -> Event | None:
        if not frame.endswith(b"\n"):
            raise RemoteProtocolError("multistream message does not end in a newline")
        if self._greeted:
            return self._receive_message(frame)
        if frame != _HEADER_LINE:
            raise RemoteProtocolError(f"peer greets with {frame[:64]!r}, not {PROTOCOL}")
        self._greeted = True
        if not self._greets_first:
            # Not earlier: together with the answer to a proposal that came along it is one write.
            self._send(PROTOCOL)
        return None

    @abstractmethod
    def _receive_message(self, frame: bytes) -> Event | None:
        """A message after the greeting; an event ends the negotiation."""


class Initiator(_Negotiation):
    """Proposes protocols in order until one is echoed: events Selected or Refused."""

    def __init__(self, protocols: Sequence[str], *, lazy: bool = False) -> None:
        super().__init__()
        if not 0 < len(protocols) <= MAX_PROPOSALS:
            raise LocalProtocolError(f"{len(protocols)} proposals, 1 to {MAX_PROPOSALS} allowed")
        if lazy and len(protocols) > 1:
            # Data for one protocol must not reach a responder that agreed to another.
            raise LocalProtocolError("lazy negotiation allows a single proposal")
        self._protocols = tuple(protocols)
        self._lazy = lazy
        self._index = 0
        self._send(PROTOCOL)
        self._send(self._protocols[0])

    @property
    def may_write(self) -> bool:
        """Whether the protocol's own data may follow what `data_to_send` has returned."""
        return self._lazy or self.done

    def _receive_message(self, frame: bytes) -> Event | None:
        proposed = self._protocols[self._index]
        answer = _text(frame)
        if answer == proposed:
            return Selected(proposed)
        if answer != _NA:
            raise RemoteProtocolError(f"peer answers {answer[:64]!r} to the proposal of {proposed}")
        self._index += 1
        if self._index == len(self._protocols):
            return Refused(self._protocols)
        self._send(self._protocols[self._index])
        return None


class Lister(_Negotiation):
    """Asks which protocols the peer speaks: events Listed, or Refused by a peer that does not tell."""

    def __init__(self) -> None:
        super().__init__(MAX_LISTING)
        self._send(PROTOCOL)
        self._send(_LS)

    def _receive_message(self, frame: bytes) -> Event | None:
        if frame == b"na\n":
            return Refused((_LS,))
        return Listed(_decode_listing(frame))


class Responder(_Negotiation):
    """Echoes the first proposal that is supported: event Selected.

    `listing` is what `ls` is answered with, cut to what one message may hold; None answers `na`.
    """

    _greets_first = False

    def __init__(self, supported: Callable[[str], bool], listing: Callable[[], Iterable[str]] | None = None) -> None:
        super().__init__()
        self._supported = supported
        self._listing = listing
        self._rounds = 0

    def _receive_message(self, frame: bytes) -> Event | None:
        self._rounds += 1
        if self._rounds > MAX_PROPOSALS:
            raise RemoteProtocolError(f"more than {MAX_PROPOSALS} proposals")
        proposal = _text(frame)
        if proposal == _LS and self._listing is not None:
            self._outbox.append(_encode_listing(self._listing()))
        elif proposal not in (_LS, _NA) and self._supported(proposal):
            self._send(proposal)
            return Selected(proposal)
        else:
            self._send(_NA)
        return None


def _encode(text: str) -> bytes:
    line = text.encode() + b"\n"
    if "\n" in text or not text or len(line) > MAX_MESSAGE:
        raise LocalProtocolError(f"{text[:64]!r} cannot be a multistream message")
    return encode_frame(line)


def _text(frame: bytes) -> str:
    try:
        text = frame[:-1].decode()
    except UnicodeDecodeError as error:
        raise RemoteProtocolError(f"multistream message is not UTF-8: {frame[:64]!r}") from error
    if not text or "\n" in text:
        raise RemoteProtocolError(f"{frame[:64]!r} is not one line of text")
    return text


def _encode_listing(protocols: Iterable[str]) -> bytes:
    """A message of messages and a newline at the end, as rust-libp2p writes it."""
    listing = bytearray()
    for protocol in protocols:
        entry = _encode(protocol)
        if len(listing) + len(entry) + 1 > MAX_MESSAGE:
            break
        listing += entry
    return encode_frame(listing + b"\n")


def _decode_listing(frame: bytes) -> tuple[str, ...]:
    """Entries with or without the newline at the end, which old implementations leave out."""
    protocols: list[str] = []
    offset = 0
    while frame[offset:] not in (b"", b"\n"):
        size, start = varint.decode(frame, offset)
        offset = start + size
        entry = frame[start:offset]
        if len(entry) != size or not entry.endswith(b"\n"):
            raise DecodeError("listing holds an entry that is not a line")
        protocols.append(_text(entry))
        if len(protocols) > MAX_LISTED:
            raise DecodeError(f"listing of more than {MAX_LISTED} protocols")
    return tuple(protocols)


_HEADER_LINE = PROTOCOL.encode() + b"\n"
