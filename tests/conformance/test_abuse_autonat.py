"""Hostile peers at what a node does for others to know themselves: AutoNAT as a weapon, as a burden, and with lies.

Whatever is asked, nobody else's address is dialled before it is paid for, and an honest peer is served meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address

import pytest

from node.errors import DecodeError, RemoteProtocolError
from node.events import DialledBack
from node.host import Host, HostConfig
from node.logic.autonat import ServerPolicy
from node.logic.limits import SERVICE_LIMITS
from node.logic.relay import RelayLimits
from node.logic.stun import BURST
from node.names.keys import PrivateKey
from node.names.multiaddr import Multiaddr
from node.names.varint import encode as varint
from node.net.datagrams import DatagramPort
from node.net.stream import ByteStream, RawConnection, read_frame, write_frame
from node.net.tcp import TcpTransport
from node.protocols.relay_server import RelayServer
from node.protocols.stun import StunService, measure
from node.wire import autonat, autonat_v1
from node.wire.autonat import (
    DIAL_BACK_PROTOCOL,
    MAX_MESSAGE,
    PROTOCOL,
    DialDataRequest,
    DialDataResponse,
    DialRequest,
    DialResponse,
    ResponseStatus,
    decode,
    encode,
)
from node.wire.stun import Class, Endpoint, Message, Method
from tests.support.connections import End
from tests.support.hostile import Arena, arena, rest, speak, stranger
from tests.support.hosts import LOOPBACK, addr_of, run

MALLORY = PrivateKey.generate()
SERVER = HostConfig(autonat_server=True, autonat_private=True, reachability="public", dcutr=False)
POLICY = ServerPolicy()


@asynccontextmanager
async def somebody() -> AsyncIterator[tuple[Multiaddr, list[RawConnection]]]:
    """A bystander at an address of its own, and who has connected to it."""
    came: list[RawConnection] = []
    listener = await TcpTransport().listen(Multiaddr("/ip4/127.0.0.77/tcp/0"), came.append)
    try:
        yield listener.addr, came
    finally:
        for raw in came:
            raw.abort()
        await listener.close()


async def request(mallory: End, *addrs: Multiaddr) -> ByteStream:
    stream = await speak(mallory, PROTOCOL)
    await write_frame(stream, encode(DialRequest(addrs, 7)))
    return stream


async def answer(stream: ByteStream) -> autonat.Message:
    return decode(await read_frame(stream, MAX_MESSAGE))


async def ask_honestly(fight: Arena) -> None:
    """The honest peer has its own listener tested."""
    stream = await fight.link.new_stream([PROTOCOL])
    await write_frame(stream, encode(DialRequest(tuple(fight.honest.listen_addrs()), 1)))
    response = await answer(stream)
    assert isinstance(response, DialResponse)
    assert response.status is ResponseStatus.OK


# ── as a weapon ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_somebody_elses_address_is_not_dialled_for_nothing() -> None:
    async def main() -> None:
        async with somebody() as (victim, came), arena(SERVER) as fight:
            async with stranger(fight.victim, MALLORY) as mallory:
                demand = await answer(await request(mallory, victim))
                assert isinstance(demand, DialDataRequest)
                assert 30_000 <= demand.num_bytes <= 100_000
            await ask_honestly(fight)
            assert came == []

    run(main)


def test_a_price_is_not_paid_in_crumbs() -> None:
    async def main() -> None:
        async with somebody() as (victim, came), arena(SERVER) as fight:
            async with stranger(fight.victim, MALLORY) as mallory:
                stream = await request(mallory, victim)
                assert isinstance(await answer(stream), DialDataRequest)
                await write_frame(stream, encode(DialDataResponse(bytes(99))))
                assert await rest(stream) == b""
                await fight.reports.error(RemoteProtocolError, "pays in messages of 99 bytes")
            await ask_honestly(fight)
            assert came == []

    run(main)


@pytest.mark.parametrize("instead", [DialRequest((), 7), DialDataRequest(0, 1), DialResponse(ResponseStatus.OK)])
def test_nothing_else_is_taken_for_payment(instead: autonat.Message) -> None:
    async def main() -> None:
        async with somebody() as (victim, came), arena(SERVER) as fight:
            async with stranger(fight.victim, MALLORY) as mallory:
                stream = await request(mallory, victim)
                assert isinstance(await answer(stream), DialDataRequest)
                await write_frame(stream, encode(instead))
                assert await rest(stream) == b""
                await fight.reports.error(RemoteProtocolError, "where dial data was due")
            assert came == []

    run(main)


def test_dials_of_others_are_few_however_many_identities_pay_for_them() -> None:
    async def main() -> None:
        async with somebody() as (victim, came), arena(SERVER) as fight:
            refused = demanded = 0
            for _ in range(POLICY.data_requests + 3):
                async with stranger(fight.victim, PrivateKey.generate()) as mallory:
                    message = await answer(await request(mallory, victim))
                    demanded += isinstance(message, DialDataRequest)
                    refused += message == DialResponse(ResponseStatus.E_REQUEST_REJECTED)
            assert (demanded, refused) == (POLICY.data_requests, 3)
            await ask_honestly(fight)
            assert came == []

    run(main)


def test_version_1_never_dials_the_address_of_somebody_else() -> None:
    async def main() -> None:
        async with somebody() as (victim, came), arena(SERVER) as fight:
            async with stranger(fight.victim, MALLORY) as mallory:
                stream = await speak(mallory, autonat_v1.PROTOCOL)
                await write_frame(stream, autonat_v1.Dial(MALLORY.peer_id(), (victim,)).to_bytes())
                await read_frame(stream, autonat_v1.MAX_MESSAGE)
            assert came == []

    run(main)


def test_a_dial_carries_our_dialler_to_nobody_but_who_asked() -> None:
    """Mallory pays for the dial of an honest peer: it is dialled, is not Mallory, and hears no nonce."""

    async def main() -> None:
        async with arena(SERVER) as fight, stranger(fight.victim, MALLORY) as mallory:
            stream = await request(mallory, *fight.honest.listen_addrs())
            demand = await answer(stream)
            assert isinstance(demand, DialDataRequest)
            for _ in range(0, demand.num_bytes, 4096):
                await write_frame(stream, encode(DialDataResponse(bytes(4096))))
            response = await answer(stream)
            assert response == DialResponse(ResponseStatus.OK, 0, autonat.DialStatus.E_DIAL_ERROR)
            told = await fight.seen.wait(DialledBack)
            assert (told.reachable, told.paid) == (False, True)

    run(main)


# ── as a burden ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_thousand_requests_are_served_by_twelve_dials_and_the_honest_peer_is_answered() -> None:
    async def main() -> None:
        async with arena(SERVER) as fight, stranger(fight.victim, MALLORY) as mallory:
            dead = Multiaddr("/ip4/127.0.0.66/tcp/9")
            outcomes: list[ResponseStatus] = []
            for number in range(1000):
                response = await answer(await request(mallory, dead))
                assert isinstance(response, DialResponse)
                outcomes.append(response.status)
                if number == 500:
                    await ask_honestly(fight)
            assert outcomes.count(ResponseStatus.OK) == POLICY.requests_per_peer
            assert outcomes.count(ResponseStatus.E_REQUEST_REJECTED) == 1000 - POLICY.requests_per_peer

    run(main)


def test_streams_that_ask_nothing_are_few_and_others_go_on() -> None:
    async def main() -> None:
        async with arena(SERVER) as fight, stranger(fight.victim, MALLORY) as mallory:
            reading = [asyncio.create_task(rest(await speak(mallory, PROTOCOL))) for _ in range(100)]
            ends = asyncio.as_completed(reading)
            for _ in range(100 - SERVICE_LIMITS["autonat-v2"][1].streams_in):
                assert await next(ends) == b""
            await ask_honestly(fight)
            assert sum(not read.done() for read in reading) == SERVICE_LIMITS["autonat-v2"][1].streams_in
            for read in reading:
                read.cancel()
            await asyncio.gather(*reading, return_exceptions=True)

    run(main)


REQUESTS: dict[str, tuple[bytes, str]] = {
    "no protobuf": (b"\x03\xff\xff\xff", "malformed Message"),
    "nothing": (varint(0), "without content"),
    "too long": (varint(MAX_MESSAGE + 1) + bytes(16), f"at most {MAX_MESSAGE}"),
    "no request": (
        varint(len(encode(DialDataRequest(0, 1)))) + encode(DialDataRequest(0, 1)),
        "not with a DialRequest",
    ),
    "many addresses": (varint(517) + b"\x0a\x82\x04" + b"\x0a\x00" * 257, "at most 256"),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_that_is_none_ends_its_stream_and_nothing_else(name: str) -> None:
    data, why = REQUESTS[name]

    async def main() -> None:
        async with arena(SERVER) as fight, stranger(fight.victim, MALLORY) as mallory:
            stream = await speak(mallory, PROTOCOL)
            await stream.write(data)
            assert await rest(stream) == b""
            kind = RemoteProtocolError if name in ("too long", "no request") else DecodeError
            await fight.reports.error(kind, why)
            await ask_honestly(fight)

    run(main)


def test_a_request_over_a_relay_is_rejected_by_both_versions() -> None:
    async def main() -> None:
        async with arena(SERVER) as fight, Host(HostConfig(dcutr=False, listen=(LOOPBACK,))) as relay:
            unlimited = RelayServer(relay, RelayLimits(duration=0, data=0))
            await unlimited.start()
            assert fight.victim.relay_client is not None
            await fight.victim.relay_client.reserve(addr_of(relay))
            async with Host(HostConfig(dcutr=False, listen=(LOOPBACK,))) as mallory:
                link = await mallory.connect(addr_of(relay) / f"/p2p-circuit/p2p/{fight.victim.peer_id}")
                stream: ByteStream = await link.new_stream([PROTOCOL])
                await write_frame(stream, encode(DialRequest(tuple(mallory.listen_addrs()), 7)))
                assert await answer(stream) == DialResponse(ResponseStatus.E_REQUEST_REJECTED)
                stream = await link.new_stream([autonat_v1.PROTOCOL])
                await write_frame(stream, autonat_v1.Dial(mallory.peer_id, tuple(mallory.listen_addrs())).to_bytes())
                refusal = autonat_v1.DialResponse.from_bytes(await read_frame(stream, autonat_v1.MAX_MESSAGE))
                assert refusal == autonat_v1.DialResponse(autonat_v1.Status.E_DIAL_REFUSED, "not over a relay")
            await unlimited.close()

    run(main)


# ── with lies ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_nonces_that_nobody_waits_for_are_refused_however_many_come() -> None:
    async def main() -> None:
        async with arena(SERVER) as fight, stranger(fight.victim, MALLORY) as mallory:
            for nonce in range(300):
                stream = await speak(mallory, DIAL_BACK_PROTOCOL)
                await write_frame(stream, autonat.encode_dial_back(nonce))
                assert await rest(stream) == b""
            await fight.reports.error(RemoteProtocolError, "nobody waits for", times=300)

    run(main)


# ── STUN ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_flood_of_stun_gets_few_answers_and_an_honest_client_all_of_its() -> None:
    async def main() -> None:
        one, other = Endpoint(ip_address("127.0.0.1"), free_port()), Endpoint(ip_address("127.0.0.2"), free_port())
        service = StunService(one, other, lambda: 0.0)  # time stands still: nothing is refilled
        await service.start()
        answers: list[bytes] = []
        flood = DatagramPort(Endpoint(ip_address("127.0.0.66"), 0), lambda data, source: answers.append(data))
        asked = Message(Method.BINDING, Class.REQUEST, b"t" * 12).to_bytes()
        for _ in range(20):
            for _ in range(50):
                flood.send(asked, one)
                flood.send(b"\x00\x01junk", one)
            await asyncio.sleep(0)
        assert (await measure(one, time.monotonic)).name == "none"
        assert 0 < len(answers) <= BURST
        assert sum(map(len, answers)) <= 3 * len(asked) * len(answers)
        flood.close()
        await service.close()

    run(main)


def free_port() -> int:
    port = DatagramPort(Endpoint(ip_address("127.0.0.1"), 0), lambda data, source: None)
    number = port.local.port
    port.close()
    return number
