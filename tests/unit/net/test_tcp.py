"""TCP on loopback: ports, failures, back-pressure, both ways of reading."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from node.errors import ConfigError, ConnectionClosed, DeadlineExceeded, LocalProtocolError, StreamClosed
from node.names.multiaddr import Multiaddr
from node.net.stream import Abandonable, RawConnection, Taking, read_exactly
from node.net.tcp import MAX_BUFFERED, RECEIVE_BUFFER, TcpDialError, TcpTransport
from tests.support.connections import ANY_PORT, read_all, tcp_pair


def free_port() -> Multiaddr:
    """An address nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return Multiaddr.tcp("127.0.0.1", sock.getsockname()[1])


@asynccontextmanager
async def listening(
    transport: TcpTransport, addr: Multiaddr = ANY_PORT
) -> AsyncIterator[tuple[Multiaddr, asyncio.Queue[RawConnection]]]:
    """A listener's address and what it accepts."""
    accepted: asyncio.Queue[RawConnection] = asyncio.Queue()
    listener = await transport.listen(addr, accepted.put_nowait)
    try:
        yield listener.addr, accepted
    finally:
        await listener.close()


def test_both_ends_know_their_addresses_and_count_their_bytes() -> None:
    async def main() -> None:
        async with tcp_pair() as (dialled, accepted):
            assert (dialled.local, dialled.remote) == (accepted.remote, accepted.local)
            await dialled.write(b"hello")
            assert await accepted.read() == b"hello"
            assert (dialled.bytes_out, accepted.bytes_in, accepted.bytes_out) == (5, 5, 0)

    asyncio.run(main())


def test_a_dial_leaves_from_the_port_we_listen_on() -> None:
    async def main() -> None:
        transport, other = TcpTransport(), TcpTransport()
        async with listening(transport) as (source, _), listening(other) as (target, accepted):
            dialled = await transport.dial(target, source=source, strict_source=True)
            seen = await accepted.get()
            assert seen.remote == dialled.local == source
            await dialled.close()
            await seen.close()

    asyncio.run(main())


def test_one_port_dials_many_addresses_at_once() -> None:
    async def main() -> None:
        transport = TcpTransport()
        async with AsyncExitStack() as stack:
            source, _ = await stack.enter_async_context(listening(transport, Multiaddr("/ip4/0.0.0.0/tcp/0")))
            listeners = [await stack.enter_async_context(listening(transport)) for _ in range(4)]
            dials = (transport.dial(target, source=source, strict_source=True) for target, _ in listeners)
            dialled = await asyncio.gather(*dials)
            assert {connection.local.port for connection in dialled} == {source.port}
            for connection in [*dialled, *[await accepted.get() for _, accepted in listeners]]:
                await connection.close()

    asyncio.run(main())


def test_a_second_dial_of_the_same_pair_of_addresses_needs_another_port() -> None:
    async def main() -> None:
        transport = TcpTransport()
        async with listening(transport) as (source, _), listening(TcpTransport()) as (target, accepted):
            first = await transport.dial(target, source=source)
            with pytest.raises(TcpDialError) as raised:
                await transport.dial(target, source=source, strict_source=True)
            assert raised.value.errno == errno.EADDRNOTAVAIL
            second = await transport.dial(target, source=source)
            assert first.local == source
            assert second.local != source
            for connection in (first, second, await accepted.get(), await accepted.get()):
                await connection.close()

    asyncio.run(main())


def test_a_source_of_another_ip_version_is_used_only_if_it_need_not_be() -> None:
    async def main() -> None:
        transport = TcpTransport()
        source = Multiaddr("/ip6/::/tcp/4001")
        async with listening(transport) as (target, accepted):
            with pytest.raises(TcpDialError, match="another IP version"):
                await transport.dial(target, source=source, strict_source=True)
            dialled = await transport.dial(target, source=source)
            for connection in (dialled, await accepted.get()):
                await connection.close()

    asyncio.run(main())


