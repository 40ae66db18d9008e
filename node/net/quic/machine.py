"""aioquic's connection, made fit for libp2p; the only door to that library.

    receive_datagram ─► aioquic ─► events ─► (certificate) ─► streams
    send_stream_data ─► aioquic ─► datagrams_to_send

Facts about aioquic 1.7.2, whose private parts are used here, which is why its version is pinned:

* A server asks for a client's certificate only if a private flag is set, and accepts an empty one in silence.
* It offers four key shares; two are enough for everybody and save the others' making.
* It raises MAX_DATA and MAX_STREAM_DATA when the peer has used half of them, whether or not anybody has read: memory
  would be the peer's. Here they follow the readers (`ReceiveWindow`).
* Its send buffers have no bound: back-pressure needs the sender's offsets, and its congestion window a maximum.
* It tells of the peer's goodbye only three timeouts after it came.
* Its pacer assumes a timer of microseconds. Ours has milliseconds, so a burst holds at least what leaves in two.
"""

from __future__ import annotations

import logging
import os
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aioquic import tls
from aioquic._buffer import Buffer
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    CONNECTION_LIMIT_FRAME_CAPACITY,
    MAX_STREAM_DATA_FRAME_CAPACITY,
    Limit,
    QuicConnection,
    QuicConnectionState,
)
from aioquic.quic.packet import (
    QuicFrameType,
    QuicPacketType,
    QuicProtocolVersion,
    encode_quic_retry,
    encode_quic_version_negotiation,
    pull_quic_header,
)
from aioquic.quic.retry import QuicRetryTokenHandler

from node.net.quic.windows import ReceiveWindow
from node.wire.tls_certificate import ALPN

if TYPE_CHECKING:
    from aioquic.quic.packet_builder import QuicPacketBuilder
    from aioquic.quic.recovery import QuicPacketSpace
    from aioquic.quic.stream import QuicStream
    from cryptography import x509

    from node.net.credentials import Credentials
    from node.wire.yamux_windows import Growth

logging.getLogger("quic").setLevel(logging.WARNING)  # it tells of every stream that is reset

__all__ = ["CID_LENGTH", "Machine", "RetryTokens", "events", "parse_initial", "version_negotiation"]

SockAddr = tuple[str, int] | tuple[str, int, int, int]

CID_LENGTH = 8
MIN_INITIAL = 1200
"""Bytes: a client's first datagram is no smaller, RFC 9000 §14.1."""
MIN_ORIGINAL_CID = 8
"""Bytes of the connection id that a client makes up, RFC 9000 §7.2."""
IDLE_TIMEOUT = 30.0
"""Seconds without a packet after which a connection is gone, as in go."""
STREAMS = 256
"""Streams that a peer may have open, as in go and rust."""
STREAM_WINDOW, MAX_STREAM_WINDOW = 512 * 1024, 10 * 1024 * 1024
CONNECTION_WINDOW, MAX_CONNECTION_WINDOW = 4 * 1024 * 1024, 15 * 1024 * 1024
"""Bytes, at first and at most, as in go, but that a few streams which nobody reads leave room for others."""
MAX_IN_FLIGHT = 16 * 1024 * 1024
"""Bytes kept for a peer that does not acknowledge them, however fast it did before."""
BURST = 0.002
"""Seconds: what may leave at once, as the loop's timer comes no more often."""
VERSION = int(QuicProtocolVersion.VERSION_1)
_CRYPTO_ERROR = 0x100
"""A TLS alert is this plus its number, RFC 9001 §4.8."""
_CIPHER_SUITES = [
    tls.CipherSuite.AES_128_GCM_SHA256,
    tls.CipherSuite.CHACHA20_POLY1305_SHA256,
    tls.CipherSuite.AES_256_GCM_SHA384,
]
BAD_CERTIFICATE = _CRYPTO_ERROR + int(tls.AlertDescription.bad_certificate)
CERTIFICATE_REQUIRED = _CRYPTO_ERROR + int(tls.AlertDescription.certificate_required)


@dataclass(frozen=True, slots=True)
class Initial:
    """The first packet of who wants to connect."""

    destination_cid: bytes
    source_cid: bytes
    token: bytes


