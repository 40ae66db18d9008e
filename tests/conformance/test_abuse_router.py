"""Routers that misbehave: whatever stands where a router should, asking it ends in a typed error, in time."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, ip_address

import pytest
from async_upnp_client.client_factory import UpnpFactory
from async_upnp_client.const import HttpRequest
from async_upnp_client.exceptions import UpnpError

from node.logic.portmap import Granted, Port
from node.protocols.portmap_udp import Exchange, NatPmpRouter, PcpRouter, RouterRefusedError
from node.protocols.upnp import MALFORMED, PAGE, _Requester
from tests.support.hosts import run

PORT = Port("tcp", 4001)
PLACES = (f"127.53.{os.getpid() % 250 + 1}.{n}" for n in itertools.count(1))
"Loopback addresses, one for each router."
Answers = Callable[[bytes], list[bytes]]


class Router(asyncio.DatagramProtocol):
    """Answers each request with what it is told to."""

    def __init__(self, answers: Answers) -> None:
        self.asked = 0
        self._answers = answers

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.asked += 1
        for answer in self._answers(data):
            self._transport.sendto(answer, addr)


@asynccontextmanager
async def asking(answers: Answers) -> AsyncIterator[tuple[PcpRouter, NatPmpRouter, Router]]:
    """Both clients of one router that listens on loopback."""
    place = next(PLACES)
    loop = asyncio.get_running_loop()
    transport, router = await loop.create_datagram_endpoint(lambda: Router(answers), local_addr=(place, 5351))
    exchange = Exchange(ip_address(place))
    try:
        yield (
            PcpRouter(exchange, b"secret", lambda: None, loop.time),
            NatPmpRouter(exchange, lambda: None, loop.time),
            router,
        )
    finally:
        exchange.close()
        transport.close()


def granted(request: bytes) -> bytes:
    """PCP's grant of what was asked for."""
    return bytes([2, 0x81, 0, 0]) + (3600).to_bytes(4, "big") + bytes(16) + request[24:44] + request[44:60]


def test_the_right_answer_is_found_among_nonsense_and_answers_to_others() -> None:
    def answers(request: bytes) -> list[bytes]:
        if request[0] != 2:
            return []
        other = bytearray(granted(request))
        other[24] ^= 1  # the nonce
        return [os.urandom(n) for n in (0, 1, 24, 60, 1100, 1400)] + [request, bytes(other), granted(request)]

    async def main() -> None:
        async with asking(answers) as (pcp, _, router):
            got = await pcp.map(PORT, Granted(IPv4Address("11.0.0.1"), 5001, 1), 3600)
            assert (str(got.ip), got.number, got.lifetime) == ("11.0.0.1", 5001, 3600)
            assert router.asked == 1

    run(main)


@pytest.mark.parametrize(
    "answers",
    [lambda request: [], lambda request: [request], lambda request: [os.urandom(60) for _ in range(20)]],
    ids=["silence", "an echo", "noise"],
)
def test_a_router_that_says_nothing_of_use_is_waited_for_no_longer_than_we_want(answers: Answers) -> None:
    async def main() -> None:
        async with asking(answers) as (pcp, natpmp, _):
            for asked in (pcp.probe(), natpmp.probe(), pcp.map(PORT, None, 1), natpmp.map(PORT, None, 1)):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await asked

    run(main)


def test_a_router_that_refuses_and_one_where_nobody_listens_are_told_at_once() -> None:
    async def main() -> None:
        async with asking(lambda request: [bytes([0, 128 | request[1], 0, 3]) + bytes(12)]) as (_, natpmp, _router):
            with pytest.raises(RouterRefusedError, match="NETWORK_FAILURE"):
                await natpmp.map(PORT, None, 60)
        exchange = Exchange(ip_address(next(PLACES)))
        try:
            with pytest.raises(ConnectionRefusedError):
                await NatPmpRouter(exchange, lambda: None, asyncio.get_running_loop().time).probe()
        finally:
            exchange.close()

    run(main)


DEVICE = (
    b'<root xmlns="urn:schemas-upnp-org:device-1-0"><device><deviceType>urn:x:device:X:1</deviceType><UDN>uuid:1</UDN>'
    b"<friendlyName/><manufacturer/><modelName/><serviceList><service><serviceType>urn:x:service:X:1</serviceType>"
    b"<serviceId>urn:x</serviceId><SCPDURL>/scpd.xml</SCPDURL><controlURL>/c</controlURL><eventSubURL>/e</eventSubURL>"
    b"</service></serviceList></device></root>"
)
SERVICE = (
    b'<scpd xmlns="urn:schemas-upnp-org:service-1-0"><actionList><action><name>Get</name><argumentList><argument>'
    b"<name>A</name><direction>out</direction><relatedStateVariable>Missing</relatedStateVariable></argument>"
    b"</argumentList></action></actionList><serviceStateTable/></scpd>"
)
BOMB = (
    '<?xml version="1.0"?><!DOCTYPE root [<!ENTITY a "aaaaaaaaaa">'
    + "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in itertools.pairwise("abcdefghij"))
    + "]><root>&j;</root>"
).encode()


def pages() -> Iterator[tuple[str, bytes]]:
    """What a hostile UPnP device may serve, and what it is."""
    yield "an endless page", b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (PAGE + 1)
    yield "a page that claims to be small", b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\nx"
    yield "a redirect", b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:22/\r\nContent-Length: 0\r\n\r\n"
    yield "no HTTP", os.urandom(2000)
    yield "nothing", b""
    yield "a bomb", b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(BOMB), BOMB)
    yield "no XML", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n<a><b"
    yield "an argument of no known kind", b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(DEVICE), DEVICE)
    yield "no device", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n<a/>"


@pytest.mark.parametrize("page", [pytest.param(page, id=name) for name, page in pages()])
def test_whatever_a_device_serves_as_its_description_is_a_typed_error(page: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        is_service = asked.startswith(b"GET /scpd.xml")
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + SERVICE if is_service else page)
        writer.close()

    async def main(where: tuple[str, int]) -> None:
        factory = UpnpFactory(_Requester(where[0], "127.0.0.1"), non_strict=True)
        with pytest.raises(MALFORMED):
            await factory.async_create_device(f"http://{where[0]}:{where[1]}/device.xml")

    run(lambda: serving(serve, main))


def test_a_device_is_asked_nothing_outside_the_router() -> None:
    async def main() -> None:
        requester = _Requester("192.168.1.1", "127.0.0.1")
        for url in ("http://127.0.0.1:22/", "http://192.168.1.1@127.0.0.1/", "http://[::1]/", "nonsense"):
            with pytest.raises(UpnpError, match="not a page of the router"):
                await requester.async_http_request(HttpRequest("GET", url, {}, None))

    run(main)


async def serving(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    main: Callable[[tuple[str, int]], Awaitable[None]],
) -> None:
    """Run `main` beside a server on loopback."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0, family=socket.AF_INET)
    async with server:
        await main(server.sockets[0].getsockname())
