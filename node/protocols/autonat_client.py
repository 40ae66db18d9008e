"""AutoNAT, the client: asks servers which of our addresses can be dialled. Both versions.

Facts: a server's word is not enough. Version 2 proves a success by a nonce, which must come over a new inbound direct
connection, and counts once. The server says by its index which address it has tested, and it need not be the first:
rust takes the last. A failure cannot be proven; so several servers are asked (`node.logic.autonat.Verdicts`).

Specs: https://github.com/libp2p/specs/blob/master/autonat/autonat-v2.md, …/autonat-v1.md
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from node.errors import DeadlineExceeded, LimitExceeded, RelayError, RemoteProtocolError
from node.events import Direction, Path
from node.net.stream import read_frame, write_frame
from node.wire import autonat_v1
from node.wire.autonat import (
    DIAL_BACK_PROTOCOL,
    INSPECTED,
    MAX_DATA,
    MAX_DIAL_BACK,
    MAX_MESSAGE,
    PROTOCOL,
    DialDataRequest,
    DialDataResponse,
    DialRequest,
    DialResponse,
    DialStatus,
    ResponseStatus,
    decode,
    decode_dial_back,
    encode,
    encode_dial_back_response,
)

if TYPE_CHECKING:
    from node.logic.addresses import IPAddress
    from node.names.multiaddr import Multiaddr
    from node.net.connection import Connection, Stream
    from node.protocols.api import HostApi

logger = logging.getLogger(__name__)

PENDING = 16
"""Requests under way."""
MAX_PRICE = 100_000
"""Bytes that we pay for one dial: what the specification calls reasonable."""
REQUEST_TIMEOUT = 45.0
"""Seconds for one request: price, pause, dial and nonce."""
NONCE_TIMEOUT = 5.0
"""Seconds for a nonce to come that the server says it has handed over."""
MESSAGE_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class Tested:
    """What one server found of one address."""

    addr: Multiaddr
    reachable: bool
    paid: int
    """Bytes of dial data."""
    source: IPAddress | None = None
    """Where a success came from."""


@dataclass(slots=True)
class _Pending:
    """A request whose nonce may come."""

    addrs: Sequence[Multiaddr]
    before: frozenset[Connection]
    """The connections that there were: the nonce must not come over one of them."""
    came: asyncio.Future[Connection] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class AutonatClient:
    """Asks servers, and takes the nonces that they bring."""

    def __init__(self, host: HostApi) -> None:
        self._host = host
        self._pending: dict[int, _Pending] = {}  # bounded by PENDING

    async def start(self) -> None:
        """Take dial backs from now on."""
        self._host.handle(DIAL_BACK_PROTOCOL, self._take_nonce)

    async def close(self) -> None:
        """Take none any more."""
        self._host.unhandle(DIAL_BACK_PROTOCOL)

    # ── version 2 ────────────────────────────────────────────────────────────────────────────────────────────────

    async def ask(self, server: Connection, addrs: Sequence[Multiaddr], *, timeout: float = REQUEST_TIMEOUT) -> Tested:
        """Have the server test one of `addrs`, most wanted first; which one, the result says.

        Raises RelayError with the server's status where it would not, RemoteProtocolError where it broke the protocol
        or claims a success whose nonce never came.
        """
        if server.path is not Path.DIRECT:
            raise RemoteProtocolError(f"{server.peer} is reached through a relay: it could not tell whose IP is ours")
        if len(self._pending) >= PENDING:
            raise LimitExceeded(f"{PENDING} requests are under way already")
        nonce = secrets.randbits(64)
        pending = _Pending(list(addrs)[:INSPECTED], frozenset(self._host.swarm.connections()))
        self._pending[nonce] = pending
        try:
            async with asyncio.timeout(timeout):
                return await self._request(server, nonce, pending)
        except TimeoutError:
            raise DeadlineExceeded(f"{server.peer} did not test an address in {timeout:g} s") from None
        finally:
            self._pending.pop(nonce, None)
            pending.came.cancel()

    async def _request(self, server: Connection, nonce: int, pending: _Pending) -> Tested:
        stream = await server.new_stream([PROTOCOL])
        try:
            await write_frame(stream, encode(DialRequest(tuple(pending.addrs), nonce)))
            paid, response = await self._converse(stream, pending)
            await stream.close()
        except BaseException:
            stream.reset()
            raise
        if response.status is not ResponseStatus.OK:
            raise RelayError(response.status.name, f"{server.peer} tested none of {len(pending.addrs)} addresses")
        if response.index >= len(pending.addrs):
            raise RemoteProtocolError(f"{server.peer} tested address {response.index} of {len(pending.addrs)}")
        return await self._judge(server, pending, response, paid)

    async def _converse(self, stream: Stream, pending: _Pending) -> tuple[int, DialResponse]:
        """Pay where that is asked for, once; return what was paid and the server's answer."""
        paid = 0
        while True:
            message = decode(await read_frame(stream, MAX_MESSAGE))
            match message:
                case DialResponse():
                    return paid, message
                case DialDataRequest(index, num_bytes) if not paid and index < len(pending.addrs):
                    if num_bytes > MAX_PRICE:
                        raise RemoteProtocolError(f"{stream.peer} asks {num_bytes} bytes for a dial")
                    await _pay(stream, num_bytes)
                    paid = num_bytes
                case _:
                    raise RemoteProtocolError(f"{stream.peer} answered with {message!r}")

    async def _judge(self, server: Connection, pending: _Pending, response: DialResponse, paid: int) -> Tested:
        addr = pending.addrs[response.index]
        match response.dial_status:
            case DialStatus.OK:
                wait = NONCE_TIMEOUT
            case DialStatus.E_DIAL_BACK_ERROR:
                wait = 0.0  # a connection it had; whether the nonce came is for us to say
            case DialStatus.E_DIAL_ERROR:
                return Tested(addr, reachable=False, paid=paid)
            case _:
                raise RemoteProtocolError(f"{server.peer} does not say how the dial ended")
        await asyncio.wait({pending.came}, timeout=wait)
        if not pending.came.done():
            raise RemoteProtocolError(f"{server.peer} says it dialled {addr}, but its nonce did not come")
        came = pending.came.result()
        if ("udp" in came.local) != ("udp" in addr):
            raise RemoteProtocolError(f"{server.peer} says it dialled {addr}, but its nonce came to {came.local}")
        return Tested(addr, reachable=True, paid=paid, source=came.remote.ip)

    async def _take_nonce(self, stream: Stream) -> None:
        connection = stream.connection
        async with asyncio.timeout(MESSAGE_TIMEOUT):
            nonce = decode_dial_back(await read_frame(stream, MAX_DIAL_BACK))
        pending = self._pending.get(nonce)
        if connection.path is not Path.DIRECT or connection.direction is not Direction.INBOUND:
            raise RemoteProtocolError(f"{stream.peer} dials back over {connection!r}")
        if pending is None or pending.came.done():
            raise RemoteProtocolError(f"{stream.peer} dials back with a nonce that nobody waits for")
        if connection in pending.before:
            raise RemoteProtocolError(f"{stream.peer} dials back over a connection that was there before")
        pending.came.set_result(connection)
        await write_frame(stream, encode_dial_back_response())

    # ── version 1 ────────────────────────────────────────────────────────────────────────────────────────────────

    async def ask_v1(
        self, server: Connection, addrs: Sequence[Multiaddr], *, timeout: float = REQUEST_TIMEOUT
    ) -> autonat_v1.DialResponse:
        """Have the server dial us back; RelayError with its status where it tells nothing about our reachability."""
        stream = await server.new_stream([autonat_v1.PROTOCOL])
        try:
            async with asyncio.timeout(timeout):
                request = autonat_v1.Dial(self._host.peer_id, tuple(addrs)[: autonat_v1.MAX_ADDRS])
                await write_frame(stream, request.to_bytes())
                response = autonat_v1.DialResponse.from_bytes(await read_frame(stream, autonat_v1.MAX_MESSAGE))
                await stream.close()
        except TimeoutError:
            stream.reset()
            raise DeadlineExceeded(f"{server.peer} did not dial us back in {timeout:g} s") from None
        except BaseException:
            stream.reset()
            raise
        if response.status not in (autonat_v1.Status.OK, autonat_v1.Status.E_DIAL_ERROR):
            raise RelayError(response.status.name, f"{server.peer} does not dial us back: {response.text}")
        return response


async def _pay(stream: Stream, size: int) -> None:
    """Send dial data; the server may take more than it asked for in the last message, and all are alike."""
    message = encode(DialDataResponse(bytes(MAX_DATA)))
    for _ in range(0, size, MAX_DATA):
        await write_frame(stream, message)
