"""A node as a program of its own under floods, over TCP and over QUIC: its memory, and an honest peer served meanwhile.

The other tests of abuse run the node within themselves, where its memory cannot be told from the attackers'. Here it is
what the kernel says of its process. It has the limits of the smallest machine, and loopback has none of its own, so
that all comes in which the limits of the whole node and of a peer let in.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import socket
import ssl
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from node.errors import NegotiationError, NodeError
from node.host import Host, HostConfig
from node.logic.limits import MIB, PEER, PROTOCOL_PEER, SMALLEST_MEMORY, SYSTEM, TRANSIENT
from node.names.keys import PrivateKey
from node.names.multiaddr import Multiaddr
from node.names.peerid import PeerId
from node.net.negotiate import propose
from node.net.quic.endpoint import UNPROVEN
from node.net.stream import ByteStream, RawConnection
from node.net.tcp import TcpTransport
from node.net.transport import MuxedConnection
from node.net.upgrade import Role, upgrade
from tests.support.connections import End, quic_transport
from tests.support.hosts import run

ROOT = Path(__file__).parents[2]
ECHO = "/echo/1.0.0"
DEADLINE = 120.0
"""Seconds for one flood: 16 MiB by QUIC take 4 on a quiet machine, and 20 beside twenty other programs."""
ANSWERS = 10.0
"""Seconds in which the honest peer must be answered, on a busy machine."""
REFUSED = 4.0
"""Seconds after which who is not let in over QUIC, where no answer says so, gives up."""
AT_ONCE = 8
PIECE = 16 * 1024
STILL = 20
"""Tenths of a second in which nothing more may be sent before all windows count as full."""
FEATURES_OF_OTHERS = ("/meshsub/1.1.0", "/meshsub/1.2.0", "/floodsub/1.0.0", "/rendezvous/1.0.0")
"""Protocols with advisories of their own (backoff overflow, subscriptions, cookies) that the node does not speak."""


@dataclass
class Fort:
    """The node under attack."""

    pid: int
    peer: PeerId
    addrs: dict[str, Multiaddr]
    """Where it listens, by transport."""

    def memory(self) -> float:
        """Its resident set, in MiB."""
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text("ascii"))
        assert found is not None, "it has ended"
        return int(found[1]) / 1024


@contextlib.asynccontextmanager
async def fort() -> AsyncIterator[Fort]:
    listen = ("--listen", "/ip4/127.0.0.1/tcp/0", "--listen", "/ip4/127.0.0.1/udp/0/quic-v1")
    command = (sys.executable, "-m", "node", *listen, "--limit-memory", str(SMALLEST_MEMORY // MIB))
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, cwd=ROOT)
    drain: asyncio.Task[bytes] | None = None
    try:
        assert process.stdout is not None
        addrs: dict[str, Multiaddr] = {}
        while (line := json.loads(await process.stdout.readline()))["event"] != "ready":
            pass
        for text in line["addrs"]:
            addrs["quic" if "/quic-v1" in text else "tcp"] = Multiaddr(text)
        drain = asyncio.create_task(process.stdout.read())
        peer = addrs["tcp"].peer_id
        assert peer is not None
        yield Fort(process.pid, peer, addrs)
        assert process.returncode is None
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        if drain is not None:
            await drain


@dataclass
class Attack:
    """Mallory's side: what it holds until the end."""

    fort: Fort
    transport: str
    stack: contextlib.AsyncExitStack
    writing: list[asyncio.Task[None]] = field(default_factory=list)
    written: int = 0
    """Bytes that the windows have let it send."""

    @property
    def addr(self) -> Multiaddr:
        return self.fort.addrs[self.transport]

    async def connect(self) -> RawConnection:
        """A TCP connection on which nothing is said."""
        raw = await TcpTransport().dial(self.addr.without("p2p"))
        self.stack.push_async_callback(raw.close)
        return raw

    async def enter(self) -> End:
        """A connection of a fresh identity."""
        key = PrivateKey.generate()
        muxed: MuxedConnection
        if self.transport == "tcp":
            muxed = await upgrade(await self.connect(), key=key, role=Role.INITIATOR, expected=self.fort.peer)
        else:
            muxed = await (await quic_transport(key).dial(self.addr.without("p2p"))).complete(self.fort.peer)
        end = End(muxed)
        end.start()
        self.stack.push_async_callback(muxed.close)
        return end


# ── attacks ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def silent_connections(attack: Attack) -> None:
    """A thousand connections that never say who they are."""
    for _ in range(1000):
        await attack.connect()


async def identities(attack: Attack) -> None:
    """More peers than the node takes in, each of whom has proved who it is."""

    async def enter() -> bool:
        with contextlib.suppress(NodeError, TimeoutError):
            async with asyncio.timeout(REFUSED):
                await (await attack.enter()).muxed.ping()
                return True
        return False

    entered = 0
    for _ in range(0, SYSTEM.connections_in + 2 * AT_ONCE, AT_ONCE):
        entered += sum(await asyncio.gather(*(enter() for _ in range(AT_ONCE))))
    assert AT_ONCE < entered <= SYSTEM.connections_in


