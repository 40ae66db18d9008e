"""Hostile peers before they have a stream: multistream, Noise and yamux used wrongly against a running node.

Each attack ends in a typed error that the node reports, and an honest peer is served while it lasts and after.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from node.errors import (
    ConnectionClosed,
    DeadlineExceeded,
    DecodeError,
    LimitExceeded,
    PeerIdMismatch,
    RemoteProtocolError,
    SecurityError,
)
from node.events import Connected
from node.host import Host, HostConfig
from node.logic.limits import PEER, PER_IP4, TRANSIENT_PEER, Limits
from node.names import fields
from node.names.keys import PrivateKey
from node.names.multiaddr import Multiaddr
from node.net.negotiate import respond
from node.wire.framing import encode_frame
from node.wire.multistream import MAX_MESSAGE, MAX_PROPOSALS
from node.wire.noise import HandshakeState
from node.wire.yamux import INITIAL_WINDOW, YamuxConfig
from node.wire.yamux_frames import Flag, GoAwayCode, Kind, pack
from tests.support.hostile import (
    GREETING,
    arena,
    goodbyes,
    handshake,
    noise_message,
    noise_state,
    read_noise_message,
    rest,
    session,
    stranger,
    wire,
)
from tests.support.hosts import LOOPBACK, run

EACH_IP = PER_IP4[0].connections
NO_EXEMPTION = HostConfig(limits=Limits(exempt=()))
"""Addresses of loopback are limited like all others."""

MALLORY = PrivateKey.generate()
SYN, ACK, FIN, RST = Flag
MAX_WINDOW = YamuxConfig().max_window

# ── multistream ──────────────────────────────────────────────────────────────────────────────────────────────────────

BEFORE_SECURITY: dict[str, tuple[bytes, type[Exception], str]] = {
    "a varint of ten bytes": (b"\xff" * 10, DecodeError, "longer than 9 bytes"),
    "a varint that is not minimal": (b"\x93\x00/multistream/1.0.0\n", DecodeError, "not minimal"),
    "a length of 63 bits": (b"\xff" * 8 + b"\x7f", RemoteProtocolError, "at most 1024"),
    "a message that is too long": (b"\x81\x08" + bytes(MAX_MESSAGE + 1), RemoteProtocolError, "frame of 1025 bytes"),
    "no newline": (encode_frame(b"/multistream/1.0.0 "), RemoteProtocolError, "newline"),
    "an empty message": (b"\x00", RemoteProtocolError, "newline"),
    "another greeting": (encode_frame(b"/multistream/0.9.0\n"), RemoteProtocolError, "greets"),
    "no UTF-8": (GREETING + encode_frame(b"\xff\xfe\n"), RemoteProtocolError, "UTF-8"),
    "two lines": (GREETING + encode_frame(b"/noise\n/tls\n"), RemoteProtocolError, "one line"),
    "more proposals than anybody has": (
        GREETING + encode_frame(b"/x\n") * (MAX_PROPOSALS + 1),
        RemoteProtocolError,
        "more than 64 proposals",
    ),
    "another protocol": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 40, RemoteProtocolError, ""),
}


@pytest.mark.parametrize("attack", BEFORE_SECURITY)
def test_a_negotiation_that_breaks_the_rules_ends_its_connection(attack: str) -> None:
    data, error, text = BEFORE_SECURITY[attack]

    async def main() -> None:
        async with arena() as node, wire(node.victim) as raw:
            await raw.write(data)
            await node.reports.error(error, text)
            await rest(raw)
            await node.serves()

    run(main)


def test_an_end_in_the_middle_of_a_negotiation_is_a_typed_error() -> None:
    async def main() -> None:
        async with arena() as node, wire(node.victim) as raw:
            await raw.write(GREETING[:7])
            await raw.close_write()
            await node.reports.error(ConnectionClosed, "in the middle of a handshake")
            assert await rest(raw) == b""

    run(main)


def test_a_connection_that_drips_ends_at_the_deadline_although_it_never_falls_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        async with arena() as node, contextlib.AsyncExitStack() as stack:
            with monkeypatch.context() as patch:  # whoever means well has more time
                patch.setattr("node.net.swarm.INBOUND_TIMEOUT", 0.3)
                raw = await stack.enter_async_context(wire(node.victim))
                ended = asyncio.ensure_future(rest(raw))
                # Proposals are refused one by one, so the bytes are right for ever: only time can end this.
                for byte in GREETING + encode_frame(b"/" + b"x" * 1000 + b"\n") * MAX_PROPOSALS:
                    with contextlib.suppress(ConnectionClosed):
                        await raw.write(bytes([byte]))
                    if (await asyncio.wait({ended}, timeout=0.002))[0]:
                        break
                assert ended.done()
                await node.reports.error(DeadlineExceeded, "not upgraded within 0.3 s")

    run(main)


def test_connections_that_do_not_say_who_they_are_are_bounded_and_honest_ones_get_in() -> None:
    async def main() -> None:
        async with arena(NO_EXEMPTION) as node, contextlib.AsyncExitStack() as stack:
            opened = [await stack.enter_async_context(wire(node.victim)) for _ in range(EACH_IP)]
            async with wire(node.victim) as one_more:
                assert await rest(one_more) == b""
            await node.serves()
            assert all(raw.writable for raw in opened)

    run(main)


# ── Noise ────────────────────────────────────────────────────────────────────────────────────────────────────────────

FIRST_MESSAGE: dict[str, tuple[bytes, type[Exception], str]] = {
    "longer than a handshake message can be": (b"\xff\xff" + bytes(100), RemoteProtocolError, "65535 bytes"),
    "shorter than a key": (noise_message(bytes(31)), RemoteProtocolError, "1 bytes early"),
    "empty": (noise_message(b""), RemoteProtocolError, "32 bytes early"),
    "with a payload": (noise_message(noise_state(initiator=True).write_message(1, b"x")), RemoteProtocolError, "payl"),
    "an all-zero share": (noise_message(bytes(32)), SecurityError, "all-zero"),
    "a share of small order": (noise_message(b"\1" + bytes(31)), SecurityError, "all-zero"),
}


@pytest.mark.parametrize("attack", FIRST_MESSAGE)
def test_a_first_noise_message_that_breaks_the_rules_ends_its_connection(attack: str) -> None:
    data, error, text = FIRST_MESSAGE[attack]

    async def main() -> None:
        async with arena() as node, handshake(node.victim) as raw:
            await raw.write(data)
            await node.reports.error(error, text)
            assert await rest(raw) == b""
            await node.serves()

    run(main)


def payload(key: bytes, signature: bytes) -> bytes:
    return fields.encode((1, key), (2, signature))


def of_another_static_key(_: HandshakeState) -> bytes:
    return payload(MALLORY.public.to_bytes(), MALLORY.sign(b"noise-libp2p-static-key:" + bytes(32)))


def signed_without_the_prefix(state: HandshakeState) -> bytes:
    return payload(MALLORY.public.to_bytes(), MALLORY.sign(static_key(state)))


def with_the_key_of_somebody_else(state: HandshakeState) -> bytes:
    signature = MALLORY.sign(b"noise-libp2p-static-key:" + static_key(state))
    return payload(PrivateKey.generate().public.to_bytes(), signature)


def static_key(state: HandshakeState) -> bytes:
    return state._static.public_key().public_bytes_raw()


def rsa_key(bits: int) -> bytes:
    """A public key whose check would take long."""
    numbers = rsa.RSAPublicNumbers(65537, (1 << bits - 1) + 1)
    data = numbers.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return fields.encode((1, 0), (2, data))


PAYLOADS: dict[str, tuple[Callable[[HandshakeState], bytes], type[Exception], str]] = {
    "signed for another static key": (of_another_static_key, SecurityError, "not signed"),
    "signed without the prefix": (signed_without_the_prefix, SecurityError, "not signed"),
    "signed by another key": (with_the_key_of_somebody_else, SecurityError, "not signed"),
    "without a key": (lambda _: b"", DecodeError, "without type or data"),
    "with a key of no kind": (lambda _: payload(fields.encode((1, 9), (2, b"x")), b""), DecodeError, "kind of key"),
    "with a key that is none": (lambda _: payload(fields.encode((1, 0), (2, b"\x30")), b""), DecodeError, "RSA"),
    "with an RSA key of 9000 bits": (lambda _: payload(rsa_key(9000), bytes(1125)), DecodeError, "9000 bits"),
    "with an RSA key of 16384 bits": (lambda _: payload(rsa_key(16384), bytes(2048)), DecodeError, "2086 bytes"),
    "with an RSA key of 1024 bits": (lambda _: payload(rsa_key(1024), bytes(128)), DecodeError, "1024 bits"),
    "with a signature that is a number": (lambda _: fields.encode((1, b""), (2, 7)), DecodeError, "a number"),
    "malformed": (lambda _: b"\xff" * 40, DecodeError, "varint"),
    "of more fields than one can count": (lambda _: b"\x18\x00" * 3000, DecodeError, "fields"),
}


@pytest.mark.parametrize("attack", PAYLOADS)
def test_a_peer_that_does_not_prove_its_identity_ends_before_it_has_a_stream(attack: str) -> None:
    make, error, text = PAYLOADS[attack]

    async def main() -> None:
        async with arena() as node, handshake(node.victim) as raw:
            state = noise_state(initiator=True)
            await raw.write(noise_message(state.write_message(1, b"")))
            state.read_message(2, await read_noise_message(raw))
            await raw.write(noise_message(state.write_message(3, make(state))))
            await node.reports.error(error, text)
            assert await rest(raw) == b""
            assert not any(isinstance(event, Connected) for event in node.seen.events)

    run(main)


def test_a_message_that_was_changed_on_its_way_ends_the_handshake() -> None:
    async def main() -> None:
        async with arena() as node, handshake(node.victim) as raw:
            state = noise_state(initiator=True)
            await raw.write(noise_message(state.write_message(1, b"")))
            state.read_message(2, await read_noise_message(raw))
            message = bytearray(state.write_message(3, b"anything"))
            message[40] ^= 1
            await raw.write(noise_message(bytes(message)))
            await node.reports.error(SecurityError, "failed to decrypt")
            assert await rest(raw) == b""

    run(main)


def test_a_peer_that_answers_a_dial_with_another_identity_learns_nothing_of_ours() -> None:
    async def main() -> None:
        async with arena() as node:
            after_second = asyncio.get_running_loop().create_future()

            async def impostor(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await reader.readexactly(len(GREETING) + len(b"\x07/noise\n"))
                writer.write(GREETING + b"\x07/noise\n")
                state = noise_state(initiator=False)
                state.read_message(1, (await reader.readexactly(34))[2:])
                proof = MALLORY.sign(b"noise-libp2p-static-key:" + static_key(state))
                writer.write(noise_message(state.write_message(2, payload(MALLORY.public.to_bytes(), proof))))
                with contextlib.suppress(ConnectionError):
                    after_second.set_result(await reader.read())
                writer.close()

            server = await asyncio.start_server(impostor, "127.0.0.66", 0)
            there = Multiaddr.tcp("127.0.0.66", server.sockets[0].getsockname()[1])
            wanted = PrivateKey.generate().peer_id()
            with pytest.raises(PeerIdMismatch, match=str(MALLORY.peer_id())):
                await node.victim.connect(there.with_peer(wanted))
            assert await after_second == b""
            server.close()

    run(main)


def test_a_peer_with_our_own_identity_is_refused() -> None:
    async def main() -> None:
        async with arena() as node:
            with pytest.raises(EOFError):
                async with session(node.victim, node.victim.key) as mallory:
                    await mallory.until(Kind.GO_AWAY, 0)
            await node.reports.error(PeerIdMismatch, "our own identity")

    run(main)


def test_two_who_respond_end_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with arena() as node, contextlib.AsyncExitStack() as stack:
            with monkeypatch.context() as patch:  # whoever means well has more time
                patch.setattr("node.net.swarm.INBOUND_TIMEOUT", 0.2)
                raw = await stack.enter_async_context(wire(node.victim))
                with pytest.raises(ConnectionClosed):
                    await respond(raw, lambda _: True)
                await node.reports.error(DeadlineExceeded, "not upgraded")

    run(main)


def test_nonsense_for_the_muxers_negotiation_ends_the_connection() -> None:
    async def main() -> None:
        async with arena() as node, session(node.victim, MALLORY, muxers=()) as mallory:
            await mallory.send(GREETING, b"\xff" * 10)
            await node.reports.error(DecodeError, "longer than 9 bytes")
            await rest(mallory.raw)

    run(main)


@pytest.mark.parametrize(
    ("data", "error", "text"),
    [
        (noise_message(bytes(40)), SecurityError, "failed to decrypt"),
        (noise_message(bytes(15)), RemoteProtocolError, "shorter than its tag"),
    ],
    ids=["forged", "too short"],
)
def test_a_message_after_the_handshake_that_is_not_the_peers_ends_the_connection(
    data: bytes, error: type[Exception], text: str
) -> None:
    async def main() -> None:
        async with arena() as node, session(node.victim, MALLORY) as mallory:
            await mallory.still_answers()
            await mallory.raw.write(data)
            assert text in await node.why(MALLORY.peer_id())
            await node.reports.error(error, text)
            assert goodbyes(await mallory.frames()) == [GoAwayCode.PROTOCOL_ERROR]

    run(main)


# ── yamux ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def data(stream: int, size: int, flags: int = 0) -> bytes:
    return pack(Kind.DATA, flags, stream, size) + bytes(size)


OPEN = pack(Kind.WINDOW_UPDATE, SYN, 1, 0)
BROKEN: dict[str, tuple[bytes, str]] = {
    "another version": (b"\x01" + OPEN[1:], "version 1"),
    "an unknown type": (pack(4, 0, 0, 0), "type 4"),
    "a stream with the session's id": (data(0, 1, SYN), "for the session"),
    "a stream with an id of ours": (pack(Kind.WINDOW_UPDATE, SYN, 2, 0), "wrong side"),
    "a stream opened twice": (OPEN + OPEN, "opened twice"),
    "one byte more than the window": (OPEN + pack(Kind.DATA, 0, 1, INITIAL_WINDOW + 1), "overran its window by 1 byte"),
    "a frame of 4 GiB": (OPEN + pack(Kind.DATA, 0, 1, 2**32 - 1), "overran"),
    "more than any window to nobody": (pack(Kind.DATA, 0, 9, MAX_WINDOW + 1), "more than any window"),
    "data after the end": (OPEN + pack(Kind.WINDOW_UPDATE, FIN, 1, 0) + data(1, 1), "after its end"),
    "questions without waiting for answers": (pack(Kind.PING, SYN, 0, 1) * 5000, "4096 answers wait"),
}


@pytest.mark.parametrize("attack", BROKEN)
def test_frames_that_break_the_rules_end_the_connection_with_a_goodbye(attack: str) -> None:
    frames, text = BROKEN[attack]

    async def main() -> None:
        async with arena() as node, session(node.victim, MALLORY) as mallory:
            await mallory.send(frames)
            assert text in await node.why(MALLORY.peer_id())
            await node.reports.error(RemoteProtocolError, text)
            assert goodbyes(await mallory.frames()) == [GoAwayCode.PROTOCOL_ERROR]

    run(main)


def test_a_window_overrun_that_comes_in_pieces_ends_the_connection() -> None:
    async def main() -> None:
        async with arena() as node, session(node.victim, MALLORY) as mallory:
            proposal = GREETING + encode_frame(b"/echo/1.0.0\n")
            await mallory.send(OPEN, pack(Kind.DATA, 0, 1, len(proposal)), proposal)
            # The echo is held up by our own window, which nothing refills, so it does not read all this.
            with contextlib.suppress(ConnectionClosed):
                for _ in range(32):
                    await mallory.send(data(1, 32 * 1024))
            assert "overran its window" in await node.why(MALLORY.peer_id())

    run(main)


TOLERATED: dict[str, bytes] = {
    "data for a stream that never was": data(9, 1000) + data(9, 0, FIN),
    "credit for a stream that never was": pack(Kind.WINDOW_UPDATE, 0, 9, 1000),
    "a reset of a stream that never was": pack(Kind.WINDOW_UPDATE, RST, 9, 1) + data(9, 10, RST),
    "an acknowledgement of nothing": pack(Kind.WINDOW_UPDATE, ACK, 4, 0),
    "an answer to no ping": pack(Kind.PING, ACK, 0, 12345),
    "a ping that neither asks nor answers": pack(Kind.PING, 0, 0, 1),
    "credit without end": OPEN + pack(Kind.WINDOW_UPDATE, 0, 1, 2**32 - 1) * 9,
    "an error code in the place of credit": OPEN + pack(Kind.WINDOW_UPDATE, RST, 1, 2**32 - 1),
    "a stream opened, ended and reset in one frame": data(1, 0, SYN | FIN | RST),
    "data behind a reset": OPEN + pack(Kind.WINDOW_UPDATE, RST, 1, 0) + data(1, 500),
    "the end told twice": OPEN + pack(Kind.WINDOW_UPDATE, FIN, 1, 0) * 2,
}


@pytest.mark.parametrize("oddity", TOLERATED)
def test_frames_that_make_no_sense_but_do_no_harm_are_dropped(oddity: str) -> None:
    async def main() -> None:
        async with arena() as node, session(node.victim, MALLORY) as mallory:
            await mallory.send(TOLERATED[oddity])
            await mallory.still_answers()
            (connection,) = node.victim.swarm.connections(MALLORY.peer_id())
            await mallory.send(pack(Kind.GO_AWAY, 0, 0, 0))
            await mallory.raw.close_write()
            assert await node.why(MALLORY.peer_id()) == "closed by the peer"
            assert connection.streams == 0

    run(main)


def opened(first: int, count: int) -> bytes:
    """Frames that open `count` streams, to say nothing on them."""
    return b"".join(pack(Kind.WINDOW_UPDATE, SYN, each, 0) for each in range(first, first + 2 * count, 2))


def test_streams_beyond_the_bound_are_reset_one_by_one_and_the_connection_lives() -> None:
    async def main() -> None:
        async with arena() as node, session(node.victim, MALLORY) as mallory:
            resets = 0
            for first in range(1, 20_000, 2000):
                await mallory.send(opened(first, 1000))
                await mallory.send(pack(Kind.PING, SYN, 0, first))
                while (frame := await mallory.frame()) is not None and (frame.kind, frame.length) != (Kind.PING, first):
                    theirs = frame.stream % 2 == 1  # identify's is the victim's own, and it gives that one up
                    resets += theirs and frame.kind == Kind.WINDOW_UPDATE and bool(frame.flags & RST)
                (connection,) = node.victim.swarm.connections(MALLORY.peer_id())
                assert connection.streams <= TRANSIENT_PEER.streams_in + 1  # identify's
                await node.serves()
            assert resets == 10_000 - TRANSIENT_PEER.streams_in

    run(main)


def test_ten_thousand_streams_at_once_end_the_connection() -> None:
    async def main() -> None:
        async with arena() as node, session(node.victim, MALLORY) as mallory:
            await mallory.still_answers()
            await mallory.send(opened(1, 5000), opened(10_001, 5000))
            assert "4096 answers wait" in await node.why(MALLORY.peer_id())

    run(main)


def test_one_peer_cannot_keep_others_from_negotiating_by_all_its_connections() -> None:
    async def main() -> None:
        async with arena() as node, contextlib.AsyncExitStack() as stack:
            for _ in range(PEER.connections):
                mallory = await stack.enter_async_context(session(node.victim, MALLORY))
                await mallory.send(opened(1, TRANSIENT_PEER.streams_in))
                await mallory.still_answers()
            await node.serves()

    run(main)


def test_connections_beyond_a_peers_share_are_refused_and_nobody_elses() -> None:
    async def main() -> None:
        async with arena() as node, contextlib.AsyncExitStack() as stack:
            for _ in range(PEER.connections):
                await (await stack.enter_async_context(session(node.victim, MALLORY))).still_answers()
            async with session(node.victim, MALLORY) as one_more:
                await rest(one_more.raw)
            await node.reports.error(LimitExceeded, f"{MALLORY.peer_id()} has {PEER.connections} inbound connections")
            await node.serves()

    run(main)


def test_identities_without_end_from_one_address_do_not_take_all_connections() -> None:
    async def main() -> None:
        async with arena(NO_EXEMPTION) as node, contextlib.AsyncExitStack() as stack:
            for _ in range(EACH_IP):
                key = PrivateKey.generate()
                mallory = await stack.enter_async_context(session(node.victim, key))
                await mallory.still_answers()
            async with wire(node.victim) as one_more:
                assert await rest(one_more) == b""
            await node.reports.error(LimitExceeded, f"127.0.0.66/32 has {EACH_IP} inbound connections")
            await node.serves()
            await mallory.raw.close()
            await node.why(key.peer_id())
            async with session(node.victim, PrivateKey.generate()) as instead:
                await instead.still_answers()

    run(main)


def test_a_peer_that_takes_leave_is_still_served_and_opens_no_way_for_ours() -> None:
    async def main() -> None:
        async with arena() as node, session(node.victim, MALLORY) as mallory:
            await mallory.still_answers()
            (connection,) = node.victim.swarm.connections(MALLORY.peer_id())
            await mallory.send(pack(Kind.GO_AWAY, 0, 0, 0))
            await mallory.send(OPEN, data(1, len(GREETING))[:12], GREETING)
            await mallory.until(Kind.DATA, 1)
            with pytest.raises(ConnectionClosed):
                await connection.new_stream(["/echo/1.0.0"])

    run(main)


def test_a_peer_that_took_leave_and_lingers_can_be_dialled_anew() -> None:
    async def main() -> None:
        async with arena() as node:
            key = PrivateKey.generate()
            async with session(node.victim, key) as lingering:
                await lingering.send(pack(Kind.GO_AWAY, 0, 0, 0))
                await lingering.still_answers()
                assert node.victim.swarm.best(key.peer_id()) is None
                async with stranger(node.victim, key) as again:
                    await again.muxed.ping()
                    assert node.victim.swarm.best(key.peer_id()) is not None

    run(main)


@pytest.mark.parametrize("turns", range(4))
def test_a_node_that_closes_while_a_stranger_comes_in_leaves_no_connection_open(turns: int) -> None:
    async def main() -> None:
        with socket.socket() as sock:
            async with Host(HostConfig(listen=(LOOPBACK,))) as host:
                port = host.listen_addrs()[0].port
                sock.connect(("127.0.0.1", port))
                for _ in range(turns):
                    await asyncio.sleep(0)  # the loop's turns that the accept is under way
            sock.setblocking(False)
            with contextlib.suppress(ConnectionError):
                assert await asyncio.get_running_loop().sock_recv(sock, 1) == b""

    run(main)
