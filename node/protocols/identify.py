"""Identify: who is at the other end, what it serves, where it listens, and how it sees us.

    we ── open /ipfs/id/1.0.0 ─► peer            on every new connection, limited ones too
       ◄─ Identify, end ────────
    we ── open /ipfs/id/push/1.0.0, Identify, end ─► peers that support it, when our addresses or protocols change

Facts: messages are length-delimited though the spec does not say so, and go sends several to be merged. What a peer
claims about its addresses is believed for two minutes, what it signed for an hour. Our own address as the peer sees it
means something on a direct connection only: over a relay it would be the relay's.

Spec: https://github.com/libp2p/specs/blob/master/identify/README.md
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from node.errors import DeadlineExceeded, DecodeError, LocalProtocolError, NegotiationError, NodeError, SecurityError
from node.events import AddressesChanged, Identified, Path, ProtocolsChanged
from node.logic.addressbook import Ttl
from node.logic.addresses import plausible
from node.names.envelope import open_peer_record, seal_peer_record
from node.net.tasks import Tasks
from node.wire.framing import LengthDelimited, encode_frame
from node.wire.identify import MAX_MESSAGE, MAX_MESSAGES, PROTOCOL, PUSH_PROTOCOL, merge
from node.wire.identify import Identify as Message

if TYPE_CHECKING:
    from node.events import Event
    from node.names.multiaddr import Multiaddr
    from node.net.connection import Connection, Stream
    from node.protocols.api import HostApi, Unsubscribe

logger = logging.getLogger(__name__)

PROTOCOL_VERSION = "ipfs/0.1.0"
"""What go and js say; nobody checks it."""
TIMEOUT = 5.0
"""Seconds for one exchange, as in go."""
ADDRESSES_SENT = 24
"""Addresses we tell: more would not fit, twice, into the 4 KiB that rust reads."""
PUSHES = 16
"""Peers pushed to at a time."""


class Identify:
    """Identifies every connection, answers, and pushes what changes."""

    def __init__(self, host: HostApi, agent: str, wall_ns: Callable[[], int] = time.time_ns) -> None:
        self._host = host
        self._agent = agent
        self._record = _OwnRecord(host, wall_ns)
        self._tasks = Tasks()
        self._done: dict[Connection, asyncio.Event] = {}
        self._told: dict[Connection, int] = {}  # the generation that the peer has been told over this connection
        self._generation = 0
        self._news = asyncio.Event()
        self._unsubscribe: list[Unsubscribe] = []

    async def start(self) -> None:
        """Identify and answer from now on."""
        self._host.handle(PROTOCOL, self._serve, limited=True)
        self._host.handle(PUSH_PROTOCOL, self._receive_push, limited=True)
        self._unsubscribe = [
            self._host.swarm.on_connected(self._connected),
            self._host.swarm.on_disconnected(self._disconnected),
            self._host.subscribe(self._event),
        ]
        self._tasks.spawn(self._push_changes(), "identify push")

    async def close(self) -> None:
        """Identify and answer no more."""
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        self._host.unhandle(PROTOCOL)
        self._host.unhandle(PUSH_PROTOCOL)
        await self._tasks.close()

    async def wait(self, connection: Connection, timeout: float) -> None:
        """Wait until the connection is identified, has failed to be, or `timeout` seconds have passed."""
        done = self._done.get(connection)
        if done is not None:
            await asyncio.wait([waiting := asyncio.create_task(done.wait(), name="identified")], timeout=timeout)
            waiting.cancel()

    # ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _connected(self, connection: Connection) -> None:
        self._done[connection] = asyncio.Event()
        self._tasks.spawn(self._identify(connection), f"identify {connection.peer}")

    def _disconnected(self, connection: Connection, why: str) -> None:
        self._told.pop(connection, None)
        done = self._done.pop(connection, None)
        if done is not None:
            done.set()

    async def _identify(self, connection: Connection) -> None:
        try:
            message = await self._ask(connection)
            self._consume(connection, message)
        except NodeError as error:
            logger.info("identify of %s: %s", connection.peer, error)
        finally:
            if (done := self._done.get(connection)) is not None:
                done.set()
            self._news.set()  # what changed meanwhile can be pushed now that it is known whether the peer takes pushes

    async def again(self, connection: Connection) -> None:
        """Ask once more, as our address may have changed while the connection lived on."""
        try:
            self._consume(connection, await self._ask(connection))
        except NodeError as error:
            logger.info("identify of %s again: %s", connection.peer, error)

    async def _ask(self, connection: Connection) -> Message:
        stream = await connection.new_stream([PROTOCOL], limited=True, timeout=TIMEOUT)
        try:
            async with asyncio.timeout(TIMEOUT):
                message = await _receive(stream)
                await stream.close()
        except TimeoutError:
            stream.reset()
            raise DeadlineExceeded(f"no identify message in {TIMEOUT:g} s") from None
        except BaseException:
            stream.reset()
            raise
        return message

    def _consume(self, connection: Connection, message: Message) -> None:
        peer = connection.peer
        if message.public_key is not None and message.public_key.peer_id() != peer:
            raise SecurityError(f"{peer} sent the public key of {message.public_key.peer_id()}")
        book = self._host.addressbook
        addrs = self._believe(connection, message)
        book.describe(peer, message.protocols or None, message.agent_version)
        if message.observed_addr is not None and connection.path is Path.DIRECT:
            self._host.observe(connection, message.observed_addr)
        protocols = tuple(sorted(book.protocols(peer)))
        event = Identified(peer, connection.path, book.agent(peer), protocols, addrs, message.observed_addr)
        self._host.emit(event)

    def _believe(self, connection: Connection, message: Message) -> tuple[Multiaddr, ...]:
        """Remember the peer's addresses, for long if it signed them; return them."""
        now = self._host.now()
        book = self._host.addressbook
        if message.signed_peer_record is not None:
            try:
                record = open_peer_record(message.signed_peer_record)
            except (DecodeError, SecurityError) as error:
                logger.info("peer record of %s: %s", connection.peer, error)
            else:
                if record.peer_id == connection.peer:
                    addrs = tuple(plausible(record.addrs, connection.remote))
                    book.consume_record(type(record)(record.peer_id, record.seq, addrs), now)
                    return addrs
                logger.info("%s sent the peer record of %s", connection.peer, record.peer_id)
        addrs = tuple(plausible(message.listen_addrs, connection.remote))
        book.add(connection.peer, addrs, Ttl.CLAIMED, now)
        return addrs

    # ── answering ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _serve(self, stream: Stream) -> None:
        self._told[stream.connection] = self._generation
        async with asyncio.timeout(TIMEOUT):
            await stream.write(encode_frame(self._message(stream.connection)))
            await stream.close_write()

    async def _receive_push(self, stream: Stream) -> None:
        async with asyncio.timeout(TIMEOUT):
            message = await _receive(stream)
        self._consume(stream.connection, message)

    def _message(self, connection: Connection) -> bytes:
        """Our message for one connection, with as many of our addresses as fit."""
        addrs = tuple(self._host.addrs()[:ADDRESSES_SENT])
        while True:
            message = Message(
                public_key=self._host.key.public,
                listen_addrs=addrs,
                protocols=tuple(self._host.protocols()),
                observed_addr=connection.remote if connection.path is Path.DIRECT else None,
                protocol_version=PROTOCOL_VERSION,
                agent_version=self._agent,
                signed_peer_record=self._record.sealed(addrs),
            )
            try:
                return message.to_bytes()
            except LocalProtocolError:
                if not addrs:
                    raise
                addrs = addrs[: len(addrs) // 2]

    # ── pushing ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _event(self, event: Event) -> None:
        if isinstance(event, AddressesChanged | ProtocolsChanged):
            self._generation += 1
            self._news.set()

    async def _push_changes(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            await self._push_to([each for each in self._told if self._is_behind(each)])

    async def _push_to(self, behind: Sequence[Connection]) -> None:
        for start in range(0, len(behind), PUSHES):
            async with asyncio.TaskGroup() as group:
                for connection in behind[start : start + PUSHES]:
                    group.create_task(self._push(connection), name=f"push to {connection.peer}")

    def _is_behind(self, connection: Connection) -> bool:
        """Whether the peer takes pushes, knows an older state, and has no better connection to learn of it by."""
        return (
            self._told[connection] < self._generation
            and PUSH_PROTOCOL in self._host.protocols_of(connection.peer)
            and self._host.swarm.best(connection.peer) is connection
        )

    async def _push(self, connection: Connection) -> None:
        if connection not in self._told:  # it ended while others were pushed to
            return
        self._told[connection] = self._generation
        try:
            stream = await connection.new_stream([PUSH_PROTOCOL], limited=True, timeout=TIMEOUT)
        except NodeError as error:
            level = logging.DEBUG if isinstance(error, NegotiationError) else logging.INFO
            logger.log(level, "push to %s: %s", connection.peer, error)
            return
        try:
            async with asyncio.timeout(TIMEOUT):
                await stream.write(encode_frame(self._message(connection)))
                await stream.close()
        except (NodeError, TimeoutError) as error:
            logger.info("push to %s: %r", connection.peer, error)
            stream.reset()
        except BaseException:
            stream.reset()
            raise


class _OwnRecord:
    """Our signed peer record; sealed anew, with a higher `seq`, when the addresses differ from those of the last."""

    def __init__(self, host: HostApi, wall_ns: Callable[[], int]) -> None:
        self._host = host
        self._wall_ns = wall_ns
        self._addrs: tuple[Multiaddr, ...] | None = None
        self._seq = 0
        self._sealed = b""

    def sealed(self, addrs: tuple[Multiaddr, ...]) -> bytes:
        if addrs != self._addrs:
            # Unix nanoseconds grow from one run of the node to the next without a file to remember them in.
            self._seq = max(self._seq + 1, self._wall_ns())
            self._addrs = addrs
            self._sealed = seal_peer_record(self._host.key, self._seq, addrs)
        return self._sealed


async def _receive(stream: Stream) -> Message:
    """Read messages to the end of the stream and merge them."""
    frames = LengthDelimited(MAX_MESSAGE)
    messages: list[Message] = []
    while data := await stream.read():
        frames.feed(data)
        while (frame := frames.next_frame()) is not None:
            if len(messages) == MAX_MESSAGES:  # one read can bring tens of thousands of empty ones
                raise DecodeError(f"identify in more than {MAX_MESSAGES} messages")
            messages.append(Message.from_bytes(frame))
    frames.receive_eof()
    if not messages:
        raise DecodeError("identify stream without a message")
    return merge(messages)
