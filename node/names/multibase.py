"""Multibase: binary as text, the first character naming the alphabet.

Only the bases that occur in libp2p: base58btc (peer ids), base32 and base36 (CIDs, host names), base64url (certificate
hashes), and their near relatives. base58 and base36 read the bytes as one large number with leading zero bytes kept
as leading zero digits; that costs quadratic time, so the text is bounded before it is looked at.

Spec: https://github.com/multiformats/multibase
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass

from node.errors import DecodeError

MAX_TEXT = 4096
MAX_NUMBER_TEXT = 512

BASE58BTC = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class _Base:
    name: str
    encode: Callable[[bytes], str]
    decode: Callable[[str], bytes]


def encode(base: str, data: bytes) -> str:
    """`data` in the base of that multibase name, with its prefix; KeyError for a base that is not known."""
    prefix = _PREFIX_OF[base]
    return prefix + _BASES[prefix].encode(data)


def decode(text: str) -> bytes:
    """The bytes of a text with a multibase prefix; raises DecodeError."""
    if not text:
        raise DecodeError("empty multibase text")
    base = _BASES.get(text[0])
    if base is None:
        raise DecodeError(f"unknown multibase prefix {text[0]!r}")
    return base.decode(text[1:])


def base58_encode(data: bytes) -> str:
    """`data` in base58btc, without a multibase prefix."""
    return _number_encode(data, BASE58BTC)


def base58_decode(text: str) -> bytes:
    """The bytes of base58btc without a prefix; raises DecodeError."""
    return _number_decode(text, BASE58BTC, _BASE58_DIGITS)


def _number_encode(data: bytes, alphabet: str) -> str:
    number, base = int.from_bytes(data, "big"), len(alphabet)
    digits: list[str] = []
    while number:
        number, digit = divmod(number, base)
        digits.append(alphabet[digit])
    zeros = len(data) - len(data.lstrip(b"\0"))
    return alphabet[0] * zeros + "".join(reversed(digits))


def _number_decode(text: str, alphabet: str, digits: dict[str, int]) -> bytes:
    if len(text) > MAX_NUMBER_TEXT:
        raise DecodeError(f"base{len(alphabet)} text of {len(text)} characters, at most {MAX_NUMBER_TEXT} allowed")
    number = 0
    for character in text:
        digit = digits.get(character)
        if digit is None:
            raise DecodeError(f"{character!r} is not a base{len(alphabet)} digit")
        number = number * len(alphabet) + digit
    zeros = len(text) - len(text.lstrip(alphabet[0]))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")


_BASE58_DIGITS = {character: value for value, character in enumerate(BASE58BTC)}
_BASE36_DIGITS = {character: value for value, character in enumerate(BASE36)}


def _strict(
    name: str,
    raw_encode: Callable[[bytes], str],
    raw_decode: Callable[[str], bytes],
    fold: Callable[[str], str] = str,
) -> _Base:
    """A base that decodes nothing but what it encodes, but for case if `fold` ignores it: no stray bits, no padding."""

    def strict_decode(text: str) -> bytes:
        if len(text) > MAX_TEXT:
            raise DecodeError(f"{name} text of {len(text)} characters, at most {MAX_TEXT} allowed")
        try:
            data = raw_decode(text)
        except (binascii.Error, ValueError) as error:
            raise DecodeError(f"not {name}: {error}") from error
        if raw_encode(data) != fold(text):
            raise DecodeError(f"not {name}: stray characters or bits")
        return data

    return _Base(name, raw_encode, strict_decode)


def _base32_encode(data: bytes) -> str:
    return base64.b32encode(data).decode().rstrip("=").lower()


def _base32_decode(text: str) -> bytes:
    return base64.b32decode(text.upper() + "=" * (-len(text) % 8))


def _base64_pad(text: str) -> str:
    return text + "=" * (-len(text) % 4)


_BASES: dict[str, _Base] = {
    "f": _strict("base16", bytes.hex, bytes.fromhex, str.lower),
    "F": _strict("base16upper", lambda data: data.hex().upper(), bytes.fromhex, str.upper),
    "b": _strict("base32", _base32_encode, _base32_decode, str.lower),
    "B": _strict("base32upper", lambda data: _base32_encode(data).upper(), _base32_decode, str.upper),
    "k": _Base(
        "base36",
        lambda data: _number_encode(data, BASE36),
        lambda text: _number_decode(text.lower(), BASE36, _BASE36_DIGITS),
    ),
    "K": _Base(
        "base36upper",
        lambda data: _number_encode(data, BASE36).upper(),
        lambda text: _number_decode(text.lower(), BASE36, _BASE36_DIGITS),
    ),
    "z": _Base("base58btc", base58_encode, base58_decode),
    "m": _strict(
        "base64",
        lambda data: base64.b64encode(data).decode().rstrip("="),
        lambda text: base64.b64decode(_base64_pad(text), validate=True),
    ),
    "M": _strict(
        "base64pad",
        lambda data: base64.b64encode(data).decode(),
        lambda text: base64.b64decode(text, validate=True),
    ),
    "u": _strict(
        "base64url",
        lambda data: base64.urlsafe_b64encode(data).decode().rstrip("="),
        lambda text: base64.urlsafe_b64decode(_base64_pad(text)),
    ),
    "U": _strict(
        "base64urlpad",
        lambda data: base64.urlsafe_b64encode(data).decode(),
        base64.urlsafe_b64decode,
    ),
}
_PREFIX_OF = {base.name: prefix for prefix, base in _BASES.items()}
