"""AutoNAT between real hosts on loopback: what servers find, what they charge, and whom clients believe."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from node.errors import RelayError, RemoteProtocolError, StreamReset
from node.events import Connected, DialledBack, Direction, ReachabilityChanged
from node.host import Host, HostConfig
from node.logic.autonat import Reachability
from node.names.multiaddr import Multiaddr
from node.net.connection import Connection, Stream
from node.net.stream import read_frame, write_frame
from node.net.tcp import TcpTransport
from node.protocols.autonat_client import AutonatClient
from node.wire import autonat, autonat_v1
from node.wire.autonat import (
    DIAL_BACK_PROTOCOL,
    MAX_MESSAGE,
    PROTOCOL,
    DialDataRequest,
    DialRequest,
    DialResponse,
    DialStatus,
    ResponseStatus,
    decode,
    encode,
)
from tests.support.hosts import LOOPBACK, addr_of, run, watch

ELSEWHERE = Multiaddr("/ip4/127.0.0.2/tcp/0")
"""An address of the client's that its connections do not come from."""


@contextlib.asynccontextmanager
async def client(*listen: Multiaddr, reachability: str = "public") -> AsyncIterator[tuple[Host, AutonatClient]]:
    config = HostConfig(listen=listen or (LOOPBACK,), dcutr=False, reachability=reachability, autonat_private=True)
    async with Host(config) as host:
        assert host.oneself is not None
        assert host.oneself.client is not None
        yield host, host.oneself.client


@contextlib.asynccontextmanager
async def server() -> AsyncIterator[Host]:
    async with Host(HostConfig(listen=(LOOPBACK,), dcutr=False, autonat_server=True, autonat_private=True)) as host:
        yield host


@contextlib.asynccontextmanager
async def liar(answer: Callable[[Host, Stream, DialRequest], Awaitable[None]]) -> AsyncIterator[Host]:
    """A server that answers as told."""

    async def serve(stream: Stream) -> None:
        request = decode(await read_frame(stream, MAX_MESSAGE))
        assert isinstance(request, DialRequest)
        await answer(host, stream, request)

    async with Host(HostConfig(listen=(LOOPBACK,), dcutr=False)) as host:
        host.handle(PROTOCOL, serve)
        yield host


async def meet(host: Host, other: Host) -> Connection:
    connection = await host.connect(addr_of(other))
    await host.identified(connection)
    return connection


async def closed_port() -> Multiaddr:
    listener = await TcpTransport().listen(LOOPBACK, lambda raw: raw.abort())
    await listener.close()
    return listener.addr


async def dial_back(host: Host, target: Multiaddr, nonce: int) -> bytes:
    """Bring a nonce over a new connection."""
    connection = await host.swarm.dial_anew(_peer(target), target.without("p2p"))
    return await _bring(connection, nonce)


async def _bring(connection: Connection, nonce: int) -> bytes:
    stream = await connection.new_stream([DIAL_BACK_PROTOCOL])
    await write_frame(stream, autonat.encode_dial_back(nonce))
    return await read_frame(stream, 64)


def _peer(addr: Multiaddr):  # type: ignore[no-untyped-def]
    assert addr.peer_id is not None
    return addr.peer_id


# ── between honest peers ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_listener_is_reachable_by_a_fresh_connection_of_somebody_else() -> None:
    async def main() -> None:
        async with client() as (alice, asking), server() as bob:
            seen, served = watch(alice), watch(bob)
            connection = await meet(alice, bob)
            tested = await asking.ask(connection, alice.listen_addrs())
            assert (tested.addr, tested.reachable, tested.paid) == (alice.listen_addrs()[0], True, 0)
            back = await seen.wait(Connected, lambda event: event.direction is Direction.INBOUND)
            assert back.peer != bob.peer_id
            assert back.remote.port != addr_of(bob).port
            assert await served.wait(DialledBack) == DialledBack(alice.peer_id, tested.addr, True, paid=False)

    run(main)


def test_a_listener_of_quic_is_reachable_likewise() -> None:
    async def main() -> None:
        quic = Multiaddr("/ip4/127.0.0.1/udp/0/quic-v1")
        serving = HostConfig(listen=(quic,), dcutr=False, autonat_server=True, autonat_private=True)
        async with client(quic) as (alice, asking), Host(serving) as bob:
            seen = watch(alice)
            tested = await asking.ask(await meet(alice, bob), alice.listen_addrs())
            assert (tested.addr, tested.reachable, tested.paid) == (alice.listen_addrs()[0], True, 0)
            back = await seen.wait(Connected, lambda event: event.direction is Direction.INBOUND)
            assert back.remote.port != addr_of(bob).port

    run(main)


