"""QUIC over real sockets: who is let in, what a bad network and a bad peer can do, and what is bounded."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection as Bare
from aioquic.quic.packet import QuicProtocolVersion

from node.errors import ConfigError, ConnectionClosed, DialError, NodeError, PeerIdMismatch, SecurityError
from node.names.multiaddr import Multiaddr
from node.net.credentials import Credentials
from node.net.quic.connection import UNSENT, QuicConnection
from node.net.quic.endpoint import UNPROVEN
from node.net.quic.machine import CERTIFICATE_REQUIRED, STREAM_WINDOW, STREAMS
from node.net.quic.transport import QuicListener
from node.net.quic.windows import STEP, ReceiveWindow
from node.net.stream import read_exactly
from node.net.transport import Carried
from node.wire.yamux_windows import GrowthPool
from tests.support.connections import (
    ALICE,
    ANY_UDP_PORT,
    BOB,
    End,
    connected,
    quic_transport,
    read_all,
    stream_pair,
)
from tests.support.datagrams import Forwarder, forwarder

DEADLINE = 30.0


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(DEADLINE):
            await main()

    asyncio.run(bounded())


class Server:
    """Bob, who takes everybody in."""

    def __init__(self) -> None:
        self.listener: QuicListener
        self.transport = quic_transport(BOB)
        self.offered = 0
        self.ends: asyncio.Queue[End] = asyncio.Queue()
        self.refused: asyncio.Queue[NodeError] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections: list[QuicConnection] = []

    @property
    def addr(self) -> Multiaddr:
        return self.listener.addr

    def offer(self, carried: Carried) -> None:
        self.offered += 1
        assert isinstance(carried, QuicConnection)
        self._connections.append(carried)
        self._tasks.add(asyncio.create_task(self._complete(carried)))

    async def _complete(self, connection: QuicConnection) -> None:
        try:
            end = End(await connection.complete(None))
        except NodeError as error:
            self.refused.put_nowait(error)
            return
        end.start()
        self.ends.put_nowait(end)

    async def close(self) -> None:
        for connection in self._connections:
            connection.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.listener.close()


@asynccontextmanager
async def server(addr: Multiaddr = ANY_UDP_PORT) -> AsyncIterator[Server]:
    bob = Server()
    bob.listener = await bob.transport.listen(addr, bob.offer)
    try:
        yield bob
    finally:
        await bob.close()


@asynccontextmanager
async def through_a_forwarder() -> AsyncIterator[tuple[End, End, Forwarder]]:
    async with server() as bob, forwarder(bob.addr) as path:
        connection = await quic_transport(ALICE).dial(path.addr)
        alice = End(await connection.complete(BOB.peer_id()))
        alice.start()
        end = await bob.ends.get()
        yield alice, end, path
        await alice.muxed.close()
        await end.muxed.close()


@contextmanager
def plain_socket() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.bind(("127.0.0.1", 0))
        yield sock


async def bare_client(config: QuicConfiguration, to: Multiaddr) -> events.ConnectionTerminated:
    """Let aioquic alone dial, and return how that ended."""
    loop, client, there = asyncio.get_running_loop(), Bare(configuration=config), (str(to.ip), to.port)
    with plain_socket() as sock:
        client.connect(there, loop.time())
        while True:
            for data, _ in client.datagrams_to_send(loop.time()):
                sock.sendto(data, there)
            while (event := client.next_event()) is not None:
                if isinstance(event, events.ConnectionTerminated):
                    return event
            timer = client.get_timer()
            assert timer is not None
            try:
                async with asyncio.timeout_at(timer):
                    client.receive_datagram(await loop.sock_recv(sock, 65536), there, loop.time())
            except TimeoutError:
                client.handle_timer(loop.time())


def client_config(**values: object) -> QuicConfiguration:
    return QuicConfiguration(**{"alpn_protocols": ["libp2p"], "verify_mode": ssl.CERT_NONE, **values})  # type: ignore[arg-type]


# ── who is who ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_both_sides_know_each_other_and_where_they_are() -> None:
    async def main() -> None:
        async with server() as bob:
            alice = await (await quic_transport(ALICE).dial(bob.addr)).complete(BOB.peer_id())
            end = await bob.ends.get()
            assert (alice.remote_peer, end.muxed.remote_peer) == (BOB.peer_id(), ALICE.peer_id())
            assert (alice.remote, end.muxed.local) == (bob.addr, bob.addr)
            assert alice.remote_key == BOB.public
            assert (alice.security, alice.muxer) == ("/tls/1.0.0", "quic")
            await alice.close()
            assert await end.closed is None

    run(main)


def test_a_dial_leaves_from_the_socket_that_listens() -> None:
    async def main() -> None:
        async with server() as bob, server() as other:
            dialled = await other.transport.dial(bob.addr, source=other.addr)
            await dialled.complete(BOB.peer_id())
            assert dialled.local == other.addr
            assert (await bob.ends.get()).muxed.remote == other.addr
            with pytest.raises(DialError, match="nothing listens"):
                await other.transport.dial(bob.addr, source=bob.addr, strict_source=True)
            await dialled.close()

    run(main)


@pytest.mark.parametrize(("wildcard", "target"), [("/ip4/0.0.0.0", "127.0.0.3"), ("/ip6/::", "::1")])
def test_a_wildcard_answers_from_the_address_that_was_dialled(wildcard: str, target: str) -> None:
    """QUIC drops what comes from another address, so this connects only if the answers have the right one."""

    async def main() -> None:
        async with server(Multiaddr(f"{wildcard}/udp/0/quic-v1")) as bob:
            there = bob.addr.with_ip(target)
            alice = await (await quic_transport(ALICE).dial(there)).complete(BOB.peer_id())
            assert (await bob.ends.get()).muxed.local == there
            assert alice.local.ip is not None
            assert not alice.local.ip.is_unspecified
            await alice.close()

    run(main)


def test_an_address_in_use_is_a_config_error() -> None:
    async def main() -> None:
        async with server() as bob:
            with pytest.raises(ConfigError, match="in use"):
                await quic_transport(ALICE).listen(bob.addr, bob.offer)

    run(main)


def test_somebody_else_than_expected_is_refused_and_told() -> None:
    async def main() -> None:
        async with server() as bob:
            with pytest.raises(PeerIdMismatch):
                await (await quic_transport(ALICE).dial(bob.addr)).complete(ALICE.peer_id())
            assert "refused our certificate" in str(await bob.refused.get())

    run(main)


def test_a_client_without_certificate_is_refused() -> None:
    async def main() -> None:
        async with server() as bob:
            ended = await bare_client(client_config(), bob.addr)
            assert ended.error_code == CERTIFICATE_REQUIRED
            assert "0 certificates" in str(await bob.refused.get())

    run(main)


def test_a_client_with_two_certificates_or_a_foreign_one_is_refused() -> None:
    async def main() -> None:
        mine, other = Credentials.of(ALICE), Credentials.of(ALICE)
        async with server() as bob:
            config = client_config(
                certificate=mine.certificate, private_key=mine.key, certificate_chain=[other.certificate]
            )
            await bare_client(config, bob.addr)
            assert "2 certificates" in str(await bob.refused.get())
            # Somebody else's certificate, without its key:
            await bare_client(client_config(certificate=mine.certificate, private_key=other.key), bob.addr)
            assert isinstance(await bob.refused.get(), ConnectionClosed | SecurityError)

    run(main)


def test_another_alpn_is_refused() -> None:
    async def main() -> None:
        mine = Credentials.of(ALICE)
        async with server() as bob:
            config = client_config(certificate=mine.certificate, private_key=mine.key, alpn_protocols=["h3"])
            ended = await bare_client(config, bob.addr)
            assert ended.error_code == 0x100 + 120  # no_application_protocol
            await bob.refused.get()

    run(main)


def test_a_client_hello_of_several_packets_is_put_together() -> None:
    """Post-quantum key shares do not fit into one packet; go and rust offer them."""

    async def main() -> None:
        mine = Credentials.of(ALICE)
        async with server() as bob:
            config = client_config(
                certificate=mine.certificate, private_key=mine.key, quantum_readiness_test=True, idle_timeout=2.0
            )
            dialling = asyncio.create_task(bare_client(config, bob.addr))
            assert (await bob.ends.get()).muxed.remote_peer == ALICE.peer_id()
            dialling.cancel()
            await asyncio.wait({dialling})

    run(main)


# ── what a bad network does ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_new_port_of_the_peers_nat_is_followed() -> None:
    async def main() -> None:
        async with through_a_forwarder() as (alice, bob, path):
            ours, theirs = await stream_pair(alice, bob)
            before = bob.muxed.remote
            await path.rebind()
            await ours.write(b"still here")
            assert await read_exactly(theirs, 10) == b"still here"
            await theirs.write(b"so am I")
            assert await read_exactly(ours, 7) == b"so am I"
            assert bob.muxed.remote != before

    run(main)


def test_every_loss_is_made_good_even_that_of_an_end_or_a_reset() -> None:
    """Each datagram that carries the end of a stream, or its reset, is lost once: it is sent again."""

    async def main() -> None:
        chance = random.Random(1)
        async with through_a_forwarder() as (alice, bob, path):
            path.forth = path.back = lambda data: chance.random() > 0.2
            for _ in range(20):
                ours, theirs = await stream_pair(alice, bob)
                await ours.write(bytes(5000))
                await ours.close_write()
                assert await read_all(theirs) == bytes(5000)
                theirs.reset()
                with pytest.raises(NodeError, match="reset"):
                    await ours.read()

    run(main)


def test_a_lost_end_is_sent_again() -> None:
    async def main() -> None:
        async with through_a_forwarder() as (alice, bob, path):
            ours, theirs = await stream_pair(alice, bob)
            await alice.muxed.ping()
            reading = asyncio.create_task(read_all(theirs))
            lost = iter([False, False])
            path.forth = lambda data: next(lost, True)
            await ours.close_write()
            assert await reading == b""
            assert next(lost, None) is None

    run(main)


def test_a_peer_that_vanishes_is_missed() -> None:
    async def main() -> None:
        async with through_a_forwarder() as (alice, _bob, path):
            path.forth = path.back = lambda data: False
            alice.muxed.machine.configuration.idle_timeout = 0.1
            ping = asyncio.create_task(alice.muxed.ping())
            assert "Idle timeout" in str(await alice.closed)
            with pytest.raises(ConnectionClosed):
                await ping

    run(main)


def test_a_goodbye_that_was_lost_is_said_again() -> None:
    async def main() -> None:
        async with through_a_forwarder() as (alice, bob, path):
            lost = iter([False])
            path.back = lambda data: next(lost, True)
            await bob.muxed.close()
            with pytest.raises(ConnectionClosed):
                await alice.muxed.ping()
            assert next(lost, None) is None
            assert await alice.closed is None

    run(main)


# ── what a bad peer does ─────────────────────────────────────────────────────────────────────────────────────────────


def test_junk_is_answered_by_silence_and_changes_nothing() -> None:
    chance = random.Random(2)

    def junk() -> Iterator[bytes]:
        for size in (0, 1, 5, 6, 7, 21, 64, 1199, 1200, 1452):
            for first in (0x00, 0x40, 0x7F, 0x80, 0xC0, 0xD0, 0xE0, 0xF0, 0xFF):
                for version in (b"\0\0\0\1", b"\0\0\0\0"):
                    yield (bytes([first]) + version + chance.randbytes(size))[:size]

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with server() as bob:
            with plain_socket() as sock:
                for data in junk():
                    sock.sendto(data, (str(bob.addr.ip), bob.addr.port))
                alice = await (await quic_transport(ALICE).dial(bob.addr)).complete(BOB.peer_id())
                with pytest.raises(BlockingIOError):
                    sock.recv(65536)
                assert loop.time() > 0
            await alice.ping()
            await alice.close()

    run(main)


def test_an_unknown_version_is_told_ours_but_only_when_that_is_no_amplification() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with server() as bob:
            with plain_socket() as sock:
                there = (str(bob.addr.ip), bob.addr.port)
                hello = b"\xc0" + bytes.fromhex("0a0a0a0a") + b"\x08destinat\x06source"
                sock.sendto(hello + bytes(100), there)
                sock.sendto(hello + bytes(1200), there)
                answer = await loop.sock_recv(sock, 65536)
                assert len(answer) < 1200
                assert answer[1:5] == bytes(4)
                assert b"\x06source\x08destinat" in answer
                assert answer.endswith(int(QuicProtocolVersion.VERSION_1).to_bytes(4, "big"))
                with pytest.raises(BlockingIOError):
                    sock.recv(65536)
            assert bob.offered == 0

    run(main)


def test_a_first_packet_that_cannot_be_decrypted_leaves_nothing_behind() -> None:
    async def main() -> None:
        async with server() as bob:
            with plain_socket() as sock:
                for n in range(2 * UNPROVEN):
                    head = b"\xc3\0\0\0\1\x08" + n.to_bytes(8, "big") + b"\x08" + os.urandom(8) + b"\0\x44\x96"
                    sock.sendto(head + os.urandom(1200 - len(head)), (str(bob.addr.ip), bob.addr.port))
                for _ in range(2 * UNPROVEN):
                    assert "began with a packet that is none" in str(await bob.refused.get())

    run(main)


def test_many_strangers_at_once_must_prove_their_address_first() -> None:
    """Handshakes that never go on fill what is kept for the unproven; who answers the Retry still gets in."""

    async def main() -> None:
        loop, half_open = asyncio.get_running_loop(), []
        async with server() as bob:
            there = (str(bob.addr.ip), bob.addr.port)
            with plain_socket() as sock:
                for _ in range(3 * UNPROVEN):
                    client = Bare(configuration=client_config())
                    client.connect(there, loop.time())
                    half_open.append(client)
                    sock.sendto(client.datagrams_to_send(loop.time())[0][0], there)
                alice = await (await quic_transport(ALICE).dial(bob.addr)).complete(BOB.peer_id())
                assert bob.offered == UNPROVEN + 1
                assert (await bob.ends.get()).muxed.remote_peer == ALICE.peer_id()
            await alice.close()

    run(main)


def test_who_is_refused_costs_no_machine() -> None:
    async def main() -> None:
        listener = await quic_transport(BOB).listen(ANY_UDP_PORT, lambda carried: carried.abort())
        dialled = await quic_transport(ALICE).dial(listener.addr)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await dialled.complete(BOB.peer_id())
        await listener.close()

    run(main)


def test_a_slow_reader_holds_the_writer_and_little_memory() -> None:
    async def main() -> None:
        async with connected("quic") as (alice, bob):
            ours, theirs = await stream_pair(alice, bob)
            writing = asyncio.create_task(ours.write(bytes(8 << 20)))
            await asyncio.wait({writing}, timeout=0.3)
            assert not writing.done()
            sender = alice.muxed.machine._streams[ours.id].sender
            assert sender._buffer_stop - sender._buffer_start <= STREAM_WINDOW + UNSENT
            assert alice.muxed.machine.unsent(ours.id) <= UNSENT
            receiver = bob.muxed.machine._streams[ours.id].receiver
            assert receiver.highest_offset <= STREAM_WINDOW
            assert len(await read_exactly(theirs, 8 << 20)) == 8 << 20
            await writing

    run(main)


def test_more_streams_than_the_peer_allows_wait_for_others_to_end() -> None:
    async def main() -> None:
        async with connected("quic") as (alice, bob):
            streams = [await stream_pair(alice, bob) for _ in range(STREAMS)]
            opening = asyncio.create_task(alice.muxed.open_stream())
            await alice.muxed.ping()
            assert not opening.done()
            for ours, theirs in streams:
                await ours.close()
                await theirs.close()
            await (await opening).write(b"at last")
            assert await (await bob.incoming.get()).read() == b"at last"

    run(main)


def test_streams_that_end_leave_nothing_behind() -> None:
    async def main() -> None:
        async with connected("quic") as (alice, bob):
            for n in range(100):
                ours, theirs = await stream_pair(alice, bob)
                await ours.write(bytes(3000))
                if n % 3 == 0:  # read to the end
                    await asyncio.gather(ours.close(), theirs.close())
                elif n % 3 == 1:  # reset, with bytes that nobody read
                    ours.reset()
                else:
                    theirs.reset()
            await alice.muxed.ping()
            await bob.muxed.ping()
            await alice.muxed.ping()
            for end in (alice, bob):
                assert end.muxed.streams == 0
                assert not end.muxed._flows
                window = end.muxed.machine._window
                assert window._consumed == end.muxed.machine._local_max_data.used

    run(main)


# ── windows ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_window_follows_its_reader_and_grows_for_a_fast_one() -> None:
    pool = GrowthPool(1 << 30)
    window = ReceiveWindow(256 * 1024, 1 << 20, pool, now=0.0)
    assert not window.consume(STEP - 1, 0.01, rtt=0.1)
    assert window.consume(1, 0.01, rtt=0.1)
    assert window.limit == 256 * 1024 + STEP
    window.consume(128 * 1024, 0.1, rtt=0.1)  # half of it, within four round trips
    assert window.limit == 512 * 1024 + STEP + 128 * 1024
    for _ in range(100):
        window.consume(1 << 20, 0.1, rtt=0.1)
    assert pool.left == (1 << 30) - ((1 << 20) - 256 * 1024)
    window.close()
    assert pool.left == 1 << 30


def test_a_window_does_not_grow_for_a_slow_reader_or_from_an_empty_pool() -> None:
    slow = ReceiveWindow(256 * 1024, 1 << 20, GrowthPool(1 << 30), now=0.0)
    poor = ReceiveWindow(256 * 1024, 1 << 20, GrowthPool(0), now=0.0)
    slow.consume(256 * 1024, 10.0, rtt=0.1)
    poor.consume(256 * 1024, 0.0, rtt=0.1)
    assert slow.limit == poor.limit == 512 * 1024
