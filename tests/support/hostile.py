"""A node under attack: what it reports, an honest peer to be served meanwhile, and hostile peers at each layer.

    wire(host)       a TCP connection, bytes by hand
    handshake(host)  the same after `/noise` was agreed on: the three Noise messages by hand
    session(host)    a secured connection whose yamux frames are made by hand
    stranger(host)   a muxed connection whose streams are written by hand

Hostile peers come from an address of their own, so that what the node does to that address does not hit the honest one.
`arena` fails a test that makes the node log an error, leave a task, or hand an exception to the loop.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from node.errors import ConnectionClosed, StreamReset
from node.events import Disconnected, Path
from node.host import Host, HostConfig
from node.logic.protection import Security
from node.names.keys import PrivateKey
from node.names.multiaddr import Multiaddr
from node.names.peerid import PeerId
from node.names.varint import Buffer
from node.net.connection import Connection
from node.net.negotiate import propose
from node.net.secure import Secured, secure
from node.net.stream import ByteStream, RawConnection, read_exactly
from node.net.tcp import TcpTransport
from node.net.upgrade import Role, upgrade
from node.wire.framing import encode_frame
from node.wire.noise import HandshakeState
from node.wire.security_events import DataReceived
from node.wire.yamux import PROTOCOL as YAMUX
from node.wire.yamux_frames import HEADER, GoAwayCode, Kind, pack
from tests.support.connections import End
from tests.support.hosts import LOOPBACK, Seen, addr_of, watch

HOSTILE = Multiaddr("/ip4/127.0.0.66/tcp/0")
"""Where the attacks come from."""
GREETING = encode_frame(b"/multistream/1.0.0\n")
ECHOED = 20_000
"""Bytes by which it is seen that the honest peer is served."""


class Reports(logging.Handler):
    """What the node logs, so that a test can ask which typed error it reported."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.records: list[logging.LogRecord] = []
        self._news = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        self._news.set()

    async def error(self, kind: type[BaseException], text: str = "", *, times: int = 1) -> None:
        """Wait until errors of exactly this kind whose words hold `text` were reported that many times."""
        while sum(type(error) is kind and text in str(error) for error in self.errors()) < times:
            self._news.clear()
            await self._news.wait()

    def errors(self) -> list[BaseException]:
        """The errors reported so far."""
        found: list[BaseException] = []
        for record in self.records:
            arguments = record.args if isinstance(record.args, tuple) else ()
            found += [argument for argument in arguments if isinstance(argument, BaseException)]
        return found

    def failures(self) -> list[str]:
        """What was logged as our own fault."""
        return [record.getMessage() for record in self.records if record.levelno >= logging.ERROR]


@dataclass
class Arena:
    """The node under attack and a peer that means well and is connected to it."""

    victim: Host
    honest: Host
    link: Connection
    """The honest peer's."""
    seen: Seen
    """The victim's events."""
    reports: Reports
    """What both log; only the victim has something to complain about."""

    @property
    def addr(self) -> Multiaddr:
        """Where the victim listens."""
        return addr_of(self.victim)

    async def serves(self) -> None:
        """Have the honest peer served over the connection that it has, and over a new one."""
        await self.honest.ping.ping(self.link)
        assert (await self.honest.echo.echo(self.link, ECHOED)).bytes == ECHOED
        raw = await TcpTransport().dial(self.addr)
        another = await self.honest.swarm.add_outbound(raw, expected=self.victim.peer_id, path=Path.DIRECT)
        await self.honest.ping.ping(another)
        await another.close()

    async def why(self, peer: PeerId) -> str:
        """Wait for a connection of the victim's to `peer` to end, and return the reason."""
        return (await self.seen.wait(Disconnected, lambda event: event.peer == peer)).why


@asynccontextmanager
async def arena(config: HostConfig | None = None) -> AsyncIterator[Arena]:
    """A node, an honest peer, and the judgement of what is left when both are closed."""
    config = config or HostConfig()
    faults: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    reports = Reports()
    log = logging.getLogger("node")
    level = log.level
    log.addHandler(reports)
    log.setLevel(logging.DEBUG)
    try:
        config = replace(config, listen=(LOOPBACK,))
        async with Host(config) as victim, Host(HostConfig(listen=(LOOPBACK,), dcutr=False)) as honest:
            link = await honest.connect(addr_of(victim))
            attacked = Arena(victim, honest, link, watch(victim), reports)
            yield attacked
            await attacked.serves()
    finally:
        log.removeHandler(reports)
        log.setLevel(level)
    gc.collect()  # an exception that nobody retrieved is told by its task's end
    assert faults == []
    assert reports.failures() == []
    assert asyncio.all_tasks() == {asyncio.current_task()}


