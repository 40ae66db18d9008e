"""Two ends of a connection for tests: in memory, over TCP on loopback, and over a circuit within it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from node.errors import NodeError, StreamClosed, StreamReset
from node.names.keys import PrivateKey
from node.names.multiaddr import Multiaddr
from node.names.varint import Buffer
from node.net.drive import RelayedRaw
from node.net.quic.connection import QuicConnection
from node.net.quic.transport import QuicTransport
from node.net.stream import RawConnection
from node.net.tcp import TcpTransport
from node.net.transport import Carried, Handshake
from node.net.upgrade import MuxedStream, Role, UpgradeConfig, upgrade
from node.wire.yamux_windows import GrowthPool

ANY_PORT = Multiaddr("/ip4/127.0.0.1/tcp/0")
ANY_UDP_PORT = Multiaddr("/ip4/127.0.0.1/udp/0/quic-v1")
CIRCUIT = Multiaddr("/ip4/127.0.0.1/tcp/1/p2p-circuit")
ALICE, BOB = PrivateKey.generate(), PrivateKey.generate()
DEADLINE = 60.0


class MemoryStream:
    """One end of a pair; implements `node.net.stream.ByteStream` without a bound."""

    def __init__(self) -> None:
        self.peer: MemoryStream
        self._received = bytearray()
        self._ended = self._finished = self._broken = False
        self._change = asyncio.Event()

    async def read(self, max_bytes: int = 65536) -> bytes:
        while not self._received and not self._ended and not self._broken:
            self._change.clear()
            await self._change.wait()
        if self._broken:
            raise StreamReset("reset")
        data = bytes(self._received[:max_bytes])
        del self._received[:max_bytes]
        return data

    async def write(self, data: Buffer) -> None:
        if self._broken:
            raise StreamReset("reset")
        if self._finished:
            raise StreamClosed("closed for writing")
        self.peer._received += data
        self.peer._change.set()

    async def close_write(self) -> None:
        self._finished = True
        self.peer._ended = True
        self.peer._change.set()

    async def close(self) -> None:
        await self.close_write()

    def reset(self) -> None:
        for end in (self, self.peer):
            end._broken = True
            end._change.set()


def memory_pair() -> tuple[MemoryStream, MemoryStream]:
    """Two connected streams."""
    one, other = MemoryStream(), MemoryStream()
    one.peer, other.peer = other, one
    return one, other


@dataclass
class End:
    """One side of a muxed connection and what it was told."""

    muxed: Any
    """A MuxedConnection; tests of one kind of it look inside."""
    incoming: asyncio.Queue[MuxedStream] = field(default_factory=asyncio.Queue)
    closed: asyncio.Future[NodeError | None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def start(self) -> None:
        self.muxed.start(self.incoming.put_nowait, self.closed.set_result)


@asynccontextmanager
async def tcp_pair() -> AsyncIterator[tuple[RawConnection, RawConnection]]:
    """The dialling and the accepting end of a TCP connection."""
    transport = TcpTransport()
    accepted: asyncio.Queue[RawConnection] = asyncio.Queue()
    listener = await transport.listen(ANY_PORT, accepted.put_nowait)
    dialled = await transport.dial(listener.addr)
    other = await accepted.get()
    try:
        yield dialled, other
    finally:
        await listener.close()
        await dialled.close()
        await other.close()


async def upgraded(
    one: RawConnection, other: RawConnection, *, ours: UpgradeConfig | None = None, theirs: UpgradeConfig | None = None
) -> tuple[End, End]:
    """Both ends upgraded and started, `one` as Alice and initiator."""
    alice, bob = await asyncio.gather(
        upgrade(one, key=ALICE, role=Role.INITIATOR, expected=BOB.peer_id(), config=ours),
        upgrade(other, key=BOB, role=Role.RESPONDER, config=theirs),
    )
    ends = End(alice), End(bob)
    for end in ends:
        end.start()
    return ends


def quic_transport(key: PrivateKey, growth: int = 1 << 28) -> QuicTransport:
    """A transport with a pool of its own."""
    return QuicTransport(key, GrowthPool(growth))


@asynccontextmanager
async def quic_connected() -> AsyncIterator[tuple[End, End]]:
    """Alice's and Bob's ends of a QUIC connection, which Alice dialled."""
    accepted: asyncio.Queue[Carried] = asyncio.Queue()
    async with asyncio.timeout(DEADLINE):
        listener = await quic_transport(BOB).listen(ANY_UDP_PORT, accepted.put_nowait)
        dialled = await quic_transport(ALICE).dial(listener.addr)
        alice, arrived = await asyncio.gather(dialled.complete(BOB.peer_id()), accepted.get())
        assert isinstance(arrived, Handshake)
        ends = End(alice), End(await arrived.complete(None))
        for end in ends:
            end.start()
        yield ends
        for end in ends:
            await end.muxed.close()
        await listener.close()


@asynccontextmanager
async def connected(carrier: str = "tcp", config: UpgradeConfig | None = None) -> AsyncIterator[tuple[End, End]]:
    """Alice's and Bob's ends of a muxed connection over "tcp", over a "circuit" within another one, or by "quic"."""
    if carrier == "quic":
        async with quic_connected() as ends:
            yield ends
        return
    async with asyncio.timeout(DEADLINE), tcp_pair() as (dialled, accepted):
        if carrier == "tcp":
            alice, bob = await upgraded(dialled, accepted, ours=config, theirs=config)
            yield alice, bob
        else:
            outer_alice, outer_bob = await upgraded(dialled, accepted)
            one = RelayedRaw(await outer_alice.muxed.open_stream(), CIRCUIT, CIRCUIT)
            other = RelayedRaw(await outer_bob.incoming.get(), CIRCUIT, CIRCUIT)
            alice, bob = await upgraded(one, other, ours=config, theirs=config)
            yield alice, bob
        for end in (alice, bob):
            await end.muxed.close()


async def stream_pair(alice: End, bob: End) -> tuple[MuxedStream, MuxedStream]:
    """A stream that Alice opened, both ends."""
    ours = await alice.muxed.open_stream()
    if not isinstance(alice.muxed, QuicConnection):
        return ours, await bob.incoming.get()
    await ours.write(b"!")  # QUIC tells nobody of a stream that carries nothing
    theirs = await bob.incoming.get()
    assert await theirs.read() == b"!"
    return ours, theirs


async def read_all(stream: MuxedStream | MemoryStream | RawConnection) -> bytes:
    """What comes until the end."""
    data = bytearray()
    while chunk := await stream.read(1 << 20):
        data += chunk
    return bytes(data)
