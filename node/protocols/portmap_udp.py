"""PCP and NAT-PMP: one socket to the gateway, requests that are sent again by the RFCs' timing, and their answers.

What comes from anybody else than the gateway's port does not reach a connected socket. A gateway that tells unasked
that it has begun anew (RFC 6886 §3.2.1, RFC 6887 §14.1) is heard by `Announcements`.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import socket
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Final, TypeVar

from node.errors import DecodeError, NodeError
from node.logic.portmap import Epoch, Granted, Port, Protocol, natpmp_timeouts, pcp_timeouts
from node.wire import natpmp, pcp

if TYPE_CHECKING:
    from node.names.multiaddr import IPAddress

AT_ONCE: Final = 64
"""Datagrams taken from a socket before others have their turn."""
_ANY: Final = IPv4Address(0)

Accepts = Callable[[bytes], "T | None"]
T = TypeVar("T")


class RouterRefusedError(NodeError):
    """The router answers, and does not do what it is asked."""


class Exchange:
    """The socket; from `__init__` to `close`. Raises OSError where the gateway cannot be sent to."""

    def __init__(self, gateway: IPAddress) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._waiting: dict[asyncio.Future[object], Accepts[object]] = {}  # one for each port and protocol
        try:
            self._socket.connect((str(gateway), natpmp.PORT))
        except OSError:
            self._socket.close()
            raise
        self.own = IPv4Address(self._socket.getsockname()[0])
        """Our address, as the gateway sees it."""
        asyncio.get_running_loop().add_reader(self._socket, self._readable)

    async def ask(self, request: bytes, timeouts: Iterable[float], accepts: Accepts[T]) -> T:
        """Send `request` until an answer is accepted; TimeoutError after the last timeout, OSError by the network."""
        answer: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._waiting[answer] = accepts
        try:
            for timeout in timeouts:
                self._socket.send(request)
                done, _ = await asyncio.wait([answer], timeout=timeout)
                if done:
                    return answer.result()  # type: ignore[return-value]  # what `accepts` made
            raise TimeoutError("the router does not answer")
        finally:
            del self._waiting[answer]
            answer.cancel()

    def _readable(self) -> None:
        for _ in range(AT_ONCE):
            try:
                data = self._socket.recv(pcp.MAX_MESSAGE + 1)
            except BlockingIOError:
                return
            except OSError as error:  # ICMP: nobody listens there
                for answer in self._waiting:
                    if not answer.done():
                        answer.set_exception(error)
                return
            for answer, accepts in self._waiting.items():
                if not answer.done() and (accepted := _accepted(accepts, data)) is not None:
                    answer.set_result(accepted)

    def close(self) -> None:
        """Close it."""
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()


def _accepted(accepts: Accepts[T], data: bytes) -> T | None:
    try:
        return accepts(data)
    except DecodeError:  # of the other protocol, or nonsense
        return None


class PcpRouter:
    """A gateway, asked by PCP."""

    protocol = Protocol.PCP

    def __init__(self, exchange: Exchange, secret: bytes, forgot: Callable[[], None], now: Callable[[], float]) -> None:
        self._exchange = exchange
        self._secret = secret
        self._forgot = forgot
        self._now = now
        self._epoch = Epoch(Protocol.PCP)
        self._told = False

    async def probe(self) -> None:
        """Return when it answers; RouterRefusedError if it speaks another version."""
        response = await self._ask(pcp.announce_request(self._exchange.own), lambda got: got.mapping is None)
        if response.result == pcp.Result.UNSUPP_VERSION:
            raise RouterRefusedError(f"PCP: {response.why}")

    async def map(self, port: Port, hint: Granted | None, lifetime: int) -> Granted:
        """Ask for a port, or for it to be kept; RouterRefusedError."""
        ip, number = (hint.ip, hint.number) if hint is not None else (_ANY, port.number)
        asked = pcp.Mapping(self._nonce(port), port.transport, port.number, number, ip)
        request = pcp.map_request(self._exchange.own, asked, lifetime)
        response = await self._ask(request, lambda got: _is_about(got, asked))
        if response.result or response.mapping is None:
            raise RouterRefusedError(f"PCP: {response.why}")
        return Granted(response.mapping.ip, response.mapping.external, response.lifetime)

    async def unmap(self, port: Port, granted: Granted) -> None:
        """Give a port back."""
        await self.map(port, None, 0)

    async def holds(self, port: Port, granted: Granted) -> bool:
        """Whether it still has the port open: PCP has no such question, but a lease that is renewed is there."""
        return True

    def announced(self, data: bytes) -> None:
        """Take what it told unasked; DecodeError, and then the next answer is taken as told."""
        self._told = True
        self._heard(pcp.decode(data))

    async def _ask(self, request: bytes, fits: Callable[[pcp.Response], bool]) -> pcp.Response:
        def accepts(data: bytes) -> pcp.Response | None:
            response = pcp.decode(data)
            return response if fits(response) else None

        response = await self._exchange.ask(request, pcp_timeouts(random.random), accepts)
        self._heard(response)
        return response

    def _heard(self, response: pcp.Response) -> None:
        told, self._told = self._told, False
        if not self._epoch.goes_on(response.epoch, self._now(), told=told):
            self._forgot()

    def _nonce(self, port: Port) -> bytes:
        """The same each time: a node that was killed can renew what it had."""
        told = f"{port.transport}/{port.number}".encode()
        return hashlib.blake2b(told, key=self._secret[:64], digest_size=pcp.NONCE, person=b"pcp nonce").digest()


def _is_about(response: pcp.Response, asked: pcp.Mapping) -> bool:
    if response.opcode is not pcp.Opcode.MAP:
        return False
    got = response.mapping
    return got is None or (got.nonce, got.transport, got.internal) == (asked.nonce, asked.transport, asked.internal)


class NatPmpRouter:
    """A gateway, asked by NAT-PMP."""

    protocol = Protocol.NAT_PMP

    def __init__(self, exchange: Exchange, forgot: Callable[[], None], now: Callable[[], float]) -> None:
        self._exchange = exchange
        self._forgot = forgot
        self._now = now
        self._epoch = Epoch(Protocol.NAT_PMP)
        self._told = False

    async def probe(self) -> None:
        """Return when it answers; RouterRefusedError if it speaks another version."""
        await self._external()

    async def map(self, port: Port, hint: Granted | None, lifetime: int) -> Granted:
        """Ask for a port, or for it to be kept; RouterRefusedError."""
        ip = await self._external()
        number = hint.number if hint is not None else port.number
        mapped = await self._map(port, number, lifetime)
        return Granted(ip, mapped.external, mapped.lifetime)

    async def unmap(self, port: Port, granted: Granted) -> None:
        """Give a port back."""
        await self._map(port, 0, 0)

    async def holds(self, port: Port, granted: Granted) -> bool:
        """Whether it still has the port open: as of PCP."""
        return True

    def announced(self, data: bytes) -> None:
        """Take what it told unasked; DecodeError, and then the next answer is taken as told."""
        self._told = True
        self._heard(natpmp.decode(data))

    async def _external(self) -> IPv4Address:
        def accepts(data: bytes) -> natpmp.External | natpmp.Refused | None:
            got = natpmp.decode(data)
            is_it = isinstance(got, natpmp.External) or (isinstance(got, natpmp.Refused) and got.transport is None)
            return got if is_it and not isinstance(got, natpmp.Mapped) else None

        got: natpmp.External | natpmp.Refused = await self._exchange.ask(
            natpmp.external_request(), natpmp_timeouts(), accepts
        )
        self._heard(got)
        if isinstance(got, natpmp.Refused):
            raise RouterRefusedError(f"NAT-PMP: {got.why}")
        return got.ip

    async def _map(self, port: Port, number: int, lifetime: int) -> natpmp.Mapped:
        def accepts(data: bytes) -> natpmp.Mapped | natpmp.Refused | None:
            got = natpmp.decode(data)
            if isinstance(got, natpmp.External) or got.transport != port.transport:
                return None
            return got if isinstance(got, natpmp.Refused) or got.internal == port.number else None

        request = natpmp.map_request(port.transport, port.number, number, lifetime)
        got: natpmp.Mapped | natpmp.Refused = await self._exchange.ask(request, natpmp_timeouts(), accepts)
        self._heard(got)
        if isinstance(got, natpmp.Refused):
            raise RouterRefusedError(f"NAT-PMP: {got.why}")
        return got

    def _heard(self, got: natpmp.External | natpmp.Mapped | natpmp.Refused) -> None:
        if got.epoch is None:
            return
        told, self._told = self._told, False
        if not self._epoch.goes_on(got.epoch, self._now(), told=told):
            self._forgot()


class Announcements:
    """Hears what a gateway tells all hosts of its LAN; from `__init__` to `close`. Raises OSError."""

    def __init__(self, gateway: IPAddress, own: IPv4Address, heard: Callable[[bytes], None]) -> None:
        self._gateway = str(gateway)
        self._heard = heard
        group, port = natpmp.ANNOUNCED
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(group) + own.packed)
            self._socket.bind((group, port))
        except OSError:
            self._socket.close()
            raise
        asyncio.get_running_loop().add_reader(self._socket, self._readable)

    def _readable(self) -> None:
        for _ in range(AT_ONCE):
            try:
                data, source = self._socket.recvfrom(pcp.MAX_MESSAGE + 1)
            except BlockingIOError:
                return
            if source[0] == self._gateway:
                self._heard(data)

    def close(self) -> None:
        """Hear no more."""
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
