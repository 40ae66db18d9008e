"""The WebSocket machine: however bytes are split they arrive, and what strangers send costs little."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto import ConnectionType, WSConnection
from wsproto.events import BytesMessage, Ping, Request, TextMessage

from node.errors import LocalProtocolError, RemoteProtocolError
from node.wire.websocket import MAX_MESSAGE, WebSocket


def pump(client: WebSocket, server: WebSocket, piece: int = 1 << 20) -> tuple[bytes, bytes]:
    at_client = at_server = b""
    while True:
        forth, back = b"".join(client.data_to_send()), b"".join(server.data_to_send())
        if not forth and not back:
            return at_client, at_server
        for offset in range(0, len(forth), piece):
            at_server += b"".join(server.receive_data(forth[offset : offset + piece]))
        for offset in range(0, len(back), piece):
            at_client += b"".join(client.receive_data(back[offset : offset + piece]))


def pair() -> tuple[WebSocket, WebSocket]:
    return WebSocket(initiator=True, host="relay.lab"), WebSocket(initiator=False)


def stranger(server: WebSocket, *said: object) -> bytes:
    """A client of the library's making that says things ours would not."""
    client = WSConnection(ConnectionType.CLIENT)
    server.receive_data(client.send(Request(host="x", target="/any/path")))
    client.receive_data(b"".join(server.data_to_send()))
    list(client.events())
    return b"".join(client.send(event) for event in said)  # type: ignore[arg-type]


@settings(max_examples=50, deadline=None)
@given(piece=st.integers(1, 300), data=st.lists(st.binary(max_size=500), max_size=4))
def test_any_split_gives_the_same_bytes(piece: int, data: Sequence[bytes]) -> None:
    client, server = pair()
    pump(client, server, piece)
    assert client.is_ready
    assert server.is_ready
    for part in data:
        client.send_data(part)
        server.send_data(memoryview(part))
    assert pump(client, server, piece) == (b"".join(data), b"".join(data))


@pytest.mark.parametrize("size", [1, MAX_MESSAGE, MAX_MESSAGE + 1, 300_000])
def test_bytes_of_any_number_arrive(size: int) -> None:
    client, server = pair()
    pump(client, server)
    client.send_data(bytes(size))
    assert pump(client, server)[1] == bytes(size)


def test_data_right_behind_the_handshake_is_not_lost() -> None:
    client, server = pair()
    server.receive_data(b"".join(client.data_to_send()))
    server.send_data(b"early")
    assert client.receive_data(b"".join(server.data_to_send())) == [b"early"]


def test_a_message_is_handed_on_as_it_comes_whatever_length_it_announces() -> None:
    server = WebSocket(initiator=False)
    stranger(server)
    server.receive_data(struct.pack(">BBQ4x", 0x82, 0xFF, 2**62))  # masked by zeros
    assert sum(len(b"".join(server.receive_data(bytes(10_000)))) for _ in range(20)) == 200_000


def test_many_pings_have_one_answer() -> None:
    server = WebSocket(initiator=False)
    said = stranger(server, *(Ping(struct.pack(">I", number)) for number in range(1000)))
    assert server.receive_data(said) == []
    assert b"".join(server.data_to_send()) == b"\x8a\x04" + struct.pack(">I", 999)


def test_closing_is_answered_and_ends_both() -> None:
    client, server = pair()
    pump(client, server)
    client.send_data(b"all of it")
    client.end()
    assert pump(client, server)[1] == b"all of it"
    assert server.has_ended
    assert client.has_ended
    server.send_data(b"nobody is there")
    assert server.data_to_send() == []


def test_text_is_no_libp2p() -> None:
    server = WebSocket(initiator=False)
    with pytest.raises(RemoteProtocolError, match="text"):
        server.receive_data(stranger(server, TextMessage("hello")))


def test_an_http_client_gets_an_answer() -> None:
    server = WebSocket(initiator=False)
    with pytest.raises(RemoteProtocolError):
        server.receive_data(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"HTTP/1.1 4" in b"".join(server.data_to_send())


@pytest.mark.parametrize(
    ("initiator", "handshake"),
    [
        (False, b"GET / HTTP/1.1\r\nHost: \x80relay.example\r\nUpgrade: websocket\r\n"),
        (True, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: \x80Upgrade\r\n"),
    ],
)
def test_a_handshake_that_is_not_ascii_is_a_protocol_error(initiator: bool, handshake: bytes) -> None:
    rest = b"Connection: Upgrade\r\nSec-WebSocket-Key: EuDl3JeWYRnQpL1OZHElDQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    with pytest.raises(RemoteProtocolError, match="ascii"):
        WebSocket(initiator=initiator, host="x").receive_data(handshake + rest)


def test_a_refusal_names_the_status() -> None:
    with pytest.raises(RemoteProtocolError, match="404"):
        WebSocket(initiator=True, host="x").receive_data(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")


def test_nothing_is_sent_before_the_handshake() -> None:
    with pytest.raises(LocalProtocolError, match="before the handshake"):
        WebSocket(initiator=True, host="x").send_data(b"early")


@settings(max_examples=200, deadline=None)
@given(initiator=st.booleans(), handshaken=st.booleans(), data=st.lists(st.binary(max_size=100), max_size=5))
def test_random_bytes_raise_nothing_but_the_typed_error(initiator: bool, handshaken: bool, data: list[bytes]) -> None:
    client, server = pair()
    if handshaken:
        pump(client, server)
    machine = client if initiator else server
    try:
        for part in data:
            machine.receive_data(part)
    except RemoteProtocolError:
        machine.data_to_send()


def test_a_fragmented_message_is_one_stream_of_bytes() -> None:
    server = WebSocket(initiator=False)
    said = stranger(server, BytesMessage(b"one, ", message_finished=False), BytesMessage(b"two"))
    assert b"".join(server.receive_data(said)) == b"one, two"
