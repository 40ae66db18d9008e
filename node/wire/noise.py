"""Noise XX as libp2p runs it: who is at the other end, and from then on ciphertext.

    initiator                                           responder
        ── e ──────────────────────────────────────────────►        empty payload
        ◄───────────── e, ee, s, es, payload(responder) ───         encrypted
        ── s, se, payload(initiator) ──────────────────────►        encrypted
        ◄═══════════════ transport messages ═══════════════►

    message on the wire    2 bytes length (big endian) ‖ message, at most 65535 bytes
    payload                { identity_key:1, identity_sig:2, extensions:4 { stream_muxers:2* } }
    identity_sig           over "noise-libp2p-static-key:" ‖ the static X25519 key of this handshake

Facts: the protocol name is exactly 32 bytes, so it is the first hash itself. A nonce is four zero bytes and a little
endian counter, although lengths are big endian. Each side learns the other's muxers from the payloads; the initiator's
order decides, and without overlap (or without the extension: rust never sends it) both fall back to multistream.

Specs: https://github.com/libp2p/specs/blob/master/noise/README.md, https://noiseprotocol.org/noise.html
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Iterator, Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from node.errors import LocalProtocolError, PeerIdMismatch, RemoteProtocolError, SecurityError
from node.names import fields
from node.names.keys import PrivateKey, PublicKey
from node.names.peerid import PeerId
from node.names.varint import Buffer
from node.wire.security_events import DataReceived, Event, HandshakeCompleted

__all__ = ["MAX_PLAINTEXT", "PROTOCOL", "TAG", "CipherState", "HandshakeState", "Noise"]

PROTOCOL = "/noise"
MAX_MESSAGE = 65535
TAG = 16
MAX_PLAINTEXT = MAX_MESSAGE - TAG
# Two RSA-8192 values, the muxers and the handshake's own keys stay below a quarter of it.
MAX_HANDSHAKE_MESSAGE = 16 * 1024
# go ignores longer lists as well.
MAX_MUXERS = 100

_NAME = b"Noise_XX_25519_ChaChaPoly_SHA256"
_SIGNED_PREFIX = b"noise-libp2p-static-key:"
_KEY = 32
_MAX_NONCE = 2**64 - 2
_IDENTITY_KEY, _IDENTITY_SIG, _EXTENSIONS = 1, 2, 4
_STREAM_MUXERS = 2
_NONCE = struct.Struct("<4xQ")
_LENGTH = struct.Struct(">H")


class CipherState:
    """A ChaCha20-Poly1305 key and its counter."""

    __slots__ = ("_aead", "_nonce")

    def __init__(self, key: bytes) -> None:
        self._aead = ChaCha20Poly1305(key)
        self._nonce = 0

    def _next_nonce(self) -> bytes:
        if self._nonce > _MAX_NONCE:
            raise LocalProtocolError("Noise nonces of this connection are used up")
        nonce = _NONCE.pack(self._nonce)
        self._nonce += 1
        return nonce

    def encrypt(self, plaintext: Buffer, associated: bytes | None = None) -> bytes:
        """Ciphertext and tag."""
        return self._aead.encrypt(self._next_nonce(), plaintext, associated)

    def encrypt_into(self, plaintext: Buffer, out: memoryview) -> None:
        """Ciphertext and tag into `out`, which is TAG bytes longer than `plaintext`."""
        self._aead.encrypt_into(self._next_nonce(), plaintext, None, out)

    def decrypt(self, ciphertext: Buffer, associated: bytes | None = None) -> bytes:
        """Plaintext; raises SecurityError when the tag is not right."""
        try:
            return self._aead.decrypt(self._next_nonce(), ciphertext, associated)
        except InvalidTag as error:
            raise SecurityError("Noise message failed to decrypt") from error


class HandshakeState:
    """The XX pattern as the Noise specification has it, payloads opaque: three messages, written and read in turn."""

    def __init__(
        self, *, initiator: bool, static: X25519PrivateKey, ephemeral: X25519PrivateKey, prologue: bytes = b""
    ) -> None:
        self.remote_static: bytes = b""
        self.hash = hashlib.sha256(_NAME + prologue).digest()
        self._initiator = initiator
        self._static, self._ephemeral = static, ephemeral
        self._remote_ephemeral = b""
        self._chaining_key = _NAME
        self._cipher: CipherState | None = None

    def write_message(self, number: int, payload: bytes) -> bytes:
        """Message 1, 2 or 3 of the pattern around `payload`."""
        out = b""
        if number == 1:
            out += self._send_ephemeral()
        elif number == 2:
            out += self._send_ephemeral()
            self._mix_dh(self._ephemeral, self._remote_ephemeral)
            out += self._encrypt(self._static.public_key().public_bytes_raw())
            self._mix_dh(self._static, self._remote_ephemeral)
        else:
            out += self._encrypt(self._static.public_key().public_bytes_raw())
            self._mix_dh(self._static, self._remote_ephemeral)
        return out + self._encrypt(payload)

    def read_message(self, number: int, message: Buffer) -> bytes:
        """The payload of message 1, 2 or 3; raises RemoteProtocolError or SecurityError."""
        rest = memoryview(message)
        if number == 1:
            rest = self._receive_ephemeral(rest)
        elif number == 2:
            rest = self._receive_ephemeral(rest)
            self._mix_dh(self._ephemeral, self._remote_ephemeral)
            rest = self._receive_static(rest)
            self._mix_dh(self._ephemeral, self.remote_static)
        else:
            rest = self._receive_static(rest)
            self._mix_dh(self._ephemeral, self.remote_static)
        return self._decrypt(rest)

    def split(self) -> tuple[CipherState, CipherState]:
        """The ciphers (sending, receiving) of the transport messages."""
        first, second = _hkdf(self._chaining_key, b"")
        mine, theirs = (first, second) if self._initiator else (second, first)
        return CipherState(mine), CipherState(theirs)

    def _send_ephemeral(self) -> bytes:
        public = self._ephemeral.public_key().public_bytes_raw()
        self._mix_hash(public)
        return public

    def _receive_ephemeral(self, message: memoryview) -> memoryview:
        self._remote_ephemeral, rest = _cut(message, _KEY)
        self._mix_hash(self._remote_ephemeral)
        return rest

    def _receive_static(self, message: memoryview) -> memoryview:
        encrypted, rest = _cut(message, _KEY + TAG)
        self.remote_static = self._decrypt(encrypted)
        return rest

    def _mix_hash(self, data: Buffer) -> None:
        digest = hashlib.sha256(self.hash)
        digest.update(data)
        self.hash = digest.digest()

    def _mix_dh(self, private: X25519PrivateKey, public: bytes) -> None:
        try:
            shared = private.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError as error:  # what the library says when a point of small order makes the result all zero
            raise SecurityError("Noise handshake with an X25519 share that yields an all-zero secret") from error
        self._chaining_key, key = _hkdf(self._chaining_key, shared)
        self._cipher = CipherState(key)

    def _encrypt(self, plaintext: bytes) -> bytes:
        ciphertext = self._cipher.encrypt(plaintext, self.hash) if self._cipher else plaintext
        self._mix_hash(ciphertext)
        return ciphertext

    def _decrypt(self, ciphertext: Buffer) -> bytes:
        plaintext = self._cipher.decrypt(ciphertext, self.hash) if self._cipher else bytes(ciphertext)
        self._mix_hash(ciphertext)
        return plaintext


class Noise:
    """The machine of one connection: handshake, then plaintext in and ciphertext out.

    `expected` is the peer id the responder must prove to have. The two X25519 keys must be fresh. Any error raised by
    `receive_data` is final.
    """

    def __init__(
        self,
        identity: PrivateKey,
        *,
        initiator: bool,
        static: X25519PrivateKey,
        ephemeral: X25519PrivateKey,
        expected: PeerId | None = None,
        muxers: Sequence[str] = (),
        prologue: bytes = b"",
    ) -> None:
        if len(muxers) > MAX_MUXERS:
            raise LocalProtocolError(f"{len(muxers)} muxers, peers ignore more than {MAX_MUXERS}")
        self._identity, self._expected, self._muxers = identity, expected, tuple(muxers)
        self._initiator = initiator
        self._static_public = static.public_key().public_bytes_raw()
        self._handshake = HandshakeState(initiator=initiator, static=static, ephemeral=ephemeral, prologue=prologue)
        self._awaited = 2 if initiator else 1
        self._ciphers: tuple[CipherState, CipherState] | None = None
        self._partial = bytearray()  # of one message, length included: at most 2 + MAX_MESSAGE
        self._out: list[Buffer] = []
        if initiator:
            self._send_handshake(1, b"")

    def receive_data(self, data: Buffer) -> list[Event]:
        """Take bytes of the peer, in pieces of any size; raises RemoteProtocolError, SecurityError, PeerIdMismatch."""
        events: list[Event] = []
        for message in self._messages(memoryview(data)):
            if self._ciphers is not None:
                if plaintext := self._ciphers[1].decrypt(message):
                    events.append(DataReceived(plaintext))
            elif completed := self._receive_handshake(message):
                events.append(completed)
        return events

    def send_data(self, buffers: Sequence[Buffer]) -> None:
        """Encrypt the concatenation of `buffers`; best at most MAX_PLAINTEXT bytes, so that it is one message."""
        if self._ciphers is None:
            raise LocalProtocolError("Noise has no keys before the handshake is over")
        plaintext = memoryview(buffers[0] if len(buffers) == 1 else b"".join(buffers))
        for start in range(0, len(plaintext), MAX_PLAINTEXT):
            part = plaintext[start : start + MAX_PLAINTEXT]
            message = bytearray(_LENGTH.size + len(part) + TAG)
            _LENGTH.pack_into(message, 0, len(part) + TAG)
            self._ciphers[0].encrypt_into(part, memoryview(message)[_LENGTH.size :])
            self._out.append(message)

    def data_to_send(self) -> list[Buffer]:
        """Buffers for the peer, since the last call."""
        out, self._out = self._out, []
        return out

    def _messages(self, data: memoryview) -> Iterator[memoryview]:
        """Cut the stream; whole messages are slices of `data`, only one that came in pieces is copied."""
        if self._partial:
            data = self._fill_partial(data)
            if self._missing():
                return
            whole, self._partial = self._partial, bytearray()
            yield memoryview(whole)[_LENGTH.size :]
        offset = 0
        while len(data) - offset >= _LENGTH.size:
            end = offset + _LENGTH.size + self._check(data[offset] << 8 | data[offset + 1])
            if end > len(data):
                break
            yield data[offset + _LENGTH.size : end]
            offset = end
        self._partial += data[offset:]

    def _fill_partial(self, data: memoryview) -> memoryview:
        while data and (missing := self._missing()):
            self._partial += data[:missing]
            data = data[missing:]
        return data

    def _missing(self) -> int:
        """How many bytes the message under way lacks, as far as can be said."""
        if len(self._partial) < _LENGTH.size:
            return _LENGTH.size - len(self._partial)
        return _LENGTH.size + self._check(self._partial[0] << 8 | self._partial[1]) - len(self._partial)

    def _check(self, size: int) -> int:
        if self._ciphers is None and size > MAX_HANDSHAKE_MESSAGE:
            raise RemoteProtocolError(
                f"Noise handshake message of {size} bytes, at most {MAX_HANDSHAKE_MESSAGE} allowed"
            )
        if self._ciphers is not None and size < TAG:
            raise RemoteProtocolError(f"Noise message of {size} bytes is shorter than its tag")
        return size

    def _send_handshake(self, number: int, payload: bytes) -> None:
        message = self._handshake.write_message(number, payload)
        self._out += [_LENGTH.pack(len(message)), message]

    def _receive_handshake(self, message: memoryview) -> HandshakeCompleted | None:
        payload = self._handshake.read_message(self._awaited, message)
        if self._awaited == 1:
            if payload:
                raise RemoteProtocolError("first Noise message carries a payload")
            self._send_handshake(2, self._payload())
            self._awaited = 3
            return None
        completed = self._verify(payload)
        if self._awaited == 2:
            self._send_handshake(3, self._payload())
        self._ciphers = self._handshake.split()
        return completed

    def _payload(self) -> bytes:
        message: list[tuple[int, int | bytes]] = [
            (_IDENTITY_KEY, self._identity.public.to_bytes()),
            (_IDENTITY_SIG, self._identity.sign(_SIGNED_PREFIX + self._static_public)),
        ]
        if self._muxers:
            names = ((_STREAM_MUXERS, muxer.encode()) for muxer in self._muxers)
            message.append((_EXTENSIONS, fields.encode(*names)))
        return fields.encode(*message)

    def _verify(self, payload: bytes) -> HandshakeCompleted:
        key_bytes, signature, extensions = b"", b"", b""
        for field in fields.decode(payload):
            if field.number == _IDENTITY_KEY:
                key_bytes = field.as_bytes()
            elif field.number == _IDENTITY_SIG:
                signature = field.as_bytes()
            elif field.number == _EXTENSIONS:
                extensions += field.as_bytes()  # a repeated message field is merged
        key = PublicKey.from_bytes(key_bytes)
        if not key.verify(_SIGNED_PREFIX + self._handshake.remote_static, signature):
            raise SecurityError(f"Noise static key of {key.peer_id()} is not signed by it")
        peer = key.peer_id()
        if self._expected is not None and peer != self._expected:
            raise PeerIdMismatch(f"expected {self._expected}, met {peer}")
        return HandshakeCompleted(peer, key, self._agree(_muxers_of(extensions)))

    def _agree(self, theirs: list[str]) -> str | None:
        preferred, supported = (self._muxers, theirs) if self._initiator else (theirs, self._muxers)
        return next((muxer for muxer in preferred if muxer in supported), None)


def _muxers_of(extensions: bytes) -> list[str]:
    names = [f.as_bytes().decode(errors="replace") for f in fields.decode(extensions) if f.number == _STREAM_MUXERS]
    return names if len(names) <= MAX_MUXERS else []


def _cut(message: memoryview, size: int) -> tuple[bytes, memoryview]:
    if len(message) < size:
        raise RemoteProtocolError(f"Noise handshake message ends {size - len(message)} bytes early")
    return bytes(message[:size]), message[size:]


def _hkdf(chaining_key: bytes, material: bytes) -> tuple[bytes, bytes]:
    secret = hmac.digest(chaining_key, material, "sha256")
    first = hmac.digest(secret, b"\x01", "sha256")
    return first, hmac.digest(secret, first + b"\x02", "sha256")
