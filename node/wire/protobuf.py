"""Where the protobuf library meets the wire: its errors become ours, and sizes are checked before parsing."""

from __future__ import annotations

from collections.abc import Sized
from typing import TypeVar

from google.protobuf.message import DecodeError as MalformedMessage
from google.protobuf.message import Message

from node.errors import DecodeError
from node.names.varint import Buffer

_Message = TypeVar("_Message", bound=Message)


def parse(message: _Message, data: Buffer, max_size: int) -> _Message:
    """Fill the empty `message` from `data`; raises DecodeError if malformed or longer than `max_size` bytes."""
    name = type(message).__name__
    if len(data) > max_size:
        raise DecodeError(f"{name} of {len(data)} bytes, at most {max_size} allowed")
    try:
        message.ParseFromString(bytes(data))
    except MalformedMessage as error:
        raise DecodeError(f"malformed {name}: {error}") from error
    return message


def bounded(what: str, items: Sized, limit: int) -> None:
    """Raises DecodeError if a repeated field has more than `limit` items."""
    if len(items) > limit:
        raise DecodeError(f"{len(items)} {what}, at most {limit} allowed")
