"""What a multiaddr is made of: the protocols, their codes, and how each writes its value as text and as bytes.

Table: https://github.com/multiformats/multiaddr/blob/master/protocols.csv
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote, unquote_to_bytes

from node.errors import DecodeError
from node.names import multibase
from node.names.multihash import Multihash
from node.names.peerid import PeerId

VARIABLE = -1  # the value is preceded by its length as a varint
MAX_NAME = 255  # bytes of a host name, RFC 1035
_PCHAR = "!$&'()*+,;=:@"  # what RFC 3986 leaves unescaped in a segment besides letters, digits and -._~


@dataclass(frozen=True, slots=True)
class Protocol:
    """One row of the table; `size` is that of the value in bytes, 0 for none, VARIABLE if length-prefixed."""

    code: int
    name: str
    size: int = 0
    to_bytes: Callable[[str], bytes] = str.encode
    to_text: Callable[[bytes], str] = bytes.decode


def _ip4_text(data: bytes) -> str:
    return str(ipaddress.IPv4Address(data))


def _ip4_bytes(text: str) -> bytes:
    return ipaddress.IPv4Address(text).packed


def _ip6_bytes(text: str) -> bytes:
    if "%" in text:
        raise ValueError(f"{text}: a zone is written /ip6zone/…/ip6/…")
    return ipaddress.IPv6Address(text).packed


def _ip6_text(data: bytes) -> str:
    address = ipaddress.IPv6Address(data)
    mapped = address.ipv4_mapped  # written with dots by all implementations, and by Python since 3.13
    return str(address) if mapped is None else f"::ffff:{mapped}"


def _number(size: int) -> tuple[Callable[[str], bytes], Callable[[bytes], str]]:
    def to_bytes(text: str) -> bytes:
        if not (text.isascii() and text.isdigit()) or len(text) > 20 or int(text) >= 1 << 8 * size:
            raise ValueError(f"{text!r} is not a number below {1 << 8 * size}")
        return int(text).to_bytes(size, "big")

    return to_bytes, lambda data: str(int.from_bytes(data, "big"))


def _name_bytes(text: str) -> bytes:
    data = text.encode()
    if not 0 < len(data) <= MAX_NAME or "/" in text or not text.isprintable():
        raise ValueError(f"{text!r} is not a printable name of 1 to {MAX_NAME} bytes without a slash")
    return data


def _name_text(data: bytes) -> str:
    text = data.decode()
    _name_bytes(text)
    return text


def _path_bytes(text: str) -> bytes:
    """A path written as one segment of a URI, its slashes as %2F; in binary it stands as it is."""
    data = unquote_to_bytes(text)
    if not data or b"\0" in data:
        raise ValueError(f"{text!r} is not a path")
    return data


def _path_text(data: bytes) -> str:
    text = quote(data, safe=_PCHAR)
    _path_bytes(text)
    return text


def _peer_bytes(text: str) -> bytes:
    return PeerId.parse(text).to_bytes()


def _peer_text(data: bytes) -> str:
    return str(PeerId(data))


def _certhash_bytes(text: str) -> bytes:
    return Multihash.from_bytes(multibase.decode(text)).to_bytes()


def _certhash_text(data: bytes) -> str:
    Multihash.from_bytes(data)
    return multibase.encode("base64url", data)


def _onion(size: int) -> tuple[Callable[[str], bytes], Callable[[bytes], str]]:
    """base32 of `size` bytes, a colon and a port other than 0."""
    port_bytes, port_text = _number(2)

    def to_bytes(text: str) -> bytes:
        host, _, port = text.partition(":")
        if len(host) * 5 != size * 8 or port_bytes(port) == b"\0\0":
            raise ValueError(f"{text!r} is not an onion address and a port")
        return base64.b32decode(host.upper()) + port_bytes(port)

    def to_text(data: bytes) -> str:
        if data[size:] == b"\0\0":
            raise ValueError("onion address with port 0")
        return f"{base64.b32encode(data[:size]).decode().lower()}:{port_text(data[size:])}"

    return to_bytes, to_text


_PORT = _number(2)

PROTOCOLS = (
    Protocol(4, "ip4", 4, _ip4_bytes, _ip4_text),
    Protocol(6, "tcp", 2, *_PORT),
    Protocol(33, "dccp", 2, *_PORT),
    Protocol(41, "ip6", 16, _ip6_bytes, _ip6_text),
    Protocol(42, "ip6zone", VARIABLE, _name_bytes, _name_text),
    Protocol(43, "ipcidr", 1, *_number(1)),
    Protocol(53, "dns", VARIABLE, _name_bytes, _name_text),
    Protocol(54, "dns4", VARIABLE, _name_bytes, _name_text),
    Protocol(55, "dns6", VARIABLE, _name_bytes, _name_text),
    Protocol(56, "dnsaddr", VARIABLE, _name_bytes, _name_text),
    Protocol(132, "sctp", 2, *_PORT),
    Protocol(273, "udp", 2, *_PORT),
    Protocol(275, "p2p-webrtc-star"),
    Protocol(276, "p2p-webrtc-direct"),
    Protocol(277, "p2p-stardust"),
    Protocol(280, "webrtc-direct"),
    Protocol(281, "webrtc"),
    Protocol(290, "p2p-circuit"),
    Protocol(301, "udt"),
    Protocol(302, "utp"),
    Protocol(400, "unix", VARIABLE, _path_bytes, _path_text),
    Protocol(421, "p2p", VARIABLE, _peer_bytes, _peer_text),
    Protocol(443, "https"),
    Protocol(444, "onion", 12, *_onion(10)),
    Protocol(445, "onion3", 37, *_onion(35)),
    Protocol(448, "tls"),
    Protocol(449, "sni", VARIABLE, _name_bytes, _name_text),
    Protocol(454, "noise"),
    Protocol(460, "quic"),
    Protocol(461, "quic-v1"),
    Protocol(465, "webtransport"),
    Protocol(466, "certhash", VARIABLE, _certhash_bytes, _certhash_text),
    Protocol(477, "ws"),
    Protocol(478, "wss"),
    Protocol(479, "p2p-websocket-star"),
    Protocol(480, "http"),
    Protocol(481, "http-path", VARIABLE, _path_bytes, _path_text),
    Protocol(777, "memory", 8, *_number(8)),
)

BY_CODE = {protocol.code: protocol for protocol in PROTOCOLS}
# `ipfs` was the name of `p2p` until 2019 and is still in people's notes and configurations.
BY_NAME = {protocol.name: protocol for protocol in PROTOCOLS} | {"ipfs": BY_CODE[421]}


def value_bytes(protocol: Protocol, text: str) -> bytes:
    """The binary value; raises DecodeError."""
    try:
        return protocol.to_bytes(text)
    except DecodeError:
        raise
    except (ValueError, binascii.Error) as error:
        raise DecodeError(f"/{protocol.name}: {error}") from error


def value_text(protocol: Protocol, data: bytes) -> str:
    """The canonical text of a binary value; raises DecodeError."""
    try:
        return protocol.to_text(data)
    except DecodeError:
        raise
    except ValueError as error:
        raise DecodeError(f"/{protocol.name}: {error}") from error