async def full_windows(attack: Attack) -> None:
    """Streams on which all is sent that there is credit for, and nothing is read of what comes back."""
    end = await attack.enter()
    opened: list[ByteStream] = []
    for _ in range(2 * PROTOCOL_PEER.streams_in):
        with contextlib.suppress(NodeError):  # too many of a protocol; over yamux that shows by a write
            opened.append((await propose(await end.muxed.open_stream(), [ECHO]))[1])
    attack.writing += [asyncio.create_task(write_for_ever(attack, stream)) for stream in opened]
    last, still = -1, 0
    while still < STILL:
        await asyncio.wait(attack.writing, timeout=0.1)
        last, still = attack.written, still + 1 if attack.written == last else 0
    assert attack.written > 4 * PIECE * PROTOCOL_PEER.streams_in
    assert sum(not task.done() for task in attack.writing) <= PROTOCOL_PEER.streams_in, "the others are reset"


async def write_for_ever(attack: Attack, stream: ByteStream) -> None:
    with contextlib.suppress(NodeError):
        while True:
            await stream.write(bytes(PIECE))
            attack.written += PIECE


async def opened_and_reset(attack: Attack) -> None:
    """Streams that are opened and reset at once, again and again."""
    end = await attack.enter()
    for number in range(3000):
        (await end.muxed.open_stream()).reset()
        if number % 100 == 0:
            await end.muxed.ping()


async def hellos(attack: Attack) -> None:
    """First packets of handshakes that never go on."""
    there = (str(attack.addr.ip), attack.addr.port)
    now = asyncio.get_running_loop().time
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _ in range(4 * UNPROVEN):
            client = QuicConnection(
                configuration=QuicConfiguration(alpn_protocols=["libp2p"], verify_mode=ssl.CERT_NONE)
            )
            client.connect(there, now())
            sock.sendto(client.datagrams_to_send(now())[0][0], there)
            await asyncio.sleep(0)


async def junk(attack: Attack) -> None:
    """Datagrams that look like anything."""
    there, chance = (str(attack.addr.ip), attack.addr.port), random.Random(5)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _ in range(20_000):
            first = bytes([chance.choice((0x00, 0x40, 0xC0, 0xD0, 0xE0, 0xF0))])
            sock.sendto(first + b"\0\0\0\1" + chance.randbytes(chance.choice((20, 300, 1300))), there)
            await asyncio.sleep(0)


Flood = Callable[[Attack], Awaitable[None]]
FLOODS: list[tuple[Flood, str, int]] = [
    (silent_connections, "tcp", TRANSIENT.memory),
    (identities, "tcp", SYSTEM.memory),
    (identities, "quic", SYSTEM.memory),
    (full_windows, "tcp", PEER.memory),
    (full_windows, "quic", PEER.memory),
    (opened_and_reset, "tcp", PEER.memory),
    (opened_and_reset, "quic", PEER.memory),
    (hellos, "quic", TRANSIENT.memory),
    (junk, "quic", TRANSIENT.memory),
]


@pytest.mark.parametrize(("flood", "transport", "bound"), FLOODS, ids=[f"{f.__name__}-{by}" for f, by, _ in FLOODS])
def test_a_flood_takes_no_more_memory_than_its_limit_and_an_honest_peer_is_answered_meanwhile(
    flood: Flood, transport: str, bound: int, record_property: Callable[[str, object], None]
) -> None:
    async def main() -> None:
        async with fort() as under, Host(HostConfig(dcutr=False)) as honest, contextlib.AsyncExitStack() as stack:
            link = await honest.connect(under.addrs[transport])
            await honest.echo.echo(link, 20_000)
            before, answers = under.memory(), 0
            attack = Attack(under, transport, stack)
            flooding = asyncio.ensure_future(flood(attack))
            while not flooding.done():
                async with asyncio.timeout(ANSWERS):
                    await honest.ping.ping(link)
                answers += 1
            await flooding
            grown = under.memory() - before
            record_property(f"MiB more under {flood.__name__} over {transport}", round(grown, 1))
            assert answers > 1
            assert grown < bound / MIB
            assert (await honest.echo.echo(link, 20_000)).bytes == 20_000
            for task in attack.writing:
                task.cancel()
            await asyncio.gather(*attack.writing, return_exceptions=True)

    run(main, DEADLINE)


@pytest.mark.parametrize("protocol", FEATURES_OF_OTHERS)
def test_what_the_node_does_not_speak_is_refused(protocol: str) -> None:
    """A node that learns one of them needs a test of each of its advisories: docs/abuse.md."""

    async def main() -> None:
        async with fort() as under, contextlib.AsyncExitStack() as stack:
            end = await Attack(under, "tcp", stack).enter()
            with pytest.raises(NegotiationError):
                await propose(await end.muxed.open_stream(), [protocol])
            _, stream = await propose(await end.muxed.open_stream(), [ECHO])
            stream.reset()

    run(main, DEADLINE)
