"""Full handshakes a second: dials one after another, beside what Noise alone and its cryptography alone would allow.

    python -m tests.bench.handshakes [quic]      the listening side; prints its port, serves until stdin ends

A dial is TCP, multistream, Noise with the muxer agreed on inside, and yamux ready for a stream, or QUIC with the
certificates proven; then it is closed. Two processes share the work, so that on two cores the pure handshake, both
sides in one process, is not a strict bound.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from node.names.keys import PrivateKey
from node.names.multiaddr import Multiaddr
from node.net.muxed_stream import MuxedStream
from node.net.quic.transport import QuicTransport
from node.net.tasks import Tasks
from node.net.tcp import TcpTransport
from node.net.transport import Carried, Handshake, MuxedConnection
from node.net.upgrade import Role, upgrade
from node.wire import yamux
from node.wire.noise import Noise
from node.wire.yamux_windows import GrowthPool
from tests.bench.program import Program

ANY_PORT: Final = Multiaddr("/ip4/127.0.0.1/tcp/0")
ANY_QUIC_PORT: Final = Multiaddr("/ip4/127.0.0.1/udp/0/quic-v1")
POOL: Final = 64 << 20
"Bytes that receive windows may grow by; nobody sends any."
DEADLINE: Final = 60.0
WARM_UP: Final = 20

Dial = Callable[[], Awaitable[MuxedConnection]]
"Makes one connection, secure and ready for streams."


def dials(count: int, *, quic: bool = False) -> float:
    """Dials a second, one after another, to another process."""
    with Program([sys.executable, "-m", "tests.bench.handshakes", *(["quic"] if quic else [])]) as listener:
        return asyncio.run(_dials(_by_quic if quic else _by_tcp, int(listener.line()), count))


def _by_tcp(port: int) -> Dial:
    key, transport, addr = PrivateKey.generate(), TcpTransport(), Multiaddr.tcp("127.0.0.1", port)

    async def dial() -> MuxedConnection:
        return await upgrade(await transport.dial(addr), key=key, role=Role.INITIATOR)

    return dial


def _by_quic(port: int) -> Dial:
    transport, addr = QuicTransport(PrivateKey.generate(), GrowthPool(POOL)), Multiaddr.quic("127.0.0.1", port)

    async def dial() -> MuxedConnection:
        return await (await transport.dial(addr)).complete(None)

    return dial


async def _dials(by: Callable[[int], Dial], port: int, count: int) -> float:
    fresh = by(port)

    async def dial() -> None:
        muxed = await fresh()
        muxed.start(MuxedStream.reset, lambda _: None)
        await muxed.close()

    async with asyncio.timeout(DEADLINE):
        for _ in range(WARM_UP):
            await dial()
        began = time.perf_counter()
        for _ in range(count):
            await dial()
        return count / (time.perf_counter() - began)


def noise(count: int) -> float:
    """Noise XX handshakes a second with identities proven, both sides in one process, no sockets."""
    alice, bob = PrivateKey.generate(), PrivateKey.generate()
    began = time.perf_counter()
    for _ in range(count):
        dialer, listener = _machine(alice, initiator=True), _machine(bob, initiator=False)
        for sender, receiver in ((dialer, listener), (listener, dialer), (dialer, listener)):
            receiver.receive_data(b"".join(sender.data_to_send()))
    return count / (time.perf_counter() - began)


def _machine(key: PrivateKey, *, initiator: bool) -> Noise:
    static, ephemeral = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    return Noise(key, initiator=initiator, static=static, ephemeral=ephemeral, expected=None, muxers=(yamux.PROTOCOL,))


def cryptography(count: int) -> float:
    """How often a second the curves' part of both sides can be done: XX's ee, es and se, two signatures, two checks."""
    signer = Ed25519PrivateKey.generate()
    verifier, message = signer.public_key(), bytes(56)
    theirs = X25519PrivateKey.generate().public_key()
    began = time.perf_counter()
    for _ in range(count):
        for _ in range(2):
            X25519PrivateKey.generate()
            ephemeral = X25519PrivateKey.generate()
            for _ in range(3):
                ephemeral.exchange(theirs)
            verifier.verify(signer.sign(message), message)
    return count / (time.perf_counter() - began)


async def _listen(*, quic: bool) -> None:
    key, tasks = PrivateKey.generate(), Tasks()

    async def serve(raw: Carried) -> None:
        muxed: MuxedConnection
        if isinstance(raw, Handshake):
            muxed = await raw.complete(None)
        else:
            muxed = await upgrade(raw, key=key, role=Role.RESPONDER)
        closed = asyncio.Event()
        muxed.start(MuxedStream.reset, lambda _: closed.set())
        await closed.wait()

    def accept(raw: Carried) -> None:
        tasks.spawn(serve(raw), "serve a dial")

    transport = QuicTransport(key, GrowthPool(POOL)) if quic else TcpTransport()
    listener = await transport.listen(ANY_QUIC_PORT if quic else ANY_PORT, accept)
    print(listener.addr.port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await listener.close()
    await tasks.close()


if __name__ == "__main__":
    asyncio.run(_listen(quic=sys.argv[1:] == ["quic"]))