def test_a_client_that_resets_the_stream_once_it_has_its_nonce_was_dialled_all_the_same() -> None:
    async def main() -> None:
        nonces = []

        async def take(stream: Stream) -> None:
            nonces.append(autonat.decode_dial_back(await read_frame(stream, MAX_MESSAGE)))
            stream.reset()  # as go does behind its answer, which over QUIC does not arrive then

        async with client() as (alice, _), server() as bob:
            served = watch(bob)
            connection = await meet(alice, bob)
            alice.unhandle(DIAL_BACK_PROTOCOL)
            alice.handle(DIAL_BACK_PROTOCOL, take)
            stream = await connection.new_stream([PROTOCOL])
            await write_frame(stream, encode(DialRequest(tuple(alice.listen_addrs()), 7)))
            answer = decode(await read_frame(stream, MAX_MESSAGE))
            assert answer == DialResponse(ResponseStatus.OK, 0, DialStatus.OK)
            assert nonces == [7]
            assert (await served.wait(DialledBack)).reachable

    run(main)


def test_a_port_where_nobody_listens_is_not_reachable() -> None:
    async def main() -> None:
        async with client() as (alice, asking), server() as bob:
            tested = await asking.ask(await meet(alice, bob), [await closed_port()])
            assert (tested.reachable, tested.source) == (False, None)

    run(main)


def test_an_address_of_another_ip_is_dialled_once_it_is_paid_for() -> None:
    async def main() -> None:
        async with client(LOOPBACK, ELSEWHERE) as (alice, asking), server() as bob:
            there = alice.listen_addrs()[1]
            connection = await meet(alice, bob)
            tested = await asking.ask(connection, [there])
            assert (tested.addr, tested.reachable) == (there, True)
            assert 30_000 <= tested.paid <= 100_000

    run(main)


def test_a_request_without_an_address_to_dial_is_refused() -> None:
    async def main() -> None:
        async with client() as (alice, asking), server() as bob:
            with pytest.raises(RelayError, match="E_DIAL_REFUSED"):
                await asking.ask(await meet(alice, bob), [Multiaddr("/ip4/127.0.0.1/udp/4001/quic-v1/webtransport")])

    run(main)


def test_the_thirteenth_request_of_a_minute_is_rejected() -> None:
    async def main() -> None:
        async with client() as (alice, asking), server() as bob:
            connection = await meet(alice, bob)
            for _ in range(12):
                assert (await asking.ask(connection, alice.listen_addrs())).reachable
            with pytest.raises(RelayError, match="E_REQUEST_REJECTED"):
                await asking.ask(connection, alice.listen_addrs())

    run(main)


def test_the_service_finds_out_by_itself_and_says_so() -> None:
    async def main() -> None:
        async with client(reachability="auto") as (alice, _), server() as bob, server() as carol:
            seen = watch(alice)
            await meet(alice, bob)
            await meet(alice, carol)
            told = await seen.wait(ReachabilityChanged, lambda event: event.reachability is Reachability.PUBLIC)
            assert dict(told.addrs) == {alice.listen_addrs()[0]: Reachability.PUBLIC}
            assert alice.oneself is not None
            assert alice.oneself.reachability is Reachability.PUBLIC

    run(main)


# ── version 1 ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_version_1_reaches_a_listener_and_names_the_address() -> None:
    async def main() -> None:
        async with client() as (alice, asking), server() as bob:
            response = await asking.ask_v1(await meet(alice, bob), alice.listen_addrs())
            assert response == autonat_v1.DialResponse(autonat_v1.Status.OK, addr=alice.listen_addrs()[0])

    run(main)


def test_version_1_dials_no_other_ip_than_the_clients() -> None:
    async def main() -> None:
        arrived: list[object] = []
        victim = await TcpTransport().listen(ELSEWHERE, arrived.append)
        async with client() as (alice, asking), server() as bob:
            response = await asking.ask_v1(await meet(alice, bob), [victim.addr])
            assert response.addr == alice.listen_addrs()[0]  # the listen port is where the connection came from
            assert not arrived
        await victim.close()

    run(main)


def test_version_1_refuses_after_three_requests_a_minute() -> None:
    async def main() -> None:
        async with client() as (alice, asking), server() as bob:
            connection = await meet(alice, bob)
            for _ in range(3):
                await asking.ask_v1(connection, alice.listen_addrs())
            with pytest.raises(RelayError, match="too many dials"):
                await asking.ask_v1(connection, alice.listen_addrs())

    run(main)


def test_version_1_dials_for_nobody_but_who_asks() -> None:
    async def main() -> None:
        async with client() as (alice, _), server() as bob:
            stream = await (await meet(alice, bob)).new_stream([autonat_v1.PROTOCOL])
            await write_frame(stream, autonat_v1.Dial(bob.peer_id, tuple(alice.listen_addrs())).to_bytes())
            response = autonat_v1.DialResponse.from_bytes(await read_frame(stream, autonat_v1.MAX_MESSAGE))
            assert response.status is autonat_v1.Status.E_BAD_REQUEST

    run(main)


