"""Predictions between real hosts on loopback: a peer that speaks the protocol by hand, a STUN server that counts."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from ipaddress import IPv4Address

import pytest

from node.errors import NodeError, StreamReset
from node.events import Connected, Path, Prediction, PredictionStep
from node.host import Host, HostConfig
from node.logic.gating import Gater
from node.logic.nat import Filtering, Mapping, NatKind
from node.logic.prediction import ATTEMPTS, BLOCK_SOCKETS, SOCKETS, Ways
from node.names.keys import PrivateKey
from node.names.multiaddr import Multiaddr
from node.names.peerid import PeerId
from node.net.connection import Connection, Stream
from node.net.datagrams import DatagramPort
from node.net.quic.fan import Fan, probe
from node.net.quic.transport import QuicTransport
from node.net.stream import read_frame, write_frame
from node.net.swarm import Swarm
from node.protocols.predict import Policy, Predictor
from node.protocols.relay_server import RelayServer
from node.protocols.stun import StunService
from node.protocols.witness import WitnessService, seen_by_relay
from node.wire.predict import (
    MAX_MESSAGE,
    PROTOCOL,
    WINDOW,
    WITNESS_PROTOCOL,
    Allocation,
    Go,
    Offer,
    Witness,
    decode,
    decode_testimony,
)
from node.wire.stun import Class, Endpoint, Message, xor_mapped
from node.wire.stun import decode as decode_stun
from tests.support.hosts import Seen, addr_of, run, watch

HERE, THERE = IPv4Address("127.0.0.1"), IPv4Address("127.0.0.2")
SYMMETRIC = NatKind(Mapping.ADDRESS_AND_PORT_DEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT)
TOKEN = b"sixteen bytes ok"


@contextlib.asynccontextmanager
async def keeping() -> AsyncIterator[Endpoint]:
    """A STUN server: on loopback everybody is seen at the port that he has."""
    free = DatagramPort(Endpoint(HERE, 0), lambda data, source: None)
    at = free.local
    free.close()
    service = StunService(at, None, time.monotonic)
    await service.start()
    yield at
    await service.close()


@contextlib.asynccontextmanager
async def counting(step: int = 1, at: IPv4Address = HERE) -> AsyncIterator[Endpoint]:
    """One that says what it would see behind a NAT that gives a port after the other, or, by large steps, draws."""
    ports = iter(range(30000, 40000, step))
    server: DatagramPort

    def answer(data: bytes, source: Endpoint) -> None:
        request = decode_stun(data)
        mapped = xor_mapped(Endpoint(at, next(ports)), request.transaction)
        server.send(Message(request.method, Class.SUCCESS, request.transaction, (mapped,)).to_bytes(), source)

    server = DatagramPort(Endpoint(HERE, 0), answer)
    yield server.local
    server.close()


@dataclass(frozen=True)
class Two:
    """A relay, A who predicts and has dialled B through it, and B, for whom a test speaks."""

    relay: Host
    a: Host
    b: Host
    seen: Seen
    relayed: Connection
    """B's end."""

    async def offer(self, theirs: Offer) -> tuple[Stream, Offer]:
        """Begin as B does; return the stream and A's offer."""
        stream = await self.relayed.new_stream([PROTOCOL], limited=True)
        await write_frame(stream, theirs.to_bytes())
        answer = decode(await read_frame(stream, MAX_MESSAGE))
        assert isinstance(answer, Offer)
        return stream, answer

    async def step(self, stage: PredictionStep) -> Prediction:
        return await self.seen.wait(Prediction, lambda event: event.stage is stage)