def _configuration(credentials: Credentials, is_client: bool) -> QuicConfiguration:
    return QuicConfiguration(
        is_client=is_client,
        alpn_protocols=[ALPN],
        certificate=credentials.certificate,
        private_key=credentials.key,
        cipher_suites=_CIPHER_SUITES,
        connection_id_length=CID_LENGTH,
        idle_timeout=IDLE_TIMEOUT,
        max_data=CONNECTION_WINDOW,
        max_stream_data=STREAM_WINDOW,
        supported_versions=[VERSION],
        verify_mode=ssl.CERT_NONE,  # there is no authority: the certificate is checked by `peer_chain`'s caller
    )


class Machine(QuicConnection):
    """One connection without a socket or a clock."""

    def __init__(
        self,
        credentials: Credentials,
        *,
        pool: Growth,
        now: float,
        original_cid: bytes | None = None,
        retry_cid: bytes | None = None,
    ) -> None:
        """`original_cid`: the destination id of the client's first packet, None for a client; `retry_cid`: the id that
        we gave it in a Retry."""
        super().__init__(
            configuration=_configuration(credentials, original_cid is None),
            original_destination_connection_id=original_cid,
            retry_source_connection_id=retry_cid,
        )
        self._local_max_streams_bidi = Limit(QuicFrameType.MAX_STREAMS_BIDI, "max_streams_bidi", STREAMS)
        self._local_max_streams_uni = Limit(QuicFrameType.MAX_STREAMS_UNI, "max_streams_uni", 0)
        self._pool = pool
        self._window = ReceiveWindow(CONNECTION_WINDOW, MAX_CONNECTION_WINDOW, pool, now)

    # --- who the peer is

    def peer_chain(self) -> list[x509.Certificate]:
        """The certificates that the peer has shown, none if it has not."""
        own = self.tls._peer_certificate
        return [] if own is None else [own, *self.tls._peer_certificate_chain]

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        self.tls._request_client_certificate = not self._is_client
        self.tls._supported_groups = [tls.Group.X25519, tls.Group.SECP256R1]

    # --- how much the peer may send

    def new_window(self, now: float) -> ReceiveWindow:
        """A window for a stream."""
        return ReceiveWindow(STREAM_WINDOW, MAX_STREAM_WINDOW, self._pool, now)

    def consume(self, size: int, now: float) -> bool:
        """Take note that `size` bytes of whatever stream were read or dropped; True when there is a limit to tell."""
        if not size or not self._window.consume(size, now, self.rtt):
            return False
        self._local_max_data.value = self._window.limit
        return True

    def raise_limit(self, stream_id: int, limit: int) -> None:
        """Let the peer send up to `limit` on one stream."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.max_stream_data_local = limit

    def _write_stream_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: QuicStream) -> None:
        if stream.max_stream_data_local_sent == stream.max_stream_data_local or stream.receiver.is_finished:
            return
        buffer = builder.start_frame(
            QuicFrameType.MAX_STREAM_DATA,
            capacity=MAX_STREAM_DATA_FRAME_CAPACITY,
            handler=self._on_max_stream_data_delivery,
            handler_args=(stream,),
        )
        buffer.push_uint_var(int(stream.stream_id or 0))
        buffer.push_uint_var(stream.max_stream_data_local)
        stream.max_stream_data_local_sent = stream.max_stream_data_local

    def _write_connection_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace) -> None:
        streams = self._local_max_streams_bidi
        left = streams.sent - streams.used
        due = streams.value != streams.sent and left < streams.value - streams.sent  # not one frame for each stream
        for limit, is_due in (
            (self._local_max_data, self._local_max_data.value != self._local_max_data.sent),
            (streams, due),
        ):
            if is_due:
                buffer = builder.start_frame(
                    limit.frame_type,
                    capacity=CONNECTION_LIMIT_FRAME_CAPACITY,
                    handler=self._on_connection_limit_delivery,
                    handler_args=(limit,),
                )
                buffer.push_uint_var(int(limit.value))
                limit.sent = limit.value

    # --- how much is sent

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, SockAddr]]:
        """Hand out what is to be sent, and where to."""
        control, pacer = self._loss._cc, self._loss._pacer
        control.congestion_window = min(control.congestion_window, MAX_IN_FLIGHT)
        pacer.bucket_max = max(pacer.bucket_max, BURST)
        return super().datagrams_to_send(now)

    # --- what the owner asks

    @property
    def rtt(self) -> float:
        """The smoothed round trip in seconds; before the first is known, a guess."""
        return self._loss._rtt_smoothed or self._configuration.initial_rtt

    @property
    def goodbye(self) -> events.ConnectionTerminated | None:
        """Why the connection is over, by the peer's or our own word; our own is still to be sent."""
        return self._close_event

    @property
    def was_told(self) -> bool:
        """Whether the goodbye is the peer's."""
        return self._state is QuicConnectionState.DRAINING

    @property
    def has_begun(self) -> bool:
        """Whether the peer has sent anything that only it can have sent."""
        return self._state is not QuicConnectionState.FIRSTFLIGHT

    @property
    def cids(self) -> list[bytes]:
        """The ids by which the peer may address us."""
        return [each.cid for each in self._host_cids]

    def may_open(self) -> bool:
        """Whether the peer allows one more stream of ours."""
        return self._local_next_stream_id_bidi // 4 < self._remote_max_streams_bidi

    def is_own(self, stream_id: int) -> bool:
        """Whether it is a stream that we opened."""
        return stream_id & 1 == (0 if self._is_client else 1)

    def unsent(self, stream_id: int) -> int:
        """Bytes of a stream that wait for their first packet, or for another after a loss."""
        stream = self._streams.get(stream_id)
        return 0 if stream is None else stream.sender._buffer_stop - stream.sender.next_offset

    def received(self, stream_id: int) -> int:
        """The highest offset of a stream that the peer has used, or claims to have used in resetting it."""
        stream = self._streams.get(stream_id)
        return 0 if stream is None else stream.receiver.highest_offset

    def close_window(self) -> None:
        """Return what the windows took of the pool."""
        self._window.close()