def test_a_dial_that_meets_itself_is_refused() -> None:
    async def main() -> None:
        addr = free_port()
        with pytest.raises(TcpDialError, match="itself"):
            await TcpTransport().dial(addr, source=addr, strict_source=True)

    asyncio.run(main())


def test_a_refused_dial_tells_address_and_errno() -> None:
    async def main() -> None:
        addr = free_port()
        with pytest.raises(TcpDialError, match=str(addr)) as raised:
            await TcpTransport().dial(addr)
        assert raised.value.errno == errno.ECONNREFUSED

    asyncio.run(main())


@pytest.mark.parametrize("addr", ["/dns4/example.org/tcp/1", "/ip4/127.0.0.1/udp/1", "/ip4/127.0.0.1"])
def test_what_is_not_a_tcp_address_can_neither_be_dialled_nor_listened_on(addr: str) -> None:
    async def main() -> None:
        with pytest.raises(TcpDialError, match="not an IP address"):
            await TcpTransport().dial(Multiaddr(addr))
        with pytest.raises(ConfigError, match="not an IP address"):
            await TcpTransport().listen(Multiaddr(addr), RawConnection.abort)

    asyncio.run(main())


def test_listening_on_an_address_that_is_not_ours_is_a_typed_error() -> None:
    async def main() -> None:
        with pytest.raises(ConfigError, match=r"11\.1\.2\.3"):
            await TcpTransport().listen(Multiaddr("/ip4/11.1.2.3/tcp/0"), RawConnection.abort)

    asyncio.run(main())


def test_a_dial_without_answer_ends_at_its_deadline() -> None:
    async def main() -> None:
        with socket.socket() as full:  # a backlog of zero takes one connection, later SYNs are dropped
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            addr = Multiaddr.tcp("127.0.0.1", full.getsockname()[1])
            transport = TcpTransport()
            waiting = await transport.dial(addr, timeout=1.0)
            with pytest.raises(DeadlineExceeded, match=str(addr)):
                await transport.dial(addr, timeout=0.05)
            waiting.abort()

    asyncio.run(main())


def test_half_closing_leaves_the_other_direction_open() -> None:
    async def main() -> None:
        async with tcp_pair() as (dialled, accepted):
            await dialled.write(b"question")
            await dialled.close_write()
            assert await read_all(accepted) == b"question"
            await accepted.write(b"answer")
            await accepted.close_write()
            assert await read_all(dialled) == b"answer"
            with pytest.raises(StreamClosed):
                await dialled.write(b"more")

    asyncio.run(main())


def test_writing_to_a_connection_that_was_closed_is_a_typed_error() -> None:
    async def main() -> None:
        async with tcp_pair() as (dialled, _):
            await dialled.close()
            with pytest.raises(ConnectionClosed):
                await dialled.write(b"x")
            assert await dialled.read() == b""

    asyncio.run(main())


def test_a_writer_waits_while_nobody_reads_and_little_is_buffered() -> None:
    async def main() -> None:
        async with tcp_pair() as (dialled, accepted):
            size = 16 * 1024 * 1024
            writing = asyncio.create_task(dialled.write(bytes(size)))
            await asyncio.wait({writing}, timeout=0.1)
            assert not writing.done()
            assert accepted.bytes_in <= MAX_BUFFERED + RECEIVE_BUFFER
            assert len(await read_exactly(accepted, size)) == size
            await writing

    asyncio.run(main())


def test_the_other_end_takes_something_as_long_as_the_rest_waits_for_it() -> None:
    async def main() -> None:
        async with tcp_pair() as (dialled, accepted):
            assert isinstance(dialled, Taking)
            assert not dialled.is_taking(60.0), "nothing waits"
            writing = asyncio.create_task(dialled.write(bytes(16 << 20)))
            await read_exactly(accepted, 1 << 20)
            assert dialled.is_taking(60.0)
            assert not dialled.is_taking(-1.0), "it was longer ago than that"
            await read_exactly(accepted, 15 << 20)
            await writing
            assert not dialled.is_taking(60.0)

    asyncio.run(main())


