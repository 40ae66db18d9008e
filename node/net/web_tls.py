"""TLS as the web has it, under secure WebSockets: certificates from files, names checked against authorities.

Who the peer is, is decided above it by Noise or libp2p TLS; here a name only has to be the one that was dialled.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

from node.errors import ConfigError, LocalProtocolError, SecurityError

if TYPE_CHECKING:
    from pathlib import Path

    from node.names.varint import Buffer

MAX_RECORD = 16 * 1024


@dataclass(frozen=True, slots=True)
class WebConfig:
    """What secure WebSockets need; PEM files."""

    certificate: Path | None = None
    """Our chain, which a listener needs."""
    key: Path | None = None
    """Its private key; None: it is in the same file."""
    authorities: Path | None = None
    """Whom to trust when dialling, beside the authorities of the system."""

    def server(self) -> ssl.SSLContext:
        """The context of a listener; ConfigError names the file that cannot be used."""
        if self.certificate is None:
            raise ConfigError("listening on /tls/ws needs a certificate: --ws-cert FILE, and --ws-key FILE")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.certificate, self.key, password=_no_password)
        except (OSError, ssl.SSLError, ValueError) as error:
            raise ConfigError(f"--ws-cert {self.certificate}, --ws-key {self.key}: {error}") from error
        return context

    def client(self) -> ssl.SSLContext:
        """The context of a dial; ConfigError as in `server`."""
        context = ssl.create_default_context()
        if self.authorities is not None:
            try:
                context.load_verify_locations(self.authorities)
            except (OSError, ssl.SSLError) as error:
                raise ConfigError(f"--ws-ca {self.authorities}: {error}") from error
        return context


def _no_password() -> bytes:
    raise ValueError("the key is encrypted, and nobody is here to ask for its password")


class WebTls:
    """The machine of one connection; a `node.net.layered.Layer`. `name` is what the server's certificate must bear."""

    def __init__(self, context: ssl.SSLContext, *, name: str | None = None) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=name is None, server_hostname=name)
        self._ready = self._ended = self._finished = False
        if name is not None:
            self._shake()

    @property
    def is_ready(self) -> bool:
        """Whether the handshake is over."""
        return self._ready

    @property
    def has_ended(self) -> bool:
        """Whether the peer has said that it sends no more."""
        return self._ended

    def receive_data(self, data: Buffer) -> list[Buffer]:
        """Decrypt; raises SecurityError."""
        self._incoming.write(data)
        pieces: list[Buffer] = []
        try:
            if not self._ready:
                self._shake()
            while self._ready:
                piece = self._object.read(MAX_RECORD)
                if not piece:
                    self._ended = True
                    break
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._ended = True
        except ssl.SSLCertVerificationError as error:
            why = f"the server's certificate: {error.verify_message} (--ws-ca FILE trusts more authorities)"
            raise SecurityError(why) from error
        except ssl.SSLError as error:
            raise SecurityError(f"TLS failed: {error.reason}") from error
        return pieces

    def send_data(self, data: Buffer) -> None:
        """Encrypt; nothing happens after the end."""
        if not self._ready:
            raise LocalProtocolError("TLS has no keys before the handshake is over")
        if len(data) and not self._finished:
            self._object.write(data)

    def end(self) -> None:
        """Send the closing alert."""
        if not self._ready or self._finished:
            return
        self._finished = True
        try:
            self._object.unwrap()
        except ssl.SSLError:  # the peer's alert has not come yet, or there is nobody left to take leave of
            self._ready = True

    def data_to_send(self) -> list[Buffer]:
        """Hand out ciphertext."""
        return [self._outgoing.read()] if self._outgoing.pending else []

    def _shake(self) -> None:
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return
        self._ready = True