# ── TCP ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def wire(host: Host, source: Multiaddr = HOSTILE) -> AsyncIterator[RawConnection]:
    """A TCP connection to the host, nothing agreed on."""
    raw = await TcpTransport().dial(addr_of(host).without("p2p"), source=source, strict_source=True)
    try:
        yield raw
    finally:
        await raw.close()


async def rest(stream: ByteStream) -> bytes:
    """What comes until the other side ends or resets."""
    data = bytearray()
    try:
        while chunk := await stream.read():
            data += chunk
    except (StreamReset, ConnectionClosed):
        pass
    return bytes(data)


# ── Noise ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def noise_state(*, initiator: bool) -> HandshakeState:
    """A handshake with fresh keys, its payloads open to be chosen."""
    static, ephemeral = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    return HandshakeState(initiator=initiator, static=static, ephemeral=ephemeral)


def noise_message(message: bytes) -> bytes:
    """A Noise message on the wire."""
    return len(message).to_bytes(2, "big") + message


async def read_noise_message(stream: ByteStream) -> bytes:
    """The next message of the wire."""
    return await read_exactly(stream, int.from_bytes(await read_exactly(stream, 2), "big"))


@asynccontextmanager
async def handshake(host: Host) -> AsyncIterator[RawConnection]:
    """A connection on which `/noise` was agreed on and nothing else was said."""
    async with wire(host) as raw:
        await propose(raw, ["/noise"])
        yield raw


# ── yamux ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Frame:
    """A frame as it came."""

    kind: Kind
    flags: int
    stream: int
    length: int
    body: bytes


@dataclass
class Session:
    """A secured connection whose plaintext is made by hand."""

    raw: RawConnection
    secured: Secured
    _plain: bytearray = field(default_factory=bytearray)

    async def send(self, *parts: Buffer) -> None:
        """Encrypt and send the parts as they are, as one message if they fit in one."""
        self.secured.channel.send_data([b"".join(parts)])
        await self.raw.write(b"".join(self.secured.channel.data_to_send()))

    async def frame(self) -> Frame | None:
        """The next frame, None at the end of the connection."""
        header = await self._take(HEADER.size)
        if header is None:
            return None
        _, kind, flags, stream, length = HEADER.unpack(header)
        body = await self._take(length) if kind == Kind.DATA else b""
        return None if body is None else Frame(Kind(kind), flags, stream, length, body)

    async def frames(self) -> list[Frame]:
        """All frames until the end of the connection."""
        frames: list[Frame] = []
        while (frame := await self.frame()) is not None:
            frames.append(frame)
        return frames

    async def until(self, kind: Kind, stream: int, flags: int = 0) -> Frame:
        """The next frame of this kind with at least these flags for one stream; fails at the end."""
        while (frame := await self.frame()) is not None:
            if (frame.kind, frame.stream) == (kind, stream) and frame.flags & flags == flags:
                return frame
        raise EOFError(f"the connection ended before {kind.name} on stream {stream}")

    async def still_answers(self) -> None:
        """See a ping of the muxer answered."""
        await self.send(pack(Kind.PING, 1, 0, 77))
        while (await self.until(Kind.PING, 0, flags=2)).length != 77:
            pass

    async def _take(self, size: int) -> bytes | None:
        while len(self._plain) < size:
            try:
                data = await self.raw.read()
            except ConnectionClosed:
                return None
            if not data:
                return None
            for event in self.secured.channel.receive_data(data):
                if isinstance(event, DataReceived):
                    self._plain += event.data
        taken = bytes(self._plain[:size])
        del self._plain[:size]
        return taken


@asynccontextmanager
async def session(
    host: Host, key: PrivateKey, *, muxers: Sequence[str] = (YAMUX,), source: Multiaddr = HOSTILE
) -> AsyncIterator[Session]:
    """A secured connection; with `muxers` empty the muxer is still to be negotiated."""
    async with wire(host, source) as raw:
        await propose(raw, ["/noise"])
        secured = await secure(Security.NOISE, raw, key=key, initiator=True, expected=host.peer_id, muxers=muxers)
        yield Session(raw, secured, bytearray(secured.ahead))


def goodbyes(frames: Sequence[Frame]) -> list[int]:
    """The codes of the GoAways among the frames."""
    return [GoAwayCode(frame.length) for frame in frames if frame.kind == Kind.GO_AWAY]


# ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def stranger(host: Host, key: PrivateKey, source: Multiaddr = HOSTILE) -> AsyncIterator[End]:
    """A muxed connection on which no protocol is served; the host's own streams wait in `incoming`."""
    async with wire(host, source) as raw:
        muxed = await upgrade(raw, key=key, role=Role.INITIATOR, expected=host.peer_id)
        end = End(muxed)
        end.start()
        try:
            yield end
        finally:
            await muxed.close()


async def speak(mallory: End, protocol: str) -> ByteStream:
    """A stream of the protocol on such a connection."""
    _, stream = await propose(await mallory.muxed.open_stream(), [protocol])
    return stream
