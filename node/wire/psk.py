"""Private networks: nobody without the key gets as far as the first byte of multistream.

    each side sends    24 bytes nonce ‖ everything else, XORed with XSalsa20 of the key and that nonce

    swarm.key          /key/swarm/psk/1.0.0/
                       /base16/
                       64 hexadecimal digits

It keeps strangers out and proves nothing: the bytes have no tag. Whoever lacks the key reads noise, and sends us some,
which is no multistream. What security there is comes from the handshake within.

XSalsa20 is Salsa20 under a key of its own, HSalsa20 of the key and the nonce's first 16 bytes. HSalsa20 is done here,
once a connection and direction; Salsa20 is pycryptodome's.

Specs: https://github.com/libp2p/specs/blob/master/pnet/Private-Networks-PSK-V1.md,
https://cr.yp.to/snuffle/xsalsa-20110204.pdf
"""

from __future__ import annotations

import base64
import binascii
import struct

from Crypto.Cipher import Salsa20

from node.errors import DecodeError
from node.names.varint import Buffer

NONCE = 24
KEY = 32
MAX_FILE = 1024
"""Bytes of a key file: three short lines."""

_HEADER = "/key/swarm/psk/1.0.0/"
_CONSTANT = b"expand 32-byte k"
_MASK = 0xFFFFFFFF
# The quarter rounds of a column round and a row round, by the positions of their words (Salsa20 specification, §3–5).
_DOUBLE_ROUND = (
    (0, 4, 8, 12),
    (5, 9, 13, 1),
    (10, 14, 2, 6),
    (15, 3, 7, 11),
    (0, 1, 2, 3),
    (5, 6, 7, 4),
    (10, 11, 8, 9),
    (15, 12, 13, 14),
)


def read_key(data: bytes) -> bytes:
    """Return the 32 bytes of a key file; raises DecodeError."""
    header, _, rest = data.partition(b"\n")
    encoding, _, content = rest.partition(b"\n")
    if header.strip() != _HEADER.encode():
        raise DecodeError(f"not a swarm key: the first line is not {_HEADER}")
    try:
        match encoding.strip():
            case b"/base16/":
                key = bytes.fromhex(content.decode("ascii").strip())
            case b"/base64/":
                key = base64.b64decode(content.strip(), validate=True)
            case b"/bin/":
                key = content
            case _:
                raise DecodeError("swarm key: the second line is none of /base16/, /base64/, /bin/")
    except (ValueError, binascii.Error) as error:
        if isinstance(error, DecodeError):
            raise
        raise DecodeError("swarm key: the third line is not what the second says") from error
    if len(key) != KEY:
        raise DecodeError(f"swarm key of {len(key)} bytes where {KEY} are due")
    return key


def hsalsa20(key: bytes, nonce: bytes) -> bytes:
    """The 32 bytes that `key` (32 bytes) and `nonce` (16 bytes) make, by 20 rounds without the addition at the end."""
    c0, c1, c2, c3 = struct.unpack("<4I", _CONSTANT)
    k, n = struct.unpack("<8I", key), struct.unpack("<4I", nonce)
    x = [c0, *k[:4], c1, *n, c2, *k[4:], c3]
    for _ in range(10):
        for a, b, c, d in _DOUBLE_ROUND:
            x[b] ^= _rotate(x[a] + x[d], 7)
            x[c] ^= _rotate(x[b] + x[a], 9)
            x[d] ^= _rotate(x[c] + x[b], 13)
            x[a] ^= _rotate(x[d] + x[c], 18)
    return struct.pack("<8I", x[0], x[5], x[10], x[15], x[6], x[7], x[8], x[9])


def _rotate(value: int, count: int) -> int:
    value &= _MASK
    return (value << count | value >> (32 - count)) & _MASK


class XSalsa20:
    """One direction's stream; the same call encrypts and decrypts."""

    def __init__(self, key: bytes, nonce: bytes) -> None:
        self._cipher = Salsa20.new(key=hsalsa20(key, nonce[:16]), nonce=nonce[16:])

    def process(self, data: Buffer) -> bytes:
        """The next bytes of the stream over `data`."""
        return bytes(self._cipher.encrypt(data))


class PrivateNetwork:
    """The machine of one connection, a `node.net.layered.Layer`; `nonce` is 24 fresh random bytes."""

    is_ready = True
    has_ended = False

    def __init__(self, key: bytes, nonce: bytes) -> None:
        self._key = key
        self._sending = XSalsa20(key, nonce)
        self._receiving: XSalsa20 | None = None
        self._nonce = bytearray()  # of the peer, until it is whole
        self._out: list[Buffer] = [nonce]

    def receive_data(self, data: Buffer) -> list[Buffer]:
        """Decrypt; bytes of any kind become some."""
        rest = memoryview(data)
        if self._receiving is None:
            missing = NONCE - len(self._nonce)
            self._nonce += rest[:missing]
            rest = rest[missing:]
            if len(self._nonce) < NONCE:
                return []
            self._receiving = XSalsa20(self._key, bytes(self._nonce))
        return [self._receiving.process(rest)] if rest else []

    def send_data(self, data: Buffer) -> None:
        """Encrypt."""
        self._out.append(self._sending.process(data))

    def end(self) -> None:
        """There are no words for it."""

    def data_to_send(self) -> list[Buffer]:
        """Hand out the nonce, then ciphertext."""
        out, self._out = self._out, []
        return out
