"""multistream-select over a stream: which protocol is spoken on it.

The dripping peer, who sends one byte now and then, is cut by the deadline; the bounds of the machine do the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager

from node.errors import DeadlineExceeded, NegotiationError
from node.names.varint import Buffer
from node.net.drive import next_events
from node.net.stream import READ_SIZE, ByteStream, push_back
from node.wire.multistream import Initiator, Responder, Selected

TIMEOUT = 15.0


async def propose(
    stream: ByteStream, protocols: Sequence[str], *, lazy: bool = False, timeout: float = TIMEOUT
) -> tuple[str, ByteStream]:
    """Agree on the first of `protocols` the peer supports; the stream returned is the one to go on with.

    `lazy`, for a single protocol, returns at once and sends the proposal with the first data; a refusal then comes from
    the first read. Raises NegotiationError, RemoteProtocolError, ConnectionClosed or DeadlineExceeded.
    """
    negotiation = Initiator(protocols, lazy=lazy)
    if lazy:
        return protocols[0], LazyStream(stream, negotiation, timeout)
    async with _deadline(timeout):
        return await _confirm(stream, negotiation)


async def respond(
    stream: ByteStream,
    supported: Callable[[str], bool],
    *,
    listing: Callable[[], Iterable[str]] | None = None,
    timeout: float = TIMEOUT,
) -> tuple[str, ByteStream]:
    """Let the peer choose among what is `supported`; `listing` is the answer to `ls`. Raises as `propose`."""
    negotiation = Responder(supported, listing)
    async with _deadline(timeout):
        while True:
            for event in await next_events(negotiation, stream):
                if isinstance(event, Selected):
                    return event.protocol, push_back(stream, negotiation.trailing())


class LazyStream:
    """A stream whose proposal goes out with its first data; the peer's echo is checked before anything is read."""

    def __init__(self, inner: ByteStream, negotiation: Initiator, timeout: float) -> None:
        self._inner = inner
        self._negotiation = negotiation
        self._proposal = b"".join(negotiation.data_to_send())
        self._timeout = timeout
        self._confirmed = False

    async def read(self, max_bytes: int = READ_SIZE) -> bytes:
        """Return some bytes of the protocol; raises NegotiationError if the peer refused it."""
        await self._until_confirmed()
        return await self._inner.read(max_bytes)

    async def write(self, data: Buffer) -> None:
        """Send all of `data`, the proposal in front of the first."""
        if self._proposal:
            data, self._proposal = self._proposal + data, b""
        if data:
            await self._inner.write(data)

    async def close_write(self) -> None:
        """End our direction; the proposal goes out even if nothing was written."""
        await self.write(b"")
        await self._inner.close_write()

    async def close(self) -> None:
        """End both directions, once the peer has answered: else it may meet a closed stream and drop our data."""
        await self.close_write()
        await self._until_confirmed()
        await self._inner.close()

    def reset(self) -> None:
        """End both directions at once."""
        self._inner.reset()

    async def _until_confirmed(self) -> None:
        if self._confirmed:
            return
        await self.write(b"")
        async with _deadline(self._timeout):
            _, self._inner = await _confirm(self._inner, self._negotiation)
        self._confirmed = True


async def _confirm(stream: ByteStream, negotiation: Initiator) -> tuple[str, ByteStream]:
    (event,) = await next_events(negotiation, stream)
    if not isinstance(event, Selected):
        raise NegotiationError(f"the peer supports none of {', '.join(event.protocols)}")
    return event.protocol, push_back(stream, negotiation.trailing())


@asynccontextmanager
async def _deadline(seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise DeadlineExceeded(f"no protocol agreed on within {seconds} s") from error