@contextlib.asynccontextmanager
async def two(
    stun: Endpoint | None,
    *,
    kind: NatKind = SYMMETRIC,
    deny: tuple[str, ...] = (),
    allow_private: bool = True,
    witness: bool = False,
) -> AsyncIterator[Two]:
    async def known() -> NatKind:
        return kind

    quic_here, quic_there = Multiaddr.quic(str(HERE), 0), Multiaddr.quic(str(THERE), 0)
    async with (
        Host(HostConfig(listen=(Multiaddr("/ip4/127.0.0.1/tcp/0"),), dcutr=False)) as relay,
        Host(HostConfig(listen=(quic_here,), dcutr=False)) as a,
        Host(HostConfig(listen=(quic_there,), dcutr=False)) as b,
    ):
        await RelayServer(relay).start()
        if witness:
            await WitnessService(relay).start()
        policy = Policy(Ways.SPRAY, () if stun is None else (stun,), allow_private)
        predictor = Predictor(a, known, Gater(deny), policy)
        await predictor.start()
        seen, of_b = watch(a), watch(b)
        assert b.relay_client is not None
        await b.relay_client.reserve(addr_of(relay))
        await a.connect(addr_of(relay) / f"/p2p-circuit/p2p/{b.peer_id}")
        await of_b.wait(Connected, lambda event: event.peer == a.peer_id)
        (relayed,) = b.swarm.connections(a.peer_id)
        yield Two(relay, a, b, seen, relayed)
        await predictor.close()


def quic(host: Host) -> tuple[QuicTransport, Multiaddr]:
    (listening,) = (addr for addr in host.swarm.listen_addrs() if "udp" in addr)
    transport = host.swarm.transport(listening)
    assert isinstance(transport, QuicTransport)
    return transport, listening


def test_a_fan_writes_from_the_ports_that_it_offered_and_dials_from_the_one_that_is_hit() -> None:
    async def main() -> None:
        async with keeping() as stun, two(stun) as net:
            transport, listening = quic(net.b)
            assert listening.port
            stream, theirs = await net.offer(Offer(Allocation.KNOWN, THERE, (listening.port,), token=TOKEN))
            assert (theirs.allocation, theirs.ip, len(theirs.ports)) == (Allocation.FRESH, HERE, WINDOW)
            await write_frame(stream, Go().to_bytes())
            writing = await net.step(PredictionStep.WRITING)
            assert (writing.way, writing.part, writing.sockets) == ("predicted", "fan", WINDOW)
            hit = theirs.ports[5]
            transport.knock(Multiaddr.quic(HERE, hit), listening, probe(bytes(16)))  # a stranger's: no token
            transport.knock(Multiaddr.quic(HERE, hit), listening, probe(theirs.token))
            ended = await net.step(PredictionStep.SUCCEEDED)
            assert ended.sent is not None
            assert 0 < ended.sent <= 4 * WINDOW
            direct = net.a.swarm.best(net.b.peer_id)
            assert direct is not None
            assert (direct.path, direct.local.port, direct.remote.port) == (Path.DIRECT, hit, listening.port)
            assert await net.a.ping.ping(direct) > 0
            await direct.close()

    run(main)


def test_a_spray_needs_a_relay_that_sees_the_peer_where_it_says_to_be() -> None:
    async def main() -> None:
        async with counting(step=500) as stun, two(stun, witness=True) as net:
            offered = Offer(Allocation.KNOWN, THERE, (4001,), spray=True, token=TOKEN)
            _, theirs = await net.offer(offered)
            assert theirs.allocation is Allocation.UNKNOWN
            skipped = await net.step(PredictionStep.SKIPPED)
            assert skipped.why == "no relay says that it sees the peer at 127.0.0.2"

    run(main)


