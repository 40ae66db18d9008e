"""AutoNAT, the server: tells peers which of their addresses can be dialled by dialling them. Both versions.

    v2   request ─► throttle ─► one address ─► price, if it is somebody else's ─► dial ─► nonce ─► answer
    v1   request ─► throttle ─► the addresses at the client's own IP ─► dial ─► answer

Nothing is served over relayed connections, where the client's IP is not known. Who may, and how much it costs, is
`node.logic.autonat`; how the dial is made `node.protocols.dialback`.

Specs: https://github.com/libp2p/specs/blob/master/autonat/autonat-v2.md, …/autonat-v1.md
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from random import SystemRandom
from typing import TYPE_CHECKING

from node.errors import DecodeError, NodeError, RemoteProtocolError, StreamReset
from node.events import DialledBack, Path
from node.logic.autonat import V1_POLICY, Choice, Purse, ServerPolicy, Throttle, choose, price, v1_targets
from node.logic.observed import observer_group
from node.net.stream import read_frame, write_frame
from node.wire import autonat_v1
from node.wire.autonat import (
    DIAL_BACK_PROTOCOL,
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
    decode_dial_back_response,
    encode,
    encode_dial_back,
)

if TYPE_CHECKING:
    from random import Random

    from node.names.multiaddr import Multiaddr
    from node.net.connection import Connection, Stream
    from node.protocols.api import HostApi
    from node.protocols.dialback import Dialback

logger = logging.getLogger(__name__)


class AutonatServer:
    """Serves both versions."""

    def __init__(
        self,
        host: HostApi,
        dialback: Dialback,
        policy: ServerPolicy | None = None,
        v1_policy: ServerPolicy = V1_POLICY,
        chance: Random | None = None,
    ) -> None:
        self._host = host
        self._dialback = dialback
        self._policy = policy or ServerPolicy()
        self._v1_policy = v1_policy
        self._chance = chance or SystemRandom()
        self._throttle = Throttle(self._policy)
        self._v1_throttle = Throttle(v1_policy)

    async def start(self) -> None:
        """Serve from now on."""
        self._host.handle(PROTOCOL, self._serve)
        self._host.handle(autonat_v1.PROTOCOL, self._serve_v1)

    async def close(self) -> None:
        """Serve no more, end what is under way."""
        self._host.unhandle(PROTOCOL)
        self._host.unhandle(autonat_v1.PROTOCOL)
        await self._dialback.close()

    # ── version 2 ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _serve(self, stream: Stream) -> None:
        async with asyncio.timeout(self._policy.stream):
            request = decode(await read_frame(stream, MAX_MESSAGE))
        if not isinstance(request, DialRequest):
            raise RemoteProtocolError(f"{stream.peer} began with {type(request).__name__}, not with a DialRequest")
        await write_frame(stream, encode(await self._answer(stream, request)))

    async def _answer(self, stream: Stream, request: DialRequest) -> DialResponse:
        ip = stream.connection.remote.ip
        if ip is None or stream.connection.path is not Path.DIRECT:
            return DialResponse(ResponseStatus.E_REQUEST_REJECTED)
        if not self._throttle.admit(stream.peer, observer_group(ip), self._host.now()):
            return DialResponse(ResponseStatus.E_REQUEST_REJECTED)
        try:
            choice = choose(request.addrs, ip, self._dialback.can_dial, self._policy)
            if choice is None:
                return DialResponse(ResponseStatus.E_DIAL_REFUSED)
            if choice.costs and not await self._is_paid(stream, choice):
                return DialResponse(ResponseStatus.E_REQUEST_REJECTED)
            status = await self._dial(stream.connection, choice.addr, request.nonce)
        finally:
            self._throttle.done(stream.peer)
        self._host.emit(DialledBack(stream.peer, choice.addr, status is DialStatus.OK, paid=choice.costs))
        return DialResponse(ResponseStatus.OK, choice.index, status)

    async def _is_paid(self, stream: Stream, choice: Choice) -> bool:
        """Demand dial data and wait a while; False when too many have asked for dials of others' IPs."""
        if not self._throttle.admit_data(self._host.now()):
            return False
        purse = Purse(self._policy, wanted=price(self._policy, self._chance))
        async with asyncio.timeout(self._policy.stream):
            await write_frame(stream, encode(DialDataRequest(choice.index, purse.missing)))
            while not purse.paid:
                message = decode(await read_frame(stream, MAX_MESSAGE))
                if not isinstance(message, DialDataResponse):
                    raise RemoteProtocolError(f"{stream.peer} sent {type(message).__name__} where dial data was due")
                if not purse.take(len(message.data)):
                    raise RemoteProtocolError(f"{stream.peer} pays in messages of {len(message.data)} bytes")
        await asyncio.sleep(self._chance.uniform(0, self._policy.pause))
        return True

    async def _dial(self, asking: Connection, addr: Multiaddr, nonce: int) -> DialStatus:
        try:
            connection = await self._dialback.dial(asking.peer, addr, known=asking.local.ip, timeout=self._policy.dial)
        except (NodeError, OSError) as error:
            logger.info("%s cannot be dialled at %s: %s", asking.peer, addr, error)
            return DialStatus.E_DIAL_ERROR
        try:
            async with asyncio.timeout(self._policy.dial_back):
                await _hand_over(connection, nonce)
        except (NodeError, TimeoutError) as error:
            logger.info("%s was dialled at %s and did not take the nonce: %r", asking.peer, addr, error)
            return DialStatus.E_DIAL_BACK_ERROR
        finally:
            await connection.close("dialled back")
        return DialStatus.OK

    # ── version 1 ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _serve_v1(self, stream: Stream) -> None:
        try:
            async with asyncio.timeout(self._v1_policy.stream):
                request = autonat_v1.Dial.from_bytes(await read_frame(stream, autonat_v1.MAX_MESSAGE))
            if request.peer != stream.peer:
                raise DecodeError(f"{stream.peer} asks for dials of {request.peer}")
        except RemoteProtocolError as error:
            response = autonat_v1.DialResponse(autonat_v1.Status.E_BAD_REQUEST, str(error))
        else:
            response = await self._answer_v1(stream, request)
        await write_frame(stream, response.to_bytes())

    async def _answer_v1(self, stream: Stream, request: autonat_v1.Dial) -> autonat_v1.DialResponse:
        asking = stream.connection
        ip = asking.remote.ip
        if ip is None or asking.path is not Path.DIRECT:
            return autonat_v1.DialResponse(autonat_v1.Status.E_DIAL_REFUSED, "not over a relay")
        targets = v1_targets(request.addrs, asking.remote, self._dialback.can_dial, self._v1_policy)
        if not targets:
            return autonat_v1.DialResponse(autonat_v1.Status.E_DIAL_REFUSED, "no dialable addresses")
        if not self._v1_throttle.admit(stream.peer, observer_group(ip), self._host.now()):
            return autonat_v1.DialResponse(autonat_v1.Status.E_DIAL_REFUSED, "too many dials")
        try:
            reached = await self._first_of(asking, targets)
        finally:
            self._v1_throttle.done(stream.peer)
        self._host.emit(DialledBack(stream.peer, reached or targets[0], reached is not None, paid=False))
        if reached is None:
            return autonat_v1.DialResponse(autonat_v1.Status.E_DIAL_ERROR, "no address could be dialled")
        return autonat_v1.DialResponse(autonat_v1.Status.OK, addr=reached)

    async def _first_of(self, asking: Connection, addrs: list[Multiaddr]) -> Multiaddr | None:
        """Dial all at once; return the first address that answered, None where none did."""
        dials = [asyncio.create_task(self._reach(asking, addr), name=f"dial back of {addr}") for addr in addrs]
        try:
            for dial in asyncio.as_completed(dials):
                if (reached := await dial) is not None:
                    return reached
        finally:
            for task in dials:
                task.cancel()
            await asyncio.gather(*dials, return_exceptions=True)
        return None

    async def _reach(self, asking: Connection, addr: Multiaddr) -> Multiaddr | None:
        try:
            connection = await self._dialback.dial(
                asking.peer, addr, known=asking.local.ip, timeout=self._v1_policy.dial
            )
        except (NodeError, OSError) as error:
            logger.info("%s cannot be dialled at %s: %s", asking.peer, addr, error)
            return None
        await connection.close("dialled back")
        return addr


async def _hand_over(connection: Connection, nonce: int) -> None:
    """Give the client its nonce over the new connection; the answer shows that it has it.

    go resets each such stream once it has answered, and over QUIC the reset takes the place of the answer. So it counts
    as one: whom we have dialled is sure without it, and who did not get a nonce knows best.
    """
    stream = await connection.new_stream([DIAL_BACK_PROTOCOL])
    try:
        await write_frame(stream, encode_dial_back(nonce))
        await stream.close_write()
        with suppress(StreamReset):
            decode_dial_back_response(await read_frame(stream, MAX_DIAL_BACK))
    except BaseException:
        stream.reset()
        raise
