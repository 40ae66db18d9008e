"""AutoNAT v2: a client asks a server which of its addresses can be dialled, one address a request.

    client                                              server
      │ DialRequest(addrs, nonce) ───────────────────────► │    /libp2p/autonat/2/dial-request
      │ ◄────────────── DialDataRequest(index, num_bytes)  │    only where the address has another IP than the client
      │ DialDataResponse(data) × n ──────────────────────► │
      │ ◄═══════════ a new connection; DialBack(nonce)     │    /libp2p/autonat/2/dial-back
      │ DialBackResponse ════════════════════════════════► │
      │ ◄─────────── DialResponse(status, index, dialled)  │

Each message stands behind its length; those of the first protocol are wrapped in a `Message`.

Spec: https://github.com/libp2p/specs/blob/master/autonat/autonat-v2.md
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

from node.errors import DecodeError
from node.names.multiaddr import Multiaddr
from node.names.varint import Buffer
from node.wire.protobuf import bounded, parse
from node.wire.schema import autonat_pb2

PROTOCOL = "/libp2p/autonat/2/dial-request"
DIAL_BACK_PROTOCOL = "/libp2p/autonat/2/dial-back"
MAX_MESSAGE = 8192
"""Bytes, as in go."""
MAX_DIAL_BACK = 64
"""Bytes of a DialBack or its answer: a nonce, or a number."""
MAX_ADDRS = 256
"""Addresses in a request; those after `INSPECTED` are never looked at."""
INSPECTED = 50
"""Addresses of a request that a server looks at, as in go."""
MAX_DATA = 4096
"""Bytes of payload in one DialDataResponse."""


class ResponseStatus(IntEnum):
    """Whether the server served the request."""

    E_INTERNAL_ERROR = 0
    E_REQUEST_REJECTED = 100
    """A limit of the server's."""
    E_DIAL_REFUSED = 101
    """None of the addresses is one that it dials."""
    OK = 200


class DialStatus(IntEnum):
    """How the dial of the chosen address ended."""

    UNUSED = 0
    E_DIAL_ERROR = 100
    """No connection."""
    E_DIAL_BACK_ERROR = 101
    """A connection, but the nonce could not be handed over."""
    OK = 200


@dataclass(frozen=True, slots=True)
class DialRequest:
    """Which addresses to test, most wanted first; an address that we cannot read is None and keeps its index."""

    addrs: tuple[Multiaddr | None, ...]
    nonce: int


@dataclass(frozen=True, slots=True)
class DialDataRequest:
    """What the dial of the address costs, in bytes."""

    index: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class DialDataResponse:
    """Part of the price."""

    data: bytes


@dataclass(frozen=True, slots=True)
class DialResponse:
    """What came of the request; index and dial status mean something where `status` is OK."""

    status: ResponseStatus
    index: int = 0
    dial_status: DialStatus = DialStatus.UNUSED


Message: TypeAlias = DialRequest | DialResponse | DialDataRequest | DialDataResponse


def encode(message: Message) -> bytes:
    """The message, wrapped, without its length."""
    wrapped = autonat_pb2.Message()
    match message:
        case DialRequest(addrs, nonce):
            wrapped.dial_request.addrs.extend(addr.to_bytes() for addr in addrs if addr is not None)
            wrapped.dial_request.nonce = nonce
        case DialResponse(status, index, dial_status):
            response = autonat_pb2.DialResponse(status=status.name, addr_idx=index, dial_status=dial_status.name)
            wrapped.dial_response.CopyFrom(response)
        case DialDataRequest(index, num_bytes):
            wrapped.dial_data_request.addr_idx = index
            wrapped.dial_data_request.num_bytes = num_bytes
        case DialDataResponse(data):
            wrapped.dial_data_response.data = data
    encoded: bytes = wrapped.SerializeToString()
    return encoded


def decode(data: Buffer) -> Message:
    """Parse a wrapped message; raises DecodeError, for a status that we do not know too: the spec has it discarded."""
    message = parse(autonat_pb2.Message(), data, MAX_MESSAGE)
    match message.WhichOneof("msg"):
        case "dial_request":
            request = message.dial_request
            bounded("addresses to test", request.addrs, MAX_ADDRS)
            return DialRequest(tuple(map(_addr, request.addrs)), request.nonce)
        case "dial_response":
            return _response(message.dial_response)
        case "dial_data_request":
            return DialDataRequest(message.dial_data_request.addr_idx, message.dial_data_request.num_bytes)
        case "dial_data_response":
            if len(message.dial_data_response.data) > MAX_DATA:
                raise DecodeError(
                    f"{len(message.dial_data_response.data)} bytes of dial data, at most {MAX_DATA} a time"
                )
            return DialDataResponse(message.dial_data_response.data)
    raise DecodeError("an AutoNAT message without content")


def encode_dial_back(nonce: int) -> bytes:
    """A DialBack without its length."""
    data: bytes = autonat_pb2.DialBack(nonce=nonce).SerializeToString()
    return data


def decode_dial_back(data: Buffer) -> int:
    """The nonce of a DialBack; raises DecodeError."""
    nonce: int = parse(autonat_pb2.DialBack(), data, MAX_DIAL_BACK).nonce
    return nonce


def encode_dial_back_response() -> bytes:
    """A DialBackResponse without its length: OK, which is 0, which proto3 leaves out."""
    data: bytes = autonat_pb2.DialBackResponse().SerializeToString()
    return data


def decode_dial_back_response(data: Buffer) -> None:
    """Check a DialBackResponse; raises DecodeError unless it says OK."""
    status = parse(autonat_pb2.DialBackResponse(), data, MAX_DIAL_BACK).status
    if status:
        raise DecodeError(f"unknown status {status} of a dial back")


def _addr(data: bytes) -> Multiaddr | None:
    try:
        return Multiaddr.from_bytes(data)
    except DecodeError:
        return None


def _response(message: autonat_pb2.DialResponse) -> DialResponse:
    try:
        return DialResponse(ResponseStatus(message.status), message.addr_idx, DialStatus(message.dial_status))
    except ValueError as error:
        raise DecodeError(f"AutoNAT response: {error}") from error