@pytest.mark.parametrize(
    ("step", "sockets"), [(500, SOCKETS), (100, BLOCK_SOCKETS)], ids=["of all ports", "of a block"]
)
def test_a_fan_of_a_spray_has_as_many_sockets_as_were_planned(step: int, sockets: int) -> None:
    async def main() -> None:
        async with counting(step=step, at=THERE) as stun, two(stun, witness=True) as net:
            ports: set[int] = set()
            all_of_them = asyncio.Event()

            def received(data: bytes, source: Endpoint) -> None:
                assert data[1 : 1 + len(TOKEN)] == TOKEN
                ports.add(source.port)
                if len(ports) == sockets:
                    all_of_them.set()

            target = DatagramPort(Endpoint(HERE, 0), received)
            offered = Offer(Allocation.KNOWN, HERE, (target.local.port,), spray=True, token=TOKEN)
            stream, theirs = await net.offer(offered)
            drawn = (30000, 30000 + step, 30000 + 2 * step)
            assert (theirs.allocation, theirs.ip, theirs.ports) == (Allocation.RANDOM, THERE, drawn)
            await write_frame(stream, Go().to_bytes())
            writing = await net.step(PredictionStep.WRITING)
            assert (writing.way, writing.part, writing.sockets) == ("spray", "fan", sockets)
            await all_of_them.wait()
            await net.b.connect(addr_of(net.a))  # however it comes about, it ends the attempt
            assert (await net.step(PredictionStep.SUCCEEDED)).sent == len(ports) == sockets
            target.close()

    run(main)


def test_a_sweep_writes_to_the_ports_that_were_offered_and_to_no_others() -> None:
    async def main() -> None:
        async with counting() as stun, two(stun) as net:
            with contextlib.closing(Fan(WINDOW, TOKEN)) as fan:
                stream, theirs = await net.offer(Offer(Allocation.FRESH, THERE, tuple(fan.ports), token=TOKEN))
                assert (theirs.allocation, theirs.ports) == (Allocation.SEQUENTIAL, tuple(range(30003, 30019)))
                await write_frame(stream, Go().to_bytes())
                hit, sender = await fan.hit()
                _, listening = quic(net.a)
                assert sender == (str(HERE), listening.port)
                transport, _ = quic(net.b)
                carried = transport.dial_from(hit, sender)
                await net.b.swarm.add_outbound(carried, expected=net.a.peer_id, path=Path.DIRECT)
                ended = await net.step(PredictionStep.SUCCEEDED)
                assert (ended.way, ended.part, ended.ports) == ("predicted", "sweep", WINDOW)

    run(main)