def test_an_abort_wakes_those_who_wait() -> None:
    async def main() -> None:
        async with tcp_pair() as (dialled, accepted):
            reading = asyncio.create_task(dialled.read())
            writing = asyncio.create_task(dialled.write(bytes(16 * 1024 * 1024)))
            await asyncio.wait({reading, writing}, timeout=0.05)
            dialled.abort()
            assert await reading == b""
            with pytest.raises(ConnectionClosed):
                await writing
            accepted.abort()

    asyncio.run(main())


@pytest.mark.parametrize("end", ["abandon", "abort"])
def test_who_abandons_a_connection_can_dial_the_same_pair_of_addresses_at_once(end: str) -> None:
    async def main() -> None:
        transport = TcpTransport()
        async with listening(transport) as (source, _), listening(TcpTransport()) as (target, accepted):
            former = await transport.dial(target, source=source, strict_source=True)
            assert isinstance(former, Abandonable)
            getattr(former, end)()
            assert await former.read() == b""
            there = await accepted.get()  # which does not end its side: as if it had heard of nothing
            if end == "abandon":
                await (await transport.dial(target, source=source, strict_source=True)).close()
                await (await accepted.get()).close()
            else:
                with pytest.raises(TcpDialError) as raised:
                    await transport.dial(target, source=source, strict_source=True)
                assert raised.value.errno == errno.EADDRNOTAVAIL
            there.abort()

    asyncio.run(main())


def test_a_second_reader_is_our_own_mistake() -> None:
    async def main() -> None:
        async with tcp_pair() as (dialled, accepted):
            reading = asyncio.create_task(dialled.read())
            await asyncio.sleep(0)
            with pytest.raises(LocalProtocolError, match="two readers"):
                await dialled.read()
            await accepted.write(b"x")
            assert await reading == b"x"

    asyncio.run(main())


class Collector:
    """A sink that keeps what it is told."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.ended = asyncio.Event()
        self.lost = asyncio.Event()

    def data_received(self, data: memoryview) -> None:
        self.data += data

    def eof_received(self) -> None:
        self.ended.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.lost.set()

    def resume_writing(self) -> None:
        """Nothing waits here."""


def test_a_sink_gets_what_was_buffered_and_what_follows() -> None:
    async def main() -> None:
        async with tcp_pair() as (dialled, accepted):
            await dialled.write(b"head|early ")
            assert await read_exactly(accepted, 5) == b"head|"
            sink = Collector()
            accepted.push_to(sink)
            dialled.send(b"late")
            await dialled.close_write()
            await sink.ended.wait()
            assert sink.data == b"early late"
            accepted.abort()
            await sink.lost.wait()

    asyncio.run(main())


def test_a_sink_that_comes_after_the_end_is_told_all_the_same() -> None:
    async def main() -> None:
        async with tcp_pair() as (dialled, accepted):
            await dialled.write(b"x")
            await dialled.close()
            assert await accepted.read() == b"x"
            assert await accepted.read() == b""
            sink = Collector()
            accepted.push_to(sink)
            await sink.ended.wait()

    asyncio.run(main())


def has_ipv6() -> bool:
    """Whether loopback has ::1."""
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 on this machine's loopback")
def test_ipv6_works_like_ipv4() -> None:
    async def main() -> None:
        transport = TcpTransport()
        async with listening(transport, Multiaddr("/ip6/::1/tcp/0")) as (target, accepted):
            dialled = await transport.dial(target)
            other = await accepted.get()
            assert other.remote == dialled.local
            await dialled.close()
            await other.close()

    asyncio.run(main())


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 on this machine's loopback")
def test_the_same_port_serves_both_ip_versions() -> None:
    async def main() -> None:
        transport = TcpTransport()
        async with AsyncExitStack() as stack:
            addr, _ = await stack.enter_async_context(listening(transport, Multiaddr("/ip6/::/tcp/0")))
            same = Multiaddr(f"/ip4/0.0.0.0/tcp/{addr.port}")
            assert (await stack.enter_async_context(listening(transport, same)))[0] == same

    asyncio.run(main())
