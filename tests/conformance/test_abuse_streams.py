"""Hostile peers that have proved who they are: streams and the protocols on them used wrongly against a running node.

Each attack ends in a reset or an answer and a typed error that the node reports; the connection lives unless said
otherwise, what the attack holds of the node is bounded, and an honest peer is served while it lasts and after.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
import tracemalloc
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from node.errors import (
    ConnectionClosed,
    DeadlineExceeded,
    DecodeError,
    RemoteProtocolError,
    SecurityError,
    StreamClosed,
    StreamReset,
)
from node.events import Identified, StreamOpened
from node.host import Host, HostConfig
from node.logic.addressbook import ADDRESSES_PER_PEER, PROTOCOLS_PER_PEER
from node.logic.limits import SERVICE_LIMITS
from node.names import fields
from node.names.envelope import PEER_RECORD_DOMAIN, PEER_RECORD_TYPE, Envelope, PeerRecord, seal_peer_record
from node.names.keys import PrivateKey
from node.names.multiaddr import Multiaddr
from node.net.connection import Stream
from node.net.negotiate import respond
from node.protocols.identify import PUSHES
from node.wire.framing import encode_frame
from node.wire.identify import MAX_MESSAGE, MAX_MESSAGES
from node.wire.identify import PROTOCOL as IDENTIFY
from node.wire.identify import PUSH_PROTOCOL as PUSH
from node.wire.multistream import MAX_PROPOSALS
from node.wire.yamux import INITIAL_WINDOW, YamuxConfig
from node.wire.yamux_frames import Flag, Kind, pack
from tests.support.connections import End
from tests.support.hostile import GREETING, HOSTILE, Arena, Session, arena, rest, session, speak, stranger
from tests.support.hosts import run

MALLORY = PrivateKey.generate()
PING, ECHO, PERF = "/ipfs/ping/1.0.0", "/echo/1.0.0", "/perf/1.0.0"
KIB, MIB = 1024, 1024 * 1024


# ── what protocol a stream has ───────────────────────────────────────────────────────────────────────────────────────

NEGOTIATIONS: dict[str, tuple[bytes, type[Exception], str]] = {
    "a varint of ten bytes": (b"\xff" * 10, DecodeError, "longer than 9 bytes"),
    "a varint that is not minimal": (b"\x93\x00/multistream/1.0.0\n", DecodeError, "not minimal"),
    "a message that is too long": (GREETING + b"\x80\x80\x04", RemoteProtocolError, "at most 1024"),
    "more proposals than anybody has": (
        GREETING + encode_frame(b"/x\n") * (MAX_PROPOSALS + 1),
        RemoteProtocolError,
        "more than 64 proposals",
    ),
    "questions for a list without end": (
        GREETING + encode_frame(b"ls\n") * (MAX_PROPOSALS + 1),
        RemoteProtocolError,
        "more than 64 proposals",
    ),
    "another protocol": (b"GET / HTTP/1.1\r\n\r\n" * 99, RemoteProtocolError, ""),
}


@pytest.mark.parametrize("attack", NEGOTIATIONS)
def test_a_negotiation_that_breaks_the_rules_resets_its_stream_and_no_other(attack: str) -> None:
    data, error, text = NEGOTIATIONS[attack]

    async def main() -> None:
        async with arena() as node, stranger(node.victim, MALLORY) as mallory:
            stream = await mallory.muxed.open_stream()
            await stream.write(data)
            await node.reports.error(error, text)
            await rest(stream)
            await (await speak(mallory, PING)).write(bytes(32))
            assert not mallory.muxed.is_closed

    run(main)


def test_a_stream_that_drips_is_reset_at_the_deadline_although_it_never_falls_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        async with arena() as node, stranger(node.victim, MALLORY) as mallory:
            with monkeypatch.context() as patch:  # whoever means well has more time
                patch.setattr("node.net.connection.NEGOTIATION_TIMEOUT", 0.3)
                stream = await mallory.muxed.open_stream()
                ended = asyncio.ensure_future(rest(stream))
                for byte in GREETING + encode_frame(b"/" + b"x" * 1000 + b"\n") * MAX_PROPOSALS:
                    with contextlib.suppress(StreamReset):
                        await stream.write(bytes([byte]))
                    if (await asyncio.wait({ended}, timeout=0.002))[0]:
                        break
                assert ended.done()
                await node.reports.error(TimeoutError)
            await mallory.muxed.ping()

    run(main)


def test_streams_opened_and_reset_again_and_again_leave_nothing_behind() -> None:
    async def main() -> None:
        async with arena() as node, session(node.victim, MALLORY) as mallory:
            await mallory.still_answers()
            (connection,) = node.victim.swarm.connections(MALLORY.peer_id())
            proposal = GREETING + encode_frame(b"/ipfs/ping/1.0.0\n")
            for first in range(1, 4000, 200):
                for each in range(first, first + 200, 2):
                    begin = pack(Kind.DATA, Flag.SYN, each, len(proposal)) + proposal
                    await mallory.send(begin, pack(Kind.WINDOW_UPDATE, Flag.RST, each, 0))
                await mallory.still_answers()
            await node.serves()
            assert connection.streams <= 1  # identify's

    run(main)


def test_a_peer_that_acknowledges_no_stream_costs_no_more_than_the_deadline() -> None:
    async def main() -> None:
        async with arena() as node, session(node.victim, MALLORY) as mallory:
            await mallory.still_answers()
            (connection,) = node.victim.swarm.connections(MALLORY.peer_id())
            while connection.streams < YamuxConfig().ack_backlog:
                protocol = f"/{connection.streams % 4}"  # of one there may not be so many
                await connection.new_stream([protocol], lazy=True)
            with pytest.raises(DeadlineExceeded):
                await connection.new_stream([PING], lazy=True, timeout=0.1)
            with pytest.raises(DeadlineExceeded):
                await connection.list_protocols(timeout=0.1)

    run(main)


# ── malformed requests ───────────────────────────────────────────────────────────────────────────────────────────────

REQUESTS: dict[str, tuple[str, bytes, type[Exception], str]] = {
    "half a ping": (PING, bytes(31), StreamClosed, "1 bytes early"),
    "less than a size of perf": (PERF, bytes(7), StreamClosed, "1 bytes early"),
    "a push without a message": (PUSH, b"", DecodeError, "without a message"),
    "half a push": (PUSH, b"\x05\x0a", RemoteProtocolError, "inside a frame"),
    "a push of no protobuf": (PUSH, encode_frame(b"\xff" * 20), DecodeError, "malformed"),
    "a push that is too long": (PUSH, b"\x81\x40" + bytes(MAX_MESSAGE + 1), RemoteProtocolError, "frame of 8193"),
    "a push with a varint too long": (PUSH, b"\xff" * 10, DecodeError, "longer than 9 bytes"),
    "a push with a varint not minimal": (PUSH, b"\x81\x00", DecodeError, "not minimal"),
    "a push with no key for a key": (PUSH, encode_frame(fields.encode((1, b"\x08\x01"))), DecodeError, "type or data"),
    "a push with text that is none": (PUSH, encode_frame(fields.encode((6, b"\xff\xfe"))), DecodeError, "UTF-8"),
    "a push of too many parts": (PUSH, b"\x00" * (MAX_MESSAGES + 1), DecodeError, "more than 10 messages"),
    "a push of too many addresses": (PUSH, encode_frame(fields.encode(*[(2, b"")] * 4000)), DecodeError, "at most 500"),
    "a push of too many protocols": (PUSH, encode_frame(fields.encode(*[(3, b"")] * 4000)), DecodeError, "1024"),
    "hole punching on a direct connection": ("/libp2p/dcutr", bytes(9), RemoteProtocolError, "must not begin"),
}


@pytest.mark.parametrize("attack", REQUESTS)
def test_a_request_that_breaks_its_protocol_resets_its_stream_and_no_other(attack: str) -> None:
    protocol, data, error, text = REQUESTS[attack]

    async def main() -> None:
        async with arena() as node, stranger(node.victim, MALLORY) as mallory:
            stream = await speak(mallory, protocol)
            await stream.write(data)
            await stream.close_write()
            await node.reports.error(error, text)
            with pytest.raises(StreamReset):
                await stream.read()
            await mallory.muxed.ping()

    run(main)


def test_a_push_of_sixty_thousand_empty_parts_is_not_worked_through() -> None:
    async def main() -> None:
        async with arena() as node, stranger(node.victim, MALLORY) as mallory:
            stream = await speak(mallory, PUSH)
            before = time.thread_time()
            await stream.write(bytes(60 * KIB))
            await node.reports.error(DecodeError, "more than 10 messages")
            assert time.thread_time() - before < 0.15  # reading them all takes twice that

    run(main)


def test_who_goes_on_sending_after_the_answer_is_cut_off() -> None:
    async def main() -> None:
        async with arena() as node, stranger(node.victim, MALLORY) as mallory:
            stream = await speak(mallory, IDENTIFY)
            with pytest.raises(StreamReset):
                await stream.write(bytes(10 * MIB))
            await mallory.muxed.ping()

    run(main)


# ── identify ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def impostor(
    node: Arena, answer: Callable[[Stream], Awaitable[None]], key: PrivateKey = MALLORY, protocol: str = IDENTIFY
) -> AsyncIterator[Host]:
    """A host connected to the victim that answers one protocol in its own way."""
    config = HostConfig(key=key, listen=(HOSTILE,), relay_client=False, dcutr=False)
    async with Host(config) as host:
        host.unhandle(protocol)
        host.handle(protocol, answer)
        await host.connect(node.addr)
        yield host


def says(*messages: bytes) -> Callable[[Stream], Awaitable[None]]:
    """Answers with these messages and the end."""

    async def answer(stream: Stream) -> None:
        for message in messages:
            await stream.write(encode_frame(message))
        await stream.close_write()

    return answer


def addresses(first: int, count: int) -> list[Multiaddr]:
    return [Multiaddr.tcp(f"11.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}", 4001) for n in range(first, first + count)]


def listing(*addrs: Multiaddr) -> bytes:
    return fields.encode(*((2, addr.to_bytes()) for addr in addrs))


async def drip(stream: Stream) -> None:
    """Announce a message and send it a byte at a time until the other side has enough."""
    ended = asyncio.ensure_future(rest(stream))
    await stream.write(b"\x80\x20")
    while not (await asyncio.wait({ended}, timeout=0.002))[0]:
        with contextlib.suppress(StreamReset, StreamClosed):
            await stream.write(b"\x00")


IDENTITIES: dict[str, tuple[Callable[[Stream], Awaitable[None]], type[Exception], str]] = {
    "ten thousand addresses": (
        says(*(listing(*addresses(n, 400)) for n in range(0, 10_000, 400))),
        DecodeError,
        "more than 10 messages",
    ),
    "addresses that are too many together": (
        says(listing(*addresses(0, 300)), listing(*addresses(300, 300))),
        DecodeError,
        "600 listen addresses",
    ),
    "protocols that are too many together": (
        says(*[fields.encode(*((3, b"/%d" % n) for n in range(700)))] * 2),
        DecodeError,
        "1400 protocols",
    ),
    "messages without end": (says(*[b""] * 1000), DecodeError, "more than 10 messages"),
    "a message that is too long": (says(bytes(MAX_MESSAGE + 1)), RemoteProtocolError, "frame of 8193"),
    "no message": (says(), DecodeError, "without a message"),
    "the key of somebody else": (
        says(fields.encode((1, PrivateKey.generate().public.to_bytes()))),
        SecurityError,
        "sent the public key of",
    ),
    "a message a byte at a time": (drip, DeadlineExceeded, "no identify message in 0.3 s"),
}


@pytest.mark.parametrize("lie", IDENTITIES)
def test_an_identity_that_cannot_be_is_not_believed_and_the_connection_lives(
    lie: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, error, text = IDENTITIES[lie]
    monkeypatch.setattr("node.protocols.identify.TIMEOUT", 0.3 if answer is drip else 5.0)

    async def main() -> None:
        async with arena() as node, impostor(node, answer) as mallory:
            await node.reports.error(error, text)
            (connection,) = node.victim.swarm.connections(mallory.peer_id)
            await node.victim.identified(connection)
            assert node.victim.addressbook.addrs(mallory.peer_id, node.victim.now()) == []
            assert node.victim.protocols_of(mallory.peer_id) == frozenset()
            assert await node.victim.ping.ping(connection) > 0

    run(main)


def test_as_much_as_a_message_can_hold_is_remembered_only_up_to_the_bound() -> None:
    async def main() -> None:
        many = (listing(*addresses(0, 500)), fields.encode(*((3, b"/%d" % n) for n in range(1000))))
        async with arena() as node, impostor(node, says(*many)) as mallory:
            await node.seen.wait(Identified, lambda event: event.peer == mallory.peer_id)
            assert len(node.victim.addressbook.addrs(mallory.peer_id, node.victim.now())) == ADDRESSES_PER_PEER
            assert len(node.victim.protocols_of(mallory.peer_id)) == PROTOCOLS_PER_PEER

    run(main)


def record(seq: int, addrs: list[Multiaddr]) -> bytes:
    return fields.encode((8, seal_peer_record(MALLORY, seq, addrs)))


def sealed(record: PeerRecord, domain: str = PEER_RECORD_DOMAIN, kind: bytes = PEER_RECORD_TYPE) -> bytes:
    return fields.encode((8, Envelope.seal(MALLORY, domain, kind, record.to_bytes()).to_bytes()))


SOMEBODY = PrivateKey.generate()
FORGED: dict[str, bytes] = {
    "in the name of somebody else": sealed(PeerRecord(SOMEBODY.peer_id(), 1, tuple(addresses(0, 1)))),
    "that somebody else signed for themselves": fields.encode((8, seal_peer_record(SOMEBODY, 1, addresses(0, 1)))),
    "signed for another purpose": sealed(PeerRecord(MALLORY.peer_id(), 1, tuple(addresses(0, 1))), domain="other"),
    "of another type": sealed(PeerRecord(MALLORY.peer_id(), 1, tuple(addresses(0, 1))), kind=b"\x03\x02"),
    "that was changed": record(1, addresses(0, 1)).replace(b"\x0b\x00\x00\x00", b"\x0b\x00\x00\x07"),
    "without a signature": fields.encode((8, fields.encode((1, MALLORY.public.to_bytes()), (2, b"\x03\x01")))),
    "that is none": fields.encode((8, b"\xff" * 50)),
}


@pytest.mark.parametrize("forgery", FORGED)
def test_a_forged_record_is_worth_nothing_for_either_peer(forgery: str) -> None:
    async def main() -> None:
        async with arena() as node, impostor(node, says(FORGED[forgery])) as mallory:
            identified = await node.seen.wait(Identified, lambda event: event.peer == mallory.peer_id)
            assert identified.addrs == ()
            for peer in (mallory.peer_id, SOMEBODY.peer_id()):
                assert node.victim.addressbook.addrs(peer, node.victim.now()) == []

    run(main)


def test_of_two_records_the_one_with_the_higher_number_holds_whatever_comes_last() -> None:
    async def main() -> None:
        old, new = addresses(0, 2)
        async with arena() as node, stranger(node.victim, MALLORY) as mallory:
            for seq, addr in ((7, new), (7, old), (6, old), (0, old)):
                stream = await speak(mallory, PUSH)
                await stream.write(encode_frame(record(seq, [addr])))
                await stream.close_write()
                await rest(stream)
            assert node.victim.addressbook.addrs(MALLORY.peer_id(), node.victim.now()) == [new]

    run(main)


def test_a_flood_of_pushes_with_lies_about_our_address_leaves_one_lie() -> None:
    async def main() -> None:
        async with arena() as node, stranger(node.victim, MALLORY) as mallory:
            for addr in addresses(0, 300):
                stream = await speak(mallory, PUSH)
                await stream.write(encode_frame(fields.encode((4, addr.to_bytes()), (2, addr.to_bytes()))))
                await stream.close_write()
                await rest(stream)
            assert node.victim.observed_addrs() == addresses(299, 1)
            assert set(addresses(0, 300)).isdisjoint(node.victim.addrs())
            assert len(node.victim.addressbook.addrs(MALLORY.peer_id(), node.victim.now())) <= ADDRESSES_PER_PEER

    run(main)


async def introduce(mallory: End) -> None:
    """Tell the victim that we take pushes, and have it believe that we know who it is."""
    _, stream = await respond(await mallory.incoming.get(), lambda protocol: protocol == IDENTIFY)
    await stream.write(encode_frame(fields.encode((3, PUSH.encode()))))
    await stream.close_write()
    await rest(await speak(mallory, IDENTIFY))


def test_a_connection_that_ends_while_others_hold_up_a_push_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with arena() as node, contextlib.AsyncExitStack() as stack:
            keys = [PrivateKey.generate() for _ in range(PUSHES)]
            last = PrivateKey.generate()
            for key in keys:
                await introduce(await stack.enter_async_context(stranger(node.victim, key)))
            async with stranger(node.victim, last) as mallory:
                await introduce(mallory)
                for key in (*keys, last):
                    peer = key.peer_id()
                    await node.seen.wait(Identified, lambda event, peer=peer: event.peer == peer)  # type: ignore[misc]
                (connection,) = node.victim.swarm.connections(last.peer_id())
                forgotten = weakref.ref(connection)
                del connection
                monkeypatch.setattr("node.protocols.identify.TIMEOUT", 0.4)
                node.victim.handle("/new/1.0.0", drip)
                await mallory.muxed.ping()
            await node.why(last.peer_id())
            await node.reports.error(DeadlineExceeded, "no stream for /ipfs/id/push/1.0.0", times=len(keys))
            monkeypatch.undo()
            await node.serves()
            gc.collect()
            assert forgotten() is None

    run(main)


# ── more than one can take ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_flood_of_ping_streams_is_served_as_far_as_the_bound_goes() -> None:
    async def main() -> None:
        async with arena() as node, stranger(node.victim, MALLORY) as mallory:
            for _ in range(100):
                await speak(mallory, PING)
            await mallory.muxed.ping()
            served = [event for event in node.seen.events if isinstance(event, StreamOpened) and event.protocol == PING]
            assert (
                len([event for event in served if event.peer == MALLORY.peer_id()])
                == SERVICE_LIMITS["ping"][1].streams_in
            )
            await node.serves()

    run(main)


async def begin(mallory: Session, stream: int, protocol: str) -> int:
    """Open a stream of the protocol and return the credit that is left on it."""
    proposal = GREETING + encode_frame(protocol.encode() + b"\n")
    await mallory.send(pack(Kind.DATA, Flag.SYN, stream, len(proposal)), proposal)
    await mallory.until(Kind.DATA, stream)
    return INITIAL_WINDOW - len(proposal)


async def exhaust(mallory: Session, stream: int, credit: int) -> int:
    """Send all that the victim gives credit for, and return how much that was."""
    sent = idle = 0
    while idle < 5:
        while credit:
            size = min(credit, 32 * KIB)
            await mallory.send(pack(Kind.DATA, 0, stream, size), bytes(size))
            credit, sent, idle = credit - size, sent + size, 0
        idle += 1
        await mallory.send(pack(Kind.PING, Flag.SYN, 0, idle))
        while (frame := await mallory.frame()) is not None and frame.kind != Kind.PING:
            if (frame.kind, frame.stream) == (Kind.WINDOW_UPDATE, stream):
                credit += frame.length
    return sent


def test_an_echo_that_nobody_reads_takes_in_no_more_than_the_windows_and_ends_at_its_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("node.protocols.echo.IDLE_TIMEOUT", 3.0)  # longer than nothing is said while it is filled

    async def main() -> None:
        async with arena() as node, session(node.victim, MALLORY) as mallory:
            credit = await begin(mallory, 1, ECHO)
            # A window each way, a block in hand, and what the window grew by while it was still being read.
            assert await exhaust(mallory, 1, credit) < 4 * INITIAL_WINDOW
            await mallory.until(Kind.WINDOW_UPDATE, 1, Flag.RST)
            await node.reports.error(TimeoutError)
            await mallory.still_answers()

    run(main)


def test_small_pieces_in_large_messages_do_not_hold_the_messages_in_memory() -> None:
    async def never_reads(_: Stream) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        async with arena() as node, session(node.victim, MALLORY) as mallory:
            node.victim.handle("/idle/1.0.0", never_reads)
            streams, piece = range(1, 17, 2), 4 * KIB
            for stream in streams:
                await begin(mallory, stream, "/idle/1.0.0")
            filler = pack(Kind.DATA, 0, 9999, 60_000) + bytes(60_000)  # to nobody, so it is dropped
            tracemalloc.start()
            for _ in range(INITIAL_WINDOW // piece - 1):
                for stream in streams:
                    await mallory.send(pack(Kind.DATA, 0, stream, piece), bytes(piece), filler)
            await mallory.still_answers()
            held, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert held < 3 * len(streams) * INITIAL_WINDOW

    run(main)


def test_a_download_without_end_that_nobody_reads_waits_in_no_memory_of_ours() -> None:
    async def main() -> None:
        async with arena() as node, session(node.victim, MALLORY) as mallory:
            await begin(mallory, 1, PERF)
            tracemalloc.start()
            await mallory.send(pack(Kind.DATA, 0, 1, 8), b"\xff" * 8, pack(Kind.WINDOW_UPDATE, Flag.FIN, 1, 2**30))
            await node.serves()
            held, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert held < 4 * MIB
            await mallory.raw.close()
            await node.why(MALLORY.peer_id())
            await node.reports.error(ConnectionClosed, "ended")

    run(main)