REFUSED = {
    "private": ({"allow_private": False}, "127.0.0.2 is not public"),
    "denied": ({"deny": ("127.0.0.2/32",)}, "127.0.0.2 is denied by the address filter"),
    "unknown": ({"kind": NatKind()}, "the NAT of one side is not known"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_address_that_we_must_not_write_to_is_refused_by_offering_nothing(case: str) -> None:
    options, why = REFUSED[case]

    async def main() -> None:
        async with keeping() as stun, two(stun, **options) as net:  # type: ignore[arg-type]
            _, theirs = await net.offer(Offer(Allocation.KNOWN, THERE, (4001,), token=TOKEN))
            assert (theirs.allocation, theirs.ports) == (Allocation.UNKNOWN, ())
            assert (await net.step(PredictionStep.SKIPPED)).why == why

    run(main)


def test_a_peer_that_does_not_go_on_is_not_waited_for() -> None:
    async def main() -> None:
        async with keeping() as stun, two(stun) as net:
            stream, _ = await net.offer(Offer(Allocation.KNOWN, THERE, (4001,), token=TOKEN))
            await stream.close()
            assert (await net.step(PredictionStep.SKIPPED)).why == "the peer does not go on"

    run(main)


def test_a_peer_gets_so_many_exchanges_and_nonsense_none() -> None:
    async def main() -> None:
        async with keeping() as stun, two(stun) as net:
            nonsense = await net.relayed.new_stream([PROTOCOL], limited=True)
            await write_frame(nonsense, b"\xff\xff")
            with pytest.raises(StreamReset):
                await nonsense.read()
            for _ in range(ATTEMPTS - 1):
                stream, _ = await net.offer(Offer(Allocation.UNKNOWN, THERE, token=TOKEN))
                await stream.close()
            with pytest.raises(NodeError):
                await net.offer(Offer(Allocation.UNKNOWN, THERE, token=TOKEN))
            assert await net.b.ping.ping(net.relayed) > 0

    run(main)


def test_the_side_that_dialled_must_not_begin() -> None:
    async def main() -> None:
        async with keeping() as stun, two(stun) as net:
            other = Predictor(net.b, symmetric, Gater(), Policy(Ways.SPRAY, (stun,), allow_private=True))
            await other.start()
            (mine,) = net.a.swarm.connections(net.b.peer_id)
            stream = await mine.new_stream([PROTOCOL], limited=True)
            with pytest.raises(NodeError):
                await read_frame(stream, MAX_MESSAGE)
            await other.close()

    run(main)


def test_a_peer_that_answers_nonsense_has_its_stream_reset() -> None:
    async def main() -> None:
        async with keeping() as stun, two(stun) as net:
            ended = instead(net.a, PROTOCOL, Go().to_bytes(), limited=True)
            other = Predictor(net.b, symmetric, Gater(), Policy(Ways.SPRAY, (stun,), allow_private=True))
            await net.b.identified(net.relayed)
            seen = watch(net.b)
            await other.ahead(net.relayed)
            assert isinstance(await ended, StreamReset)
            skipped = await seen.wait(Prediction, lambda event: event.stage is PredictionStep.SKIPPED)
            assert "before it has offered anything" in (skipped.why or "")

    run(main)


def instead(node: Host, protocol: str, answer: bytes, *, limited: bool = False) -> asyncio.Future[NodeError | None]:
    """Have a node answer like that; the future tells how the stream ends."""
    ended: asyncio.Future[NodeError | None] = asyncio.get_running_loop().create_future()

    async def serve(stream: Stream) -> None:
        await read_frame(stream, MAX_MESSAGE)
        await write_frame(stream, answer)
        try:
            await stream.read()
            ended.set_result(None)
        except NodeError as error:
            ended.set_result(error)

    node.unhandle(protocol)
    node.handle(protocol, serve, limited=limited)
    return ended


async def symmetric() -> NatKind:
    return SYMMETRIC


# ── the witness ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def ask(swarm: Swarm, relay: PeerId, about: PeerId, ip: IPv4Address) -> bool:
    best = swarm.best(relay)
    assert best is not None
    stream = await best.new_stream([WITNESS_PROTOCOL])
    await write_frame(stream, Witness(about, ip).to_bytes())
    return decode_testimony(await read_frame(stream, MAX_MESSAGE))


def test_a_relay_says_where_it_sees_a_peer_to_who_has_a_circuit_with_it() -> None:
    async def main() -> None:
        async with two(None, witness=True) as net, Host(HostConfig(listen=(), dcutr=False)) as stranger:
            relay, b = net.relay.peer_id, net.b.peer_id
            await stranger.connect(addr_of(net.relay))
            assert await ask(net.a.swarm, relay, b, HERE)
            assert not await ask(net.a.swarm, relay, b, THERE)
            assert not await ask(net.a.swarm, relay, PrivateKey.generate().peer_id(), HERE)
            assert not await ask(stranger.swarm, relay, b, HERE)
            (mine,) = net.a.swarm.connections(b)
            await net.a.identified(net.a.swarm.connections(relay)[0])
            assert await seen_by_relay(net.a, mine, HERE)
            assert not await seen_by_relay(net.a, mine, THERE)

    run(main)


def test_a_relay_that_answers_nonsense_has_seen_nobody_and_its_stream_is_reset() -> None:
    async def main() -> None:
        async with two(None, witness=True) as net:
            (mine,) = net.a.swarm.connections(net.b.peer_id)
            await net.a.identified(net.a.swarm.connections(net.relay.peer_id)[0])
            ended = instead(net.relay, WITNESS_PROTOCOL, b"\xff\xff")
            assert not await seen_by_relay(net.a, mine, HERE)
            assert isinstance(await ended, StreamReset)

    run(main)


def test_a_relay_that_does_not_serve_the_question_has_seen_nobody() -> None:
    async def main() -> None:
        async with two(None) as net:
            (mine,) = net.a.swarm.connections(net.b.peer_id)
            assert not await seen_by_relay(net.a, mine, HERE)

    run(main)
