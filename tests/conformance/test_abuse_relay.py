"""Hostile peers at relays: circuit relay v2 and DCUtR used wrongly against a running node, as relay and as its client.

A status tells the peer what was wrong wherever its message could be read; hole punching sends packets only to where a
peer can be on the internet, whatever its messages list.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import pytest

from node.errors import (
    ConnectionClosed,
    DeadlineExceeded,
    DecodeError,
    NodeError,
    RelayError,
    RemoteProtocolError,
    StreamClosed,
    StreamReset,
)
from node.events import Circuit, CircuitStep, Connected, Path, PunchStage, PunchStep
from node.host import Host, HostConfig
from node.logic.dcutr import ADDRESSES, EXCHANGES, PunchPolicy
from node.logic.limits import SERVICE_LIMITS, Limit, Limits
from node.logic.relay import RelayLimits
from node.names import fields
from node.names.keys import PrivateKey
from node.names.multiaddr import Multiaddr
from node.names.varint import Truncated
from node.net.connection import Connection, Stream
from node.net.negotiate import respond
from node.net.stream import ByteStream, read_frame, write_frame
from node.protocols.dcutr import Dcutr
from node.wire import dcutr
from node.wire.dcutr import HolePunch, HolePunchType
from node.wire.framing import encode_frame
from node.wire.relay import (
    HOP_PROTOCOL,
    MAX_MESSAGE,
    STOP_PROTOCOL,
    HopMessage,
    HopType,
    RelayPeer,
    Reservation,
    Status,
    StopMessage,
    StopType,
)
from tests.support.connections import End
from tests.support.hostile import HOSTILE, Arena, arena, rest, speak, stranger
from tests.support.hosts import LOOPBACK, addr_of, run, watch

MALLORY = PrivateKey.generate()
SOMEBODY = PrivateKey.generate().peer_id()
RELAY = HostConfig(relay_server=True, dcutr=False)
RESERVE = HopMessage(HopType.RESERVE).to_bytes()


async def ask(stream: ByteStream, message: bytes) -> Status | None:
    """Send a HOP message and return the status of the answer."""
    await write_frame(stream, message)
    return HopMessage.from_bytes(await read_frame(stream, MAX_MESSAGE)).status


# ── the node as relay ────────────────────────────────────────────────────────────────────────────────────────────────

HOP_REQUESTS: dict[str, tuple[bytes, type[Exception], str]] = {
    "no protobuf": (b"\x03\xff\xff\xff", DecodeError, "malformed HopMessage"),
    "an unknown type": (b"\x02\x08\x63", DecodeError, "unknown relay HopType 99"),
    "a peer without an id": (b"\x06\x08\x01\x12\x02\x0a\x00", Truncated, "ends early"),
    "a message that is too long": (b"\x81\x20" + bytes(MAX_MESSAGE + 1), RemoteProtocolError, "message of 4097 bytes"),
    "a length of 63 bits": (b"\xff" * 8 + b"\x7f", RemoteProtocolError, "at most 4096"),
    "a varint of ten bytes": (b"\xff" * 10, DecodeError, "longer than 9 bytes"),
    "a varint that is not minimal": (b"\x81\x00", DecodeError, "not minimal"),
}


@pytest.mark.parametrize("attack", HOP_REQUESTS)
def test_a_request_that_cannot_be_read_is_called_malformed(attack: str) -> None:
    data, error, text = HOP_REQUESTS[attack]

    async def main() -> None:
        async with arena(RELAY) as node, stranger(node.victim, MALLORY) as mallory:
            stream = await speak(mallory, HOP_PROTOCOL)
            await stream.write(data)
            await node.reports.error(error, text)
            answer = HopMessage.from_bytes(await read_frame(stream, MAX_MESSAGE))
            assert (answer.type, answer.status) == (HopType.STATUS, Status.MALFORMED_MESSAGE)
            assert await ask(await speak(mallory, HOP_PROTOCOL), RESERVE) is Status.OK

    run(main)


def test_half_a_request_resets_its_stream() -> None:
    async def main() -> None:
        async with arena(RELAY) as node, stranger(node.victim, MALLORY) as mallory:
            stream = await speak(mallory, HOP_PROTOCOL)
            await stream.write(b"\x7f\x08")
            await stream.close_write()
            await node.reports.error(StreamClosed, "126 bytes early")
            with pytest.raises(StreamReset):
                await stream.read()

    run(main)


def test_a_thousand_reservations_take_one_slot() -> None:
    async def main() -> None:
        async with arena(RELAY) as node, stranger(node.victim, MALLORY) as mallory:
            for _ in range(1000):
                stream = await speak(mallory, HOP_PROTOCOL)
                assert await ask(stream, RESERVE) is Status.OK
                await stream.close()
            assert node.victim.relay_server is not None
            assert node.victim.relay_server.slots.peers(node.victim.now()) == [MALLORY.peer_id()]
            assert node.honest.relay_client is not None
            await node.honest.relay_client.reserve(node.addr)
            assert len(node.victim.relay_server.slots.peers(node.victim.now())) == 2

    run(main)


def test_many_names_behind_one_address_do_not_take_all_slots() -> None:
    async def main() -> None:
        async with arena(RELAY) as node, contextlib.AsyncExitStack() as stack:
            statuses = []
            for _ in range(RelayLimits().slots_per_ip + 3):
                mallory = await stack.enter_async_context(stranger(node.victim, PrivateKey.generate()))
                statuses.append(await ask(await speak(mallory, HOP_PROTOCOL), RESERVE))
            assert statuses.count(Status.OK) == RelayLimits().slots_per_ip
            assert set(statuses[RelayLimits().slots_per_ip :]) == {Status.RESERVATION_REFUSED}
            assert node.honest.relay_client is not None
            await node.honest.relay_client.reserve(node.addr)

    run(main)


def test_requests_that_never_come_leave_streams_for_others() -> None:
    async def main() -> None:
        async with arena(RELAY) as node, stranger(node.victim, MALLORY) as mallory:
            for _ in range(SERVICE_LIMITS["relay"][1].streams_in):
                await speak(mallory, HOP_PROTOCOL)
            with pytest.raises(StreamReset):
                await ask(await speak(mallory, HOP_PROTOCOL), RESERVE)
            assert node.honest.relay_client is not None
            await node.honest.relay_client.reserve(node.addr)

    run(main)


def test_a_relayed_connection_gets_neither_slot_nor_circuit() -> None:
    async def main() -> None:
        async with arena(RELAY) as node, outside_relay() as outer, hostile_host() as mallory:
            assert node.victim.relay_client is not None
            assert node.victim.relay_server is not None
            await node.victim.relay_client.reserve(addr_of(outer))
            relayed = await mallory.connect(through(outer, node.victim))
            assert relayed.path is Path.RELAYED
            for request in (
                HopMessage(HopType.RESERVE),
                HopMessage(HopType.CONNECT, peer=RelayPeer(node.victim.peer_id)),
                HopMessage(HopType.CONNECT, peer=RelayPeer(outer.peer_id)),
                HopMessage(HopType.CONNECT, peer=RelayPeer(mallory.peer_id)),
            ):
                stream = await relayed.new_stream([HOP_PROTOCOL], limited=True)
                assert await ask(stream, request.to_bytes()) is Status.PERMISSION_DENIED
            slots = node.victim.relay_server.slots
            assert (slots.peers(node.victim.now()), slots.circuits) == ([], 0)

    run(main)


def test_a_circuit_carries_no_more_than_its_limit_whoever_reads() -> None:
    async def main() -> None:
        target_key = PrivateKey.generate()
        async with (
            arena(RELAY) as node,
            stranger(node.victim, MALLORY) as source,
            stranger(node.victim, target_key) as target,
        ):
            assert await ask(await speak(target, HOP_PROTOCOL), RESERVE) is Status.OK
            stream = await speak(source, HOP_PROTOCOL)
            await write_frame(stream, HopMessage(HopType.CONNECT, peer=RelayPeer(target_key.peer_id())).to_bytes())
            onward = await accept_stop(target)
            await write_frame(onward, StopMessage(StopType.STATUS, status=Status.OK).to_bytes())
            assert HopMessage.from_bytes(await read_frame(stream, MAX_MESSAGE)).status is Status.OK
            with pytest.raises(StreamReset):  # the target reads nothing of it
                await stream.write(bytes(8 << 20))
            closed = await node.seen.wait(Circuit, lambda event: event.stage is CircuitStep.CLOSED)
            assert (closed.bytes_up, closed.why) == (RelayLimits().data, f"limit of {RelayLimits().data} bytes reached")

    run(main)


TARGETS: dict[str, bytes] = {
    "nonsense": b"\xff" * 10,
    "an answer that is too long": b"\x81\x20",
    "a request": b"\x02\x08\x00",
    "a refusal": encode_frame(StopMessage(StopType.STATUS, status=Status.PERMISSION_DENIED).to_bytes()),
    "the end": b"",
}


@pytest.mark.parametrize("answer", TARGETS)
def test_a_target_that_does_not_take_its_circuit_is_a_failed_connection(answer: str) -> None:
    async def main() -> None:
        target_key = PrivateKey.generate()
        async with (
            arena(RELAY) as node,
            stranger(node.victim, MALLORY) as source,
            stranger(node.victim, target_key) as target,
        ):
            assert await ask(await speak(target, HOP_PROTOCOL), RESERVE) is Status.OK
            stream = await speak(source, HOP_PROTOCOL)
            await write_frame(stream, HopMessage(HopType.CONNECT, peer=RelayPeer(target_key.peer_id())).to_bytes())
            onward = await accept_stop(target)
            await onward.write(TARGETS[answer])
            await onward.close_write()
            assert HopMessage.from_bytes(await read_frame(stream, MAX_MESSAGE)).status is Status.CONNECTION_FAILED
            assert node.victim.relay_server is not None
            await rest(stream)
            assert node.victim.relay_server.slots.circuits == 0

    run(main)


async def accept_stop(target: End) -> ByteStream:
    """The STOP stream among those that the victim opens, its request read."""
    while True:
        with contextlib.suppress(NodeError):
            _, stream = await respond(await target.incoming.get(), lambda protocol: protocol == STOP_PROTOCOL)
            await read_frame(stream, MAX_MESSAGE)
            return stream


# ── the node as a relay's client ─────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def outside_relay() -> AsyncIterator[Host]:
    """An honest relay."""
    async with Host(HostConfig(listen=(LOOPBACK,), relay_server=True, dcutr=False)) as host:
        yield host


@asynccontextmanager
async def hostile_host() -> AsyncIterator[Host]:
    """A host whose protocols can be replaced by worse ones, and that opens streams without restraint."""
    limits = Limits(services={}, service_peer=Limit())
    async with Host(HostConfig(key=MALLORY, listen=(HOSTILE,), dcutr=False, limits=limits)) as host:
        yield host


def through(relay: Host, target: Host) -> Multiaddr:
    return addr_of(relay) / f"/p2p-circuit/p2p/{target.peer_id}"


STOP_REQUESTS: dict[str, tuple[bytes, Status]] = {
    "no protobuf": (b"\x03\xff\xff\xff", Status.MALFORMED_MESSAGE),
    "an unknown type": (b"\x02\x08\x63", Status.MALFORMED_MESSAGE),
    "too long": (b"\x81\x20", Status.MALFORMED_MESSAGE),
    "a varint of ten bytes": (b"\xff" * 10, Status.MALFORMED_MESSAGE),
    "no peer": (b"\x02\x08\x00", Status.MALFORMED_MESSAGE),
    "a status": (encode_frame(StopMessage(StopType.STATUS, status=Status.OK).to_bytes()), Status.UNEXPECTED_MESSAGE),
    "somebody": (b"", Status.PERMISSION_DENIED),
}


@pytest.mark.parametrize("request_", STOP_REQUESTS)
def test_a_circuit_from_whom_we_have_no_slot_with_is_refused(request_: str) -> None:
    data, status = STOP_REQUESTS[request_]
    data = data or encode_frame(StopMessage(StopType.CONNECT, peer=RelayPeer(SOMEBODY)).to_bytes())

    async def main() -> None:
        async with arena() as node, stranger(node.victim, MALLORY) as mallory:
            stream = await speak(mallory, STOP_PROTOCOL)
            await stream.write(data)
            assert StopMessage.from_bytes(await read_frame(stream, MAX_MESSAGE)).status is status
            assert not any(isinstance(event, Connected) and event.path is Path.RELAYED for event in node.seen.events)

    run(main)


@asynccontextmanager
async def lying_relay(node: Arena, answer: HopMessage | None = None) -> AsyncIterator[Connection]:
    """A relay at which the victim has a slot, unless it answers otherwise; its connection to the victim."""
    answer = answer or HopMessage(HopType.STATUS, reservation=Reservation(expire=2**40), status=Status.OK)

    async def hop(stream: Stream) -> None:
        await read_frame(stream, MAX_MESSAGE)
        await write_frame(stream, answer.to_bytes())

    async with hostile_host() as mallory:
        mallory.handle(HOP_PROTOCOL, hop)
        assert node.victim.relay_client is not None
        await node.victim.relay_client.reserve(addr_of(mallory))
        (connection,) = mallory.swarm.connections(node.victim.peer_id)
        yield connection


async def circuit(relay: Connection) -> Stream:
    """A circuit to the victim in the name of somebody, accepted."""
    stream = await relay.new_stream([STOP_PROTOCOL])
    await write_frame(stream, StopMessage(StopType.CONNECT, peer=RelayPeer(SOMEBODY)).to_bytes())
    assert StopMessage.from_bytes(await read_frame(stream, MAX_MESSAGE)).status is Status.OK
    return stream


def test_nonsense_on_a_circuit_ends_the_circuit_and_not_the_slot() -> None:
    async def main() -> None:
        async with arena() as node, lying_relay(node) as relay:
            stream = await circuit(relay)
            await stream.write(b"\xff" * 10)
            await node.reports.error(DecodeError, "longer than 9 bytes")
            await rest(stream)
            (await circuit(relay)).reset()

    run(main)


def test_silence_on_circuits_ends_at_the_deadline_and_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.net.swarm.INBOUND_TIMEOUT", 8.0)  # all of them are there before the first is over

    async def main() -> None:
        async with arena() as node, lying_relay(node) as relay:
            share = SERVICE_LIMITS["relay"][1].streams_in
            circuits = [await circuit(relay) for _ in range(share)]
            with pytest.raises(StreamReset):
                await circuit(relay)
            await node.serves()
            for stream in circuits:
                await rest(stream)
            await node.reports.error(DeadlineExceeded, "not upgraded within 8.0 s", times=share)

    run(main)


def test_a_relay_that_names_ourselves_or_itself_as_the_source_is_refused() -> None:
    async def main() -> None:
        async with arena() as node, lying_relay(node) as relay:
            for source in (node.victim.peer_id, MALLORY.peer_id()):
                stream = await relay.new_stream([STOP_PROTOCOL])
                await write_frame(stream, StopMessage(StopType.CONNECT, peer=RelayPeer(source)).to_bytes())
                answer = StopMessage.from_bytes(await read_frame(stream, MAX_MESSAGE))
                assert answer.status is Status.PERMISSION_DENIED

    run(main)


ANSWERS: dict[str, tuple[HopMessage, type[Exception]]] = {
    "a request": (HopMessage(HopType.CONNECT, peer=RelayPeer(SOMEBODY)), RemoteProtocolError),
    "no status": (HopMessage(HopType.STATUS), RemoteProtocolError),
    "no reservation": (HopMessage(HopType.STATUS, status=Status.OK), RemoteProtocolError),
    "a slot that has expired": (
        HopMessage(HopType.STATUS, reservation=Reservation(expire=1), status=Status.OK),
        RemoteProtocolError,
    ),
    "a voucher that is none": (
        HopMessage(HopType.STATUS, reservation=Reservation(2**40, (), b"\xff" * 9), status=Status.OK),
        DecodeError,
    ),
    "no": (HopMessage(HopType.STATUS, status=Status.RESERVATION_REFUSED), RelayError),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_relay_that_answers_what_cannot_be_gives_no_slot(answer: str) -> None:
    message, error = ANSWERS[answer]

    async def main() -> None:
        async with arena() as node:
            with pytest.raises(error):
                async with lying_relay(node, message):
                    pytest.fail("it has a slot")
            assert node.victim.relay_client is not None
            assert node.victim.relay_client.held == ()
            assert not any(addr.is_relayed for addr in node.victim.addrs())

    run(main)


def test_a_relay_that_says_nothing_costs_no_more_than_the_deadline() -> None:
    async def never(stream: Stream) -> None:
        await rest(stream)

    async def main() -> None:
        async with arena() as node, hostile_host() as mallory:
            mallory.handle(HOP_PROTOCOL, never)
            assert node.victim.relay_client is not None
            with pytest.raises(DeadlineExceeded):
                await node.victim.relay_client.reserve(addr_of(mallory), timeout=0.3)
            with pytest.raises(DeadlineExceeded):
                await node.victim.connect(addr_of(mallory) / f"/p2p-circuit/p2p/{SOMEBODY}", timeout=0.3)

    run(main)


def test_a_slot_that_lasts_longer_than_the_clock_can_count_is_kept() -> None:
    async def main() -> None:
        forever = HopMessage(HopType.STATUS, reservation=Reservation(expire=2**64 - 1), status=Status.OK)
        async with arena() as node, lying_relay(node, forever):
            assert node.victim.relay_client is not None
            (held,) = node.victim.relay_client.held
            assert held.expire == float(2**64 - 1)
            await node.serves()

    run(main)


# ── hole punching ────────────────────────────────────────────────────────────────────────────────────────────────────

PUBLIC = Multiaddr("/ip4/11.0.0.9/tcp/4001")
"""What the victim believes to be its own address; nothing is sent there."""


@contextmanager
def bystanders() -> Iterator[tuple[Multiaddr, ...]]:
    """Listening sockets of others, to which no packet may come."""
    with contextlib.ExitStack() as stack:
        addrs: list[Multiaddr] = []
        sockets: list[socket.socket] = []
        for ip in ("127.0.0.1", "127.0.0.77"):
            sock = stack.enter_context(socket.socket())
            sock.bind((ip, 0))
            sock.listen()
            sock.setblocking(False)
            sockets.append(sock)
            addrs.append(Multiaddr.tcp(ip, sock.getsockname()[1]))
        yield tuple(addrs)
        for sock in sockets:
            with pytest.raises(BlockingIOError):
                sock.accept()


FORBIDDEN = tuple(
    map(
        Multiaddr,
        (
            "/ip4/0.0.0.0/tcp/22",
            "/ip4/10.1.2.3/tcp/22",
            "/ip4/100.64.0.1/tcp/22",
            "/ip4/127.8.8.8/tcp/22",
            "/ip4/169.254.169.254/tcp/80",
            "/ip4/172.16.0.1/tcp/22",
            "/ip4/192.168.1.1/tcp/80",
            "/ip4/198.18.0.1/tcp/80",
            "/ip4/224.0.0.251/tcp/5353",
            "/ip4/255.255.255.255/tcp/9",
            "/ip4/11.9.9.9/tcp/0",
            "/ip4/11.9.9.9/udp/4001/quic-v1",
            "/ip4/11.9.9.9/tcp/4001/ws",
            f"/ip4/11.9.9.9/tcp/4001/p2p/{SOMEBODY}",
            f"/ip4/11.9.9.9/tcp/4001/p2p/{SOMEBODY}/p2p-circuit",
            "/dns4/localhost/tcp/22",
            "/ip6/::1/tcp/22",
            "/ip6/fe80::1/tcp/22",
            "/ip6/fc00::1/tcp/22",
            "/ip6/ff02::1/tcp/22",
            "/ip6/::ffff:127.0.0.1/tcp/22",
            "/ip6/64:ff9b::7f00:1/tcp/22",
            "/ip6/2600::1/tcp/22",  # public, but the victim has no IPv6
        ),
    )
)
REACHABLE = Multiaddr("/ip4/11.9.9.9/tcp/4001")


@dataclass(frozen=True)
class Punching:
    """The victim and Mallory connected through an honest relay, ready to punch."""

    node: Arena
    mallory: Host
    of_mallory: Connection

    async def stage(self, stage: PunchStep) -> PunchStage:
        return await self.node.seen.wait(PunchStage, lambda event: event.stage is stage)

    async def begin(self, *addrs: Multiaddr) -> Stream:
        """Begin an exchange, as only the side that was dialled may."""
        stream = await self.of_mallory.new_stream([dcutr.PROTOCOL], limited=True)
        await write_frame(stream, HolePunch(HolePunchType.CONNECT, addrs).to_bytes())
        return stream


QUICK = HostConfig(punch_timeout=0.3)


@asynccontextmanager
async def dialled_by_the_victim(config: HostConfig = QUICK) -> AsyncIterator[Punching]:
    """Mallory is the side that begins."""
    async with arena(config) as node, outside_relay() as relay, hostile_host() as mallory:
        node.victim.add_advertised(PUBLIC)
        assert mallory.relay_client is not None
        await mallory.relay_client.reserve(addr_of(relay))
        seen = watch(mallory)
        await node.victim.connect(through(relay, mallory))
        await seen.wait(Connected, lambda event: event.peer == node.victim.peer_id)
        (connection,) = mallory.swarm.connections(node.victim.peer_id)
        yield Punching(node, mallory, connection)


@asynccontextmanager
async def dials_the_victim(*answer: HolePunch) -> AsyncIterator[Punching]:
    """Mallory is the side that answers, with these messages."""

    async def answers(stream: Stream) -> None:
        await read_frame(stream, dcutr.MAX_MESSAGE)
        for message in answer:
            await write_frame(stream, message.to_bytes())
        await stream.read()

    async with arena(QUICK) as node, outside_relay() as relay, hostile_host() as mallory:
        mallory.handle(dcutr.PROTOCOL, answers, limited=True)
        node.victim.add_advertised(PUBLIC)
        assert node.victim.relay_client is not None
        await node.victim.relay_client.reserve(addr_of(relay))
        yield Punching(node, mallory, await mallory.connect(through(relay, node.victim)))


def test_addresses_that_nobody_can_be_at_are_not_punched_to() -> None:
    async def main() -> None:
        with bystanders() as others:
            async with dialled_by_the_victim() as net:
                stream = await net.begin(*others, *FORBIDDEN, PUBLIC)
                assert HolePunch.from_bytes(await read_frame(stream, dcutr.MAX_MESSAGE)).addrs == (PUBLIC,)
                await write_frame(stream, HolePunch(HolePunchType.SYNC).to_bytes())
                assert "no address that could be punched" in ((await net.stage(PunchStep.FAILED)).why or "")
                assert not any(event.stage is PunchStep.DIALLING for event in net.node.seen.punches())

    run(main)


def test_among_addresses_that_nobody_can_be_at_only_the_public_one_is_punched_to() -> None:
    async def main() -> None:
        with bystanders() as others:
            async with dialled_by_the_victim() as net:
                stream = await net.begin(*others, *FORBIDDEN, REACHABLE, PUBLIC)
                answer = HolePunch.from_bytes(await read_frame(stream, dcutr.MAX_MESSAGE))
                assert answer.addrs == (PUBLIC,)
                await write_frame(stream, HolePunch(HolePunchType.SYNC).to_bytes())
                assert (await net.stage(PunchStep.DIALLING)).addrs == (REACHABLE,)
                # The victim listens on loopback only, so from its port nothing can leave for the public address.
                assert "no listener" in ((await net.stage(PunchStep.FAILED)).why or "")

    run(main)


def test_the_answers_addresses_are_judged_like_the_requests() -> None:
    async def main() -> None:
        with bystanders() as others:
            connect = HolePunch(HolePunchType.CONNECT, (*others, *FORBIDDEN))
            async with dials_the_victim(connect) as net:
                gave_up = await net.stage(PunchStep.GAVE_UP)
                assert "no address that could be punched" in (gave_up.why or "")
                stages = {event.stage for event in net.node.seen.punches()}
                assert not stages & {PunchStep.DIALLING, PunchStep.DIRECT_DIAL}

    run(main)


def test_addresses_that_were_claimed_elsewhere_are_judged_before_a_plain_dial() -> None:
    async def main() -> None:
        with bystanders() as others:

            async def claims(stream: Stream) -> None:
                await stream.write(encode_frame(fields.encode(*((2, addr.to_bytes()) for addr in others))))
                await stream.close_write()

            async with arena(QUICK) as node, outside_relay() as relay, hostile_host() as mallory:
                mallory.unhandle("/ipfs/id/1.0.0")
                mallory.handle("/ipfs/id/1.0.0", claims, limited=True)
                assert node.victim.relay_client is not None
                await node.victim.relay_client.reserve(addr_of(relay))
                await mallory.connect(through(relay, node.victim))
                await node.seen.punch(PunchStep.GAVE_UP)
                assert set(others) <= set(node.victim.addressbook.addrs(mallory.peer_id, node.victim.now()))
                assert not any(event.stage is PunchStep.DIRECT_DIAL for event in node.seen.punches())

    run(main)


def test_a_hundred_public_addresses_are_cut_to_twenty() -> None:
    async def main() -> None:
        async with dialled_by_the_victim() as net:
            stream = await net.begin(*(Multiaddr.tcp(f"11.9.9.{n}", 4001) for n in range(100)))
            await read_frame(stream, dcutr.MAX_MESSAGE)
            await write_frame(stream, HolePunch(HolePunchType.SYNC).to_bytes())
            assert len((await net.stage(PunchStep.DIALLING)).addrs) == ADDRESSES

    run(main)


def test_an_exchange_without_end_of_attempts_is_refused() -> None:
    async def main() -> None:
        async with dialled_by_the_victim() as net:
            for _ in range(EXCHANGES):
                stream = await net.begin(*FORBIDDEN)
                await read_frame(stream, dcutr.MAX_MESSAGE)
                stream.reset()
            await rest(await net.begin(REACHABLE))
            await net.node.reports.error(RemoteProtocolError, f"for the {EXCHANGES + 1}th time")
            assert not any(event.stage is PunchStep.DIALLING for event in net.node.seen.punches())

    run(main)


def test_the_side_that_dialled_must_not_begin() -> None:
    async def main() -> None:
        async with dials_the_victim() as net:
            with pytest.raises(StreamReset):
                await (await net.begin(REACHABLE)).read()
            await net.node.reports.error(RemoteProtocolError, "must not begin hole punching")

    run(main)


EXCHANGES_GONE_WRONG: dict[str, bytes] = {
    "no protobuf": b"\x03\xff\xff\xff",
    "an unknown type": b"\x02\x08\x07",
    "no type": b"\x00",
    "SYNC first": encode_frame(HolePunch(HolePunchType.SYNC).to_bytes()),
    "too long": b"\x81\x20",
    "a varint of ten bytes": b"\xff" * 10,
    "a varint that is not minimal": b"\x81\x00",
}


@pytest.mark.parametrize("attack", EXCHANGES_GONE_WRONG)
def test_an_exchange_that_breaks_the_rules_fails_with_the_reason(attack: str) -> None:
    async def main() -> None:
        async with dialled_by_the_victim() as net:
            stream = await net.of_mallory.new_stream([dcutr.PROTOCOL], limited=True)
            await stream.write(EXCHANGES_GONE_WRONG[attack])
            with pytest.raises(StreamReset):
                await stream.read()
            assert (await net.stage(PunchStep.FAILED)).why
            assert await net.mallory.ping.ping(net.of_mallory) > 0

    run(main)


def test_an_exchange_that_drips_ends_at_its_deadline() -> None:
    async def main() -> None:
        async with dialled_by_the_victim(HostConfig(dcutr=False)) as net:
            service = Dcutr(net.node.victim, PunchPolicy(exchange=0.3))
            await service.start()
            stream = await net.of_mallory.new_stream([dcutr.PROTOCOL], limited=True)
            ended = asyncio.ensure_future(rest(stream))
            await stream.write(b"\x80\x10")
            while not (await asyncio.wait({ended}, timeout=0.002))[0]:
                with contextlib.suppress(StreamReset, ConnectionClosed):
                    await stream.write(b"\x00")
            assert (await net.stage(PunchStep.FAILED)).why == "no answer in 0.3 s"
            await service.close()

    run(main)