# ── servers that lie ─────────────────────────────────────────────────────────────────────────────────────────────────

SUCCESS = DialResponse(ResponseStatus.OK, 0, DialStatus.OK)


async def claim(host: Host, stream: Stream, request: DialRequest) -> None:
    """Say that it worked without having tried."""
    await write_frame(stream, encode(SUCCESS))


async def use_the_old_connection(host: Host, stream: Stream, request: DialRequest) -> None:
    with pytest.raises(StreamReset):
        await _bring(stream.connection, request.nonce)
    await write_frame(stream, encode(SUCCESS))


async def bring_another_nonce(host: Host, stream: Stream, request: DialRequest) -> None:
    with pytest.raises(StreamReset):
        await dial_back(host, _target(stream, request), request.nonce ^ 1)
    await write_frame(stream, encode(SUCCESS))


async def name_an_address_that_was_not_asked_about(host: Host, stream: Stream, request: DialRequest) -> None:
    await dial_back(host, _target(stream, request), request.nonce)
    await write_frame(stream, encode(DialResponse(ResponseStatus.OK, 7, DialStatus.OK)))


async def ask_for_a_fortune(host: Host, stream: Stream, request: DialRequest) -> None:
    await write_frame(stream, encode(DialDataRequest(0, 100_001)))
    await read_frame(stream, MAX_MESSAGE)


async def ask_for_data_twice(host: Host, stream: Stream, request: DialRequest) -> None:
    for _ in range(2):
        await write_frame(stream, encode(DialDataRequest(0, 4096)))
        await read_frame(stream, MAX_MESSAGE)


def _target(stream: Stream, request: DialRequest) -> Multiaddr:
    addr = request.addrs[0]
    assert addr is not None
    return addr.with_peer(stream.peer)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (claim, "did not come"),
        (use_the_old_connection, "did not come"),
        (bring_another_nonce, "did not come"),
        (name_an_address_that_was_not_asked_about, "address 7 of 1"),
        (ask_for_a_fortune, "100001 bytes"),
        (ask_for_data_twice, "DialDataRequest"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_server_that_lies_is_not_believed(
    answer: Callable[[Host, Stream, DialRequest], Awaitable[None]], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.protocols.autonat_client.NONCE_TIMEOUT", 0.2)

    async def main() -> None:
        async with client() as (alice, asking), liar(answer) as mallory:
            with pytest.raises(RemoteProtocolError, match=why):
                await asking.ask(await meet(alice, mallory), alice.listen_addrs())

    run(main)


def test_a_nonce_counts_once() -> None:
    answers: list[bytes] = []

    async def replay(host: Host, stream: Stream, request: DialRequest) -> None:
        target = _target(stream, request)
        answers.append(await dial_back(host, target, request.nonce))
        with pytest.raises(StreamReset):
            await dial_back(host, target, request.nonce)
        await write_frame(stream, encode(SUCCESS))

    async def main() -> None:
        async with client() as (alice, asking), liar(replay) as mallory:
            assert (await asking.ask(await meet(alice, mallory), alice.listen_addrs())).reachable
            assert answers == [b""]

    run(main)


def test_the_index_says_which_address_was_tested_and_it_may_be_the_last() -> None:
    async def test_the_last(host: Host, stream: Stream, request: DialRequest) -> None:
        addr = request.addrs[-1]
        assert addr is not None
        await dial_back(host, addr.with_peer(stream.peer), request.nonce)
        last = len(request.addrs) - 1
        await write_frame(stream, encode(DialResponse(ResponseStatus.OK, last, DialStatus.OK)))

    async def main() -> None:
        async with client() as (alice, asking), liar(test_the_last) as rusty:
            addrs = [await closed_port(), *alice.listen_addrs()]
            tested = await asking.ask(await meet(alice, rusty), addrs)
            assert (tested.addr, tested.reachable) == (addrs[-1], True)

    run(main)


def test_requests_under_way_are_bounded() -> None:
    async def never(host: Host, stream: Stream, request: DialRequest) -> None:
        await asyncio.get_running_loop().create_future()

    async def main() -> None:
        async with client() as (alice, asking), liar(never) as mallory:
            connection = await meet(alice, mallory)
            asked = [asyncio.create_task(asking.ask(connection, alice.listen_addrs())) for _ in range(20)]
            done, pending = await asyncio.wait(asked, return_when=asyncio.FIRST_EXCEPTION)
            assert {type(task.exception()).__name__ for task in done} == {"LimitExceeded"}
            for task in pending:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    run(main)