class RetryTokens:
    """Proofs that who connects can receive at the address it sends from, RFC 9000 §8.1.2."""

    def __init__(self) -> None:
        self._handler = QuicRetryTokenHandler()

    def retry(self, initial: Initial, addr: SockAddr, now: float) -> bytes:
        """The datagram that asks the client to come again with a token."""
        cid = os.urandom(CID_LENGTH)
        token = self._handler.create_token(
            address=addr,
            original_destination_connection_id=initial.destination_cid,
            retry_source_connection_id=cid,
            now=now,
        )
        return encode_quic_retry(
            version=VERSION,
            source_cid=cid,
            destination_cid=initial.source_cid,
            original_destination_cid=initial.destination_cid,
            retry_token=token,
        )

    def original_cid(self, initial: Initial, addr: SockAddr, now: float) -> bytes | None:
        """The destination id of the first packet of who comes with a token; None if the token is not one for it."""
        try:
            return self._handler.validate_token(
                address=addr, destination_cid=initial.destination_cid, token=initial.token, now=now
            )
        except ValueError:
            return None


def parse_initial(data: bytes) -> Initial | None:
    """Return the Initial packet of version 1 that a datagram begins with, None for anything else."""
    if len(data) < MIN_INITIAL:
        return None
    try:
        header = pull_quic_header(Buffer(data=data), host_cid_length=CID_LENGTH)
    except ValueError:
        return None
    if header.version != VERSION or header.packet_type is not QuicPacketType.INITIAL:
        return None
    if len(header.destination_cid) < MIN_ORIGINAL_CID:
        return None
    return Initial(header.destination_cid, header.source_cid, header.token)


def version_negotiation(data: bytes) -> bytes | None:
    """Return the answer to a client that speaks another version, None if the datagram is not of one.

    Only to datagrams that a client would begin with, so that the answer is always the smaller one.
    """
    if len(data) < MIN_INITIAL or not data[0] & 0x80:
        return None
    version = int.from_bytes(data[1:5], "big")
    try:
        size = data[5]
        destination, rest = data[6 : 6 + size], data[6 + size :]
        source = rest[1 : 1 + rest[0]]
    except IndexError:
        return None
    if version in (0, VERSION) or not MIN_ORIGINAL_CID <= size <= 20 or rest[0] > 20:
        return None
    return encode_quic_version_negotiation(source_cid=destination, destination_cid=source, supported_versions=[VERSION])
